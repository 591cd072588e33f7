"""Train: `torchrun` starts the worker processes, here or on every pod that runs this step."""

import logging
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.layout import (
    ENCODER_FILES,
    ENCODER_FOLDER,
    catalogue_manifest,
    features_manifest,
    stems_manifest,
)
from components.step import Manifest, clear_errors, once, recorded, step_parser
from mixprint.atomic import read_json, write_json
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import TrainingError
from mixprint.fingerprint import code_version, fingerprint

log = logging.getLogger("mixprint.train")

__all__ = ["Job", "TrainConfig", "run"]

WORKER = "components.train.worker"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the worker processes have to do; passed to them as a JSON file.

    Attributes:
        config: the section `train`.
        catalogue_dir: folder of the catalogue.
        stems_dir: folder of the stem shards.
        features_dir: folder of the features.
        out_dir: folder of the encoder.
        data_fingerprint: of stems, features and catalogue.
        recipe: of all that the encoder depends on; a resumed run has the same.
        device: where to compute.
    """

    config: dict[str, Any]
    catalogue_dir: str
    stems_dir: str
    features_dir: str
    out_dir: str
    data_fingerprint: str
    recipe: str
    device: str

    @property
    def error_path(self) -> Path:
        """Where a worker leaves the error that ended it."""
        return state_dir(Path(self.out_dir)) / "error.json"


def state_dir(out_dir: Path) -> Path:
    """Give the folder of what only the training itself needs."""
    return out_dir / "state"


def run(
    *, root: str, config: TrainConfig, catalogue: Manifest, stems: Manifest, features: Manifest
) -> Manifest:
    """Train the encoder; a run that was killed goes on after its last whole epoch.

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
    """
    with recorded(Path(root), "train"):
        folder = Path(root) / ENCODER_FOLDER
        data_fingerprint = fingerprint(
            {m.step: m.fingerprint for m in (catalogue, stems, features)}
        )
        recipe = {
            "data": data_fingerprint,
            "config": config.to_values(),
            "code": code_version(
                "mixprint.encoder", "mixprint.features", "mixprint.shards", "mixprint.stems"
            ),
        }

        def work() -> dict[str, float]:
            from mixprint.device import resolve_device

            job = Job(
                config=config.to_values(),
                catalogue_dir=catalogue.uri,
                stems_dir=stems.uri,
                features_dir=features.uri,
                out_dir=str(folder),
                data_fingerprint=data_fingerprint,
                recipe=fingerprint(recipe),
                # Each rank takes the GPU of its own number.
                device=resolve_device(config.device).type,
            )
            _start_workers(job, config.num_processes)
            return {"processes": config.num_processes}

        return once(
            step="train",
            root=Path(root),
            folder=folder,
            recipe=recipe,
            files=ENCODER_FILES,
            work=work,
        )


def _start_workers(job: Job, num_processes: int) -> None:
    """Start one worker per rank and wait for all of them."""
    job_path = state_dir(Path(job.out_dir)) / "job.json"
    write_json(job_path, asdict(job))
    job.error_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(num_processes), "-m", WORKER, str(job_path)]
    # torchrun gives each of several workers one thread; they can have their part of the cores.
    threads = max(1, len(os.sched_getaffinity(0)) // num_processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    log.info("starting %d worker processes, %d threads each", num_processes, threads)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != 0:
        reason = read_json(job.error_path)["error"] if job.error_path.exists() else "no message"
        raise TrainingError(f"a training worker ended with exit code {code}: {reason}")


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    args = parser.parse_args()
    run(
        root=str(args.root),
        config=TrainConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
        features=features_manifest(args.root),
    )


if __name__ == "__main__":
    with clear_errors():
        main()
