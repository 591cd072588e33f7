"""Reverbs.

Shape suffixes: N signal, C channel, T sample.
"""

from torch import Tensor

from mixprint.chains.effect import Effect, Parameter, Values
from mixprint.dsp import reverb

FAMILY = "reverb"
_WET = Parameter("wet", "", 0.05, 0.7)
_HIGH_RATIO = Parameter("high_ratio", "", 0.25, 1.0, "log")


def _room(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.room_impulse(
        values["decay_s"], values["predelay_ms"], values["high_ratio"], sample_rate_hz
    )
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"])


def _plate(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.plate_impulse(values["decay_s"], values["brightness_db"], sample_rate_hz)
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"], from_mono=True)


def _spring(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.spring_impulse(
        values["delay_ms"], values["decay_s"], values["dispersion"], sample_rate_hz
    )
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"], from_mono=True)


def _combs(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.comb_impulse(
        values["decay_s"], values["size"], values["damping"], sample_rate_hz
    )
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"], from_mono=True)


def _gated(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.gated_impulse(values["length_s"], values["slope_db"], sample_rate_hz)
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"])


def _reversed(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.reversed_impulse(values["length_s"], values["rise_db"], sample_rate_hz)
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"])


def _reflections(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    impulse_NCL = reverb.reflection_impulse(values["size_ms"], values["slope_db"], sample_rate_hz)
    return reverb.wet_mixed(audio_NCT, impulse_NCL, values["wet"], from_mono=True)


EFFECTS = (
    Effect(
        "room",
        FAMILY,
        (
            Parameter("decay_s", "s", 0.15, 1.0, "log"),
            Parameter("predelay_ms", "ms", 0.0, 20.0),
            _HIGH_RATIO,
            _WET,
        ),
        _room,
    ),
    Effect(
        "hall",
        FAMILY,
        (
            Parameter("decay_s", "s", 1.0, reverb.MAX_DECAY_S, "log"),
            Parameter("predelay_ms", "ms", 0.0, 1_000 * reverb.MAX_PREDELAY_S),
            _HIGH_RATIO,
            _WET,
        ),
        _room,
    ),
    Effect(
        "plate",
        FAMILY,
        (
            Parameter("decay_s", "s", 0.4, 3.0, "log"),
            Parameter("brightness_db", "dB", 0.0, 12.0),
            _WET,
        ),
        _plate,
    ),
    Effect(
        "spring",
        FAMILY,
        (
            Parameter("delay_ms", "ms", 25.0, 70.0, "log"),
            Parameter("decay_s", "s", 0.6, reverb.MAX_GRID_DECAY_S, "log"),
            Parameter("dispersion", "", 30.0, 120.0, "log"),
            _WET,
        ),
        _spring,
        is_held_out=True,
    ),
    Effect(
        "comb_reverb",
        FAMILY,
        (
            Parameter("decay_s", "s", 0.3, reverb.MAX_GRID_DECAY_S, "log"),
            Parameter("size", "", 0.5, 1.6, "log"),
            Parameter("damping", "", 0.0, 0.7),
            _WET,
        ),
        _combs,
    ),
    Effect(
        "gated_reverb",
        FAMILY,
        (
            Parameter("length_s", "s", 0.1, 0.5, "log"),
            Parameter("slope_db", "dB", 0.0, 20.0),
            _WET,
        ),
        _gated,
    ),
    Effect(
        "reversed_reverb",
        FAMILY,
        (
            Parameter("length_s", "s", 0.15, 1.0, "log"),
            Parameter("rise_db", "dB", 15.0, 60.0),
            _WET,
        ),
        _reversed,
        is_held_out=True,
    ),
    Effect(
        "early_reflections",
        FAMILY,
        (
            Parameter("size_ms", "ms", 10.0, 90.0, "log"),
            Parameter("slope_db", "dB", 3.0, 24.0),
            _WET,
        ),
        _reflections,
    ),
)
