"""Batches through a network: precision, memory that runs out, batches that are queued ahead."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.errors import ConfigError
from mixprint.separation import Separator, build_scnet, load_separator
from mixprint.separation import separator as separator_module
from mixprint.separation.metrics import utterance_sdr
from mixprint.separation.runner import MAX_AUTO_BATCH_SIZE, PRECISIONS, Runner, fitting_batch_size
from mixprint.separation.scnet.network import TrainedSCNet

CPU = torch.device("cpu")
STARTS = torch.arange(0, 800, 100)
TINY = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}


class _Network:
    """Gives back four copies; holds so many windows at most."""

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.batches: list[int] = []
        self.starts: list[int] = []
        self.dtypes: list[torch.dtype | None] = []

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        self.batches.append(len(audio_BCT))
        is_reduced = torch.is_autocast_enabled("cpu")
        self.dtypes.append(torch.get_autocast_dtype("cpu") if is_reduced else None)
        if len(audio_BCT) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.starts += starts_B.tolist()
        return audio_BCT.unsqueeze(1).expand(-1, 4, -1, -1)


def _separator() -> Separator:
    torch.manual_seed(0)
    model = build_scnet(TINY, "masked")
    return Separator(TrainedSCNet(model, window_s=0.05))


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = _Network(capacity=3)
    runner = Runner(network, CPU, precision="float32", batch_size=8)
    audio_BCT = torch.randn(8, 2, 10)
    with caplog.at_level(logging.WARNING):
        stems_BSCT = runner.finish(runner.start(audio_BCT, STARTS))
    assert torch.equal(stems_BSCT, audio_BCT.unsqueeze(1).expand(-1, 4, -1, -1))
    assert network.batches == [8, 4, 2, 2, 2, 2]
    assert network.starts == STARTS.tolist()
    assert runner.batch_size == 2
    assert len(caplog.records) == 2
    assert "8 windows of 10 samples" in caplog.messages[0]
    # The next batch is cut at the size that fitted, and nothing is warned of again.
    runner.finish(runner.start(audio_BCT[:2], STARTS))
    assert len(caplog.records) == 2


def test_a_window_that_does_not_fit_is_an_error() -> None:
    runner = Runner(_Network(capacity=0), CPU, precision="float32", batch_size=2)
    with pytest.raises(torch.OutOfMemoryError):
        runner.start(torch.zeros(2, 2, 10), STARTS)


def test_a_song_survives_memory_that_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    separator = _separator()
    audio_CT = 0.1 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    expected_SCT = separator.separate(audio_CT)
    model = separator.network.model
    forward = model.forward

    def limited(audio_BCT: Tensor) -> Tensor:
        if len(audio_BCT) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(audio_BCT)

    monkeypatch.setattr(model, "forward", limited)
    stems_SCT = separator.separate(audio_CT, batch_size=5)
    torch.testing.assert_close(stems_SCT, expected_SCT, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [100, 2205, 2206, 20_000])
@pytest.mark.parametrize("num_ahead", [1, 2])
def test_queued_batches_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, length: int, num_ahead: int
) -> None:
    # A GPU works ahead; here the queue alone is under test.
    class Ahead(Runner):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self.num_ahead = num_ahead

    separator = _separator()
    audio_CT = 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(0))
    expected_SCT = separator.separate(audio_CT, batch_size=2)
    monkeypatch.setattr(separator_module, "Runner", Ahead)
    mixture, stems = zip(*separator.stream([audio_CT], batch_size=2), strict=True)
    assert torch.equal(torch.cat(mixture, dim=-1), audio_CT)
    assert torch.equal(torch.cat(stems, dim=-1), expected_SCT)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_network_runs_in_the_asked_precision(precision: str) -> None:
    network = _Network()
    runner = Runner(network, CPU, precision=precision, batch_size=1)
    stems_BSCT = runner.finish(runner.start(torch.ones(1, 2, 10), STARTS))
    assert stems_BSCT.dtype == torch.float32
    assert network.dtypes == [None if precision == "float32" else PRECISIONS[precision]]


def test_an_unknown_precision_is_refused() -> None:
    separator = _separator()
    assert separator.precision == "float32"
    with pytest.raises(ConfigError, match="int8"):
        separator.precision = "int8"
    with pytest.raises(ConfigError, match="half"):
        Separator(separator.network, precision="half")


def test_half_precision_is_40_db_from_float32_on_real_music(shared_dir: Path) -> None:
    (mixture,) = (shared_dir / "audio" / "musdbhq").glob("*/mixture.wav")
    audio_CT = read_audio(mixture, start_s=1.0, duration_s=5.0)
    separator = load_separator()
    full_SCT = separator.separate(audio_CT)
    separator.precision = "bfloat16"
    half_SCT = separator.separate(audio_CT)
    assert not torch.equal(half_SCT, full_SCT)
    assert utterance_sdr(half_SCT, full_SCT).min() > 40.0


def test_batch_size_is_chosen_by_memory_between_one_and_a_most() -> None:
    # 70 % of the memory is used: 7 of 10 windows.
    assert fitting_batch_size(10_000, 1_000) == 7
    assert fitting_batch_size(500, 1_000) == 1
    assert fitting_batch_size(10**12, 1_000) == MAX_AUTO_BATCH_SIZE
    assert fitting_batch_size(10**12, 0) == MAX_AUTO_BATCH_SIZE


def test_on_the_cpu_a_batch_of_no_size_is_one_window() -> None:
    assert Runner(_Network(), CPU, precision="float32", batch_size=0).batch_size == 1


@pytest.mark.gpu
def test_a_gpu_gives_every_window_back_in_its_place() -> None:
    audio_BCT = torch.randn(5, 2, 1000, generator=torch.Generator().manual_seed(0))
    runner = Runner(
        lambda audio_BCT, starts_B: 2 * audio_BCT.unsqueeze(1),
        torch.device("cuda"),
        precision="float32",
        batch_size=2,
    )
    stems_BSCT = runner.finish(runner.start(audio_BCT, STARTS))
    assert stems_BSCT.device.type == "cpu"
    assert torch.equal(stems_BSCT, 2 * audio_BCT.unsqueeze(1))
