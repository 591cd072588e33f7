"""Songs for transfers, found before they are read, so that a finished transfer reads none.

Shape suffixes: S stem, C channel, T sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.inspection import content_sha256
from mixprint.audio.resampling import resampling_notes
from mixprint.collection.catalogue import Track, path_from_uri
from mixprint.collection.locations import fetched_song
from mixprint.collection.shards import SegmentRef, read_index, read_row, read_segment, recipe_of
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.fingerprint import file_sha256, fingerprint
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.bucket import is_bucket
from mixprint.text import shown
from mixprint.transfer.excerpts import Segment, hear, load_segment, load_whole
from mixprint.transfer.layout import MIXTURE_NAME
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.stem_store import float_file, read_stem_files, separate_once, store_song

if TYPE_CHECKING:
    from mixprint.separation import Separator

DIGITS_IN_FOLDER = 16


class Song(Protocol):
    """A song, known but not yet read; it may travel to another process."""

    @property
    def title(self) -> str:
        """Return its name for people and folders."""
        ...

    @property
    def separator(self) -> Mapping[str, Any]:
        """Return the fingerprint of what makes or made its stems."""
        ...

    def inputs(self) -> list[Path]:
        """Name the files here that it is read from and that must stay."""
        ...

    def identity(self, settings: Hyperparameters, *, whole: bool) -> Mapping[str, Any]:
        """Return JSON-able values that are equal for equal audio and stems."""
        ...

    def folder(self, settings: Hyperparameters, *, whole: bool) -> str:
        """Name the folder that keeps its stems meanwhile."""
        ...

    def load(
        self,
        settings: Hyperparameters,
        separator: "Separator | None",
        scratch: Path,
        *,
        whole: bool,
    ) -> Segment:
        """Read what is heard of it.

        Args:
            settings: which segments.
            separator: on whose fingerprint its own depends.
            scratch: holds the folders of all songs; they must stay while the segment is used.
            whole: bring its whole length too.

        Raises:
            AudioError, DataError: it cannot be used.
        """
        ...


@dataclass(frozen=True)
class FileSong:
    """A song that is separated.

    Attributes:
        path: the file.
        content: its SHA-256.
        separator: fingerprint of the separator.
    """

    path: Path
    content: str
    separator: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Return the name of the file."""
        return shown(self.path.stem)

    def inputs(self) -> list[Path]:
        """Name the file."""
        return [self.path]

    def identity(self, settings: Hyperparameters, *, whole: bool) -> Mapping[str, Any]:  # noqa: ARG002 - the settings are hashed beside it
        """Return the content."""
        return {"content": self.content}

    def folder(self, settings: Hyperparameters, *, whole: bool) -> str:
        """Name the folder by what is separated of which content, and how."""
        part = None if whole else [settings.segment_offset, settings.segment_duration]
        values = {"content": self.content, "separator": dict(self.separator), "part": part}
        return fingerprint(values)[:DIGITS_IN_FOLDER]

    def load(
        self,
        settings: Hyperparameters,
        separator: "Separator | None",
        scratch: Path,
        *,
        whole: bool,
    ) -> Segment:
        """Separate it, unless its folder holds its stems."""
        assert separator is not None, "SongFinder finds such a song only with a separator"
        folder = scratch / self.folder(settings, whole=whole)
        if whole:
            return load_whole(self.path, settings, separator, folder)
        separate = partial(separate_once, folder, separator.separate)
        return load_segment(self.path, settings, separate, self.separator)


@dataclass(frozen=True)
class StoredSong:
    """A track of the catalogue whose stems lie in shards.

    A single segment is the stored one that starts nearest to the offset asked for, so that no
    song of the pipeline is separated twice.

    Attributes:
        track: the track.
        references: its segments, in the order of time.
        separator: fingerprint of what made the stems.
        made_from: fingerprints of its shards: of how the stems were made (checkpoint and code,
            window, overlap, precision) and stored.
    """

    track: Track
    references: tuple[SegmentRef, ...]
    separator: Mapping[str, Any]
    made_from: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return the title in the catalogue."""
        return self.track.title

    def inputs(self) -> list[Path]:
        """Name its file if it is here."""
        path = None if is_bucket(self.track.uri) else _local_file(self.track.uri)
        return [] if path is None else [path]

    def identity(self, settings: Hyperparameters, *, whole: bool) -> Mapping[str, Any]:
        """Return the track, where the segments start that are read, and how they were made.

        Whether its file can be used counts too: without it the stems' sum stands for the song.
        """
        used = self.references if whole else (self._nearest(settings),)
        return {
            "track_id": self.track.track_id,
            "starts_s": [r.start_s for r in used],
            "made_from": list(self.made_from),
            "has_mixture": is_bucket(self.track.uri) or self._is_as_ingested,
        }

    def folder(self, settings: Hyperparameters, *, whole: bool) -> str:
        """Name the folder by the segments."""
        values = {
            "identity": dict(self.identity(settings, whole=whole)),
            "separator": dict(self.separator),
        }
        return fingerprint(values)[:DIGITS_IN_FOLDER]

    def load(
        self,
        settings: Hyperparameters,
        separator: "Separator | None",  # noqa: ARG002 - its stems are there
        scratch: Path,
        *,
        whole: bool,
    ) -> Segment:
        """Read the stems from the shards."""
        path, lack = _local_path(self.track.uri, scratch), "is not here"
        is_fetched = is_bucket(self.track.uri)
        if path and not (self._holds_track(path) if is_fetched else self._is_as_ingested):
            path, lack = None, "has changed since it was ingested"
        if whole:
            segment = self._whole(settings, path, scratch / self.folder(settings, whole=True))
        else:
            segment = self._single(settings, path)
        notes = segment.notes + resampling_notes(
            self.title, self.track.sample_rate_hz, SAMPLE_RATE_HZ
        )
        if path is None:
            notes += (f"{self.title}: {self.track.uri} {lack}; its original is its stems' sum",)
        return replace(
            segment,
            title=self.title,
            separator=self.separator,
            notes=notes,
        )

    @cached_property
    def _is_as_ingested(self) -> bool:
        """Answer, found out once because the file is read, to whether it sounds as its stems do."""
        return any(self._holds_track(path) for path in self.inputs())

    def _holds_track(self, path: Path) -> bool:
        try:
            return content_sha256(path).startswith(self.track.track_id)
        except AudioError:
            return False

    def _nearest(self, settings: Hyperparameters) -> SegmentRef:
        offset_s = settings.segment_offset
        return min(self.references, key=lambda r: (abs(r.start_s - offset_s), r.start_s))

    def _single(self, settings: Hyperparameters, path: Path | None) -> Segment:
        reference = self._nearest(settings)
        wanted_samples = round(settings.segment_duration * SAMPLE_RATE_HZ)
        stems_SCT = read_segment(reference)[..., :wanted_samples]
        length_s = stems_SCT.shape[-1] / SAMPLE_RATE_HZ
        notes = []
        if reference.start_s != settings.segment_offset or length_s < settings.segment_duration:
            notes.append(
                f"{self.title}: {length_s:.2f} s from {reference.start_s:.2f} s on, "
                "the nearest segment whose stems are stored"
            )
        audio_CT = (
            stems_SCT.sum(0)
            if path is None
            else read_audio(path, start_s=reference.start_s, duration_s=length_s)
        )
        return Segment(
            self.track.uri, self.title, audio_CT, stems_SCT, self.separator, tuple(notes)
        )

    def _whole(self, settings: Hyperparameters, path: Path | None, folder: Path) -> Segment:
        last = self.references[-1]
        num_declared = round(last.start_s * SAMPLE_RATE_HZ) + read_segment(last).shape[-1]
        song = path or folder / MIXTURE_NAME
        whole, power_SN = store_song(song, folder, num_declared, self._blocks())
        if path is None and not song.is_file():
            with float_file(song, num_declared) as mixture:
                for stems_SCT in read_stem_files(folder):
                    mixture.add(stems_SCT.sum(0))
        return hear(self.track.uri, whole, power_SN, settings)

    def _blocks(self) -> Iterator[Tensor]:
        """Return the stems without the parts in which segments overlap."""
        num_samples = 0
        for reference in self.references:
            start = round(reference.start_s * SAMPLE_RATE_HZ)
            if start > num_samples:
                raise DataError(
                    f"{self.title}: expected stored segments without gaps, found none from "
                    f"{num_samples / SAMPLE_RATE_HZ:.2f} s to {reference.start_s:.2f} s"
                )
            stems_SCT = read_segment(reference)[..., num_samples - start :]
            num_samples += stems_SCT.shape[-1]
            yield stems_SCT


class SongFinder:
    """Finds songs by track_id in the stem shards, or by path, to be separated."""

    def __init__(
        self,
        *,
        tracks: Sequence[Track] = (),
        stems_dir: Path | None = None,
        separator: Mapping[str, Any] | None = None,
    ) -> None:
        """Index what there is.

        Args:
            tracks: the catalogue.
            stems_dir: folder of the stem shards; without it songs come by path only.
            separator: fingerprint of the separator for songs that come by path.
        """
        self._tracks = {track.track_id: track for track in tracks}
        self._separator = separator
        self._found: dict[str, Song] = {}
        self._references: dict[str, list[SegmentRef]] = {}
        for reference in read_index(stems_dir) if stems_dir is not None else []:
            self._references.setdefault(reference.track_id, []).append(reference)

    @property
    def tracks_with_stems(self) -> list[Track]:
        """The tracks of the catalogue whose stems are stored, by track_id."""
        return [self._tracks[i] for i in sorted(self._tracks.keys() & self._references.keys())]

    def find(self, name: str) -> Song:
        """Find a song.

        Args:
            name: a track_id of the catalogue, else a path.

        Raises:
            DataError: there is neither such a track with stems nor such a file.
            ConfigError: it is a path and there is no separator.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Song:
        if name in self._tracks and name in self._references:
            references = sorted(self._references[name], key=lambda r: r.start_s)
            return _stored_song(self._tracks[name], references)
        path = Path(name)
        if not path.is_file():
            raise DataError(
                f"{shown(name)}: expected an audio file, or the track_id of a song with stored "
                "stems, found neither"
            )
        if self._separator is None:
            raise ConfigError(
                f"{shown(name)}: expected a separator for a song given by path, got none"
            )
        return FileSong(path, file_sha256(path), self._separator)


def _stored_song(track: Track, references: Sequence[SegmentRef]) -> StoredSong:
    row = read_row(references[0])
    if row["sample_rate_hz"] != SAMPLE_RATE_HZ:
        raise DataError(
            f"{references[0].shard_path}: expected stems at {SAMPLE_RATE_HZ} Hz, "
            f"found {row['sample_rate_hz']} Hz"
        )
    separator = {
        key.removeprefix("separator_"): value
        for key, value in row.items()
        if key.startswith("separator_")
    }
    shards = dict.fromkeys(reference.shard_path for reference in references)
    made_from = tuple(recipe_of(path) for path in shards)
    return StoredSong(track, tuple(references), separator, made_from)


def _local_path(uri: str, scratch: Path) -> Path | None:
    """Return a track's file if it is here or in a bucket: only its stems need to be."""
    return fetched_song(uri, scratch) if is_bucket(uri) else _local_file(uri)


def _local_file(uri: str) -> Path | None:
    """Return a track's file if it is here."""
    try:
        path = path_from_uri(uri)
    except DataError:
        return None
    return path if path.is_file() else None
