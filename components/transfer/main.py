"""Transfer: songs get the mix of other songs, pair by pair, with the champion of the registry."""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.layout import (
    TRANSFER_FOLDER,
    TRANSFER_METRICS_FILE,
    catalogue_manifest,
    promotion_manifest,
    stems_manifest,
)
from components.step import Manifest, clear_errors, once, recorded, step_parser
from mixprint.atomic import read_json, write_json
from mixprint.config import StepConfig
from mixprint.errors import ConfigError
from mixprint.fingerprint import code_version, file_sha256

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

log = logging.getLogger("mixprint.transfer")

_CHAMPION_FOLDER = "champion"
_SUMMARY_FILES = ("summary.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class TransferConfig(StepConfig):
    """Parameters of the transfer; names and ranges are those of the command `mixprint transfer`."""

    section: ClassVar[str] = "transfer"
    pairs: str
    num_pairs: int
    optimize_target: str
    num_steps: int
    lr: float
    receptive_field: float
    segment_duration: float
    segment_offset: float
    seed: int
    device: str

    def __post_init__(self) -> None:
        """Check the ranges that the library does not."""
        if self.optimize_target not in {"features", "embeddings"}:
            raise ConfigError(
                f"transfer.optimize_target must be features or embeddings, got "
                f"{self.optimize_target!r}"
            )
        if self.num_pairs < 1:
            raise ConfigError(f"transfer.num_pairs must be >= 1, got {self.num_pairs}")


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
        DataError: the registry has no champion, or a song of the table is not found.
    """
    with recorded(Path(root), "transfer"):
        # torch and MLflow take seconds to import; a process that only wires needs neither.
        from components.tracking import Registry
        from mixprint.encoder.checkpoint import load_checkpoint

        out_dir = Path(root) / TRANSFER_FOLDER
        champion_dir = Path(root) / _CHAMPION_FOLDER
        shutil.rmtree(champion_dir, ignore_errors=True)
        model_name = read_json(Path(promotion.uri) / "promotion.json")["model_name"]
        registry = Registry(model_name)
        encoder = load_checkpoint(registry.download_champion(champion_dir))

        def outputs() -> list[str]:
            names = [row["pair"] for row in read_json(out_dir / "summary.json")["pairs"]]
            songs = [
                str(path.relative_to(out_dir))
                for name in names
                for path in sorted((out_dir / name).rglob("*"))
                if path.is_file()
            ]
            return [*_SUMMARY_FILES, *songs]

        return once(
            step="transfer",
            root=Path(root),
            folder=out_dir,
            recipe={
                "catalogue": catalogue.fingerprint,
                "stems": stems.fingerprint,
                "encoder": encoder.fingerprint,
                "config": config.to_values(),
                "pairs": file_sha256(config.pairs) if config.pairs else "",
                "code": code_version(
                    "mixprint.transfer",
                    "mixprint.features",
                    "mixprint.encoder",
                    "components.transfer.main",
                ),
            },
            files=outputs,
            work=lambda: _transfer(
                Path(root), out_dir, config, encoder, Path(catalogue.uri), Path(stems.uri)
            ),
        )


def _transfer(
    root: Path,
    out_dir: Path,
    config: TransferConfig,
    encoder: "Encoder",
    catalogue_dir: Path,
    stems_dir: Path,
) -> dict[str, float]:
    from mixprint.catalogue import read_catalogue
    from mixprint.device import resolve_device
    from mixprint.separation import load_separator
    from mixprint.transfer.pairs import SongSource, default_pairs, read_pairs, transfer_pairs
    from mixprint.transfer.settings import Hyperparameters

    device = resolve_device(config.device)
    values = asdict(config)
    names = values.keys() & Hyperparameters.__dataclass_fields__.keys()
    settings = Hyperparameters(**{name: values[name] for name in names})
    separator = load_separator(device=device) if config.pairs else None
    source = SongSource(
        settings,
        tracks=read_catalogue(catalogue_dir),
        stems_dir=stems_dir,
        separate=None if separator is None else separator.separate,
        separator=None if separator is None else separator.fingerprint,
    )
    if config.pairs:
        pairs = read_pairs(Path(config.pairs))
    else:
        pairs, split = default_pairs(source.tracks_with_stems, config.num_pairs)
        log.info("%d pairs from the split %s", len(pairs), split)
    summary = transfer_pairs(
        pairs,
        source,
        out_dir,
        settings,
        standardisation=encoder.standardisation,
        encoder=encoder.to(device),
        device=device,
    )
    _remove_others(out_dir, {row["pair"] for row in summary["pairs"]})
    write_json(root / TRANSFER_METRICS_FILE, _reproducible(summary))
    return {"pairs": summary["num_pairs"], "rejected": summary["num_rejected"]}


def _remove_others(out_dir: Path, names: set[str]) -> None:
    """Remove the folders of pairs that an older table had: they would pass for results."""
    for folder in sorted(out_dir.iterdir()):
        if folder.is_dir() and folder.name not in names:
            log.info("removing %s: not in the table of pairs any more", folder)
            shutil.rmtree(folder)


def _reproducible(summary: dict[str, Any]) -> dict[str, Any]:
    """Leave out the times: DVC compares this file, and equal results must look equal."""
    rows = [{k: v for k, v in row.items() if k != "total_s"} for row in summary["pairs"]]
    return {**summary, "pairs": {row["pair"]: row for row in rows}}


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    args = parser.parse_args()
    run(
        root=str(args.root),
        config=TransferConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
        promotion=promotion_manifest(args.root),
    )


if __name__ == "__main__":
    with clear_errors():
        main()
