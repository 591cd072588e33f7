"""Comparison of two settings of the same tracks, by what they do to the sound.

Different numbers may do the same: a gain may be in the trim, the fader or all bands of an
equaliser, and the frequency of a band of 0 dB means nothing. So effects are compared.

Shape suffixes: N track, C channel, T sample, F frequency bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mixprint.console.mixing import Values
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.dsp.equaliser import response

# Of the equaliser's curve, beside its mean over the octaves in between.
TONE_HZ = (100, 1_000, 8_000)
_NUM_FFT = 16_384
# A room that is sent less is hardly heard, and its time not at all.
_HEARD_SEND_DB = -40.0
# Of its channels' difference beside their sum: a narrower track has no width to be found.
_MONO_DB = -50.0
_SILENT_POWER = 1e-12


@dataclass(frozen=True)
class Effect:
    """What settings do to a track, in one respect.

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
        """How far the value in question is from the true one, whatever its sign."""
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
        per track its level in the mix, its tone, how much its compressor turns it down, where it
        stands, and its room where one of both has one that is heard.

    Raises:
        ConfigError: the tracks are others.
    """
    found = found.in_order(list(true.tracks))
    sides = [_effects(tracks_NCT, settings, sample_rate_hz) for settings in (found, true)]
    effects = []
    for track, of_found, of_true, dry_CT in zip(true.tracks, *sides, tracks_NCT, strict=True):
        left_out = set()
        sends_db = of_found["room send"][0], of_true["room send"][0]
        if max(sends_db) < _HEARD_SEND_DB:
            left_out.add("room send")
        if min(sends_db) < _HEARD_SEND_DB:
            left_out.add("room time")
        if _level_db(dry_CT[:1] - dry_CT[-1:]) < _level_db(dry_CT) + _MONO_DB:
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


def _effects(
    tracks_NCT: Tensor, settings: Settings, sample_rate_hz: int
) -> list[dict[str, tuple[float, str]]]:
    """Measure what settings do to each track: effect -> value and unit."""
    neutral = Settings.neutral(list(settings.tracks))
    dry_of_room = settings.lock(neutral, ["*.room", "master"])
    uncompressed = dry_of_room.lock(neutral, ["*.comp"])
    mixed, compressed, plain = (
        [_level_db(mixed_CT) for mixed_CT in render(tracks_NCT, each, sample_rate_hz)]
        for each in (settings, dry_of_room, uncompressed)
    )
    curve_NF = 20 * torch.log10(
        response(Values.of(settings, sample_rate_hz).track_sections(), _NUM_FFT).abs()
    )
    bins = [round(hz * _NUM_FFT / sample_rate_hz) for hz in TONE_HZ]
    rows = []
    for place, strip in enumerate(settings.tracks.values()):
        curve_F = curve_NF[place]
        mean_db = float(
            torch.stack([curve_F[_octave_bins(a, b)].mean() for a, b in pairwise(bins)]).mean()
        )
        tone = {
            f"tone at {hz} Hz": (float(curve_F[b]) - mean_db, "dB")
            for hz, b in zip(TONE_HZ, bins, strict=True)
        }
        rows.append(
            {
                "level in the mix": (mixed[place], "dBFS"),
                **tone,
                "compression": (plain[place] - compressed[place], "dB"),
                "pan": (strip["pan"], ""),
                "width": (strip["width"], ""),
                "room send": (strip["room.send_db"], "dB"),
                "room time": (strip["room.time_s"], "s"),
            }
        )
    return rows


def _octave_bins(first: int, last: int) -> Tensor:
    """Return bins that lie evenly over the octaves between two."""
    return torch.logspace(0, 1, 64, base=last / first, dtype=torch.float64).mul(first).long()


def _level_db(audio_CT: Tensor) -> float:
    """Return the level over all of the audio and both channels."""
    return float(10 * torch.log10(audio_CT.double().square().mean() + _SILENT_POWER))
