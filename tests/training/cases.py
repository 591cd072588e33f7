"""Every training, far too small to learn: what the engine promises, all keep.

A new system adds a case here, and nothing else: the tests of `test_promises.py` run over it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.controller.training import ControllerTask, TrainingSetup
from mixprint.encoder.descriptor_training import DescriptorTask
from mixprint.encoder.task import TrainingData
from mixprint.encoder.training import BandTask
from mixprint.separation import build_scnet, export_separator
from mixprint.separation.diffusion.model import Denoiser
from mixprint.separation.diffusion.training import DiffusionTask, TrainingPrior
from mixprint.separation.material.sources import songs_of_folder
from mixprint.separation.scnet.training import SeparatorTask
from mixprint.training import engine
from mixprint.training.engine import Outcome
from mixprint.training.task import Length, Task
from mixprint.zero_shot.training import ZeroShotTask
from tests.controller.trials import NoiseExamples, quick_console
from tests.controller.trials import config as controller_config
from tests.encoder.conftest import TinySet, descriptor_config, make_set, tiny_config
from tests.encoder.trials import quick_descriptions, quick_input
from tests.separation.diffusion.trials import scnet
from tests.separation.trials import (
    TINY_MODEL,
    diffusion_config,
    make_songs,
    separator_config,
)
from tests.training.toys import AdversarialToy, AveragedToy, plan
from tests.zero_shot.trials import Collection, encoder_of, make_collection, quick_validation, ranges
from tests.zero_shot.trials import config as zero_shot_config

STEPS, STEPS_PER_EPOCH = 6, 3


@dataclass(frozen=True)
class Case:
    """A task of six steps in two epochs, a state after every second step.

    Attributes:
        prepare: makes what it learns from, once, in a folder.
        build: makes the task from that for a device, with or without what differs between ranks.
        moved_by: kind of its optimisers.
        moves: how often these move weights.
        quick: a context that makes it faster, in every process.
        is_toy: whether it takes milliseconds.
        keeps_others: whether a training of another identity is refused, not replaced.
        named: how an error names the data, a regular expression.
    """

    prepare: Callable[[Path], Any]
    build: Callable[[Any, torch.device, bool], Task[Any]]
    moved_by: type[torch.optim.Optimizer]
    moves: int = STEPS
    quick: Callable[[], AbstractContextManager[object]] = nullcontext
    is_toy: bool = False
    keeps_others: bool = False
    named: str = r"track \S+ segment \d+"


def _toy(kind: type[AveragedToy] | type[AdversarialToy], moves: int) -> Case:
    def build(data: None, device: torch.device, is_random: bool) -> Task[Any]:
        task = kind(plan(), device)
        for module in task.parts["net"] if "net" in task.parts and not is_random else ():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return task

    return Case(lambda _: None, build, torch.optim.Adam, moves, is_toy=True)


def _encoder_data(folder: Path) -> TinySet:
    return make_set(folder, dict.fromkeys("abcdef", "train") | {"g": "valid"})


def _training_data(data: TinySet) -> TrainingData:
    return TrainingData(
        tracks=data.tracks,
        stems_dir=data.stems_dir,
        features_dir=data.features_dir,
        fingerprint="tiny",
    )


def _encoder(data: TinySet, device: torch.device, is_random: bool) -> Task[Any]:
    config = tiny_config(
        epochs=STEPS // STEPS_PER_EPOCH,
        film_dropout=0.3 if is_random else 0.0,
        learn_temperature=True,
        # Without views that would have to be augmented and measured.
        negatives=("songs", "siblings"),
        shared_chain_weight=0.0,
    )
    return BandTask(config, _training_data(data), device)


def _descriptors_data(folder: Path) -> TinySet:
    splits = dict.fromkeys("abc", "train") | {"d": "valid"}
    return make_set(folder, splits, sample_rate_hz=44_100)


def _descriptors(data: TinySet, device: torch.device, is_random: bool) -> Task[Any]:
    config = descriptor_config(
        descriptor_dropout=0.2 if is_random else 0.0,
        descriptor_noise=0.1 if is_random else 0.0,
        prediction_weight=0.3,
        learn_temperature=True,
    )
    # What is measured is the same for all.
    shared = data.stems_dir.parent / "measured"
    return DescriptorTask(config, _training_data(data), device, shared)


def _separator_data(folder: Path) -> Path:
    return make_songs(folder, 3)


def _separator(data_dir: Path, device: torch.device, is_random: bool) -> Task[Any]:
    training = {"segment_s": 0.1, "batch_size": 2, "warmup_steps": 2, "valid_steps": 3,
                "num_valid": 1, "max_valid_songs": 1, "valid_s": 0.3, "precision": "float32",
                "optimiser": "adamw"}  # fmt: skip
    config = separator_config({"variant": "masked", "model": TINY_MODEL, "training": training})
    assert config.model is not None
    torch.manual_seed(config.training.seed)
    network = build_scnet(config.model, "masked").to(device)
    return SeparatorTask(config, network, songs_of_folder(data_dir, config), {})


def _diffusion_data(folder: Path) -> tuple[Path, Path]:
    """Make songs and a prior."""
    return make_songs(folder / "songs", 3), export_separator(scnet(), folder, window_s=0.1)


def _diffusion(data: tuple[Path, Path], device: torch.device, is_random: bool) -> Task[Any]:
    data_dir, prior_path = data
    config = diffusion_config({"training": {"valid_steps": 3}, "prior": str(prior_path)})
    torch.manual_seed(config.training.seed)
    network = Denoiser(config.architecture()).to(device)
    prior = TrainingPrior.load(config.prior, device)
    return DiffusionTask(config, network, songs_of_folder(data_dir, config), {}, prior)


def _controller(folder: Path, device: torch.device, is_random: bool) -> Task[Any]:
    config = controller_config(
        dropout=0.2 if is_random else 0.0, descriptor_noise=0.1 if is_random else 0.0
    )
    # What is measured of the examples is the same for all.
    train, valid = NoiseExamples("train"), NoiseExamples("valid")
    out_dir = folder / "measured"
    setup = TrainingSetup(config=config, train=train, valid=valid, encoder=None, out_dir=out_dir)
    return ControllerTask(setup, device)


def _zero_shot(data: Collection, device: torch.device, is_random: bool) -> Task[Any]:
    steps = STEPS // 2
    config = zero_shot_config(
        level_steps=steps,
        audio_steps=steps,
        valid_steps=STEPS_PER_EPOCH,
        num_chains=1,
        num_valid=1,
        level_s=0.4,
        crop_s=0.2,
    )
    # What is measured of the renderings is the same for all.
    shared = data.stems_dir.parent / "measured"
    return ZeroShotTask(
        config, data.tracks, data.stems_dir, encoder_of(data), ranges(), shared, "tiny", device
    )


CASES = {
    "averaged": _toy(AveragedToy, STEPS),
    "adversarial": _toy(AdversarialToy, 2 * STEPS),
    "controller": Case(
        lambda folder: folder,
        _controller,
        torch.optim.AdamW,
        quick=quick_console,
        named=r"example \d",
    ),
    "descriptors": Case(
        _descriptors_data, _descriptors, torch.optim.AdamW, quick=quick_descriptions
    ),
    "diffusion": Case(
        _diffusion_data,
        _diffusion,
        torch.optim.AdamW,
        keeps_others=True,
        named=r"example \d \(\S+/song\d from \d\.\d\d s",
    ),
    "encoder": Case(_encoder_data, _encoder, torch.optim.AdamW, quick=quick_input),
    "separator": Case(
        _separator_data,
        _separator,
        torch.optim.AdamW,
        keeps_others=True,
        named=r"example \d \(\S+/song\d from \d\.\d\d s",
    ),
    "zero-shot": Case(make_collection, _zero_shot, torch.optim.Adam, quick=quick_validation),
}


def run_case(
    name: str,
    data: Any,
    folder: Path,
    *,
    is_random: bool = True,
    on_metrics: Any = None,
    change: Callable[[Task[Any]], None] = lambda _: None,
    **plan_changes: Any,
) -> Outcome:
    """Train a case.

    Args:
        name: of the case.
        data: what its `prepare` has made.
        folder: of the training.
        is_random: whether it has what differs between ranks, for example dropout.
        on_metrics: see the engine.
        change: is applied to the task.
        plan_changes: of its plan.
    """
    case = CASES[name]
    rhythm = {
        "length": Length(steps=STEPS),
        "save_steps": 2,
        "log_steps": 1,
        "keep_checkpoints": 1,
    }

    def build(device: torch.device) -> Task[Any]:
        task = case.build(data, device, is_random)
        task.plan = replace(task.plan, **(rhythm | plan_changes))
        change(task)
        return task

    with case.quick():
        return engine.train(build, folder, on_metrics=on_metrics)


@contextmanager
def steps_noted(path: Path) -> Iterator[None]:
    """Note in a file which examples each step learns from, on this rank."""
    original = engine._Training._step

    def step(training: Any, batches: Iterator[Any], done: float) -> dict[str, float]:
        number, task = training._status.step, training._task

        def noted() -> Iterator[Any]:
            batch = next(batches)
            with path.open("a") as file:
                for example in task.describe(number, batch):
                    file.write(f"{number} {example}\n")
            yield batch

        return original(training, noted(), done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._Training, "_step", step)
        yield
