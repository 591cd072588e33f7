"""Channels of other programs: what of a strip a plain equaliser, compressor and fader can carry.

They have no trim. What it does is the same as another threshold and another fader, for between the
trim and the compressor all is linear (where there is no saturation, which they do not have either).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mixprint.console.bands import Band, active_bands
from mixprint.console.schema import MASTER, TRACK_FIELDS
from mixprint.console.settings import Settings, Strip
from mixprint.console.words import ratio


@dataclass(frozen=True)
class Dynamics:
    """A compressor without a knee.

    Attributes:
        threshold_db: in dBFS of the audio as it comes from the file and its equaliser.
        slope: 1 - 1/ratio, above 0.
        attack_ms: time constant while the reduction rises.
        release_ms: time constant while it falls.
    """

    threshold_db: float
    slope: float
    attack_ms: float
    release_ms: float


@dataclass(frozen=True)
class Channel:
    """A track, or the master, of another program.

    Attributes:
        bands: in the order of the console.
        dynamics: None where nothing is compressed.
        level_db: of trim and fader together.
        pan: -1 is left, 1 is right.
    """

    bands: tuple[Band, ...]
    dynamics: Dynamics | None
    level_db: float
    pan: float

    @classmethod
    def of(cls, strip: Strip) -> "Channel":
        """Take what can be carried of a strip."""
        is_track = strip.fields is TRACK_FIELDS
        trim_db = strip["trim_db"] if is_track else 0.0
        dynamics = None
        if strip["comp.slope"] > 0:
            dynamics = Dynamics(
                strip["comp.threshold_db"] - trim_db,
                strip["comp.slope"],
                strip["comp.attack_ms"],
                strip["comp.release_ms"],
            )
        level_db = trim_db + strip["fader_db"] if is_track else strip["output_db"]
        return cls(
            tuple(active_bands(strip)), dynamics, level_db, strip["pan"] if is_track else 0.0
        )


def left_out(settings: Settings) -> list[str]:
    """Say per track what channels do not carry, rooms aside, and what that changes."""
    notes = []
    for name, strip in settings.strips().items():
        notes += [f"{name}: {each}" for each in _left_out(strip, name)]
    return notes


def _left_out(strip: Strip, name: str) -> Iterator[str]:
    slope, knee_db = strip["comp.slope"], strip["comp.knee_db"]
    if name != MASTER and not strip.is_neutral("drive.mix"):
        share = 100 * strip["drive.mix"]
        yield (
            f"saturation of {strip['drive.drive_db']:.1f} dB, {share:.0f} % of it, is left out: "
            "the track has fewer overtones and higher peaks"
        )
    if slope < 0:
        yield (
            f"expansion by {ratio(slope)} above {strip['comp.threshold_db']:.1f} dBFS is left out: "
            "loud parts stay as loud as they are"
        )
    elif slope > 0 and knee_db > 0:
        # A soft knee is over^2 / (2 knee) inside, at the threshold over = knee / 2.
        yield (
            f"the compressor's knee of {knee_db:.1f} dB becomes hard: up to "
            f"{slope * knee_db / 8:.2f} dB less reduction near the threshold"
        )
    if name != MASTER and not strip.is_neutral("width"):
        yield (
            f"width {100 * strip['width']:.0f} % is left out: the track is as wide as its file "
            "(set it by a utility plug-in, if the program has one)"
        )
