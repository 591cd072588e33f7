"""Building of the console's page.

A page of its own is `console_page`. Another page shows a console by `live_console` and the macros
of `console/page/parts.html`: `desk(console)` where it stands, `style()` in the style sheet, and
`scripts()` at the end of the page. It may hold several.

Shape suffixes: N track, C channel, T sample.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.resampling import resample
from mixprint.console.colours import track_colours
from mixprint.console.excerpts import busiest_second, frame_power
from mixprint.console.mixing import as_stereo
from mixprint.console.page.algorithm import algorithm
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import MAX_SHARED_ROOMS, ROOM_SHAPE, Settings
from mixprint.console.words import in_words
from mixprint.errors import ConfigError
from mixprint.pages.clips import faded
from mixprint.pages.page import ENVIRONMENT

TEMPLATE = "console/page/console.html"
# An excerpt is so long unless there are many tracks: four tracks of 20 s are some 9 MB of text.
EXCERPT_S = 20
MAX_TRACK_SECONDS = 120
SHORTEST_EXCERPT_S = 4
# Higher rates are heard by nobody here, and would double what a page holds.
_HIGHEST_RATE_HZ = 48_000
_LARGEST = 32_767  # of 16 bits
_FULL_SCALE = 32_768
_PANELS = {"eq": "Equaliser", "comp": "Compressor", "drive": "Drive", "room": "Room"}
_PLACE_PANEL = "Trim and width"
_UNIT_SUFFIXES = ("_db", "_hz", "_ms", "_s")


@dataclass(frozen=True)
class LiveConsole:
    """A console as a page shows it.

    Attributes:
        name: plain text; different for each console of a page.
        has_before: whether there is something to compare with.
        words: what is done, by track, for who runs no scripts.
        values: what `console.js` reads.
    """

    name: str
    has_before: bool
    words: Mapping[str, list[str]]
    values: Mapping[str, Any]


def console_page(
    settings: Settings,
    tracks_NCT: Tensor,
    sample_rate_hz: int,
    *,
    before: Settings | None = None,
    title: str = "Console",
    start_s: float = 0.0,
) -> str:
    """Return the page of a console, one HTML file that loads nothing.

    Args:
        settings: see `live_console`.
        tracks_NCT: see `live_console`.
        sample_rate_hz: see `live_console`.
        before: see `live_console`.
        title: plain text.
        start_s: see `live_console`.

    Raises:
        ConfigError: see `live_console`.
    """
    console = live_console(
        settings, tracks_NCT, sample_rate_hz, before=before, name=title, start_s=start_s
    )
    return ENVIRONMENT.get_template(TEMPLATE).render(title=title, console=console)


def live_console(
    settings: Settings,
    tracks_NCT: Tensor,
    sample_rate_hz: int,
    *,
    before: Settings | None = None,
    name: str = "Console",
    start_s: float = 0.0,
) -> LiveConsole:
    """Encode settings and dry tracks for a page.

    Args:
        settings: what is drawn, played and changed there.
        tracks_NCT: the dry tracks, in the order of the settings' tracks, one or two channels, full
            scale at +-1. Of what is longer than `excerpt_seconds` the page holds the seconds in
            which all tracks sound the most.
        sample_rate_hz: of the tracks; a page plays 48 kHz at most.
        before: other settings of the same tracks to compare with, at equal loudness.
        name: see `LiveConsole`.
        start_s: where the tracks begin in the song.

    Raises:
        ConfigError: there are not as many tracks as settings have, or `before` is of others.
    """
    if len(tracks_NCT) != len(settings.tracks):
        raise ConfigError(
            f"{name}: expected {len(settings.tracks)} tracks, found {len(tracks_NCT)}"
        )
    if before is not None and (
        list(before.tracks) != list(settings.tracks) or before.rooms != settings.rooms
    ):
        raise ConfigError(
            f"{name}: expected earlier settings of {', '.join(settings.tracks)} with rooms as "
            f"{settings.rooms}, found those of {', '.join(before.tracks)} as {before.rooms}"
        )
    rate_hz = _played_rate_hz(sample_rate_hz)
    start, excerpt_NCT = _excerpt(tracks_NCT, sample_rate_hz, rate_hz)
    colours = track_colours(settings.tracks)
    tracks = [
        {"name": track, "colour": colours[track], **_encoded(audio_CT, rate_hz)}
        for track, audio_CT in zip(settings.tracks, excerpt_NCT, strict=True)
    ]
    file = settings.to_values()
    values = {
        "rate_hz": rate_hz,
        "num_samples": excerpt_NCT.shape[-1],
        "start_s": start_s + start,
        "master": MASTER,
        "file": {key: file[key] for key in ("format", "version", "sample_rate_hz", "rooms")},
        "settings": file,
        "before": None if before is None else before.to_values(),
        "fields": [_shown(field) for field in TRACK_FIELDS],
        "master_fields": [_shown(field) for field in MASTER_FIELDS],
        "shared_rooms": {"max": MAX_SHARED_ROOMS, "shape": ROOM_SHAPE},
        "algorithm": algorithm(rate_hz),
        "tracks": tracks,
    }
    return LiveConsole(name, before is not None, in_words(settings), values)


def excerpt_seconds(num_tracks: int) -> int:
    """Return how many seconds of a song a page holds."""
    return max(min(EXCERPT_S, MAX_TRACK_SECONDS // num_tracks), SHORTEST_EXCERPT_S)


def _played_rate_hz(sample_rate_hz: int) -> int:
    while sample_rate_hz > _HIGHEST_RATE_HZ and sample_rate_hz % 2 == 0:
        sample_rate_hz //= 2
    return sample_rate_hz


def _excerpt(tracks_NCT: Tensor, sample_rate_hz: int, rate_hz: int) -> tuple[int, Tensor]:
    """Cut out what a page holds, at its rate; tell in which second that begins."""
    num_seconds = excerpt_seconds(len(tracks_NCT))
    start = busiest_second(frame_power(tracks_NCT, sample_rate_hz), num_seconds)
    part = slice(start * sample_rate_hz, (start + num_seconds) * sample_rate_hz)
    excerpt_NCT = as_stereo(tracks_NCT[..., part]).float()
    return start, torch.stack(
        [faded(resample(each_CT, sample_rate_hz, rate_hz), rate_hz) for each_CT in excerpt_NCT]
    )


def _encoded(audio_CT: Tensor, sample_rate_hz: int) -> dict[str, Any]:
    """Encode a track in 16 bits that its peak fills, as FLAC, which every browser reads.

    They are the upper ones of 24, of which FLAC leaves those out that are all zero: Chromium reads
    files of 16 bits with different factors above and below zero.
    """
    if torch.equal(audio_CT[0], audio_CT[1]):
        audio_CT = audio_CT[:1]
    peak = float(audio_CT.abs().max()) or 1.0
    whole_CT = (audio_CT.double() * (_LARGEST / peak)).round().to(torch.int32) << 16
    buffer = io.BytesIO()
    sf.write(buffer, whole_CT.T.numpy(), sample_rate_hz, format="FLAC", subtype="PCM_24")
    return {
        "audio": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "level": peak * _FULL_SCALE / _LARGEST,
    }


def _shown(field: Field) -> dict[str, Any]:
    """Return what the page knows of a setting."""
    panel = _PANELS.get(field.group, _PLACE_PANEL)
    label = field.name.rpartition(".")[2]
    for suffix in _UNIT_SUFFIXES:
        label = label.removesuffix(suffix)
    label = "ratio" if field.name == "comp.slope" else label.replace("_", " ")
    return asdict(field) | {
        "group": field.group,
        "panel": panel,
        "label": label,
        "title": " ".join([*field.name.split(".")[:-1], label]),
        "range_text": field.range_text,
        # At such an end of its range it is off.
        "ends_off": not field.weighed_by and field.neutral in (field.low, field.high),
    }
