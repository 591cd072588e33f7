"""Filters.

Shape suffixes: N signal, C channel, T sample.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mixprint.chains.effect import Effect, Parameter
from mixprint.dsp import equaliser
from mixprint.dsp.filters import filtered

FAMILY = "filters"
_GAIN = Parameter("gain_db", "dB", -18.0, 18.0)


def _gain(audio_NCT: Tensor, values: Mapping[str, Tensor], sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return audio_NCT * torch.pow(10.0, values["gain_db"] / 20)[:, None, None]


def _low_pass(audio_NCT: Tensor, values: Mapping[str, Tensor], sample_rate_hz: int) -> Tensor:
    return filtered(audio_NCT, equaliser.cut(values["cutoff_hz"], sample_rate_hz, high=False))


def _high_pass(audio_NCT: Tensor, values: Mapping[str, Tensor], sample_rate_hz: int) -> Tensor:
    return filtered(audio_NCT, equaliser.cut(values["cutoff_hz"], sample_rate_hz, high=True))


def _bell(audio_NCT: Tensor, values: Mapping[str, Tensor], sample_rate_hz: int) -> Tensor:
    sections = equaliser.bell(
        values["frequency_hz"], values["gain_db"], values["q"], sample_rate_hz
    )
    return filtered(audio_NCT, sections)


def _low_shelf(audio_NCT: Tensor, values: Mapping[str, Tensor], sample_rate_hz: int) -> Tensor:
    sections = equaliser.shelf(
        values["frequency_hz"], values["gain_db"], sample_rate_hz, high=False
    )
    return filtered(audio_NCT, sections)


EFFECTS = (
    Effect(
        "gain",
        FAMILY,
        (Parameter("gain_db", "dB", -12.0, 12.0),),
        _gain,
        sets_level=True,
    ),
    Effect("low_pass", FAMILY, (Parameter("cutoff_hz", "Hz", 500.0, 14_000.0, "log"),), _low_pass),
    Effect("high_pass", FAMILY, (Parameter("cutoff_hz", "Hz", 40.0, 2_000.0, "log"),), _high_pass),
    Effect(
        "bell",
        FAMILY,
        (
            Parameter("frequency_hz", "Hz", 80.0, 10_000.0, "log"),
            _GAIN,
            Parameter("q", "", 0.4, 6.0, "log"),
        ),
        _bell,
    ),
    Effect(
        "low_shelf",
        FAMILY,
        (Parameter("frequency_hz", "Hz", 60.0, 1_000.0, "log"), _GAIN),
        _low_shelf,
        is_held_out=True,
    ),
)
