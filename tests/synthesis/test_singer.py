"""Tests of `mixprint.synthesis.singer`; the speaking programs are needed by one test alone."""

import shutil

import numpy as np
import pytest

from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis import singer
from mixprint.synthesis.compose import Syllable
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.singer import Speech, sing

SPEECH_RATE_HZ = 16_000
DURATION_S = 2.0


def vowel(num_frames: int = 400, voiced: float = 1.0) -> Speech:
    """Speech that is one sound with a formant at 1 kHz."""
    hz_F = np.linspace(0, SPEECH_RATE_HZ / 2, 257)
    envelope_F = -(((hz_F - 1000.0) / 800.0) ** 2) / 2
    envelope_NF = np.repeat(envelope_F[None].clip(-8.0), num_frames, axis=0).astype(np.float32)
    return Speech(envelope_NF, np.full(num_frames, voiced, np.float32), SPEECH_RATE_HZ)


def note(start_s: float, length_s: float, pitch: float) -> Syllable:
    return Syllable(start_s, length_s, pitch, 0.9, "a", "")


def period_samples(signal_T: np.ndarray) -> int:
    """Lag of the highest peak of the autocorrelation, 80 to 1000 Hz."""
    spectrum = np.abs(np.fft.rfft(signal_T, 2 * len(signal_T))) ** 2
    correlation = np.fft.irfft(spectrum)
    shortest, longest = SAMPLE_RATE_HZ // 1000, SAMPLE_RATE_HZ // 80
    return int(shortest + np.argmax(correlation[shortest:longest]))


@pytest.mark.parametrize("pitch", [45.0, 57.0, 69.0])
def test_follows_the_melody(pitch: float) -> None:
    voice_T = sing(vowel(), (note(0.2, 1.5, pitch),), DURATION_S, Rng("follows"))
    middle_T = voice_T[round(0.8 * SAMPLE_RATE_HZ) : round(1.1 * SAMPLE_RATE_HZ)]
    hz = SAMPLE_RATE_HZ / period_samples(middle_T)
    assert 12 * np.log2(hz / 440.0) + 69 == pytest.approx(pitch, abs=0.6)  # vibrato is within


def test_transposes() -> None:
    low_T, high_T = (
        sing(vowel(), (note(0.2, 1.5, 57.0),), DURATION_S, Rng("t"), interval_semitones=interval)
        for interval in (0.0, 12.0)
    )
    middle = slice(round(0.8 * SAMPLE_RATE_HZ), round(1.1 * SAMPLE_RATE_HZ))
    assert period_samples(low_T[middle]) / period_samples(high_T[middle]) == pytest.approx(
        2.0, rel=0.02
    )


def test_is_silent_outside_the_phrases() -> None:
    voice_T = sing(vowel(), (note(0.8, 0.4, 60.0),), DURATION_S, Rng("silent"))
    window_s = 1024 / SAMPLE_RATE_HZ
    before = voice_T[: round((0.8 - window_s) * SAMPLE_RATE_HZ)]
    after = voice_T[round((1.2 + window_s) * SAMPLE_RATE_HZ) :]
    assert np.abs(before).max() < 1e-9
    assert np.abs(after).max() < 1e-9
    assert np.abs(voice_T).max() > 1e-3


def test_the_formant_stays_where_the_mouth_puts_it() -> None:
    """The envelope's peak is at 1 kHz whatever the pitch, and moves with the size of the mouth."""
    for scale, expected_hz in ((1.0, 1000.0), (1.2, 1200.0)):
        voice_T = sing(
            vowel(voiced=0.0), (note(0.0, 2.0, 50.0),), DURATION_S, Rng("f"), formant_scale=scale
        )
        power_F = np.abs(np.fft.rfft(voice_T)) ** 2
        hz_F = np.fft.rfftfreq(len(voice_T), 1 / SAMPLE_RATE_HZ)
        centre_hz = float((hz_F * power_F).sum() / power_F.sum())
        assert centre_hz == pytest.approx(expected_hz, rel=0.1)


def test_takes_speech_apart() -> None:
    """Pulses through a resonance are voiced and show it; noise is unvoiced."""
    rng = np.random.default_rng(0)
    time_T = np.arange(SPEECH_RATE_HZ) / SPEECH_RATE_HZ
    ring_T = np.exp(-time_T * 400.0) * np.sin(2 * np.pi * 1500.0 * time_T)
    pulses_T = np.zeros(SPEECH_RATE_HZ)
    pulses_T[:: SPEECH_RATE_HZ // 100] = 1.0
    spoken = singer._take_apart(
        np.convolve(pulses_T, ring_T[:800])[:SPEECH_RATE_HZ], SPEECH_RATE_HZ
    )
    hissed = singer._take_apart(rng.standard_normal(SPEECH_RATE_HZ), SPEECH_RATE_HZ)

    assert spoken.voiced_N.mean() > 0.95
    assert hissed.voiced_N.mean() < 0.05
    peak_hz = spoken.envelope_NF.mean(axis=0).argmax() * (SPEECH_RATE_HZ / 2) / 256
    assert peak_hz == pytest.approx(1500.0, abs=120.0)


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs the Debian package flite")
def test_a_speaker_has_vowels_and_consonants() -> None:
    speech = singer.speak("flite:slt", 0)
    assert len(speech.voiced_N) > 1000
    assert 0.5 < speech.voiced_N.mean() < 0.95
