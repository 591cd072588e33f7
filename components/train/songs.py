"""Trainings of separators from the command line: songs with true stems in, weights out."""

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from components.train.job import Job, MetricsCallback, TrainTask, machine_at_work, start_ranks
from mixprint.errors import ConfigError
from mixprint.separation.material.songs import download_songs
from mixprint.separation.training.settings import SongTrainConfig
from mixprint.training.outputs import check_own_folder

log = logging.getLogger("mixprint.train")

# Before the name of a folder of songs to validate on, among the inputs of a job.
_VALID = "valid."


class SongsTask(TrainTask):
    """A training of a separator on songs with true stems.

    Attributes:
        config: parameters.
        train_songs: trains on this rank; takes the inputs of the task by their names.
        outputs: what the training leaves in its folder.
        weights_file: the weights among these.
    """

    config: ClassVar[type[SongTrainConfig]]
    train_songs: ClassVar[Callable[..., Path]]
    outputs: ClassVar[tuple[str, ...]]
    weights_file: ClassVar[str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See `TrainTask`."""
        songs = parser.add_mutually_exclusive_group(required=True)
        songs.add_argument("--data", type=Path, help="songs as in MUSDB18-HQ or MUSDB18")
        songs.add_argument(
            "--generate", action="store_true", help="make songs while the training goes on"
        )
        add = parser.add_argument
        add(
            "--download",
            dest="set",
            action="append_const",
            const=f"{self.section}.download=if-empty",
            help="first fetch MUSDB18-HQ (23 GB, for research only) to DATA if no songs are there",
        )
        add("--out", type=Path, required=True, help="folder for weights and state")
        for option, key, shown_help in (
            ("--processes", "num_processes", "ranks; on GPUs one each"),
            ("--device", "device", "auto, cpu, cuda or xla"),
        ):
            setting = f"{self.section}.{key}={{}}".format
            add(option, dest="set", action="append", type=setting, help=shown_help)
        add("--valid", action="append", default=[], metavar="NAME=DIR", help="more to validate on")

    def read_config(self, args: argparse.Namespace, params: Mapping[str, Any]) -> SongTrainConfig:
        """Return the parameters, with what the task's own options say."""
        return self.config.of_params(params, args.params)

    def inputs(self, args: argparse.Namespace) -> Mapping[str, Path | None]:
        """Return what the task's own options name for the ranks to read."""
        del args
        return {}

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        """See `TrainTask`."""
        path = self.run(
            out_dir=args.out,
            config=self.read_config(args, params),
            data_dir=args.data,
            extra_valid=dict(_named_folder(text) for text in args.valid),
            inputs=self.inputs(args),
        )
        log.info("wrote %s", path)

    def run(
        self,
        *,
        out_dir: Path,
        config: SongTrainConfig,
        data_dir: Path | None = None,
        extra_valid: Mapping[str, Path] | None = None,
        inputs: Mapping[str, Path | None] | None = None,
    ) -> Path:
        """Train a separator; a run that was killed goes on after its last saved state.

        Args:
            out_dir: receives weights, history and state.
            config: parameters of the training.
            data_dir: songs as in MUSDB18-HQ or MUSDB18; None: they are made while the training
                goes on.
            extra_valid: name -> folder of more songs to validate on.
            inputs: what else the ranks read; see the task.

        Returns:
            path of the weights.

        Raises:
            ConfigError: the batch cannot be divided among the processes, or there is no folder to
                download songs to.
            DataError: `out_dir` cannot be written, or files lie there that no training has written;
                or the songs cannot be downloaded.
            TrainingError: a worker failed; the message is its own.
        """
        if config.training.batch_size % config.num_processes:
            raise ConfigError(
                f"training.batch_size: expected a multiple of the number of processes, found "
                f"{config.training.batch_size} and {config.num_processes}"
            )
        check_own_folder(out_dir, self.outputs)
        if config.download == "if-empty":
            if data_dir is None:
                raise ConfigError(
                    f"{self.section}.download: expected --data, the folder to download to, found "
                    "none"
                )
            download_songs(data_dir)
        named = {"data_dir": data_dir, **(inputs or {})}
        known = {name: str(path) for name, path in named.items() if path is not None}
        valid = {f"{_VALID}{name}": str(folder) for name, folder in (extra_valid or {}).items()}
        with machine_at_work(out_dir, self.step) as (run_folder, _):
            start_ranks(
                self,
                run_folder,
                run_folder.path,
                config,
                inputs=known | valid,
                recipe=[config.identity(), known.get("data_dir", ""), known.get("initial", "")],
            )
        return out_dir / self.weights_file

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        """See `TrainTask`."""
        valid = {name: path for name, path in job.inputs.items() if name.startswith(_VALID)}
        own = {name: path for name, path in job.inputs.items() if name not in valid}
        self.train_songs(
            own.pop("data_dir", None),
            job.out_dir,
            job.config(self.config),
            device=job.device,
            extra_valid={name.removeprefix(_VALID): path for name, path in valid.items()},
            on_metrics=on_metrics,
            **own,
        )
        return {}

    def params(self, job: Job) -> Mapping[str, Any]:
        """See `TrainTask`."""
        return {"data_dir": job.inputs.get("data_dir", "")}


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ConfigError(f"--valid: expected NAME=DIR, found {text!r}")
    return name, Path(folder)
