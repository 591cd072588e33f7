"""A training task as `CONTRIBUTING.md` tells to add one: the toy of the engine's own tests."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from components.train.job import Job, MetricsCallback, TrainTask, machine_at_work, start_ranks
from mixprint.config import StepConfig
from mixprint.training.engine import train
from mixprint.training.task import Length
from tests.training.toys import AdversarialToy, plan


@dataclass(frozen=True, kw_only=True)
class ToyConfig(StepConfig):
    section: ClassVar[str] = "toy"
    steps: int
    seed: int
    num_processes: int
    device: str

    def identity(self) -> dict[str, Any]:
        return {"steps": self.steps, "seed": self.seed}


class ToyTask(TrainTask):
    """Train a network of four neurons."""

    name, step, section = "toy", "toy", ToyConfig.section
    module = "tests.components.toy_task"
    files = ("weights.safetensors", "config.json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", type=Path, required=True)

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        config = ToyConfig.of_params(params, args.params)
        with machine_at_work(args.out, self.step) as (run, _):
            start_ranks(self, run, run.path, config, inputs={}, recipe=config.identity())

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        config = job.config(ToyConfig)
        how = plan(length=Length(steps=config.steps), seed=config.seed)
        return train(
            lambda device: AdversarialToy(how, device),
            Path(job.out_dir),
            device=job.device,
            on_metrics=on_metrics,
        ).best


TASK = ToyTask()
