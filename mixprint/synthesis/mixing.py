"""Mixing: named styles, the settings drawn from them, and the chain that applies them.

The chain per stem is EQ, compression, room, width, gain and pan; the master is an EQ and a
compressor. The master acts on every stem alike (its EQ is linear and its gain curve is shared), so
the stems of a mix still add up to the mixture, sample by sample.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from mixprint.errors import DataError
from mixprint.schema import as_record
from mixprint.stems import STEMS
from mixprint.synthesis import exact
from mixprint.synthesis.exact import Rng, Signal, gain

_PEAK_DBFS = -1.0


@dataclass(frozen=True, kw_only=True)
class StemSettings:
    """Settings of the console for one stem."""

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
    """Settings of the console for the whole mix."""

    low_shelf_db: float  # below 120 Hz
    high_shelf_db: float  # above 8 kHz
    threshold_db: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """All settings of one mix."""

    style: str
    stems: Mapping[str, StemSettings]
    master: MasterSettings

    def to_values(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON; `from_values` is the inverse."""
        return asdict(self)

    @classmethod
    def from_values(cls, values: Any, where: str) -> Self:
        """Check plain values and take them over.

        Args:
            values: as given by `to_values`.
            where: file that they come from, for messages.

        Raises:
            DataError: a value is missing, unknown or of another type.
        """
        settings = as_record(values, where, cls)
        if settings.stems.keys() != set(STEMS):
            raise DataError(
                f"{where}: expected settings of {', '.join(STEMS)}, found "
                f"{', '.join(settings.stems)}"
            )
        # Files hold the stems in the order of the alphabet.
        return replace(settings, stems={stem: settings.stems[stem] for stem in STEMS})


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


def named_style(name: str) -> MixSettings:
    """Return the centre of one of `STYLE_NAMES`."""
    centre = _STYLES[name]
    return MixSettings(
        style=name,
        stems={
            stem: StemSettings(
                **centre[stem],
                mid_hz=_MID_HZ[stem],
                threshold_db=_THRESHOLD_DB[stem],
                attack_s=0.012,
                release_s=0.15,
            )
            for stem in STEMS
        },
        master=MasterSettings(**centre["master"]),
    )


def free_style(rng: Rng, name: str = "free") -> MixSettings:
    """Draw a style from anywhere that the console can go and still sound like a mix."""

    def stem() -> StemSettings:
        threshold_db, ratio = rng.uniform(-22.0, -8.0), rng.uniform(1.0, 5.0)
        makeup_db = 0.4 * (-8.0 - threshold_db) * (1.0 - 1.0 / ratio)
        return StemSettings(
            gain_db=makeup_db + rng.uniform(-4.0, 4.0),
            pan=rng.uniform(-0.15, 0.15),
            width=rng.uniform(0.5, 1.5),
            low_shelf_db=rng.uniform(-6.0, 4.0),
            mid_hz=rng.uniform(300.0, 4000.0),
            mid_db=rng.uniform(-5.0, 5.0),
            high_shelf_db=rng.uniform(-6.0, 6.0),
            threshold_db=threshold_db,
            ratio=ratio,
            attack_s=rng.uniform(0.002, 0.04),
            release_s=rng.uniform(0.05, 0.3),
            reverb_send_db=rng.uniform(-40.0, -6.0),
            reverb_time_s=rng.uniform(0.3, 2.5),
        )

    return MixSettings(
        style=name,
        stems={stem_name: stem() for stem_name in STEMS},
        master=MasterSettings(
            low_shelf_db=rng.uniform(-2.0, 3.0),
            high_shelf_db=rng.uniform(-3.0, 4.0),
            threshold_db=rng.uniform(-18.0, -4.0),
            ratio=rng.uniform(1.0, 5.0),
        ),
    )


def varied(style: MixSettings, rng: Rng) -> MixSettings:
    """Draw the settings of one mix: the style's centre with an engineer's small variations.

    Args:
        style: the centre.
        rng: where the variations come from.
    """

    def near(value: float, spread: float) -> float:
        return round(value + spread * rng.uniform(-1.0, 1.0), 4)

    stems = {}
    for name, centre in style.stems.items():
        stems[name] = StemSettings(
            gain_db=near(centre.gain_db, 0.8),
            pan=near(centre.pan, 0.06),
            width=near(centre.width, 0.08),
            low_shelf_db=near(centre.low_shelf_db, 0.8),
            mid_hz=near(centre.mid_hz, 0.15 * centre.mid_hz),
            mid_db=near(centre.mid_db, 0.8),
            high_shelf_db=near(centre.high_shelf_db, 0.8),
            threshold_db=near(centre.threshold_db, 1.5),
            ratio=max(near(centre.ratio, 0.15), 1.0),
            attack_s=near(centre.attack_s, 0.5 * centre.attack_s),
            release_s=near(centre.release_s, 0.4 * centre.release_s),
            reverb_send_db=near(centre.reverb_send_db, 1.0),
            reverb_time_s=near(centre.reverb_time_s, 0.08 * centre.reverb_time_s),
        )
    master = style.master
    return MixSettings(
        style=style.style,
        stems=stems,
        master=MasterSettings(
            low_shelf_db=near(master.low_shelf_db, 0.5),
            high_shelf_db=near(master.high_shelf_db, 0.5),
            threshold_db=near(master.threshold_db, 1.0),
            ratio=max(near(master.ratio, 0.1), 1.0),
        ),
    )


def draw_settings(style: str, rng: Rng) -> MixSettings:
    """Draw the settings of one mix in one of `STYLE_NAMES`."""
    return varied(named_style(style), rng)


def mix(
    stems_CT: dict[str, Signal], settings: MixSettings, room_size: float = 1.0
) -> dict[str, Signal]:
    """Mix dry stems.

    Args:
        stems_CT: stem name -> dry stereo signal, full scale at +-1.
        settings: what the console does.
        room_size: of the rooms, see `exact.reverb`. Another size gives other echoes with the same
            reverb time.

    Returns:
        stem name -> signal_CT as it sounds in the mix. Their sum is the mixture. The highest
        sample, be it of the mixture or of a stem that another one cancels there, is at -1 dBFS.
    """
    processed = {
        stem: _channel_strip(stems_CT[stem], settings.stems[stem], room_size) for stem in STEMS
    }
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


def _channel_strip(x_CT: Signal, settings: StemSettings, room_size: float) -> Signal:
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
    y_CT = y_CT + exact.reverb(send_T, settings.reverb_time_s, 5000.0, room_size)
    middle_T = 0.5 * (y_CT[0] + y_CT[1])
    side_T = 0.5 * settings.width * (y_CT[0] - y_CT[1])
    left = gain(settings.gain_db) * min(1.0, 1.0 - settings.pan)
    right = gain(settings.gain_db) * min(1.0, 1.0 + settings.pan)
    return np.stack([left * (middle_T + side_T), right * (middle_T - side_T)])
