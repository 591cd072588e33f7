"""Settings out of DAWproject files: of mixprint's own, and of other programs.

A program that saves a project changes project.xml and knows nothing of mixprint's settings.json in
it. So the XML counts for all that it holds. What it does not hold (saturation, expansion, knees,
rooms, width), and numbers that nobody has changed, are taken from the settings, where a file has
them.

Nothing of an archive is extracted: two of its files are read into memory, up to a size.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element

from mixprint.console.bands import Band, Kind
from mixprint.console.export.channels import Channel, Dynamics
from mixprint.console.export.dawproject import SETTINGS_ENTRY, return_names
from mixprint.console.importing.imported import Imported, imported
from mixprint.console.importing.names import console_names
from mixprint.console.importing.safe_xml import MAX_BYTES, parse_xml
from mixprint.console.importing.strips import changes_between, strip_of
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import MAX_TRACKS, Settings, Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.errors import DataError, error_text
from mixprint.schema import MAX_FILE_BYTES, parse_json, shortened
from mixprint.text import first_of, printable, shown

# A list of files in the archive that is longer than this is no project's.
MAX_DIRECTORY_BYTES = 8 << 20
# Quieter than any fader: what volume 0 is read as.
_SILENT_DB = -120.0
_BAND_KINDS: dict[str, Kind] = {
    "highPass": "highpass",
    "lowPass": "lowpass",
    "lowShelf": "low",
    "highShelf": "high",
    "bell": "bell",
}
_PLAIN_CHILDREN = {"Devices", "Mute", "Pan", "Sends", "Volume"}
# A number beyond this is no setting of anything.
_LARGEST = 1e6


def read_dawproject(path: Path) -> Imported:
    """Read a DAWproject file.

    Returns:
        settings of its audio tracks and of its master, with notes on all that was not understood.

    Raises:
        DataError: it is no such file, or holds more than a project does.
    """
    where = shown(path)
    project, own, notes = _contents(path, where)
    if project.tag != "Project":
        raise DataError(f"{where}: expected the XML of a project, found {shortened(project.tag)}")
    reader = _Reader(own, notes)
    tracks = list(reader.tracks(project))
    if not 1 <= len(tracks) <= MAX_TRACKS:
        raise DataError(f"{where}: expected 1 to {MAX_TRACKS} audio tracks, found {len(tracks)}")
    names, renamed = console_names(track.get("name", "") for track in tracks)
    reader.notes += renamed
    if own is None:
        reader.notes.append("without mixprint's settings, what DAWproject does not hold is neutral")
    else:
        # What XML cannot hold was escaped.
        as_written = console_names(map(printable, own.tracks))[0]
        originals = dict(zip(as_written, own.tracks, strict=True))
        names = [originals.get(name, name) for name in names]
    strips = {
        name: reader.strip(track, name, TRACK_FIELDS)
        for name, track in zip(names, tracks, strict=True)
    }
    master = Strip.neutral(MASTER_FIELDS) if own is None else own.master
    if reader.master is not None:
        master = reader.strip(reader.master, MASTER, MASTER_FIELDS)
    if own is not None and (gone := [name for name in own.tracks if name not in strips]):
        reader.notes.append(f"tracks that mixprint wrote and that are gone: {first_of(gone, ', ')}")
    settings = Settings(
        strips,
        master,
        sample_rate_hz=44_100 if own is None else own.sample_rate_hz,
        rooms="inserts" if own is None else own.rooms,
    )
    return imported(settings, reader.notes)


def _contents(path: Path, where: str) -> tuple[Element, Settings | None, list[str]]:
    """Read the project, and mixprint's settings if there are some, else notes on why not."""
    try:
        with path.open("rb") as file:
            _check_directory(file, where)
            with zipfile.ZipFile(file) as archive:
                xml = _read_entry(archive, "project.xml", MAX_BYTES, where)
                if xml is None:
                    raise DataError(f"{where}: expected project.xml in it, found none")
                text = _read_entry(archive, SETTINGS_ENTRY, MAX_FILE_BYTES, where)
    except (
        *(OSError, zipfile.BadZipFile, zlib.error, EOFError, struct.error),
        *(RuntimeError, ValueError, NotImplementedError),  # encrypted, or of a later version
    ) as error:
        raise DataError(f"{where}: expected a DAWproject, found: {error_text(error)}") from error
    project = parse_xml(xml, f"{where}: project.xml", counted=("Arrangement", "Scenes"))
    if text is None:
        return project, None, []
    inside = f"{where}: {SETTINGS_ENTRY}"
    try:
        return project, Settings.from_values(parse_json(text, inside), inside), []
    except DataError as error:
        # Of another version, for example; the project itself can be read all the same.
        return project, None, [str(error)]


def _read_entry(archive: zipfile.ZipFile, name: str, max_bytes: int, where: str) -> bytes | None:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        return None
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where}: {name}: expected it stored or deflated, found another method")
    with archive.open(entry) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"{where}: {name}: expected at most {max_bytes} bytes, found more")
    return content


def _check_directory(file: BinaryIO, where: str) -> None:
    """Refuse an archive whose list of files is huge, before all of it is read.

    Raises:
        DataError: it is; or there is none.
    """
    num_bytes = file.seek(0, 2)
    file.seek(max(num_bytes - (1 << 16) - 22, 0))
    tail = file.read()
    start = tail.rfind(b"PK\x05\x06")
    if start < 0 or len(tail) < start + 22:
        raise DataError(f"{where}: expected a ZIP archive, found none")
    sizes = [tail[start + 12 : start + 16]]
    # Of archives beyond 4 GiB another record says the same; a locator before this one leads to it.
    locator = tail[max(start - 20, 0) : start]
    if locator.startswith(b"PK\x06\x07"):
        told = int.from_bytes(locator[8:16], "little")
        # Some readers believe the locator, others look right before it.
        for place in (told, num_bytes - len(tail) + start - 20 - 56):
            file.seek(min(max(place, 0), num_bytes))
            record = file.read(56)
            if record.startswith(b"PK\x06\x06"):
                sizes.append(record[40:48])
    largest = max(int.from_bytes(size, "little") for size in sizes)
    if largest > MAX_DIRECTORY_BYTES:
        raise DataError(
            f"{where}: expected a list of files of at most {MAX_DIRECTORY_BYTES} bytes, found "
            f"{largest}"
        )


@dataclass
class _Gains:
    """Gains of a chain of devices, before its compressor and in sum."""

    before_db: float = 0.0
    all_db: float = 0.0
    dynamics: Dynamics | None = None

    def add(self, gain_db: float) -> None:
        self.all_db += gain_db
        if self.dynamics is None:
            self.before_db += gain_db


@dataclass
class _Reader:
    """Reader of channels, which collects what it does not understand."""

    own: Settings | None
    notes: list[str]
    master: Element | None = None

    def tracks(self, project: Element) -> Iterator[Element]:
        """List the tracks that settings are of; keep the master."""
        rooms = set()
        if self.own is not None:
            rooms = {printable(name) for name in return_names(self.own).values()}
        structure = project.find("Structure")
        for element in () if structure is None else structure.iter("Track"):
            channel = element.find("Channel")
            name = shortened(element.get("name", ""))
            if channel is None:
                self.notes.append(f"{name}: a track without a channel is left out")
                continue
            role = channel.get("role", "regular")
            if role == "master":
                if self.master is not None:
                    self.notes.append(f"{name}: a second master is left out")
                    continue
                self.master = element
            elif element.get("name") in rooms:
                continue
            elif role != "regular" or element.find("Track") is not None:
                self.notes.append(f"{name}: a track of the kind {role!r}, or a group, is left out")
            else:
                yield element
        for tag in ("Arrangement", "Scenes"):
            hidden = project.find(tag)
            if hidden is not None and "Points" in hidden.get("descendants", "").split():
                self.notes.append(f"{tag}: automation is left out: one value stands for all of it")

    def strip(self, track: Element, name: str, fields: tuple[Field, ...]) -> Strip:
        """Read a track, or the master."""
        base = Strip.neutral(fields)
        known = {} if self.own is None else self.own.strips()
        has_base = name in known and known[name].fields is fields
        if has_base:
            base = known[name]
        elif self.own is not None:
            self.notes.append(f"{name}: no track that mixprint wrote has this name")
        channel = track.find("Channel")
        assert channel is not None
        strip, notes = strip_of(self._channel(channel, name), base, name)
        self.notes += notes
        if has_base and (changed := changes_between(base, strip)):
            self.notes.append(f"{name}: changed since mixprint wrote it: {', '.join(changed)}")
        return strip

    def _channel(self, element: Element, name: str) -> Channel:
        bands: list[Band] = []
        gains = _Gains()
        for device in element.iterfind("Devices/*"):
            self._device(device, name, bands, gains)
        for child in element:
            if child.tag not in _PLAIN_CHILDREN:
                self.notes.append(f"{name}: {shortened(child.tag)} is not understood")
        if element.find("Sends/Send") is not None:
            self.notes.append(f"{name}: sends are left out")
        mute = element.find("Mute")
        if mute is not None and mute.get("value") in ("true", "1"):
            self.notes.append(f"{name}: is muted there; here it is not")
        volume_db = self._number(element, "Volume", name, _LEVELS, 0.0)
        pan = self._number(element, "Pan", name, _PANS, 0.0)
        return Channel(tuple(bands), gains.dynamics, volume_db + gains.all_db, pan)

    def _device(self, device: Element, name: str, bands: list[Band], gains: _Gains) -> None:
        called = f"{name}: {shortened(device.get('deviceName') or device.tag)}"
        enabled = device.find("Enabled")
        if enabled is not None and enabled.get("value") in ("false", "0"):
            self.notes.append(f"{called} is off there, and left out")
            return
        if device.tag == "Equalizer":
            gains.add(self._number(device, "InputGain", called, _GAINS, 0.0))
            bands += self._bands(device, called)
            if gains.dynamics is not None and bands:
                self.notes.append(f"{called} comes behind the compressor there, before it here")
            gains.add(self._number(device, "OutputGain", called, _GAINS, 0.0))
        elif device.tag == "Compressor" and gains.dynamics is None:
            gains.add(self._number(device, "InputGain", called, _GAINS, 0.0))
            gains.dynamics = self._dynamics(device, called, gains.before_db)
            gains.all_db += self._number(device, "OutputGain", called, _GAINS, 0.0)
            makeup = device.find("AutoMakeup")
            if makeup is not None and makeup.get("value") in ("true", "1"):
                self.notes.append(f"{called}: automatic make-up gain is left out")
        else:
            self.notes.append(f"{called} ({shortened(device.tag)}) is not understood")

    def _bands(self, device: Element, called: str) -> Iterator[Band]:
        for band in device.iterfind("Band"):
            enabled = band.find("Enabled")
            if enabled is not None and enabled.get("value") in ("false", "0"):
                continue
            kind = _BAND_KINDS.get(band.get("type", ""))
            if kind is None:
                found = shortened(band.get("type", ""))
                self.notes.append(f"{called}: a band of the type {found} is not understood")
                continue
            freq_hz = self._number(band, "Freq", called, _FREQUENCIES, 0.0)
            q = self._number(band, "Q", called, _QS, BUTTERWORTH_Q if kind != "bell" else 1.0)
            gain_db = self._number(band, "Gain", called, _GAINS, 0.0)
            if freq_hz <= 0.0 or q <= 0.0:
                self.notes.append(f"{called}: a band without a frequency is left out")
                continue
            yield Band(kind, freq_hz, gain_db, q)

    def _dynamics(self, device: Element, called: str, gain_before_db: float) -> Dynamics | None:
        """Read a compressor; gains before it are the same as another threshold."""
        slope = self._number(device, "Ratio", called, _SLOPES, 0.0)
        if slope <= 0.0:
            return None
        threshold_db = self._number(device, "Threshold", called, _LEVELS, 0.0)
        return Dynamics(
            threshold_db - gain_before_db,
            slope,
            1_000 * self._number(device, "Attack", called, _TIMES, 0.01),
            1_000 * self._number(device, "Release", called, _TIMES, 0.15),
        )

    def _number(
        self,
        parent: Element,
        tag: str,
        where: str,
        units: dict[str, Callable[[float], float]],
        default: float,
    ) -> float:
        """Read a parameter in the unit that it names."""
        element = parent.find(tag)
        if element is None or (text := element.get("value")) is None:
            return default
        unit = element.get("unit", "")
        try:
            value = units[unit](float(text[:64]))
        except (ValueError, LookupError, OverflowError):
            value = math.nan
        if not abs(value) <= _LARGEST:
            self.notes.append(
                f"{where}: {tag} {shortened(text)} in {shortened(unit)} is not understood"
            )
            return default
        return value


def _level_db(amplitude: float) -> float:
    return max(20 * math.log10(amplitude), _SILENT_DB) if amplitude > 0 else _SILENT_DB


_GAINS: dict[str, Callable[[float], float]] = {"decibel": float, "linear": _level_db}
_LEVELS: dict[str, Callable[[float], float]] = {
    "decibel": lambda value: max(value, _SILENT_DB),
    "linear": _level_db,
}
_PANS: dict[str, Callable[[float], float]] = {"normalized": lambda value: 2 * value - 1}
_FREQUENCIES: dict[str, Callable[[float], float]] = {
    "hertz": float,
    # Bitwig Studio writes notes of MIDI, 69 being 440 Hz.
    "semitones": lambda value: 440.0 * 2 ** ((value - 69) / 12),
}
_QS: dict[str, Callable[[float], float]] = {"linear": float}
_SLOPES: dict[str, Callable[[float], float]] = {
    "percent": lambda value: value / 100,
    "linear": lambda ratio: 1 - 1 / ratio if ratio > 0 else math.nan,
}
_TIMES: dict[str, Callable[[float], float]] = {"seconds": float}
