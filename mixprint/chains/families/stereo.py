"""Stereo tools.

Shape suffixes: N signal, C channel, T sample.
"""

from torch import Tensor

from mixprint.chains.effect import Effect, Parameter, Values
from mixprint.dsp import stereo

FAMILY = "stereo"


def _pan(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return stereo.panned(audio_NCT, values["pan"])


def _width(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return stereo.widened(audio_NCT, values["width"])


def _mid_side_gain(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return stereo.balanced(audio_NCT, values["mid_db"], values["side_db"])


def _mid_side_tilt(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return stereo.tilted(audio_NCT, values["mid_db"], values["side_db"], sample_rate_hz)


def _mono_bass(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return stereo.bass_to_mono(audio_NCT, values["frequency_hz"], sample_rate_hz)


def _channel_swap(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del values, sample_rate_hz
    return stereo.swapped(audio_NCT)


def _channel_polarity(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del values, sample_rate_hz
    return stereo.inverted(audio_NCT)


def _rotation(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return stereo.rotated(audio_NCT, values["angle_deg"])


def _decorrelation(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return stereo.decorrelated(audio_NCT, values["coefficient"], values["size"], sample_rate_hz)


def _comb_stereo(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return stereo.combed(audio_NCT, values["delay_ms"], values["amount"], sample_rate_hz)


EFFECTS = (
    Effect("pan", FAMILY, (Parameter("pan", "", -0.9, 0.9),), _pan),
    Effect("width", FAMILY, (Parameter("width", "", 0.0, 2.5),), _width),
    Effect(
        "mid_side_gain",
        FAMILY,
        (Parameter("mid_db", "dB", -12.0, 6.0), Parameter("side_db", "dB", -12.0, 12.0)),
        _mid_side_gain,
    ),
    Effect(
        "mid_side_tilt",
        FAMILY,
        (Parameter("mid_db", "dB", -12.0, 12.0), Parameter("side_db", "dB", -12.0, 12.0)),
        _mid_side_tilt,
    ),
    Effect(
        "mono_bass",
        FAMILY,
        (Parameter("frequency_hz", "Hz", 80.0, 1_000.0, "log"),),
        _mono_bass,
    ),
    Effect("channel_swap", FAMILY, (), _channel_swap),
    Effect("channel_polarity", FAMILY, (), _channel_polarity),
    Effect(
        "rotation",
        FAMILY,
        (Parameter("angle_deg", "deg", -45.0, 45.0),),
        _rotation,
        is_held_out=True,
    ),
    Effect(
        "decorrelation",
        FAMILY,
        (Parameter("coefficient", "", 0.3, 0.8), Parameter("size", "", 0.5, 2.0, "log")),
        _decorrelation,
        is_held_out=True,
    ),
    Effect(
        "comb_stereo",
        FAMILY,
        (
            Parameter("delay_ms", "ms", 2.0, 30.0, "log"),
            Parameter("amount", "", 0.3, 1.0),
        ),
        _comb_stereo,
    ),
)
