"""Trainings on XLA devices, with a stand-in for `torch_xla` whose tensors lie on the CPU."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from mixprint.checkpoints.torchfile import read_tensors
from mixprint.errors import ConfigError
from mixprint.machine import xla
from mixprint.separation.diffusion.schedule import Schedule
from mixprint.storage.atomic import read_json, write_json
from mixprint.training.engine import train
from tests.processes import start_ranks
from tests.training.conftest import Prepared
from tests.training.toys import AdversarialToy, AveragedToy, plan
from tests.training.trials import KilledError, killed_in_step

STAND_INS = Path(__file__).parent / "stand_ins"
# What a step of a toy asks of the device, in order.
STEP = ["seed", "sum", "sync", "moved"]


@contextmanager
def stand_in() -> Iterator[list[str]]:
    """Take the CPU for an XLA device; yield what is asked of it, and when weights are moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(STAND_INS)
        patch.setattr(xla, "is_xla", lambda device: device.type == "cpu")
        calls: list[str] = importlib.import_module("torch_xla").calls
        original = torch.optim.Adam.step

        def step(self: Any) -> None:
            original(self)
            calls.append("moved")

        patch.setattr(torch.optim.Adam, "step", step)
        calls.clear()
        try:
            yield calls
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "torch_xla"]:
                del sys.modules[name]


class SteadyToy(AveragedToy):
    dropout = 0.0


def train_toy(folder: Path, kind: type[AveragedToy] = SteadyToy) -> None:
    train(lambda device: kind(plan(), device), folder)


def be_rank(rank: int, folder: Path, num_devices: int) -> None:
    torch.set_num_threads(1)
    # As `torchrun` sets it.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "NUM_XLA_DEVICES": str(num_devices)}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    with stand_in() as calls:
        try:
            train_toy(folder)
        except ConfigError as error:
            calls.append(str(error))
        write_json(folder / f"calls-{rank}.json", calls)


def calls_of_two(folder: Path, port: int, num_devices: int) -> list[list[str]]:
    folder.mkdir()
    (folder / "port").write_text(str(port))
    start_ranks(be_rank, folder, num_devices)
    return [read_json(folder / f"calls-{rank}.json") for rank in range(2)]


@pytest.fixture
def port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        number: int = held.getsockname()[1]
        return number


def test_gradients_are_summed_before_weights_move_and_each_step_is_run_once(
    tmp_path: Path, port: int
) -> None:
    first, second = calls_of_two(tmp_path / "two", port, 2)
    # An epoch of three steps, and a sync before its weights are read.
    assert second == [*3 * STEP, "sync"] * 2
    # The first rank saves after the second, third, fourth and sixth step, the last with the epoch.
    saved, epoch = ["sync"], ["sync", "sync"]
    assert first == [*2 * STEP, *saved, *STEP, *epoch, *STEP, *saved, *2 * STEP, *epoch]
    train_toy(tmp_path / "alone")
    for name, alone in read_tensors(tmp_path / "alone" / "weights.safetensors").items():
        together = read_tensors(tmp_path / "two" / "weights.safetensors")[name]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_processes_without_a_device_each_are_refused(tmp_path: Path, port: int) -> None:
    for calls in calls_of_two(tmp_path / "one", port, 1):
        (error,) = calls
        assert "a device for each of 2 processes" in error
        assert "found 1" in error


def test_the_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "is_xla", lambda device: True)
    monkeypatch.setattr(xla, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"torch_xla \(requirements-tpu\.in"):
        train_toy(tmp_path)


def test_a_training_that_is_not_meant_for_it_is_refused(tmp_path: Path) -> None:
    with stand_in(), pytest.raises(ConfigError, match="training adversarial: expected cpu or cuda"):
        train(lambda device: AdversarialToy(plan(), device), tmp_path)


def test_a_diffusion_separator_learns_the_same(
    prepare_case: Callable[[str], Prepared], tmp_path: Path
) -> None:
    prepared = prepare_case("diffusion")
    with stand_in() as calls:
        outcome = prepared.run(tmp_path)
    assert calls.count("seed") == 6
    for found, expected in zip(outcome.history, prepared.outcome.history, strict=True):
        for name in ("train.loss", "train.vocals_error", "valid.held_out.one_step_sdr.vocals"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3), name


class FusedToy(SteadyToy):
    fused = True

    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        weights = self.parts["net"].parameters()
        self.optimizer = torch.optim.Adam(weights, lr=1.0, fused=self.fused)
        return {"net": [self.optimizer]}


class PlainToy(FusedToy):
    fused = False


@pytest.mark.parametrize(("before", "after"), [(FusedToy, PlainToy), (PlainToy, FusedToy)])
def test_a_training_goes_on_with_the_kernels_of_another_device(
    before: type[FusedToy], after: type[FusedToy], tmp_path: Path
) -> None:
    with killed_in_step(5, torch.optim.Adam), pytest.raises(KilledError):
        train_toy(tmp_path / "moved", before)
    tasks = []

    def build(device: torch.device) -> FusedToy:
        tasks.append(after(plan(), device))
        return tasks[0]

    train(build, tmp_path / "moved")
    (group,) = tasks[0].optimizer.param_groups
    assert group["fused"] is after.fused
    train_toy(tmp_path / "whole", after)
    for name, whole in read_tensors(tmp_path / "whole" / "weights.safetensors").items():
        moved = read_tensors(tmp_path / "moved" / "weights.safetensors")[name]
        torch.testing.assert_close(moved, whole, rtol=0, atol=1e-5)


def test_times_are_rounded_last(monkeypatch: pytest.MonkeyPatch) -> None:
    time_B = torch.tensor([1e-6, 0.5, 1 - 1e-6, 1.0], dtype=torch.float64)
    exact = Schedule("cosine").coefficients(time_B)
    monkeypatch.setattr(xla, "is_xla", lambda device: True)
    for found, expected in zip(Schedule("cosine").coefficients(time_B), exact, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-7, atol=0)


def test_nested_values_are_copied_to_the_cpu() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    found = xla.on_cpu({"state": {0: {"step": 3, "average": [weight]}}, "rate": 0.1})
    (copied,) = found["state"][0]["average"]
    assert not copied.requires_grad
    assert found == {"state": {0: {"step": 3, "average": [copied]}}, "rate": 0.1}
