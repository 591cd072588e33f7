"""Train the network of the zero-shot transfer on the songs of a run and its encoder.

`python -m components.train --task zero-shot --root RUN`
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.layout import (
    ENCODER_FILES,
    ENCODER_FOLDER,
    ZERO_SHOT_FILES,
    ZERO_SHOT_FOLDER,
    catalogue_manifest,
    described_stems,
    stems_manifest,
)
from components.step import Manifest, clear_errors, once, recorded, step_parser
from components.train.launch import Node, ranks_device, start_workers
from mixprint.encoder.settings import TrainConfig
from mixprint.fingerprint import code_version, fingerprint
from mixprint.storage import is_bucket
from mixprint.transfer.zero_shot_training import CODE, STATE_FOLDER, ZeroShotTrainConfig

WORKER = "components.train.zero_shot_worker"


@dataclass(frozen=True, kw_only=True)
class ZeroShotJob:
    """What the worker processes have to do; passed to them as a JSON file.

    Attributes:
        config: the section `zero_shot`.
        train_config: the section `train`, for the ranges of the effects.
        catalogue_dir: folder of the catalogue.
        stems_dir: folder of the stem shards.
        encoder_dir: folder of the encoder.
        out_dir: folder of the network.
        data_fingerprint: of stems and catalogue.
        recipe: of all that the network depends on; a resumed run has the same.
        device: where to compute.
    """

    config: Mapping[str, Any]
    train_config: Mapping[str, Any]
    catalogue_dir: str
    stems_dir: str
    encoder_dir: str
    out_dir: str
    data_fingerprint: str
    recipe: str
    device: str


def run(
    *,
    root: str,
    config: ZeroShotTrainConfig,
    train_config: TrainConfig,
    catalogue: Manifest,
    stems: Manifest,
    encoder_dir: Path | str,
) -> Manifest:
    """Train the network; a run that was killed goes on from the state saved last.

    Args:
        root: root folder of the run.
        config: parameters of the training.
        train_config: parameters of the encoder's training, for the ranges of the effects.
        catalogue: the folder of the catalogue.
        stems: the folder of the stem shards.
        encoder_dir: the encoder whose embeddings the network shall read.

    Returns:
        manifest of the network.

    Raises:
        CheckpointError: the encoder cannot be loaded.
        TrainingError: a worker failed; the message is its own.
        ConfigError: there are several machines, and this one has no number among them.
    """
    node = Node.from_environment()
    name = "zero-shot" if node.is_first else f"zero-shot-{node.number}"
    with recorded(root, name) as run_folder:
        from mixprint.encoder.checkpoint import load_checkpoint

        folder = run_folder.path / ZERO_SHOT_FOLDER
        local_encoder = (
            run_folder.local(str(encoder_dir), *ENCODER_FILES)
            if is_bucket(str(encoder_dir))
            else Path(encoder_dir)
        )
        data_fingerprint = fingerprint({m.step: m.fingerprint for m in (catalogue, stems)})
        ranges = asdict(train_config.augment_ranges())
        recipe = {
            "data": data_fingerprint,
            "encoder": load_checkpoint(local_encoder).fingerprint,
            "config": config.identity(),
            "ranges": ranges,
            "code": code_version(*CODE, "mixprint.shards", "mixprint.stems"),
        }

        def work() -> dict[str, float]:
            run_folder.check_machines(is_alone=node.is_alone)
            job = ZeroShotJob(
                config=config.to_values(),
                train_config=train_config.to_values(),
                catalogue_dir=catalogue.uri,
                stems_dir=stems.uri,
                encoder_dir=str(encoder_dir),
                out_dir=run_folder.uri(folder),
                data_fingerprint=data_fingerprint,
                recipe=fingerprint(recipe),
                device=ranks_device(config.device),
            )
            with described_stems(run_folder, stems), run_folder.followed("zero-shot"):
                start_workers(
                    WORKER, asdict(job), folder / STATE_FOLDER, config.num_processes, run_folder
                )
            # Other nodes may have made it.
            run_folder.restore(folder)
            return {"processes": config.num_processes}

        return once(
            step="zero-shot",
            run=run_folder,
            folder=folder,
            recipe=recipe,
            files=ZERO_SHOT_FILES,
            work=work,
            owns_marker=node.is_first,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = step_parser("Train the network of the zero-shot transfer.")
    parser.add_argument("--encoder", help="folder of the encoder; by default that of the run")
    args = parser.parse_args(arguments)
    run(
        root=args.root,
        config=ZeroShotTrainConfig.load(args.params, args.profile),
        train_config=TrainConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
        encoder_dir=args.encoder or f"{args.root}/{ENCODER_FOLDER}",
    )


if __name__ == "__main__":
    with clear_errors():
        main()
