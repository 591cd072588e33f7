"""Project for REAPER whose plug-ins are the console itself.

    song.rpp
    Effects/mixprint/strip-v1.jsfx, room-v1.jsfx, master-v1.jsfx

Each track holds its dry audio and a strip, the master holds the master's plug-in: see
`mixprint.console.export.jsfx`. Shared rooms are tracks without audio, which receive the others
behind their faders and hold a room alone; what is sent is REAPER's own level of the send. All other
settings lie in the plug-ins, fader and pan too, because they are exact there; REAPER's own faders
stand at 0 dB, for moves from there.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixprint.audio.files import probe
from mixprint.console.colours import track_colours
from mixprint.console.export.jsfx import (
    MASTER_NAME,
    ROOM_FIELDS,
    ROOM_NAME,
    STRIP_NAME,
    plain,
    plug_ins,
    slider_values,
)
from mixprint.console.export.song import Export
from mixprint.console.reaper_sends import send_line
from mixprint.console.rpp import ROOT, Line, writable, written
from mixprint.console.schema import TRACK_FIELDS_BY_NAME
from mixprint.console.settings import Rooms, Settings, Strip
from mixprint.console.sharing import SharedRoom, shared_rooms
from mixprint.errors import DataError
from mixprint.storage.atomic import write_text
from mixprint.text import first_of, shown

PROJECT_NAME = "song.rpp"
# A pan that is a balance, whose middle changes no level.
PAN_LAW, PAN_MODE = "1", "3"
EFFECTS_NAME = "Effects"
NUM_SLIDERS = 64
_VERSION_WORDS = ["0.1", "7.0", "0"]
_SOURCES = {".flac": "FLAC", ".mp3": "MP3", ".ogg": "VORBIS", ".opus": "VORBIS"}
_HAS_COLOUR = 0x1000000
_NAMESPACE = uuid.UUID("4c2a6f0e-92c3-4a51-a7b7-0c6c5b1f7f3d")


@dataclass(frozen=True)
class Channel:
    """Channel of a track, or the master, in a project.

    Attributes:
        effects: blocks of its plug-ins, in the order in which the sound passes them.
        fader: amplitude of REAPER's own fader.
        pan: of REAPER's own pan, -1 to 1.
    """

    effects: Sequence[Line]
    fader: float = 1.0
    pan: float = 0.0


@dataclass(frozen=True)
class Return:
    """Track without audio that receives others.

    Attributes:
        effects: blocks of its plug-ins.
        send_db: track -> level of its send, behind its fader.
    """

    effects: Sequence[Line]
    send_db: Mapping[str, float]


def write_reaper(export: Export) -> list[str]:
    """Write the project and its plug-ins.

    Returns:
        what a person has to know.

    Raises:
        ConfigError: there is not one file for each track.
        DataError: a file lies elsewhere, or the project cannot be written.
        AudioError: a file cannot be read.
    """
    settings = export.settings
    returns = _returns(settings)
    strips = settings.tracks
    if returns:
        neutral = {"room.send_db": TRACK_FIELDS_BY_NAME["room.send_db"].neutral}
        strips = {name: strip.with_values(neutral, name) for name, strip in strips.items()}
    channels = {
        name: Channel([plug_in_block(STRIP_NAME, strip, settings.rooms)])
        for name, strip in strips.items()
    }
    master = Channel([plug_in_block(MASTER_NAME, settings.master)])
    notes = write_project(export, channels, master, returns)
    for name, text in plug_ins().items():
        write_text(export.out_dir / EFFECTS_NAME / name, text)
    return [
        f"the settings are in the plug-ins of {EFFECTS_NAME}/mixprint; where REAPER does not find "
        f"them, copy that folder into the folder {EFFECTS_NAME} of REAPER's resource path",
        *(
            f"track {name}: is the shared room of {first_of(list(each.send_db), ', ')}"
            for name, each in returns.items()
        ),
        *notes,
    ]


def _returns(settings: Settings) -> dict[str, Return]:
    """Return the tracks of the shared rooms, by their names."""
    rooms = shared_rooms(settings) if settings.rooms == "sends" else []
    return {
        f"room {place}": Return([plug_in_block(ROOM_NAME, _room_strip(room))], room.send_db)
        for place, room in enumerate(rooms, start=1)
    }


def _room_strip(room: SharedRoom) -> Strip:
    return Strip(ROOM_FIELDS, (room.time_s, room.low_ratio, room.high_ratio))


def plug_in_block(name: str, strip: Strip, rooms: Rooms | None = None) -> Line:
    """Return the block of a project that holds one of the console's plug-ins."""
    values = slider_values(strip, rooms)
    first, *others = [*values, *["-"] * (NUM_SLIDERS - len(values))]
    return Line("JS", [name, ""], [Line(first, others)])


def write_project(
    export: Export,
    channels: Mapping[str, Channel],
    master: Channel,
    returns: Mapping[str, Return] = {},
) -> list[str]:
    """Write a project of tracks with given plug-ins.

    Args:
        export: the song.
        channels: track -> how it stands in the project.
        master: how the master does.
        returns: name -> track without audio, behind the others.

    Returns:
        what a person has to know.

    Raises:
        ConfigError: there is not one file for each track.
        DataError: a file lies elsewhere, or the project cannot be written.
        AudioError: a file cannot be read.
    """
    settings = export.settings.in_order(list(export.stems))
    identity = uuid.uuid5(_NAMESPACE, export.title)
    lines = [
        Line("RIPPLE", ["0"]),
        Line("PANLAW", [PAN_LAW]),
        Line("PANMODE", [PAN_MODE]),
        Line("SAMPLERATE", [str(settings.sample_rate_hz), "1", "0"]),
        Line("TEMPO", [plain(export.tempo_bpm or 120.0), "4", "4"]),
        Line("NOTES", ["0", "2"], [Line(f"|{writable(export.title)}")]),
        Line("MASTER_NCH", ["2", "2"]),
        Line("MASTER_VOLUME", [plain(master.fader), plain(master.pan), "-1", "-1", "1"]),
        Line("MASTER_PANMODE", [PAN_MODE]),
        Line("MASTER_FX", ["1"]),
        _chain("MASTERFXLIST", master.effects, identity),
    ]
    colours = track_colours(channels)
    for name, channel in channels.items():
        track, colour = uuid.uuid5(identity, name), colours[name]
        item = _item(name, export.stems[name], export.out_dir, track)
        lines.append(_track(name, channel, track, [item], colour))
    places = {name: place for place, name in enumerate(channels)}
    for name, each in returns.items():
        received = [send_line(places[heard], level_db) for heard, level_db in each.send_db.items()]
        track = uuid.uuid5(identity, f"return {name}")
        lines.append(_track(name, Channel(each.effects), track, received))
    write_text(export.out_dir / PROJECT_NAME, written(Line(ROOT, _VERSION_WORDS, lines)))
    return [
        f"track {name}: is called {writable(name)} there, because REAPER cannot write its name"
        for name in channels
        if writable(name) != name
    ]


def _track(
    name: str,
    channel: Channel,
    identity: uuid.UUID,
    content: Sequence[Line],
    colour: str | None = None,
) -> Line:
    guid = _guid(identity)
    inner = [Line("NAME", [name])]
    if colour is not None:
        # REAPER keeps the bytes of a colour in the order blue, green, red.
        number = _HAS_COLOUR | int.from_bytes(bytes.fromhex(colour[1:]), "little")
        inner.append(Line("PEAKCOL", [str(number)]))
    inner += [
        Line("VOLPAN", [plain(channel.fader), plain(channel.pan), "-1", "-1", "1"]),
        Line("MUTESOLO", ["0", "0", "0"]),
        Line("IPHASE", ["0"]),
        Line("ISBUS", ["0", "0"]),
        Line("NCHAN", ["2"]),
        Line("FX", ["1"]),
        Line("TRACKID", [guid]),
        Line("MAINSEND", ["1", "0"]),
        _chain("FXCHAIN", channel.effects, identity),
        *content,
    ]
    return Line("TRACK", [guid], inner)


def _item(name: str, path: Path, out_dir: Path, identity: uuid.UUID) -> Line:
    try:
        relative = path.resolve().relative_to(out_dir.resolve()).as_posix()
    except ValueError as error:
        raise DataError(
            f"{shown(path)}: expected a file below {shown(out_dir)}, found it elsewhere"
        ) from error
    if writable(relative) != relative:
        raise DataError(
            f"{shown(path)}: expected a name that REAPER can write, found all three quotation "
            "marks or a line break in it"
        )
    source = _SOURCES.get(path.suffix.lower(), "WAVE")
    inner = [
        Line("POSITION", ["0"]),
        Line("LENGTH", [plain(probe(path).duration_s)]),
        Line("LOOP", ["0"]),
        Line("IGUID", [_guid(uuid.uuid5(identity, "item"))]),
        Line("NAME", [name]),
        Line("SOURCE", [source], [Line("FILE", [relative])]),
    ]
    return Line("ITEM", [], inner)


def _chain(name: str, effects: Sequence[Line], identity: uuid.UUID) -> Line:
    inner = [Line("SHOW", ["0"]), Line("LASTSEL", ["0"]), Line("DOCKED", ["0"])]
    for place, effect in enumerate(effects):
        inner += [
            Line("BYPASS", ["0", "0", "0"]),
            effect,
            Line("FLOATPOS", ["0", "0", "0", "0"]),
            Line("FXID", [_guid(uuid.uuid5(identity, f"effect {place}"))]),
            Line("WAK", ["0", "0"]),
        ]
    return Line(name, [], inner)


def _guid(identity: uuid.UUID) -> str:
    return f"{{{str(identity).upper()}}}"
