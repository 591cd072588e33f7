"""Settings of one voice by rule."""

import math

import pytest
import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs, true_peak_dbtp
from mixprint.console.levels import BANDS_HZ
from mixprint.console.rendering import render
from mixprint.console.rules import LOUDNESS_LUFS, _most_voices, vocal_by_rule
from mixprint.console.settings import Settings

RATE_HZ = 44_100


def voice_of(extra_db: dict[int, float] | None = None, seconds: float = 2.0) -> Tensor:
    """Steady noise with the spectrum of most voices, and more of some bands."""
    num_samples = round(seconds * RATE_HZ)
    level_K = _most_voices()
    for band, gain_db in (extra_db or {}).items():
        level_K[band] += gain_db
    noise_T = torch.randn(num_samples, generator=torch.Generator().manual_seed(1))
    spectrum_F = torch.fft.rfft(noise_T)
    hz_F = torch.arange(len(spectrum_F)) * RATE_HZ / num_samples
    band_F = (3 * (hz_F.clamp_min(1.0) / BANDS_HZ[0]).log2()).round().long().clamp(0, 28)
    # A band's width grows with its frequency.
    density_F = 10 ** (level_K[band_F] / 20) / hz_F.clamp_min(20.0).sqrt()
    voice_T = torch.fft.irfft(spectrum_F * density_F, n=num_samples)
    return 0.05 * voice_T[None] / voice_T.std()


def found(voice_CT: Tensor) -> tuple[Settings, str]:
    by_rule = vocal_by_rule(voice_CT, RATE_HZ)
    return by_rule.settings, " | ".join(by_rule.reasons)


def test_a_voice_as_most_is_only_brought_to_its_loudness() -> None:
    voice_CT = voice_of()
    settings, reasons = found(voice_CT)
    strip = settings.tracks["vocals"]
    # 0.05 is -26.0 dBFS.
    assert strip["trim_db"] == pytest.approx(6.02, abs=0.1)
    for gain in ("eq.low", "eq.bell1", "eq.bell2", "eq.bell3", "eq.high"):
        assert strip.is_neutral(f"{gain}.gain_db"), reasons
    assert strip.is_neutral("comp.slope"), reasons
    mix_CT = render(voice_CT[None], settings, RATE_HZ).sum(dim=0).float()
    assert loudness_lufs(mix_CT, RATE_HZ) == pytest.approx(LOUDNESS_LUFS, abs=0.1)


def test_what_is_too_much_is_cut_and_what_is_missing_is_lifted() -> None:
    muddy, _ = found(voice_of({12: 9.0, 13: 9.0, 14: 9.0}))  # 400 to 630 Hz
    assert muddy["vocals.eq.bell1.gain_db"] < -2.0
    assert 390.0 < muddy["vocals.eq.bell1.freq_hz"] < 520.0
    dull, reasons = found(voice_of(dict.fromkeys(range(19, 29), -9.0)))
    assert dull["vocals.eq.bell2.gain_db"] == pytest.approx(4.5, abs=0.7)
    assert dull["vocals.eq.high.gain_db"] == pytest.approx(4.5, abs=0.7)
    assert "dB of air: 9." in reasons or "dB of air: 8." in reasons
    # Nothing at all up there, as in a recording of a telephone: its noise stays where it is.
    missing, _ = found(voice_of(dict.fromkeys(range(21, 29), -60.0)))
    assert missing.tracks["vocals"].is_neutral("eq.high.gain_db")
    # Nor is the last band below it harsh for standing beside nothing.
    assert missing.tracks["vocals"].is_neutral("eq.bell3.gain_db")
    harsh, reasons = found(voice_of({22: 9.0}))
    assert harsh["vocals.eq.bell3.gain_db"] < -3.0
    assert harsh["vocals.eq.bell3.freq_hz"] == pytest.approx(BANDS_HZ[22])
    assert "harsh" in reasons


def test_loud_moments_are_held_by_as_much_as_they_are_louder() -> None:
    voice_CT = voice_of()
    gain_T = torch.ones(voice_CT.shape[-1])
    gain_T[: len(gain_T) // 3] = 10 ** (12 / 20)
    settings, reasons = found(voice_CT * gain_T)
    # 12 LU to 3 LU: 4:1, the most that there is.
    assert settings["vocals.comp.slope"] == pytest.approx(0.75, abs=0.03)
    assert "12." in reasons or "11." in reasons
    mix_CT = render((voice_CT * gain_T)[None], settings, RATE_HZ).sum(dim=0).float()
    parts = [loudness_lufs(part_CT, RATE_HZ) for part_CT in mix_CT.chunk(3, dim=-1)]
    assert 1.0 < parts[0] - parts[2] < 6.0


def test_the_cut_lies_below_the_lowest_notes() -> None:
    t_T = torch.arange(RATE_HZ) / RATE_HZ
    note_T = sum(torch.sin(2 * math.pi * 200.0 * n * t_T) / n for n in range(1, 12))
    settings, reasons = found(0.1 * torch.as_tensor(note_T)[None].expand(2, -1))
    assert settings["vocals.eq.highpass_hz"] == pytest.approx(132.0, rel=0.01)
    assert "the lowest notes begin at 200 Hz" in reasons


def test_peaks_stay_below_full_scale_and_silence_stays_silence() -> None:
    clicks_CT = torch.zeros(1, RATE_HZ)
    clicks_CT[:, ::4_000] = 0.5
    settings, reasons = found(clicks_CT)
    mix_CT = render(clicks_CT[None], settings, RATE_HZ).sum(dim=0).float()
    assert true_peak_dbtp(mix_CT) == pytest.approx(-1.0, abs=0.1)
    assert "below the -19.0 LUFS that are wanted" in reasons
    for silence_CT in (torch.zeros(1, 100), torch.zeros(2, RATE_HZ)):
        by_rule = vocal_by_rule(silence_CT, RATE_HZ)
        assert by_rule.settings.tracks == Settings.neutral(["vocals"]).tracks
        assert by_rule.reasons == ("silent: nothing is done",)
