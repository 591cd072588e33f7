"""Comparison of two settings of the same tracks, by what they do to the sound.

For people, as values side by side; `mixprint.evaluation.console_effects` measures them, and tells
how far two settings are from each other in figures for statistics.

Shape suffixes: N track, C channel, T sample, K band, M block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mixprint.console.settings import HEARD_SEND_DB, Settings
from mixprint.evaluation.console_effects import THIRDS_HZ, ConsoleEffects, console_effects

# Of the equaliser's curve, beside its mean over the octaves in between.
TONE_HZ = (100, 1_000, 8_000)
_TONE = tuple(min(range(len(THIRDS_HZ)), key=lambda k: abs(THIRDS_HZ[k] - hz)) for hz in TONE_HZ)
# Of side beside mid: a narrower track has no width to be found.
_MONO_DB = -50.0


@dataclass(frozen=True)
class Effect:
    """Effect of two settings on a track, in one respect.

    Attributes:
        track: name of the track.
        name: of the effect.
        unit: of the values; empty for plain numbers.
        found: value of the settings in question.
        true: value of those that they are compared with.
    """

    track: str
    name: str
    unit: str
    found: float
    true: float

    @property
    def label(self) -> str:
        """Its name with its unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def difference(self) -> float:
        """Distance of the value in question from the true one."""
        return abs(self.found - self.true)

    def text(self, value: float) -> str:
        """Return a value as a table shows it."""
        num_digits = 1 if self.unit.startswith("dB") else 2
        return f"{round(value, num_digits) + 0.0:.{num_digits}f}"  # never minus nothing


def compare(
    tracks_NCT: Tensor, found: Settings, true: Settings, sample_rate_hz: int
) -> list[Effect]:
    """Compare what two settings do to tracks.

    Args:
        tracks_NCT: the dry tracks, in the order of the true settings, full scale at +-1.
        found: settings in question.
        true: settings of the same tracks.
        sample_rate_hz: of the audio.

    Returns:
        per track the level of its direct sound in the mix, its tone, how much compressors turn it
        down, where it stands, and its room where one of both has one that is heard.

    Raises:
        ConfigError: the tracks are others.
    """
    found = found.in_order(list(true.tracks))
    both = [console_effects(tracks_NCT, settings, sample_rate_hz) for settings in (found, true)]
    sides = [_by_name(each) for each in both]
    effects = []
    for track, of_found, of_true, side_db in zip(
        true.tracks, *sides, both[1].side_db_N.tolist(), strict=True
    ):
        left_out = set()
        sends_db = of_found["room send"][0], of_true["room send"][0]
        if max(sends_db) < HEARD_SEND_DB:
            left_out.add("room send")
        if min(sends_db) < HEARD_SEND_DB:
            left_out.add("room time")
        if side_db < _MONO_DB:
            left_out.add("width")
        for name in [name for name in of_true if name not in left_out]:
            (value, unit), (true_value, _) = of_found[name], of_true[name]
            effects.append(Effect(track, name, unit, value, true_value))
    return effects


def table(effects: Sequence[Effect]) -> list[tuple[str, str, str, str]]:
    """Return effects as lines of text: track, effect, found, true."""
    return [
        (each.track, each.label, each.text(each.found), each.text(each.true)) for each in effects
    ]


def _by_name(effects: ConsoleEffects) -> list[dict[str, tuple[float, str]]]:
    """Return what is done to each track: effect -> value and unit."""
    curve_NK = effects.eq_db_NK
    curve_NK = curve_NK - curve_NK[:, _TONE[0] : _TONE[-1] + 1].mean(dim=1, keepdim=True)
    columns: dict[str, tuple[Tensor, str]] = {
        "level in the mix": (effects.level_db_N, "dBFS"),
        **{
            f"tone at {hz} Hz": (curve_NK[:, k], "dB") for hz, k in zip(TONE_HZ, _TONE, strict=True)
        },
        "compression": (effects.reduction_db_NM.mean(dim=1), "dB"),
        "pan": (effects.pan_N, ""),
        "width": (effects.width_N, ""),
        "room send": (effects.send_db_N, "dB"),
        "room time": (effects.time_s_N, "s"),
    }
    return [
        {name: (float(value_N[track]), unit) for name, (value_N, unit) in columns.items()}
        for track in range(len(effects.pan_N))
    ]
