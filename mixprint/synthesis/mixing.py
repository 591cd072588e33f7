"""Mixing: named styles, the settings drawn from them, and the chain that applies them.

The chain per stem is EQ, compression, width and pan, gain, reverb send; the master is an EQ and a
compressor. The master acts on every stem alike (its EQ is linear and its gain curve is shared), so
the stems of a mix still add up to the mixture, sample by sample.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mixprint.stems import STEMS
from mixprint.synthesis import exact
from mixprint.synthesis.exact import Rng, Signal, gain

_PEAK_DBFS = -1.0


@dataclass(frozen=True, kw_only=True)
class StemSettings:
    """What the console does to one stem."""

    gain_db: float
    pan: float  # -1 left .. 1 right (a balance: the far side is turned down)
    width: float  # factor on the side signal
    low_shelf_db: float  # below 150 Hz
    mid_hz: float
    mid_db: float
    high_shelf_db: float  # above 5 kHz
    threshold_db: float
    ratio: float
    attack_s: float
    release_s: float
    reverb_send_db: float
    reverb_time_s: float


@dataclass(frozen=True, kw_only=True)
class MasterSettings:
    """What happens to the whole mix."""

    low_shelf_db: float  # below 120 Hz
    high_shelf_db: float  # above 8 kHz
    threshold_db: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """All settings of one mix."""

    style: str
    stems: dict[str, StemSettings]
    master: MasterSettings

    def to_values(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON."""
        return asdict(self)


def _stem(
    gain_db: float,
    eq_db: tuple[float, float, float],
    ratio: float,
    reverb: tuple[float, float],
    width: float = 1.0,
    pan: float = 0.0,
) -> dict[str, float]:
    low_shelf_db, mid_db, high_shelf_db = eq_db
    return {
        "gain_db": gain_db,
        "low_shelf_db": low_shelf_db,
        "mid_db": mid_db,
        "high_shelf_db": high_shelf_db,
        "ratio": ratio,
        "reverb_send_db": reverb[0],
        "reverb_time_s": reverb[1],
        "width": width,
        "pan": pan,
    }


# Centres of the styles: gain, (low, mid, high) EQ, ratio, (reverb send, time), width, pan.
_STYLES: dict[str, dict[str, dict[str, float]]] = {
    "intimate": {
        "vocals": _stem(4.0, (1.0, -1.0, 3.0), 3.0, (-26.0, 0.5)),
        "bass": _stem(-2.0, (2.0, 0.0, -4.0), 2.0, (-60.0, 0.4)),
        "drums": _stem(-5.0, (-1.0, -2.0, -3.0), 1.5, (-24.0, 0.4), 0.7),
        "other": _stem(-4.0, (0.0, -3.0, -1.0), 1.5, (-22.0, 0.8), 0.8),
        "master": {"low_shelf_db": 1.0, "high_shelf_db": 0.0, "threshold_db": -8.0, "ratio": 1.3},
    },
    "arena": {
        "vocals": _stem(-1.0, (-3.0, 2.0, 2.0), 3.0, (-8.0, 2.6), 1.2),
        "bass": _stem(-2.0, (0.0, 2.0, 0.0), 3.0, (-30.0, 1.0)),
        "drums": _stem(3.0, (3.0, -2.0, 3.0), 2.5, (-9.0, 2.2), 1.5),
        "other": _stem(1.0, (-2.0, 1.0, 2.0), 2.0, (-11.0, 2.6), 1.8),
        "master": {"low_shelf_db": 0.0, "high_shelf_db": 1.5, "threshold_db": -12.0, "ratio": 1.8},
    },
    "vinyl": {
        "vocals": _stem(0.0, (-4.0, 4.0, -7.0), 2.0, (-18.0, 1.0), 0.4, 0.3),
        "bass": _stem(3.0, (3.0, 0.0, -9.0), 1.5, (-40.0, 0.5), 0.3),
        "drums": _stem(-1.0, (-3.0, 3.0, -8.0), 3.0, (-20.0, 0.5), 0.3, -0.4),
        "other": _stem(0.0, (-3.0, 3.0, -7.0), 1.5, (-20.0, 0.9), 0.4, 0.4),
        "master": {"low_shelf_db": 1.0, "high_shelf_db": -5.0, "threshold_db": -10.0, "ratio": 1.5},
    },
    "radio": {
        "vocals": _stem(3.0, (-5.0, 3.0, 6.0), 6.0, (-20.0, 0.9)),
        "bass": _stem(-1.0, (-2.0, 3.0, 2.0), 4.0, (-60.0, 0.4)),
        "drums": _stem(1.0, (-1.0, 1.0, 5.0), 4.0, (-22.0, 0.5), 1.1),
        "other": _stem(-1.0, (-5.0, 1.0, 5.0), 3.0, (-22.0, 0.8), 1.3),
        "master": {"low_shelf_db": -1.0, "high_shelf_db": 3.0, "threshold_db": -16.0, "ratio": 4.0},
    },
    "club": {
        "vocals": _stem(-4.0, (-4.0, 1.0, 3.0), 3.0, (-13.0, 1.6), 1.0),
        "bass": _stem(5.0, (6.0, -3.0, -2.0), 4.0, (-60.0, 0.4)),
        "drums": _stem(4.0, (6.0, -2.0, 2.0), 3.0, (-26.0, 0.4), 1.0),
        "other": _stem(-4.0, (-6.0, -2.0, 2.0), 2.0, (-14.0, 1.6), 1.7),
        "master": {"low_shelf_db": 3.0, "high_shelf_db": 1.0, "threshold_db": -14.0, "ratio": 2.5},
    },
    "ambient": {
        "vocals": _stem(-3.0, (-2.0, -2.0, 0.0), 1.5, (-3.0, 3.5), 1.5, -0.2),
        "bass": _stem(-4.0, (1.0, -2.0, -6.0), 1.5, (-16.0, 2.0)),
        "drums": _stem(-8.0, (-3.0, -1.0, -1.0), 1.2, (-4.0, 3.0), 1.4),
        "other": _stem(4.0, (1.0, -1.0, 1.0), 1.2, (-4.0, 3.5), 2.0),
        "master": {"low_shelf_db": 0.0, "high_shelf_db": 0.0, "threshold_db": -6.0, "ratio": 1.2},
    },
}
STYLE_NAMES = tuple(_STYLES)
_THRESHOLD_DB = {"vocals": -18.0, "bass": -21.0, "drums": -12.0, "other": -19.0}
_MID_HZ = {"vocals": 2500.0, "bass": 700.0, "drums": 900.0, "other": 1200.0}


def draw_settings(style: str, rng: Rng) -> MixSettings:
    """Draw the settings of one mix: the style's centre with an engineer's small variations.

    Args:
        style: one of `STYLE_NAMES`.
        rng: where the variations come from.
    """

    def near(value: float, spread: float) -> float:
        return round(value + spread * rng.uniform(-1.0, 1.0), 4)

    centre = _STYLES[style]
    stems = {
        stem: StemSettings(
            gain_db=near(centre[stem]["gain_db"], 0.8),
            pan=near(centre[stem]["pan"], 0.06),
            width=near(centre[stem]["width"], 0.08),
            low_shelf_db=near(centre[stem]["low_shelf_db"], 0.8),
            mid_hz=near(_MID_HZ[stem], 0.15 * _MID_HZ[stem]),
            mid_db=near(centre[stem]["mid_db"], 0.8),
            high_shelf_db=near(centre[stem]["high_shelf_db"], 0.8),
            threshold_db=near(_THRESHOLD_DB[stem], 1.5),
            ratio=near(centre[stem]["ratio"], 0.15),
            attack_s=near(0.012, 0.006),
            release_s=near(0.15, 0.06),
            reverb_send_db=near(centre[stem]["reverb_send_db"], 1.0),
            reverb_time_s=near(centre[stem]["reverb_time_s"], 0.08 * centre[stem]["reverb_time_s"]),
        )
        for stem in STEMS
    }
    master = centre["master"]
    return MixSettings(
        style=style,
        stems=stems,
        master=MasterSettings(
            low_shelf_db=near(master["low_shelf_db"], 0.5),
            high_shelf_db=near(master["high_shelf_db"], 0.5),
            threshold_db=near(master["threshold_db"], 1.0),
            ratio=near(master["ratio"], 0.1),
        ),
    )


def mix(stems_CT: dict[str, Signal], settings: MixSettings) -> dict[str, Signal]:
    """Mix dry stems.

    Args:
        stems_CT: stem name -> dry stereo signal, full scale at +-1.
        settings: what the console does.

    Returns:
        stem name -> signal_CT as it sounds in the mix. Their sum is the mixture. The highest
        sample, be it of the mixture or of a stem that another one cancels there, is at -1 dBFS.
    """
    processed = {stem: _channel_strip(stems_CT[stem], settings.stems[stem]) for stem in STEMS}
    master = settings.master
    tone = (
        exact.shelf(120.0, master.low_shelf_db, high=False),
        exact.shelf(8000.0, master.high_shelf_db, high=True),
    )
    processed = {stem: exact.filtered(x_CT, *tone) for stem, x_CT in processed.items()}
    mixture_CT = sum(processed[stem] for stem in STEMS)
    side_chain_T = np.max(np.abs(mixture_CT), axis=0)
    curve_T = exact.compression_gain(side_chain_T, master.threshold_db, master.ratio, 0.02, 0.2)
    mixed = {stem: x_CT * curve_T for stem, x_CT in processed.items()}
    peak = max(float(np.max(np.abs(x_CT))) for x_CT in (mixture_CT * curve_T, *mixed.values()))
    scale = exact.scalar(gain(_PEAK_DBFS) / peak) if peak > 0.0 else 1.0
    return {stem: x_CT * scale for stem, x_CT in mixed.items()}


def _channel_strip(x_CT: Signal, settings: StemSettings) -> Signal:
    y_CT = exact.filtered(
        x_CT,
        exact.shelf(150.0, settings.low_shelf_db, high=False),
        exact.peak(settings.mid_hz, settings.mid_db),
        exact.shelf(5000.0, settings.high_shelf_db, high=True),
    )
    side_chain_T = np.max(np.abs(y_CT), axis=0)
    y_CT = y_CT * exact.compression_gain(
        side_chain_T, settings.threshold_db, settings.ratio, settings.attack_s, settings.release_s
    )
    send_T = (y_CT[0] + y_CT[1]) * (0.5 * gain(settings.reverb_send_db))
    y_CT = y_CT + exact.reverb(send_T, settings.reverb_time_s, 5000.0)
    middle_T = 0.5 * (y_CT[0] + y_CT[1])
    side_T = 0.5 * settings.width * (y_CT[0] - y_CT[1])
    left = gain(settings.gain_db) * min(1.0, 1.0 - settings.pan)
    right = gain(settings.gain_db) * min(1.0, 1.0 + settings.pan)
    return np.stack([left * (middle_T + side_T), right * (middle_T - side_T)])
