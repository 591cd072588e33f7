"""DAWproject 1.0: a project that Bitwig Studio, Studio One, Cubase and others open.

    song.dawproject (a ZIP)
    project.xml             tracks with equaliser, compressor, volume and pan; clips; the master
    metadata.xml            the title
    audio/<track>.wav       the dry tracks, and the sound of the rooms
    mixprint/settings.json  the exact settings, for the way back

Its equaliser and compressor are whatever the program has under these names: the same numbers, not
the same sound. What they cannot do is said in notes; rooms are audio on tracks of their own.

Source: Project.xsd, MetaData.xsd and the reference of the repository bitwig/dawproject; that
`Ratio` in percent is 100 (1 - 1/R) is how other readers of Bitwig's files take it.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO
from xml.etree import ElementTree
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from mixprint import __version__
from mixprint.audio.files import AudioInfo, probe
from mixprint.audio.wav_header import float_wav_header
from mixprint.console.bands import Band
from mixprint.console.colours import track_colours
from mixprint.console.export.channels import Channel, Dynamics, left_out
from mixprint.console.export.song import Export
from mixprint.console.rendering import render_blocks
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings, Strip
from mixprint.console.tracks import file_stems, read_in_step
from mixprint.dsp.decibels import amplitude
from mixprint.errors import DataError
from mixprint.progress import Progress
from mixprint.storage.atomic import atomic_path
from mixprint.text import printable, shown

log = logging.getLogger("mixprint.console")

FILE_NAME = "song.dawproject"
SETTINGS_ENTRY = "mixprint/settings.json"
# Loudest that a volume can be, and the range of thresholds that compressors have.
MAX_VOLUME = 2.0
MAX_VOLUME_DB = 20 * float(np.log10(MAX_VOLUME))
_THRESHOLDS_DB = (-60.0, 0.0)
_BAND_TYPES = {
    "highpass": "highPass",
    "lowpass": "lowPass",
    "low": "lowShelf",
    "high": "highShelf",
    "bell": "bell",
}
_COPIED_BYTES = 1 << 20


def write_dawproject(export: Export) -> list[str]:
    """Write `song.dawproject`, in memory that does not grow with the song.

    Returns:
        what the project does not hold, or holds in another way, in sentences.

    Raises:
        AudioError: a file cannot be read.
        DataError: the file cannot be written, or the stems' rates differ.
    """
    settings, stems, out_dir = export.settings, export.stems, export.out_dir
    infos = {name: probe(stems[name]) for name in settings.tracks}
    if len({info.sample_rate_hz for info in infos.values()}) > 1:
        found = sorted({info.sample_rate_hz for info in infos.values()})
        raise DataError(f"{shown(out_dir)}: expected stems of one rate, found {found} Hz")
    longest = max(infos.values(), key=lambda info: info.num_frames)
    returns = return_names(settings)
    files = {
        name: f"audio/{stem}{stems[name].suffix.lower() if name in stems else '.wav'}"
        for name, stem in file_stems([*settings.tracks, *returns.values()]).items()
    }
    lengths = {**infos, **dict.fromkeys(returns.values(), longest)}
    document, notes = _project(settings, files, lengths, export.tempo_bpm)
    with (
        atomic_path(out_dir / FILE_NAME) as temporary,
        ZipFile(temporary, "w", ZIP_STORED, allowZip64=True) as archive,
    ):
        _add_text(archive, "metadata.xml", _xml_text(_metadata(export.title)))
        _add_text(archive, "project.xml", _xml_text(document))
        _add_text(archive, SETTINGS_ENTRY, _settings_text(settings))
        for name in settings.tracks:
            with (
                stems[name].open("rb") as source,
                _entry(archive, files[name], stems[name].stat().st_size) as target,
            ):
                shutil.copyfileobj(source, target, _COPIED_BYTES)
        seconds = round(longest.duration_s * len(returns))
        with Progress(log, "rendered", total=seconds, unit="s of rooms") as progress:
            for name, room in returns.items():
                _add_room(archive, files[room], settings, name, stems[name], longest, progress)
    return notes


def return_names(settings: Settings) -> dict[str, str]:
    """Name the tracks that hold rooms as audio: track -> name, for those that have a room."""
    taken = set(settings.tracks)
    names = {}
    for name, strip in settings.tracks.items():
        if strip.is_neutral("room.send_db"):
            continue
        wanted, number = f"{name} room", 1
        while wanted in taken:
            number += 1
            wanted = f"{name} room {number}"
        taken.add(wanted)
        names[name] = wanted
    return names


def _project(
    settings: Settings,
    files: Mapping[str, str],
    lengths: Mapping[str, AudioInfo],
    tempo_bpm: float | None,
) -> tuple[ElementTree.Element, list[str]]:
    builder = _Builder()
    project = ElementTree.Element("Project", version="1.0")
    ElementTree.SubElement(project, "Application", name="mixprint", version=__version__)
    if tempo_bpm is not None:
        transport = ElementTree.SubElement(project, "Transport")
        builder.number(transport, "Tempo", tempo_bpm, "bpm", name="Tempo")
    structure = ElementTree.SubElement(project, "Structure")
    arrangement = builder.element(project, "Arrangement")
    lanes = builder.element(arrangement, "Lanes", timeUnit="seconds")
    colours, returns = track_colours(settings.tracks), return_names(settings)
    notes = [
        "DAWproject: equalisers, compressors and pan are those of the program that opens it: the "
        "same numbers, not the same sound",
        *left_out(settings),
    ]
    master_id = builder.next_id()
    for name, strip in settings.tracks.items():
        colour = colours[name]
        track_id, said = builder.track(structure, name, Channel.of(strip), master_id, colour)
        notes += said
        builder.clip(lanes, track_id, name, files[name], lengths[name])
        if name in returns:
            room = returns[name]
            silent = Channel((), None, 0.0, 0.0)
            track_id, _ = builder.track(structure, room, silent, master_id, colour)
            builder.clip(lanes, track_id, room, files[room], lengths[room])
            notes.append(
                f"{name}: its room of {strip['room.time_s']:.2g} s is audio on the track {room!r}, "
                "as it sounds before the master; it does not follow what is changed there"
            )
    master = Channel.of(settings.master)
    _, said = builder.track(structure, "Master", master, None, None, channel_id=master_id)
    ElementTree.SubElement(project, "Scenes")
    return project, notes + said


class _Builder:
    """Elements of a project, each with an id of its own; children in the order of the schema."""

    def __init__(self) -> None:
        self._num_ids = 0

    def next_id(self) -> str:
        self._num_ids += 1
        return f"id{self._num_ids}"

    def element(
        self, parent: ElementTree.Element, tag: str, **attributes: str
    ) -> ElementTree.Element:
        return ElementTree.SubElement(parent, tag, {"id": self.next_id(), **attributes})

    def number(
        self, parent: ElementTree.Element, tag: str, value: float, unit: str, **attributes: str
    ) -> None:
        self.element(parent, tag, value=_number(value), unit=unit, **attributes)

    def switch(self, parent: ElementTree.Element, tag: str, value: str, **attributes: str) -> None:
        self.element(parent, tag, value=value, **attributes)

    def track(
        self,
        structure: ElementTree.Element,
        name: str,
        channel: Channel,
        destination: str | None,
        colour: str | None,
        channel_id: str | None = None,
    ) -> tuple[str, list[str]]:
        """Add a track; the master has no destination. Return its id, and notes."""
        is_master = destination is None
        attributes = {"name": printable(name), "contentType": "audio", "loaded": "true"}
        if colour is not None:
            attributes["color"] = colour
        track = self.element(structure, "Track", **attributes)
        role = "master" if is_master else "regular"
        attributes = {"id": channel_id or self.next_id(), "audioChannels": "2", "role": role}
        if destination is not None:
            attributes["destination"] = destination
        inner = ElementTree.SubElement(track, "Channel", attributes)
        level_db, notes = channel.level_db, []
        volume_db = min(level_db, MAX_VOLUME_DB)
        if level_db > volume_db:
            beyond_db = level_db - volume_db
            notes.append(
                f"{MASTER if is_master else name}: a volume ends at +{MAX_VOLUME_DB:.1f} dB; the "
                f"{beyond_db:.1f} dB beyond it are an output gain of its last device"
            )
        self._devices(inner, channel, level_db - volume_db)
        self.switch(inner, "Mute", "false", name="Mute")
        pan = (channel.pan + 1) / 2
        self.number(inner, "Pan", pan, "normalized", min="0.0", max="1.0", name="Pan")
        volume = amplitude(volume_db)
        limits = {"min": "0.0", "max": _number(MAX_VOLUME)}
        self.number(inner, "Volume", volume, "linear", **limits, name="Volume")
        return track.attrib["id"], notes

    def _devices(self, parent: ElementTree.Element, channel: Channel, output_db: float) -> None:
        if not channel.bands and channel.dynamics is None and output_db == 0.0:
            return
        devices = ElementTree.SubElement(parent, "Devices")
        last_is_equaliser = channel.dynamics is None
        if channel.bands or (output_db and last_is_equaliser):
            equaliser = self._device(devices, "Equalizer")
            for place, band in enumerate(channel.bands):
                self._band(equaliser, band, place)
            if output_db and last_is_equaliser:
                self.number(equaliser, "OutputGain", output_db, "decibel", name="Output Gain")
        if channel.dynamics is not None:
            self._compressor(devices, channel.dynamics, output_db)

    def _device(self, devices: ElementTree.Element, tag: str) -> ElementTree.Element:
        device = self.element(
            devices, tag, deviceName=tag, deviceRole="audioFX", loaded="true", name=tag
        )
        self.switch(device, "Enabled", "true", name="On/Off")
        return device

    def _band(self, equaliser: ElementTree.Element, band: Band, place: int) -> None:
        element = ElementTree.SubElement(
            equaliser, "Band", type=_BAND_TYPES[band.kind], order=str(place)
        )
        self.number(element, "Freq", band.freq_hz, "hertz", name=f"Band {place + 1} Frequency")
        if band.kind not in ("highpass", "lowpass"):
            self.number(element, "Gain", band.gain_db, "decibel", name=f"Band {place + 1} Gain")
        self.number(element, "Q", band.q, "linear", name=f"Band {place + 1} Q")
        self.switch(element, "Enabled", "true", name=f"Band {place + 1} On/Off")

    def _compressor(
        self, devices: ElementTree.Element, dynamics: Dynamics, output_db: float
    ) -> None:
        """Add a compressor; what a threshold cannot reach is a gain before it, undone behind."""
        low_db, high_db = _THRESHOLDS_DB
        threshold_db = min(max(dynamics.threshold_db, low_db), high_db)
        input_db = threshold_db - dynamics.threshold_db
        device = self._device(devices, "Compressor")
        self.number(device, "Attack", dynamics.attack_ms / 1_000, "seconds", name="Attack")
        self.switch(device, "AutoMakeup", "false", name="Auto Makeup")
        self.number(device, "InputGain", input_db, "decibel", name="Input Gain")
        self.number(device, "OutputGain", output_db - input_db, "decibel", name="Output Gain")
        percent, limits = 100 * dynamics.slope, {"min": "0.0", "max": "100.0"}
        self.number(device, "Ratio", percent, "percent", **limits, name="Ratio")
        self.number(device, "Release", dynamics.release_ms / 1_000, "seconds", name="Release")
        self.number(device, "Threshold", threshold_db, "decibel", name="Threshold")

    def clip(
        self, lanes: ElementTree.Element, track_id: str, name: str, file: str, length: AudioInfo
    ) -> None:
        """Add the clip of a track: a whole file, from the beginning of the song."""
        lane = self.element(lanes, "Lanes", track=track_id)
        clips = self.element(lane, "Clips")
        duration = _number(length.duration_s)
        clip = ElementTree.SubElement(
            clips,
            "Clip",
            name=printable(name),
            time="0.0",
            duration=duration,
            contentTimeUnit="seconds",
            playStart="0.0",
            playStop=duration,
        )
        audio = self.element(
            clip,
            "Audio",
            timeUnit="seconds",
            channels=str(length.channels),
            sampleRate=str(length.sample_rate_hz),
            duration=duration,
        )
        ElementTree.SubElement(audio, "File", path=file, external="false")


def _metadata(title: str) -> ElementTree.Element:
    metadata = ElementTree.Element("MetaData")
    ElementTree.SubElement(metadata, "Title").text = printable(title)
    comment = ElementTree.SubElement(metadata, "Comment")
    comment.text = f"written by mixprint {__version__}"
    return metadata


def _number(value: float) -> str:
    """Write a number without an exponent, which not every reader takes."""
    return f"{value:.9f}"


def _xml_text(element: ElementTree.Element) -> str:
    ElementTree.indent(element)
    text = ElementTree.tostring(element, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _settings_text(settings: Settings) -> str:
    return json.dumps(settings.to_values(), indent=2, sort_keys=True)


def _entry(archive: ZipFile, name: str, num_bytes: int) -> IO[bytes]:
    entry = ZipInfo(name)
    entry.file_size = num_bytes
    return archive.open(entry, "w")


def _add_text(archive: ZipFile, name: str, text: str) -> None:
    archive.writestr(ZipInfo(name), text.encode(), ZIP_DEFLATED)


def _add_room(
    archive: ZipFile,
    entry: str,
    settings: Settings,
    name: str,
    stem: Path,
    length: AudioInfo,
    progress: Progress,
) -> None:
    """Render the sound of a track's room, as it is before the master, into the archive."""
    header = float_wav_header(length.num_frames, length.sample_rate_hz)
    num_bytes = len(header) + length.num_frames * 8
    num_left = length.num_frames
    with _entry(archive, entry, num_bytes) as target:
        target.write(header)
        for wet_TC in _room_blocks(settings, name, stem, length.sample_rate_hz):
            target.write(wet_TC[:num_left].data)
            num_before = length.num_frames - num_left
            num_left -= min(len(wet_TC), num_left)
            num_after = length.num_frames - num_left
            rate_hz = length.sample_rate_hz
            progress.advance(num_after // rate_hz - num_before // rate_hz)
        while num_left > 0:
            silent_TC = np.zeros((min(num_left, _COPIED_BYTES), 2), np.float32)
            target.write(silent_TC.data)
            num_left -= len(silent_TC)


def _room_blocks(
    settings: Settings, name: str, stem: Path, sample_rate_hz: int
) -> Iterator[np.ndarray]:
    """Yield the wet sound of a track: that with its room, less that without one."""
    strip = settings.tracks[name]
    dry = strip.with_values({"room.send_db": strip.field("room.send_db").neutral}, name)

    def rendered(used: Strip) -> Iterator[np.ndarray]:
        alone = Settings({name: used}, rooms=settings.rooms)
        blocks = read_in_step([stem], sample_rate_hz)
        for block_NCT in render_blocks(blocks, alone, sample_rate_hz):
            yield block_NCT[0].numpy().T

    for with_TC, without_TC in zip(rendered(strip), rendered(dry), strict=True):
        yield np.ascontiguousarray(with_TC - without_TC, np.float32)
