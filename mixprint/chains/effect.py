"""An effect of a chain: its parameters, and the function that applies it.

Shape suffixes: N signal (a stem of a segment), C channel, T sample, P parameter.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixprint.dsp.decibels import amplitude
from mixprint.dsp.pieces import pieces

# An RMS below this counts as this, so that silence can be divided by.
SILENCE = 1e-10
# Parameter -> its value for each signal: value_N.
Values = Mapping[str, Tensor]
# Audio (N, 2, T), values, sample rate in Hz -> audio of the same shape.
Apply = Callable[[Tensor, Values, int], Tensor]


@dataclass(frozen=True)
class Parameter:
    """A parameter of an effect and the range it is drawn from.

    Attributes:
        name: unique in its effect.
        unit: of the values, such as Hz; empty where it has none.
        low: lowest value.
        high: highest value.
        scale: on which values are spread evenly.
        is_style: whether it is heard as the same in all of a song; not so the phase of a slow
            oscillator, which is another one in each segment.
    """

    name: str
    unit: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"
    is_style: bool = True

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ValueError: it is empty, or reaches 0 on a logarithmic scale.
        """
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError(f"{self.name}: no {self.scale} range: {self.low} to {self.high}")

    def value(self, position: Tensor) -> Tensor:
        """Turn positions on the scale, 0 to 1, into values."""
        if self.scale == "log":
            return self.low * torch.exp(position * math.log(self.high / self.low))
        return self.low + position * (self.high - self.low)

    def position(self, value: Tensor) -> Tensor:
        """Turn values into positions on the scale: the inverse of `value`."""
        if self.scale == "log":
            return torch.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Effect:
    """An effect that chains are made of.

    Attributes:
        name: unique among all effects.
        family: of which kind it is.
        parameters: what can be set.
        apply: the signal processing, on many signals at once, each with its own values. It returns
            new audio as long as its input, which it leaves as it is; silence stays silence.
        is_held_out: whether trainings leave it out by default, so that evaluation meets it first.
        sets_level: whether its level is part of the effect, and thus kept.
        draw: turns numbers_NP, uniform on 0 to 1, into positions_NP of the parameters; None for
            independent parameters, spread evenly.
    """

    name: str
    family: str
    parameters: tuple[Parameter, ...]
    apply: Apply
    is_held_out: bool = False
    sets_level: bool = False
    draw: Callable[[Tensor], Tensor] | None = None

    def values(self, position_NP: Tensor) -> dict[str, Tensor]:
        """Return the values at positions; further columns than parameters count for nothing."""
        return {each.name: each.value(position_NP[:, p]) for p, each in enumerate(self.parameters)}


def blended(dry_NCT: Tensor, wet_NCT: Tensor, mix_N: Tensor) -> Tensor:
    """Mix the sound with what an effect made of it, which is overwritten: 0 is dry, 1 is wet."""
    return wet_NCT.lerp_(dry_NCT, 1 - mix_N[:, None, None].to(dry_NCT.dtype))


def evenly_blended(dry_NCT: Tensor, wet_NCT: Tensor, mix_N: Tensor) -> Tensor:
    """Mix as `blended` does, but with both equally loud."""
    factor_N11 = (rms(dry_NCT) / rms(wet_NCT).clamp_min(SILENCE))[:, None, None]
    for piece in pieces(wet_NCT):
        blended(dry_NCT[..., piece], wet_NCT[..., piece].mul_(factor_N11), mix_N)
    return wet_NCT


def added(dry_NCT: Tensor, wet_NCT: Tensor, level_db_N: Tensor) -> Tensor:
    """Add at a level what an effect made of the sound, which is overwritten."""
    return torch.addcmul(dry_NCT, wet_NCT, amplitude(level_db_N)[:, None, None], out=wet_NCT)


def rms(audio_NCT: Tensor) -> Tensor:
    """Measure the RMS of signals over both channels: rms_N."""
    num_values = audio_NCT.shape[1] * audio_NCT.shape[2]
    return torch.linalg.vector_norm(audio_NCT, dim=(1, 2)) / math.sqrt(num_values)
