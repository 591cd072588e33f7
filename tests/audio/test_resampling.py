import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.audio.resampling import resample

MakeAudio = Callable[..., Tensor]


def sine(frequency_hz: float, sample_rate_hz: int, num_samples: int) -> Tensor:
    time_T = torch.arange(num_samples, dtype=torch.float64) / sample_rate_hz
    return (0.5 * torch.sin(2 * math.pi * frequency_hz * time_T)).float().expand(2, -1)


@pytest.mark.parametrize("from_hz", [8_000, 22_050, 48_000, 44_099, 96_000])
def test_resampled_sine_is_the_sine(from_hz: int) -> None:
    audio_CT = resample(sine(1_000, from_hz, from_hz), from_hz, 44_100)
    assert audio_CT.shape == (2, 44_100)
    inside = slice(2_000, -2_000)  # the tone is cut at both ends
    error_CT = (audio_CT - sine(1_000, 44_100, 44_100))[:, inside]
    assert error_CT.abs().max() < 2e-5


def test_resampling_lets_nothing_fold_back() -> None:
    audio_CT = resample(sine(23_000, 48_000, 48_000), 48_000, 44_100)
    assert audio_CT[:, 2_000:-2_000].abs().max() < 0.5 * 10 ** (-90 / 20)


def test_resampling_in_parts_is_resampling_the_whole(
    make_audio: MakeAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio_CT = make_audio(1.0, sample_rate_hz=48_000)
    whole_CT = resample(audio_CT, 48_000, 44_100)
    monkeypatch.setattr("mixprint.audio.resampling.BLOCK_FRAMES", 1_000)
    assert torch.allclose(resample(audio_CT, 48_000, 44_100), whole_CT, atol=1e-6)


def test_equal_rates_change_nothing(make_audio: MakeAudio) -> None:
    audio_CT = make_audio(0.1)
    assert resample(audio_CT, 44_100, 44_100) is audio_CT
