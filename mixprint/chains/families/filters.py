"""Filters: passes of all orders, resonances, shelves, equalisers, combs and phase.

Shape suffixes: N signal, C channel, T sample.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mixprint.chains.effect import Effect, Parameter, Values, evenly_blended
from mixprint.dsp import equaliser
from mixprint.dsp import filter_designs as designs
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.delays import delayed, repeated
from mixprint.dsp.equaliser import Sections
from mixprint.dsp.filters import filtered

FAMILY = "filters"
# First and second resonance of a, e, i, o, u as men sing them: Peterson and Barney 1952.
VOWELS_HZ = ((730, 1090), (530, 1840), (270, 2290), (570, 840), (300, 870))
_THIRD_FORMANT_HZ = 2_600.0
_GRAPHIC_3_HZ = (120.0, 1_000.0, 6_000.0)
_GRAPHIC_5_HZ = (80.0, 250.0, 1_000.0, 3_500.0, 10_000.0)
_GRAPHIC_10_HZ = tuple(31.25 * 2**octave for octave in range(10))

_LOW_PASS = Parameter("cutoff_hz", "Hz", 400.0, 14_000.0, "log")
_HIGH_PASS = Parameter("cutoff_hz", "Hz", 40.0, 3_000.0, "log")
_CENTRE = Parameter("frequency_hz", "Hz", 80.0, 10_000.0, "log")
_GAIN = Parameter("gain_db", "dB", -18.0, 18.0)
_Q = Parameter("q", "", 0.4, 8.0, "log")
_MIX = Parameter("mix", "", 0.3, 1.0)

Design = Callable[[Values, int], Sections]


def _filter(
    name: str, parameters: tuple[Parameter, ...], design: Design, *, is_held_out: bool = False
) -> Effect:
    """Make an effect of the design of a filter."""

    def apply(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
        return filtered(audio_NCT, design(values, sample_rate_hz))

    return Effect(name, FAMILY, parameters, apply, is_held_out=is_held_out)


def _gain(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Change the level: the filter of one tap."""
    del sample_rate_hz
    return audio_NCT * amplitude(values["gain_db"])[:, None, None]


def _graphic(name: str, centres_hz: tuple[float, ...], q: float) -> Effect:
    """Make a graphic equaliser: bells at fixed frequencies, one gain each."""
    parameters = tuple(
        Parameter(f"gain_{centre_hz:g}_hz_db", "dB", -12.0, 12.0) for centre_hz in centres_hz
    )

    def design(values: Values, sample_rate_hz: int) -> Sections:
        bells = []
        for centre_hz, parameter in zip(centres_hz, parameters, strict=True):
            gain_db_N = values[parameter.name]
            centre_N, q_N = torch.full_like(gain_db_N, centre_hz), torch.full_like(gain_db_N, q)
            bells.append(equaliser.bell(centre_N, gain_db_N, q_N, sample_rate_hz))
        return Sections.joined(bells)

    return _filter(name, parameters, design)


def _telephone(values: Values, sample_rate_hz: int) -> Sections:
    """Leave the band of a telephone, a small radio or a megaphone."""
    return Sections.joined(
        [
            designs.butterworth(values["low_hz"], 4, sample_rate_hz, high=True),
            designs.butterworth(values["high_hz"], 4, sample_rate_hz),
        ]
    )


def _crossover_band(values: Values, sample_rate_hz: int) -> Sections:
    """Leave one band of a crossover."""
    high_hz_N = values["low_hz"] * torch.pow(2.0, values["width_octaves"])
    return Sections.joined(
        [
            designs.linkwitz_riley(values["low_hz"], sample_rate_hz, high=True),
            designs.linkwitz_riley(high_hz_N, sample_rate_hz),
        ]
    )


def _formants(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Colour the sound as a vowel, between two neighbours of a, e, i, o, u."""
    table = torch.tensor(VOWELS_HZ, device=audio_NCT.device, dtype=torch.float64).log()
    place_N = values["vowel"].double().clamp(0, len(VOWELS_HZ) - 1)
    below_N = place_N.long().clamp_max(len(VOWELS_HZ) - 2)
    share_N1 = (place_N - below_N)[:, None]
    resonance_N2 = torch.lerp(table[below_N], table[below_N + 1], share_N1).exp()
    third_N = torch.full_like(place_N, _THIRD_FORMANT_HZ)
    bells = [
        equaliser.bell(hz_N, torch.full_like(hz_N, gain_db), values["q"], sample_rate_hz)
        for hz_N, gain_db in (
            (resonance_N2[:, 0], 24.0),
            (resonance_N2[:, 1], 24.0),
            (third_N, 15.0),
        )
    ]
    wet_NCT = filtered(audio_NCT, Sections.joined(bells))
    return evenly_blended(audio_NCT, wet_NCT, values["mix"])


def _phase_rotation(values: Values, sample_rate_hz: int) -> Sections:
    section = designs.all_pass(values["frequency_hz"], values["q"], sample_rate_hz)
    return Sections.joined([section] * 4)


def _comb_delay(values: Values, sample_rate_hz: int) -> Tensor:
    return (sample_rate_hz / values["frequency_hz"]).round().clamp_min(1)


def _comb(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Resonate at all multiples of a frequency."""
    wet_NCT = repeated(audio_NCT, _comb_delay(values, sample_rate_hz), values["feedback"])
    return evenly_blended(audio_NCT, wet_NCT, values["mix"])


def _notches(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Take away odd multiples of half a frequency: the sound and itself, a little later."""
    later_NCT = delayed(audio_NCT, _comb_delay(values, sample_rate_hz))
    return audio_NCT + values["amount"][:, None, None] * later_NCT


EFFECTS = (
    Effect("gain", FAMILY, (Parameter("gain_db", "dB", -12.0, 12.0),), _gain, sets_level=True),
    _filter("low_pass_6", (_LOW_PASS,), lambda v, rate: designs.one_pole(v["cutoff_hz"], rate)),
    _filter(
        "low_pass_12", (_LOW_PASS,), lambda v, rate: designs.butterworth(v["cutoff_hz"], 2, rate)
    ),
    _filter(
        "low_pass_24", (_LOW_PASS,), lambda v, rate: designs.butterworth(v["cutoff_hz"], 4, rate)
    ),
    _filter(
        "high_pass_6",
        (_HIGH_PASS,),
        lambda v, rate: designs.one_pole(v["cutoff_hz"], rate, high=True),
    ),
    _filter(
        "high_pass_12",
        (_HIGH_PASS,),
        lambda v, rate: designs.butterworth(v["cutoff_hz"], 2, rate, high=True),
    ),
    _filter(
        "high_pass_24",
        (_HIGH_PASS,),
        lambda v, rate: designs.butterworth(v["cutoff_hz"], 4, rate, high=True),
    ),
    _filter(
        "chebyshev_low_pass",
        (_LOW_PASS, Parameter("ripple_db", "dB", 0.2, 6.0)),
        lambda v, rate: designs.chebyshev(v["cutoff_hz"], 6, v["ripple_db"], rate),
    ),
    _filter(
        "inverse_chebyshev_high_pass",
        (_HIGH_PASS, Parameter("stop_db", "dB", 20.0, 60.0)),
        lambda v, rate: designs.inverse_chebyshev(v["cutoff_hz"], 6, v["stop_db"], rate, high=True),
    ),
    _filter(
        "crossover_band",
        (
            Parameter("low_hz", "Hz", 60.0, 2_000.0, "log"),
            Parameter("width_octaves", "octaves", 1.0, 4.0),
        ),
        _crossover_band,
    ),
    _filter(
        "resonant_low_pass",
        (_LOW_PASS, Parameter("q", "", 1.0, 12.0, "log")),
        lambda v, rate: designs.resonant(v["cutoff_hz"], v["q"], rate),
    ),
    _filter(
        "resonant_high_pass",
        (_HIGH_PASS, Parameter("q", "", 1.0, 12.0, "log")),
        lambda v, rate: designs.resonant(v["cutoff_hz"], v["q"], rate, high=True),
    ),
    _filter(
        "ladder",
        (_LOW_PASS, Parameter("resonance", "", 0.0, 0.95)),
        lambda v, rate: designs.ladder(v["cutoff_hz"], v["resonance"], rate),
        is_held_out=True,
    ),
    _filter(
        "band_pass",
        (_CENTRE, _Q),
        lambda v, rate: designs.band_pass(v["frequency_hz"], v["q"], rate),
    ),
    _filter(
        "notch",
        (_CENTRE, Parameter("q", "", 0.3, 4.0, "log")),
        lambda v, rate: designs.notch(v["frequency_hz"], v["q"], rate),
    ),
    _filter(
        "bell",
        (_CENTRE, _GAIN, _Q),
        lambda v, rate: equaliser.bell(v["frequency_hz"], v["gain_db"], v["q"], rate),
    ),
    _filter(
        "low_shelf",
        (Parameter("frequency_hz", "Hz", 60.0, 1_000.0, "log"), _GAIN),
        lambda v, rate: equaliser.shelf(v["frequency_hz"], v["gain_db"], rate, high=False),
    ),
    _filter(
        "high_shelf",
        (Parameter("frequency_hz", "Hz", 1_000.0, 12_000.0, "log"), _GAIN),
        lambda v, rate: equaliser.shelf(v["frequency_hz"], v["gain_db"], rate, high=True),
    ),
    _filter(
        "tilt",
        (
            Parameter("frequency_hz", "Hz", 300.0, 2_000.0, "log"),
            Parameter("gain_db", "dB", -18.0, 18.0),
        ),
        lambda v, rate: designs.tilt(v["frequency_hz"], v["gain_db"], rate),
        is_held_out=True,
    ),
    _graphic("graphic_3", _GRAPHIC_3_HZ, 0.6),
    _graphic("graphic_5", _GRAPHIC_5_HZ, 0.9),
    _graphic("graphic_10", _GRAPHIC_10_HZ, math.sqrt(2)),
    _filter(
        "telephone",
        (
            Parameter("low_hz", "Hz", 200.0, 800.0, "log"),
            Parameter("high_hz", "Hz", 1_800.0, 5_000.0, "log"),
        ),
        _telephone,
    ),
    Effect(
        "formants",
        FAMILY,
        (Parameter("vowel", "", 0.0, 4.0), Parameter("q", "", 2.0, 8.0, "log"), _MIX),
        _formants,
        is_held_out=True,
    ),
    _filter(
        "phase_rotation",
        (
            Parameter("frequency_hz", "Hz", 80.0, 3_000.0, "log"),
            Parameter("q", "", 0.3, 3.0, "log"),
        ),
        _phase_rotation,
    ),
    Effect(
        "comb",
        FAMILY,
        (
            Parameter("frequency_hz", "Hz", 60.0, 1_200.0, "log"),
            Parameter("feedback", "", -0.9, 0.9),
            _MIX,
        ),
        _comb,
        is_held_out=True,
    ),
    Effect(
        "comb_notches",
        FAMILY,
        (
            Parameter("frequency_hz", "Hz", 100.0, 4_000.0, "log"),
            Parameter("amount", "", 0.4, 1.0),
        ),
        _notches,
    ),
)
