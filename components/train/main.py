"""Train the encoder: `torchrun` starts the workers of this machine.

How several machines train together says `components.train.launch`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.layout import (
    ENCODER_FILES,
    ENCODER_FOLDER,
    catalogue_manifest,
    described_stems,
    features_manifest,
    stems_manifest,
)
from components.step import Manifest, clear_errors, once, recorded, step_parser
from components.train.launch import Node, ranks_device, start_workers
from mixprint.encoder.settings import TrainConfig
from mixprint.fingerprint import code_version, fingerprint

__all__ = ["Job", "TrainConfig", "run"]

WORKER = "components.train.worker"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the worker processes have to do; passed to them as a JSON file.

    Attributes:
        config: the section `train`.
        catalogue_dir: folder of the catalogue; the folders are local ones for a worker, and as
            `RunFolder.uri` names them before.
        stems_dir: folder of the stem shards.
        features_dir: folder of the features.
        out_dir: folder of the encoder.
        data_fingerprint: of stems, features and catalogue.
        recipe: of all that the encoder depends on; a resumed run has the same.
        device: where to compute.
    """

    config: Mapping[str, Any]
    catalogue_dir: str
    stems_dir: str
    features_dir: str
    out_dir: str
    data_fingerprint: str
    recipe: str
    device: str


def state_dir(out_dir: Path) -> Path:
    """Give the folder of what only the training itself needs."""
    return out_dir / "state"


def run(
    *, root: str, config: TrainConfig, catalogue: Manifest, stems: Manifest, features: Manifest
) -> Manifest:
    """Train the encoder; a run that was killed goes on from the state saved last.

    Of several machines the first one keeps the step's marker and its record; the others have a
    record of their own, and all return the same manifest.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        catalogue: the folder of the catalogue.
        stems: the folder of the stem shards.
        features: the folder of the features.

    Returns:
        manifest of the encoder.

    Raises:
        TrainingError: a worker failed; the message is its own.
        ConfigError: there are several machines, and this one has no number among them.
    """
    node = Node.from_environment()
    name = "train" if node.is_first else f"train-{node.number}"
    with recorded(root, name) as run_folder:
        folder = run_folder.path / ENCODER_FOLDER
        data_fingerprint = fingerprint(
            {m.step: m.fingerprint for m in (catalogue, stems, features)}
        )
        recipe = {
            "data": data_fingerprint,
            "config": config.identity(),
            "code": code_version(
                "mixprint.encoder", "mixprint.features", "mixprint.shards", "mixprint.stems"
            ),
        }

        def work() -> dict[str, float]:
            run_folder.check_machines(is_alone=node.is_alone)
            job = Job(
                config=config.to_values(),
                catalogue_dir=catalogue.uri,
                stems_dir=stems.uri,
                features_dir=features.uri,
                out_dir=run_folder.uri(folder),
                data_fingerprint=data_fingerprint,
                recipe=fingerprint(recipe),
                device=ranks_device(config.device),
            )
            with described_stems(run_folder, stems), run_folder.followed("train"):
                start_workers(
                    WORKER, asdict(job), state_dir(folder), config.num_processes, run_folder
                )
            # Other nodes may have made it.
            run_folder.restore(folder)
            return {"processes": config.num_processes}

        return once(
            step="train",
            run=run_folder,
            folder=folder,
            recipe=recipe,
            files=ENCODER_FILES,
            work=work,
            owns_marker=node.is_first,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    args = step_parser(__doc__).parse_args(arguments)
    run(
        root=args.root,
        config=TrainConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
        features=features_manifest(args.root),
    )


if __name__ == "__main__":
    with clear_errors():
        main()
