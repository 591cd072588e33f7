"""Transfer: songs get the mix of other songs, pair by pair, with the champion of the registry.

Where nothing was promoted yet, it is the encoder that mixprint ships.
"""

import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import mixprint
from components.layout import (
    PROMOTION_FILE,
    TRANSFER_FOLDER,
    TRANSFER_METRICS_FILE,
    catalogue_manifest,
    described_stems,
    promotion_manifest,
    stems_manifest,
)
from components.run_folder import RunFolder
from components.step import Manifest, clear_errors, once, recorded, step_parser
from mixprint.config import StepConfig
from mixprint.errors import ConfigError
from mixprint.fingerprint import code_version, file_sha256
from mixprint.schema import WithOthers, read_record
from mixprint.storage.atomic import write_json

if TYPE_CHECKING:
    from mixprint.transfer.jobs import Models
    from mixprint.transfer.pairs import Defaults

log = logging.getLogger("mixprint.transfer")

# What the results follow from, with all that it imports.
CODE = ("components.transfer.main",)

_CHAMPION_FOLDER = "champion"
SHIPPED_ENCODER = Path(mixprint.__file__).parent / "weights" / "encoder"


@dataclass(frozen=True, kw_only=True)
class TransferConfig(StepConfig):
    """Parameters of the transfer; names and ranges are those of the command `mixprint transfer`."""

    section: ClassVar[str] = "transfer"
    pairs: str
    num_pairs: int
    methods: tuple[str, ...]
    optimize_target: str
    aim: str
    apply_to: str
    amount: str
    loudness: str
    zero_shot_checkpoint: str
    controller_checkpoint: str
    num_steps: int
    lr: float
    receptive_field: float
    segment_duration: float
    segment_offset: float
    segments: int
    seed: int
    device: str
    num_processes: int

    def __post_init__(self) -> None:
        """Check the ranges that the library does not."""
        self.defaults()
        if not self.methods:
            raise ConfigError("transfer.methods must name at least one method, got none")
        for name, least in (("num_pairs", 1), ("num_processes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"transfer.{name} must be >= {least}, got {getattr(self, name)}")

    def defaults(self) -> "Defaults":
        """Return what is asked for all pairs.

        Raises:
            ConfigError: a value is not known or out of range.
        """
        from mixprint.transfer.pairs import Defaults
        from mixprint.transfer.settings import Hyperparameters

        values = asdict(self)
        names = values.keys() & Hyperparameters.__dataclass_fields__.keys()
        settings = (
            Hyperparameters(**{name: values[name] for name in names}, method=method)
            for method in self.methods
        )
        return Defaults(
            settings=tuple(settings),
            amount=(self.amount,),
            loudness=self.loudness,  # type: ignore[arg-type]  # checked there
            apply_to=self.apply_to,  # type: ignore[arg-type]  # checked there
        )


@dataclass(frozen=True, kw_only=True)
class _Decided(WithOthers):
    """Part of promotion.json that is read."""

    model_name: str


@dataclass(frozen=True, kw_only=True)
class _Transferred(WithOthers):
    folder: str


@dataclass(frozen=True, kw_only=True)
class _Summary(WithOthers):
    """Part of summary.json that is read."""

    transfers: tuple[_Transferred, ...]


def run(
    *,
    root: str,
    config: TransferConfig,
    catalogue: Manifest,
    stems: Manifest,
    promotion: Manifest,
) -> Manifest:
    """Transfer every pair of the table; pairs that are finished already stay.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        catalogue: the folder of the catalogue.
        stems: the folder of the stem shards.
        promotion: the folder with `promotion.json`, which names the registered model.

    Returns:
        manifest of the transferred songs.

    Raises:
        DataError: the table is unreadable.
        MixprintError: not one transfer could be done; the first reason.
    """
    with recorded(root, "transfer") as run_folder:
        # torch takes seconds to import; a process that only wires needs it not.
        from mixprint.transfer.methods.registry import MODELS
        from mixprint.transfer.style_share import SHIPPED_STYLE_SHARE

        out_dir = run_folder.path / TRANSFER_FOLDER
        load_models = partial(_load_models, config, _encoder_folder(run_folder, promotion))
        models = load_models()

        def work() -> dict[str, float]:
            with described_stems(run_folder, stems) as stems_dir:
                return _transfer(run_folder, config, load_models, models, catalogue, stems_dir)

        return once(
            step="transfer",
            run=run_folder,
            folder=out_dir,
            recipe={
                "catalogue": catalogue.fingerprint,
                "stems": stems.fingerprint,
                "encoder": None if models.encoder is None else models.encoder.fingerprint,
                "separator": None if models.separator is None else models.separator.fingerprint,
                **{
                    key: models.of_methods[key].fingerprint if key in models.of_methods else None
                    for key in MODELS
                },
                "config": config.to_values(),
                "pairs": file_sha256(config.pairs) if config.pairs else "",
                "songs": _named_songs(Path(config.pairs)) if config.pairs else {},
                "style_share": file_sha256(SHIPPED_STYLE_SHARE),
                "code": code_version(*CODE),
            },
            files=partial(_written_files, out_dir),
            work=work,
        )


def _encoder_folder(run_folder: RunFolder, promotion: Manifest) -> Path:
    """Download the champion of the registry; the shipped encoder where there is none."""
    # MLflow takes seconds to import.
    from components.mlflow.registry import Registry

    champion_dir = run_folder.private(_CHAMPION_FOLDER)
    shutil.rmtree(champion_dir, ignore_errors=True)
    decided = run_folder.local(promotion.uri, PROMOTION_FILE) / PROMOTION_FILE
    model_name = read_record(decided, _Decided).model_name
    registry = Registry(model_name)
    if registry.champion() is not None:
        return registry.download_champion(champion_dir)
    log.warning(
        "no encoder of %s was promoted (%s says why): transferring with the one that mixprint "
        "ships",
        model_name,
        PROMOTION_FILE,
    )
    return SHIPPED_ENCODER


def _written_files(out_dir: Path) -> list[str]:
    """List the summary and all files of the transfers that it names."""
    from mixprint.transfer.layout import SUMMARY_NAME, SUMMARY_NAMES

    transfers = read_record(out_dir / SUMMARY_NAME, _Summary).transfers
    songs = [
        str(path.relative_to(out_dir))
        for transfer in transfers
        for path in sorted((out_dir / transfer.folder).rglob("*"))
        if path.is_file()
    ]
    return [*SUMMARY_NAMES, *songs]


def _transfer(
    run_folder: RunFolder,
    config: TransferConfig,
    load_models: Callable[[], "Models"],
    models: "Models",
    catalogue: Manifest,
    stems_dir: Path,
) -> dict[str, float]:
    from mixprint.collection.catalogue import read_catalogue
    from mixprint.transfer.inputs import SongFinder
    from mixprint.transfer.jobs import Done, Failure, run_jobs
    from mixprint.transfer.pairs import default_pairs, find_jobs, plan_pairs, read_pairs
    from mixprint.transfer.report.summary import TIMES, write_summary
    from mixprint.transfer.request import raise_first

    out_dir = run_folder.path / TRANSFER_FOLDER
    run_folder.restore(out_dir)
    source = SongFinder(
        tracks=read_catalogue(run_folder.local(catalogue.uri)),
        stems_dir=stems_dir,
        separator=None if models.separator is None else models.separator.fingerprint,
    )
    failures: list[Failure] = []
    if config.pairs:
        pairs, failures = read_pairs(Path(config.pairs))
    else:
        pairs, split = default_pairs(source.tracks_with_stems, config.num_pairs)
        log.info("%d pairs from the split %s", len(pairs), split)
    plans, unknown = plan_pairs(pairs, config.defaults())
    jobs, missing = find_jobs(plans, source)
    _remove_others(out_dir, [job.name for job in jobs])
    with run_folder.followed("transfer"):
        outcomes = run_jobs(
            jobs, out_dir, models, load_models=load_models, num_processes=config.num_processes
        )
    everything = [*failures, *unknown, *missing, *outcomes]
    _remove_others(out_dir, [o.folder.name for o in outcomes if isinstance(o, Done)])
    summary = write_summary(out_dir, everything)
    if not summary["num_transfers"]:
        raise_first(everything)
    write_json(run_folder.path / TRANSFER_METRICS_FILE, _reproducible(summary, TIMES))
    return {"transfers": summary["num_transfers"], "failed": summary["num_failed"]}


def _named_songs(table: Path) -> dict[str, str]:
    """Hash the songs that a table of pairs names by path: they may change while it stays."""
    from mixprint.transfer.pairs import read_pairs

    pairs, _ = read_pairs(table)
    names = sorted({name for pair in pairs for name in (pair.input, pair.target)})
    return {name: file_sha256(name) for name in names if Path(name).is_file()}


def _load_models(config: TransferConfig, champion: Path) -> "Models":
    """Load what transfers are made with; the separator only where songs may come by path."""
    from mixprint.encoder.checkpoint import load_checkpoint
    from mixprint.machine.device import resolve_device
    from mixprint.separation import load_separator
    from mixprint.transfer.jobs import Models
    from mixprint.transfer.methods.registry import MODELS

    device = resolve_device(config.device)
    encoder = load_checkpoint(champion, device)
    folders = {key: getattr(config, f"{key}_checkpoint") for key in MODELS}
    return Models(
        standardisation=encoder.standardisation,
        encoder=encoder,
        separator=load_separator(device=device) if config.pairs else None,
        of_methods={
            key: MODELS[key].load(Path(folder), device) for key, folder in folders.items() if folder
        },
        device=device,
    )


def _remove_others(out_dir: Path, names: Collection[str]) -> None:
    """Remove what would pass for results: of an older table, or of a run that was killed."""
    from mixprint.transfer.jobs import SCRATCH_NAME
    from mixprint.transfer.layout import TRANSFER

    # What was separated for a run that was killed is still of use.
    for folder in sorted(set(out_dir.glob("*")) - {out_dir / SCRATCH_NAME}):
        if folder.is_dir() and not (folder.name in names and TRANSFER.is_ours(folder)):
            log.info("removing %s: not in the table of pairs any more, or not whole", folder)
            shutil.rmtree(folder)


def _reproducible(summary: dict[str, Any], times: Collection[str]) -> dict[str, Any]:
    """Leave out the times: DVC compares this file, and equal results must look equal."""
    left_out = {*times, *(f"median_{name}" for name in times)}

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in left_out}

    methods = {name: kept(values) for name, values in summary["methods"].items()}
    rows = {row["folder"]: kept(row) for row in summary["transfers"]}
    return {**kept(summary), "methods": methods, "transfers": rows}


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    args = parser.parse_args()
    run(
        root=args.root,
        config=TransferConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
        promotion=promotion_manifest(args.root),
    )


if __name__ == "__main__":
    with clear_errors():
        main()
