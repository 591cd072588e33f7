"""Distances that average out the fine structure of rooms."""

import math

import pytest
import torch
from torch import Tensor

from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.evaluation.mix_distances import band_level_distance_db
from mixprint.stems import SAMPLE_RATE_HZ


def noise(seed: int, seconds: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, round(seconds * SAMPLE_RATE_HZ), generator=generator)


def tail(seed: int, time_s: float) -> Tensor:
    """Noise that dies away by 60 dB in a time, as a room does."""
    audio_CT = noise(seed)
    time_T = torch.arange(audio_CT.shape[-1]) / SAMPLE_RATE_HZ
    return audio_CT * torch.exp(-math.log(1000.0) * time_T / time_s)


def test_equal_audio_and_silence_have_no_distance() -> None:
    audio_CT = noise(1)
    assert band_level_distance_db(audio_CT, audio_CT) == 0
    silence_CT = torch.zeros_like(audio_CT)
    assert band_level_distance_db(silence_CT, silence_CT) == 0


@pytest.mark.parametrize("gain_db", [1.0, -3.0])
def test_a_gain_is_as_far_away_as_it_is(gain_db: float) -> None:
    audio_CT = noise(1)
    found = band_level_distance_db(audio_CT, audio_CT * 10 ** (gain_db / 20))
    assert float(found) == pytest.approx(abs(gain_db), abs=1e-3)


def test_the_sign_means_nothing() -> None:
    audio_CT = tail(1, 1.0)
    assert float(band_level_distance_db(-audio_CT, audio_CT)) == pytest.approx(0, abs=1e-5)


def test_other_echoes_are_near_and_another_reverb_time_is_not() -> None:
    room_CT, other_CT = tail(1, 1.0), tail(2, 1.0)
    longer_CT = tail(2, 1.5)
    assert float(band_level_distance_db(other_CT, room_CT)) < 0.8
    assert float(band_level_distance_db(longer_CT, room_CT)) > 4
    # The spectra hear two rooms that have nothing in common, whatever the time.
    near, far = (float(multi_resolution_stft(x, room_CT)) for x in (other_CT, longer_CT))
    assert near > 0.7
    assert far < 2 * near


def test_an_equaliser_of_one_band_counts_by_its_band() -> None:
    """1 dB more above 12.8 kHz is a band of eight."""
    audio_CT = noise(3)
    spectrum_CF = torch.fft.rfft(audio_CT)
    hz_F = torch.fft.rfftfreq(audio_CT.shape[-1], 1 / SAMPLE_RATE_HZ)
    raised = [
        torch.fft.irfft(spectrum_CF * torch.where(hz_F > 12_800, 10 ** (db / 20), 1.0))
        for db in (1.0, 2.0)
    ]
    one, two = (float(band_level_distance_db(x_CT, audio_CT)) for x_CT in raised)
    assert one == pytest.approx(1 / 8, rel=0.1)
    assert two == pytest.approx(2 / 8, rel=0.1)
