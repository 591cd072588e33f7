"""Distortion: curves, coarser grids, and harmonics that are added.

Each signal is brought to `WORKING_LEVEL_DBFS` first, as an engineer sets the input of a device: the
same drive then distorts quiet and loud stems alike.

Shape suffixes: N signal, C channel, T sample.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mixprint.chains.effect import (
    SILENCE,
    Effect,
    Parameter,
    Values,
    blended,
    evenly_blended,
    rms,
)
from mixprint.dsp import filter_designs as designs
from mixprint.dsp import waveshaping
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.filters import filtered
from mixprint.dsp.pieces import in_pieces

FAMILY = "distortion"
WORKING_LEVEL_DBFS = -18.0
_FUZZ_BIAS, _EXCITER_BIAS = 0.4, 0.3
_DRIVE = Parameter("drive_db", "dB", 6.0, 36.0)
# Curves that do nothing to quiet sounds are entered louder.
_HIGH_DRIVE = Parameter("drive_db", "dB", 12.0, 36.0)
_MIX = Parameter("mix", "", 0.3, 1.0)


def _driven(
    audio_NCT: Tensor,
    curve: Callable[[Tensor], Tensor],
    drive_db_N: Tensor | float = 0.0,
) -> Tensor:
    """Bring signals to the working level, drive them from there, and put them through a curve."""
    level_N = rms(audio_NCT).clamp_min(SILENCE)
    factor_N11 = (amplitude(WORKING_LEVEL_DBFS + drive_db_N) / level_N)[:, None, None]
    return in_pieces(lambda piece_NCT: curve(piece_NCT * factor_N11), audio_NCT)


def _curve(
    name: str,
    curve: Callable[[Tensor], Tensor],
    drive: Parameter = _DRIVE,
    *,
    is_held_out: bool = False,
) -> Effect:
    """Make an effect of a curve that is entered with a drive."""

    def apply(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
        del sample_rate_hz
        wet_NCT = _driven(audio_NCT, curve, values["drive_db"])
        return evenly_blended(audio_NCT, wet_NCT, values["mix"])

    return Effect(name, FAMILY, (drive, _MIX), apply, is_held_out=is_held_out)


def _tube(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    wet_NCT = _driven(
        audio_NCT,
        lambda piece_NCT: waveshaping.biased_tanh(piece_NCT, values["bias"]),
        values["drive_db"],
    )
    wet_NCT = _without_mean(wet_NCT)
    return evenly_blended(audio_NCT, wet_NCT, values["mix"])


def _without_mean(audio_NCT: Tensor) -> Tensor:
    """Take off, in place, the constant part that lopsided curves bring, as devices do."""
    return audio_NCT.sub_(audio_NCT.mean(dim=-1, keepdim=True))


def _rectifier(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return _without_mean(waveshaping.rectified(audio_NCT, values["share"]))


def _fuzz(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Saturate so far that a wave becomes nearly square, then soften it by a low-pass."""
    bias_N = _FUZZ_BIAS * amplitude(WORKING_LEVEL_DBFS + values["drive_db"])
    wet_NCT = _driven(
        audio_NCT,
        lambda piece_NCT: waveshaping.biased_tanh(piece_NCT, bias_N),
        values["drive_db"],
    )
    return filtered(_without_mean(wet_NCT), designs.one_pole(values["tone_hz"], sample_rate_hz))


def _bits(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    wet_NCT = _driven(audio_NCT, lambda piece_NCT: waveshaping.rounded(piece_NCT, values["bits"]))
    return evenly_blended(audio_NCT, wet_NCT, values["mix"])


def _lower_rate(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    factor_N = (sample_rate_hz / values["rate_hz"]).clamp_min(1.0)
    return blended(audio_NCT, waveshaping.held(audio_NCT, factor_N), values["mix"])


def _exciter(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add to the sound the harmonics of what lies above a frequency."""
    high_pass = designs.butterworth(values["frequency_hz"], 2, sample_rate_hz, high=True)
    high_NCT = filtered(audio_NCT, high_pass)
    bias_N = torch.full_like(values["amount_db"], _EXCITER_BIAS)
    harmonics_NCT = _driven(
        high_NCT,
        lambda piece_NCT: waveshaping.biased_tanh(piece_NCT, bias_N),
        values["drive_db"],
    )
    level_N = rms(high_NCT) / rms(harmonics_NCT).clamp_min(SILENCE)
    level_N11 = (level_N * amplitude(values["amount_db"]))[:, None, None]
    return torch.addcmul(audio_NCT, harmonics_NCT, level_N11)


def _harmonics(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    gains = [values[f"harmonic_{degree}"] for degree in (2, 3, 4, 5)]
    wet_NCT = _driven(
        audio_NCT,
        lambda piece_NCT: waveshaping.chebyshev_shaped(piece_NCT, gains),
        values["drive_db"],
    )
    return _without_mean(wet_NCT)


EFFECTS = (
    _curve("tanh", torch.tanh),
    _curve("hard_clip", lambda audio_NCT: audio_NCT.clamp(-1, 1), _HIGH_DRIVE),
    _curve("cubic_clip", waveshaping.soft_clipped),
    _curve("foldback", waveshaping.folded, _HIGH_DRIVE, is_held_out=True),
    Effect("tube", FAMILY, (_DRIVE, Parameter("bias", "", 0.1, 1.0), _MIX), _tube),
    Effect(
        "fuzz",
        FAMILY,
        (
            Parameter("drive_db", "dB", 24.0, 54.0),
            Parameter("tone_hz", "Hz", 800.0, 8_000.0, "log"),
        ),
        _fuzz,
    ),
    Effect("rectifier", FAMILY, (Parameter("share", "", 0.2, 1.0),), _rectifier),
    Effect("bit_reduction", FAMILY, (Parameter("bits", "", 4.0, 10.0), _MIX), _bits),
    Effect(
        "rate_reduction",
        FAMILY,
        (Parameter("rate_hz", "Hz", 1_500.0, 16_000.0, "log"), _MIX),
        _lower_rate,
    ),
    Effect(
        "exciter",
        FAMILY,
        (
            Parameter("frequency_hz", "Hz", 1_500.0, 7_000.0, "log"),
            Parameter("drive_db", "dB", 6.0, 30.0),
            Parameter("amount_db", "dB", -12.0, 9.0),
        ),
        _exciter,
    ),
    Effect(
        "harmonics",
        FAMILY,
        (
            Parameter("drive_db", "dB", 0.0, 18.0),
            *(Parameter(f"harmonic_{degree}", "", -0.5, 0.5) for degree in (2, 3, 4, 5)),
        ),
        _harmonics,
        is_held_out=True,
    ),
)
