"""Two small songs and others, played from formulas: drums, bass, chords and a melody."""

from dataclasses import dataclass

import torch
from torch import Tensor

RATE_HZ = 24_000
DURATION_S = 4.0
NUM_SAMPLES = int(DURATION_S * RATE_HZ)


@dataclass(frozen=True, eq=False)
class Piece:
    """A song of four stems, each `_T`."""

    drums: Tensor
    bass: Tensor
    other: Tensor
    vocals: Tensor

    @property
    def mix(self) -> Tensor:
        return self.drums + self.rest

    @property
    def rest(self) -> Tensor:
        """All but the drums."""
        return self.bass + self.other + self.vocals


def piece(number: int) -> Piece:
    """Play a song; others have other rhythms, keys and sounds."""
    generator = torch.Generator().manual_seed(number)
    step_s = 0.5 / (2 + 0.37 * number)
    root = 45 + 5 * number % 12
    drums_T = torch.zeros(NUM_SAMPLES)
    for beat in range(int(DURATION_S / step_s)):
        if torch.rand((), generator=generator) < 0.55:
            decay_s = 0.02 + 0.04 * float(torch.rand((), generator=generator))
            _add(drums_T, beat * step_s, _stroke(decay_s, generator))
    bass_T, other_T, vocals_T = (torch.zeros(NUM_SAMPLES) for _ in range(3))
    for bar, chord in enumerate(((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7))):
        _add(bass_T, float(bar), _tone(root - 12 + chord[0], 1.0))
        for pitch in chord:
            _add(other_T, float(bar), 0.5 * _tone(root + 12 + pitch, 1.0))
        _add(vocals_T, bar + 0.25, 0.7 * _tone(root + 24 + chord[bar % 3], 0.6))
    return Piece(0.5 * drums_T, bass_T, other_T, vocals_T)


def answer(input_: Piece, target: Piece) -> Tensor:
    """Mix the drums of one with all else of the other."""
    return input_.drums + target.rest


def noise(seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(NUM_SAMPLES, generator=torch.Generator().manual_seed(seed))


def _add(audio_T: Tensor, start_s: float, sound_T: Tensor) -> None:
    start = int(start_s * RATE_HZ)
    length = min(len(sound_T), len(audio_T) - start)
    audio_T[start : start + length] += sound_T[:length]


def _stroke(decay_s: float, generator: torch.Generator) -> Tensor:
    time_T = torch.arange(int(6 * decay_s * RATE_HZ)) / RATE_HZ
    return torch.exp(-time_T / decay_s) * torch.randn(len(time_T), generator=generator)


def _tone(pitch: float, duration_s: float) -> Tensor:
    time_T = torch.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    hz = 440 * 2 ** ((pitch - 69) / 12)
    partials = (torch.sin(2 * torch.pi * hz * n * time_T) / n**1.5 for n in range(1, 6))
    fade_T = (time_T / 0.05).clamp_max(1) * ((duration_s - time_T) / 0.05).clamp_max(1)
    return 0.1 * sum(partials, torch.zeros_like(time_T)) * fade_T
