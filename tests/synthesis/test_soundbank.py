"""Tests of `mixprint.synthesis.soundbank`; they need the player and the sound bank."""

import shutil

import numpy as np
import pytest

from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis.compose import Note
from mixprint.synthesis.soundbank import BANK_PATH, PLAYER, Part, play

needs_player = pytest.mark.skipif(
    shutil.which(PLAYER) is None or not BANK_PATH.is_file(),
    reason="needs the Debian packages fluidsynth and fluid-soundfont-gm",
)
SQUARE_LEAD = 80  # a steady tone
A4 = Note(0.5, 1.0, 69.0, 0.8)


def fundamental_hz(signal_T: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(signal_T * np.hanning(len(signal_T))))
    return float(np.argmax(spectrum) * SAMPLE_RATE_HZ / len(signal_T))


def level(signal_CT: np.ndarray, start_s: float, stop_s: float) -> np.ndarray:
    first, last = round(start_s * SAMPLE_RATE_HZ), round(stop_s * SAMPLE_RATE_HZ)
    return signal_CT[:, first:last].std(axis=1)


@needs_player
def test_plays_the_pitch_at_the_time() -> None:
    signal_CT = play([Part(notes=[A4], program=SQUARE_LEAD)], 2.0)

    assert signal_CT.shape == (2, 2 * SAMPLE_RATE_HZ)
    assert (level(signal_CT, 0.0, 0.45) < 1e-4).all()
    assert (level(signal_CT, 0.6, 1.4) > 1e-3).all()
    sounding_T = signal_CT[0, round(0.6 * SAMPLE_RATE_HZ) : round(1.4 * SAMPLE_RATE_HZ)]
    assert fundamental_hz(sounding_T) == pytest.approx(440.0, abs=3.0)


@needs_player
def test_detunes_by_semitones() -> None:
    signal_CT = play([Part(notes=[A4], program=SQUARE_LEAD, detune_semitones=2.0)], 2.0)
    sounding_T = signal_CT[0, round(0.6 * SAMPLE_RATE_HZ) : round(1.4 * SAMPLE_RATE_HZ)]
    assert fundamental_hz(sounding_T) == pytest.approx(440.0 * 2 ** (2 / 12), abs=3.0)


@needs_player
def test_pans() -> None:
    """A sound that is stereo itself cannot be all on one side, but leans there."""
    for pan in (-1.0, 1.0):
        signal_CT = play([Part(notes=[A4], program=SQUARE_LEAD, pan=pan)], 2.0)
        left, right = level(signal_CT, 0.6, 1.4)
        near, far = (left, right) if pan < 0 else (right, left)
        assert far < 0.6 * near


@needs_player
def test_a_repeated_note_is_struck_again() -> None:
    piano = 0
    once = play([Part(notes=[Note(0.0, 2.0, 60.0, 0.8)], program=piano)], 2.0)
    twice = [Note(0.0, 1.0, 60.0, 0.8), Note(1.0, 1.0, 60.0, 0.8)]
    struck = play([Part(notes=twice, program=piano)], 2.0)
    assert (level(struck, 1.0, 1.5) > 1.2 * level(once, 1.0, 1.5)).all()


@needs_player
def test_parts_add_up() -> None:
    bass = Part(notes=[Note(0.0, 1.0, 36.0, 0.8)], program=33)
    kick = Part(notes=[Note(0.2, 0.2, 36.0, 0.9)], program=0, drums=True)
    together = play([bass, kick], 1.0)
    apart = play([bass], 1.0) + play([kick], 1.0)
    assert np.abs(together - apart).max() < 1e-3 * np.abs(together).max()


@needs_player
def test_the_same_parts_give_the_same_samples() -> None:
    part = Part(notes=[A4], program=48)
    assert np.array_equal(play([part], 1.0), play([part], 1.0))
