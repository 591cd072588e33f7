import math

import pytest
import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs, true_peak_dbtp
from mixprint.pages.matching import match_levels

RATE_HZ = 44_100


def tone(level: float, frequency_hz: float = 997.0) -> Tensor:
    time_T = torch.arange(2 * RATE_HZ) / RATE_HZ
    return (level * torch.sin(2 * math.pi * frequency_hz * time_T)).expand(2, -1)


def test_quiet_and_loud_tones_meet() -> None:
    sounds = {"loud": tone(0.5), "quiet": tone(0.05)}
    levels = match_levels(sounds, RATE_HZ)
    # The tones have room enough, so the common loudness is the highest that is used.
    assert levels.loudness_lufs == -16.0
    assert levels.gain_db["quiet"] - levels.gain_db["loud"] == pytest.approx(20.0, abs=0.01)
    for name, audio_CT in sounds.items():
        matched_CT = 10 ** (levels.gain_db[name] / 20) * audio_CT
        assert loudness_lufs(matched_CT, RATE_HZ) == pytest.approx(-16.0, abs=0.01)
    assert (levels.quiet, levels.original_gain_db) == ((), 0.0)


def test_a_sound_with_high_peaks_lowers_all() -> None:
    peaky_CT = tone(0.05).clone()
    peaky_CT[:, 50_000] = 1.5
    levels = match_levels({"peaky": peaky_CT, "even": tone(0.5)}, RATE_HZ)
    assert levels.loudness_lufs < -30
    peaks_dbtp = {
        name: true_peak_dbtp(audio_CT) + levels.gain_db[name]
        for name, audio_CT in (("peaky", peaky_CT), ("even", tone(0.5)))
    }
    assert peaks_dbtp["peaky"] == pytest.approx(-1.0, abs=0.01)
    assert peaks_dbtp["even"] < -1.0
    # At their own levels the peak would exceed full scale, so all are lowered alike.
    own_dbtp = true_peak_dbtp(peaky_CT)
    assert levels.original_gain_db == pytest.approx(-1.0 - own_dbtp, abs=1e-6)


def test_silence_is_not_made_louder() -> None:
    levels = match_levels({"silent": torch.zeros(2, RATE_HZ), "tone": tone(0.1)}, RATE_HZ)
    assert levels.quiet == ("silent",)
    assert levels.gain_db["silent"] == 0.0
    assert levels.loudness_lufs == -16.0
