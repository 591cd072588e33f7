"""Stem segments in sharded Parquet.

A shard is one Parquet file with one row per segment and one row group per row, so that one
stem of one segment is one contiguous piece of the file: reading it touches the footer and that
piece. Samples are int16 PCM, little endian, interleaved (left, right, left, ...), as binary
columns with zstd: lists of numbers read several times slower.

Beside each finished shard lies ``<shard>.done.json`` with the fingerprint of what it was made
from, the recipe that all shards of the set have in common, what was measured on whole songs
(`StemShardWriter.report`), and which songs were left out and why (`StemShardWriter.reject`); a
shard without its marker is not finished, whatever it looks like. ``<shard>.index.parquet`` has all
columns but the stems: who lists the segments of many shards need not read their footers, which
describe every stem of every segment.

A folder may stand for one in a bucket (`mixprint.collection.remote_shards`): then segments are read
from there.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mixprint.collection.catalogue import hash64
from mixprint.collection.remote_shards import (
    ShardInBucket,
    index_path,
    shard_in_bucket,
    stands_for_bucket,
)
from mixprint.errors import AudioError, DataError
from mixprint.schema import WithOthers, as_record
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, STEMS
from mixprint.storage.atomic import atomic_path, read_json, remove_exactly, write_json
from mixprint.storage.claims import ClaimLostError
from mixprint.storage.tables import read_table, write_table

log = logging.getLogger("mixprint.shards")

SCHEMA_VERSION = 1
DONE_SUFFIX = ".done.json"
FRAME_BYTES = 2 * NUM_CHANNELS
FULL_SCALE = 32_768
MAX_PCM = FULL_SCALE - 1

SCHEMA = pa.schema(
    [
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("sample_rate_hz", pa.int32(), nullable=False),
        *(pa.field(stem, pa.binary(), nullable=False) for stem in STEMS),
        pa.field("gain", pa.float64(), nullable=False),
        pa.field("separator_model", pa.string(), nullable=False),
        pa.field("separator_checkpoint_sha256", pa.string(), nullable=False),
        pa.field("separator_code_version", pa.string(), nullable=False),
    ],
    metadata={b"mixprint.stem_shard": str(SCHEMA_VERSION).encode()},
)
SMALL_COLUMNS = [field.name for field in SCHEMA if field.name not in STEMS]
_INDEX_COLUMNS = ["track_id", "segment", "start_s", "sample_rate_hz"]

_NAME = re.compile(r"shard-(\d{5})-of-(\d{5})\.parquet")


@dataclass(frozen=True)
class SeparatorFingerprint:
    """Fingerprint of what the stems of a shard were made with; stored in every row.

    Attributes:
        model: name of the architecture, or ``true_stems`` where nothing was estimated.
        checkpoint_sha256: SHA-256 of the weights; empty for true stems.
        code_version: see `mixprint.fingerprint.code_version`.
    """

    model: str
    checkpoint_sha256: str
    code_version: str


@dataclass(frozen=True)
class SegmentRef:
    """Reference to a segment: its place, and which one it is.

    Attributes:
        shard_path: the Parquet file.
        row_group: index of its row group, which holds this segment alone.
        track_id: the song.
        segment: index of the segment in the song, from 0.
        start_s: where it starts in the song, in seconds.
    """

    shard_path: Path
    row_group: int
    track_id: str
    segment: int
    start_s: float


class StemShardWriter:
    """Append segments to a shard that is being written (see `write_shard`)."""

    def __init__(
        self, writer: pq.ParquetWriter, sample_rate_hz: int, separator: SeparatorFingerprint
    ) -> None:
        """Keep what is the same for every row."""
        self._writer = writer
        self._sample_rate_hz = sample_rate_hz
        self._separator = separator
        self._rows: list[dict[str, object]] = []
        self.reports: dict[str, Mapping[str, float]] = {}
        self.rejects: dict[str, Mapping[str, str]] = {}

    @property
    def num_segments(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def write(self, track_id: str, segment: int, start_s: float, stems_SCT: Tensor) -> None:
        """Append one segment.

        All stems share one gain, so that their balance survives: it is 1 unless a sample exceeds
        full scale.

        Args:
            track_id: the song.
            segment: index of the segment in the song.
            start_s: where it starts in the song, in seconds.
            stems_SCT: stereo stems in the order of `STEMS`, full scale +-1.

        Raises:
            ValueError: stems_SCT has another shape.
            DataError: a sample is NaN or infinite.
        """
        if stems_SCT.ndim != 3 or stems_SCT.shape[:2] != (NUM_STEMS, NUM_CHANNELS):
            raise ValueError(f"stems_SCT must be (4, 2, T), got {tuple(stems_SCT.shape)}")
        samples_STC = stems_SCT.detach().to("cpu", torch.float64).transpose(1, 2).numpy()
        if not np.isfinite(samples_STC).all():
            raise DataError(f"track {track_id}, segment {segment}: stems hold NaN or infinities")
        gain = pcm_gain(samples_STC)
        pcm_STC = np.rint(samples_STC * (gain * FULL_SCALE)).astype("<i2")
        row: dict[str, object] = {
            "track_id": track_id,
            "segment": segment,
            "start_s": start_s,
            "sample_rate_hz": self._sample_rate_hz,
            "gain": gain,
            "separator_model": self._separator.model,
            "separator_checkpoint_sha256": self._separator.checkpoint_sha256,
            "separator_code_version": self._separator.code_version,
        }
        pcm = {stem: pcm_TC.tobytes() for stem, pcm_TC in zip(STEMS, pcm_STC, strict=True)}
        self._writer.write_table(pa.Table.from_pylist([row | pcm], SCHEMA), row_group_size=1)
        self._rows.append(row)

    def report(self, track_id: str, values: Mapping[str, float]) -> None:
        """Keep what was measured on a whole song; it goes into the shard's marker.

        Args:
            track_id: the song.
            values: name -> value; finite.
        """
        self.reports[track_id] = dict(values)
        shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
        log.info("track %s: %s", track_id, shown)

    def reject(self, track_id: str, error: AudioError) -> None:
        """Leave out a song that cannot be separated, with what was written of it.

        Args:
            track_id: the song.
            error: why not; it goes into the shard's marker.
        """
        self.rejects[track_id] = {"reason": error.reason, "detail": error.detail}
        log.warning("left out track %s: %s", track_id, error)

    def finish(self, path: Path) -> None:
        """Take the rows of rejected songs out of the closed file that was written to."""
        kept = [n for n, row in enumerate(self._rows) if row["track_id"] not in self.rejects]
        if len(kept) < len(self._rows):
            whole = pq.ParquetFile(path, page_checksum_verification=True)
            rest = path.with_name(f"{path.name}-rest")
            with _parquet_writer(rest) as parquet:
                for row in kept:
                    parquet.write_table(whole.read_row_group(row), row_group_size=1)
            rest.replace(path)
        self._rows = [self._rows[row] for row in kept]

    def index(self) -> pa.Table:
        """Return all columns but the stems."""
        schema = pa.schema([SCHEMA.field(name) for name in SMALL_COLUMNS])
        return pa.Table.from_pylist(self._rows, schema)


def _parquet_writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression={name: "zstd" if name in STEMS else "none" for name in SCHEMA.names},
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )


def pcm_gain(samples: np.ndarray) -> float:
    """Return the gain, at most 1, that brings samples inside the range of int16."""
    highest, lowest = float(samples.max(initial=0.0)), float(samples.min(initial=0.0))
    # int16 reaches one step further down than up, and 16-bit sources use that: -1.0 is exact.
    if round(highest * FULL_SCALE) <= MAX_PCM and round(lowest * FULL_SCALE) >= -FULL_SCALE:
        return 1.0
    return MAX_PCM / FULL_SCALE / max(highest, -lowest)


def shard_of(track_id: str, num_shards: int) -> int:
    """Deal a song to a shard, by its id alone.

    Raises:
        ValueError: num_shards is not positive.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards must be >= 1, got {num_shards}")
    return hash64(f"shard:{track_id}") % num_shards


def shard_name(index: int, num_shards: int) -> str:
    """Name a shard: ``shard-00003-of-00008.parquet``.

    Raises:
        ValueError: the index lies outside 0 to num_shards - 1.
    """
    if not 0 <= index < num_shards:
        raise ValueError(f"need 0 <= index < num_shards, got {index} of {num_shards}")
    return f"shard-{index:05d}-of-{num_shards:05d}.parquet"


@contextmanager
def write_shard(
    path: Path,
    *,
    fingerprint: str,
    sample_rate_hz: int,
    separator: SeparatorFingerprint,
    recipe: str = "",
    track_ids: Sequence[str] = (),
    check: Callable[[], None] = lambda: None,
) -> Iterator[StemShardWriter]:
    """Write a shard, whole or not at all; a shard without segments is a valid one.

    An older shard of this name stays, with its marker, until the new one is written.

    Args:
        path: the shard, named by `shard_name`.
        fingerprint: of inputs, parameters and checkpoint, see `is_done`.
        sample_rate_hz: rate of the stems in Hz.
        separator: what the stems are made with.
        recipe: of the set: fingerprint of the separator and its parameters, whatever the songs.
        track_ids: the songs that belong to the shard, kept in the marker; a song may give no
            segment.
        check: raises an error if the shard is not ours to publish any more, see `Claim.check`.

    Yields:
        the writer.

    Raises:
        ClaimLostError: another worker has published the shard meanwhile.
    """
    marker = done_path(path)
    replaced = marker_content(path)

    def before_rename() -> None:
        # The marker goes first: were the step killed between the two renames, a new shard would
        # carry the old one's marker. But no earlier: until then the shard may be taken over.
        check()
        take_back_marker(path, replaced)

    with atomic_path(path, before_rename) as temporary:
        with _parquet_writer(temporary) as parquet:
            writer = StemShardWriter(parquet, sample_rate_hz, separator)
            yield writer
        writer.finish(Path(temporary))
    check()
    write_table(index_path(path), writer.index())
    write_json(
        marker,
        {
            "fingerprint": fingerprint,
            "num_bytes": path.stat().st_size,
            "num_segments": writer.num_segments,
            "recipe": recipe,
            "reports": writer.reports,
            "track_ids": sorted(track_ids),
        }
        | ({"rejects": writer.rejects} if writer.rejects else {}),
    )


def take_back_marker(path: Path, replaced: bytes | None) -> None:
    """Remove the marker of a shard that is going to be replaced, and no newer one.

    Args:
        path: the shard.
        replaced: what the marker held when the work began; None: there was none.

    Raises:
        ClaimLostError: it is another one now: a faster worker has made the shard.
    """
    if not remove_exactly(done_path(path), replaced):
        raise ClaimLostError(f"{path}: another worker was faster; ours is dropped")


def marker_content(path: Path) -> bytes | None:
    """Read the marker of a shard; None if it is missing."""
    try:
        return done_path(path).read_bytes()
    except FileNotFoundError:
        return None


def done_path(path: Path) -> Path:
    """Return the name of a shard's marker."""
    return path.with_name(path.name + DONE_SUFFIX)


def is_done(path: Path, fingerprint: str, *, num_bytes: int | None = None) -> bool:
    """Tell whether a shard is whole and was made from the same things.

    A marker that is missing, broken or does not fit the file means that it is not.

    Args:
        path: the shard.
        fingerprint: of what it should be made from.
        num_bytes: its size, if it lies elsewhere than its marker.
    """
    try:
        marker = read_marker(path)
        size = path.stat().st_size if num_bytes is None else num_bytes
    except (DataError, OSError):
        return False
    return marker.fingerprint == fingerprint and marker.num_bytes == size


def recipe_of(path: Path) -> str:
    """Read the fingerprint of what a finished shard was made from, out of its marker.

    Raises:
        DataError: the marker is missing or broken.
    """
    marker = read_json(done_path(path))
    recipe = marker.get("fingerprint") if isinstance(marker, Mapping) else None
    if not isinstance(recipe, str):
        raise DataError(f"{done_path(path)}: expected a shard's marker, found something else")
    return recipe


def list_shards(folder: Path) -> list[Path]:
    """List the shards of a complete set, in order.

    Raises:
        DataError: there is none, one is missing or unfinished, sets of different sizes lie in the
            folder (after `num_shards` was changed), or shards were made by different recipes.
    """
    names = [path.name for path in folder.glob("*")]
    if stands_for_bucket(folder):
        # Of those in a bucket the markers are here.
        names = [name.removesuffix(DONE_SUFFIX) for name in names if name.endswith(DONE_SUFFIX)]
    found = {folder / name: match for name in names if (match := _NAME.fullmatch(name))}
    totals = sorted({int(match[2]) for match in found.values()})
    if len(totals) != 1:
        raise DataError(f"{folder}: expected one set of stem shards, found sets of sizes {totals}")
    paths = [folder / shard_name(index, totals[0]) for index in range(totals[0])]
    if missing := [path.name for path in paths if path not in found]:
        raise DataError(f"{folder}: expected {totals[0]} shards, missing are {missing}")
    if unfinished := [path.name for path in paths if not done_path(path).is_file()]:
        raise DataError(f"{folder}: these shards have no done marker: {unfinished}")
    _check_one_recipe(folder, paths)
    return paths


def _check_one_recipe(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse a mixture of shards: a separation with other parameters was stopped halfway."""
    first_of: dict[str, Path] = {}
    for path in paths:
        first_of.setdefault(read_marker(path).recipe, path)
    if len(first_of) > 1:
        one, other, *_ = (path.name for path in first_of.values())
        raise DataError(
            f"{folder}: expected shards that were separated with the same parameters, found "
            f"{len(first_of)} recipes: that of {one} is not that of {other}; run the step separate "
            "to its end"
        )


def is_of_other_set(name: str, num_shards: int) -> bool:
    """Tell whether a name is that of a shard of a set of another size."""
    match = _NAME.fullmatch(name)
    return match is not None and int(match[2]) != num_shards


def remove_other_shards(folder: Path, num_shards: int) -> list[Path]:
    """Remove the shards of sets of another size, which would mix with the present one.

    Returns:
        the shards that were removed.
    """
    others = [path for path in sorted(folder.glob("*")) if is_of_other_set(path.name, num_shards)]
    for path in others:
        # Several workers may clear away the same set.
        for part in (done_path(path), index_path(path), path):
            part.unlink(missing_ok=True)
    return others


def read_index(folder: Path) -> list[SegmentRef]:
    """List all segments of a complete set, by shard and row; no audio is read.

    Raises:
        DataError: see `list_shards`; or a shard is unreadable, has another schema, or stems of
            several rates.
    """
    references: list[SegmentRef] = []
    expected_hz: int | None = None
    for path in list_shards(folder):
        marker = read_marker(path)
        if path.is_file() and path.stat().st_size != marker.num_bytes:
            with _reading(path, "the index"):
                _open(path)  # what is no shard at all is told as such
            raise DataError(
                f"{path}: expected {marker.num_bytes} bytes as its marker says, found "
                f"{path.stat().st_size}: it is damaged; start the step separate again, which makes "
                "it anew"
            )
        rows = _index_rows(path, marker)
        for group, row in enumerate(rows):
            rate_hz = row.pop("sample_rate_hz")
            if rate_hz != (expected_hz := expected_hz or rate_hz):
                raise DataError(
                    f"{path}: row group {group}, song {row['track_id']}: expected stems at "
                    f"{expected_hz} Hz as in the rows before, found {rate_hz} Hz"
                )
            references.append(SegmentRef(path, group, **row))
    return references


def _index_rows(path: Path, marker: "ShardMarker") -> list[dict[str, Any]]:
    """Read what the index says, or where it is missing or damaged, the shard itself."""
    index = index_path(path)
    if index.is_file():
        try:
            table = read_table(index)
        except DataError as error:
            log.warning("%s; reading the shard instead", error)
        else:
            if table.num_rows == marker.num_segments and set(_INDEX_COLUMNS) <= set(
                table.column_names
            ):
                return table.select(_INDEX_COLUMNS).to_pylist()
    with _reading(path, "the index"):
        rows: list[dict[str, Any]] = _open(path).read(columns=_INDEX_COLUMNS).to_pylist()
    if len(rows) != marker.num_segments:
        raise DataError(
            f"{path}: expected {marker.num_segments} segments as its marker says, found "
            f"{len(rows)}: it is damaged; remove it and start the step separate again"
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class RejectedSong:
    """Why a song is not in its shard: the reason as a slug, and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class ShardMarker(WithOthers):
    """Content of a shard's marker.

    Attributes:
        fingerprint: of what it is made from.
        num_bytes: its size.
        num_segments: its rows.
        recipe: that of all shards of its set.
        track_ids: the songs that belong to it.
        rejects: those that are not in it.
    """

    fingerprint: str
    num_bytes: int
    num_segments: int
    recipe: str = ""
    track_ids: tuple[str, ...] = ()
    rejects: Mapping[str, RejectedSong] = field(default_factory=dict)


def read_marker(path: Path) -> ShardMarker:
    """Read the marker of a shard.

    Raises:
        DataError: it is missing or broken.
    """
    marker = done_path(path)
    return as_record(read_json(marker), marker, ShardMarker)


def check_songs(references: Iterable[SegmentRef], known: Container[str]) -> None:
    """Refuse segments of songs that the catalogue does not have.

    Args:
        references: from `read_index`.
        known: ids of the catalogue's songs.

    Raises:
        DataError: a segment is of another song.
    """
    for reference in references:
        if reference.track_id not in known:
            raise DataError(
                f"{reference.shard_path}: row group {reference.row_group}: expected a song of the "
                f"catalogue, found {reference.track_id!r}; run the step separate again"
            )


def read_row(reference: SegmentRef) -> dict[str, object]:
    """Read all of a segment's columns but the stems.

    Raises:
        DataError: the shard is missing, broken or has another schema.
    """
    with _reading(reference.shard_path, f"row group {reference.row_group}"):
        shard = _open(reference.shard_path)
        rows: list[dict[str, object]] = shard.read_row_group(
            reference.row_group, columns=SMALL_COLUMNS
        ).to_pylist()
    return rows[0]


def read_segment(reference: SegmentRef, stems: Sequence[str] = STEMS) -> Tensor:
    """Read stems of one segment; the others' bytes are not touched.

    Args:
        reference: from `read_index`.
        stems: names out of `STEMS`; the result has their order.

    Returns:
        stems_SCT, float32, as loud as they were written (the gain is undone); within half a step
        of 16 bits of what was written.

    Raises:
        ValueError: an unknown stem is asked for.
        DataError: the shard is missing, broken or has another schema.
    """
    if unknown := set(stems) - set(STEMS):
        raise ValueError(f"unknown stems {sorted(unknown)}; known are {STEMS}")
    with _reading(reference.shard_path, f"row group {reference.row_group}"):
        table = _open(reference.shard_path).read_row_group(
            reference.row_group, columns=[*dict.fromkeys(stems), "gain"]
        )
    _check_row(reference, table, stems)
    scale = 1.0 / (FULL_SCALE * table.column("gain")[0].as_py())
    # Straight from Arrow's buffers to where they belong: as_py() would copy the bytes once more.
    pcm = [
        np.frombuffer(table.column(stem)[0].as_buffer(), "<i2").reshape(-1, NUM_CHANNELS)
        for stem in stems
    ]
    stems_SCT = torch.empty(len(stems), NUM_CHANNELS, len(pcm[0]))
    for x_CT, pcm_TC in zip(stems_SCT.numpy(), pcm, strict=True):
        x_CT[:] = pcm_TC.T
    return stems_SCT.mul_(scale)


def _check_row(reference: SegmentRef, table: pa.Table, stems: Sequence[str]) -> None:
    """Refuse a segment whose values cannot be audio.

    Raises:
        DataError: the gain is none, or the stems are no samples of one length.
    """
    where = f"{reference.shard_path}: row group {reference.row_group}, song {reference.track_id}"
    gain = table.column("gain")[0].as_py()
    if not 0 < gain <= 1:  # NaN, too
        raise DataError(f"{where}: expected a gain above 0 and at most 1, found {gain}")
    lengths = {stem: table.column(stem)[0].as_buffer().size for stem in stems}
    if len(set(lengths.values())) > 1 or any(n % FRAME_BYTES for n in lengths.values()):
        raise DataError(
            f"{where}: expected stems of one length in frames of {FRAME_BYTES} bytes, found "
            f"{lengths}"
        )


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn the errors of reading Parquet into one that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException, IndexError) as error:
        raise DataError(
            f"{path}: expected to read {what} of a stem shard, found: {error}"
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    """Open a shard with its footer from memory; a file that was rewritten is read anew.

    The footer describes every column of every row: parsing it costs more than one segment.
    """
    remote = shard_in_bucket(path)
    if remote is None:
        status = path.stat()
        metadata = _footer(path, status.st_mtime_ns, status.st_size, None)
    else:
        metadata = _footer(path, remote.version, remote.num_bytes, remote)
    return pq.ParquetFile(
        path if remote is None else remote.open(),
        metadata=metadata,
        # Neighbouring columns in one request; on a disk that only copies.
        pre_buffer=remote is not None,
        page_checksum_verification=True,
    )


@lru_cache(maxsize=128)
def _footer(
    path: Path, _version: int, _num_bytes: int, remote: ShardInBucket | None
) -> pq.FileMetaData:
    """Read and check a footer; the arguments with an underscore only tell versions apart."""
    file = pq.ParquetFile(path if remote is None else remote.open())
    # Not `metadata.schema`: what it gives and the metadata hold each other, and the footers of a
    # large collection would stay in memory, 10 MB each, after this cache has dropped them.
    metadata, schema = file.metadata, file.schema_arrow
    file.close()
    if not schema.equals(SCHEMA):
        raise DataError(f"{path}: expected stem shard columns {SCHEMA.names}, found {schema.names}")
    version = (schema.metadata or {}).get(b"mixprint.stem_shard")
    if version != str(SCHEMA_VERSION).encode():
        raise DataError(f"{path}: expected stem shard schema {SCHEMA_VERSION}, found {version!r}")
    return metadata
