"""The catalogue: what songs there are, and the rejects: what was refused, and why.

Both are Parquet tables, sorted, so that equal collections give equal bytes. Reasons in the
rejects:

==================  ==============================================================================
unsupported_format  audio of a kind that is not read, by suffix or content: convert it
unreadable          no audio (the detail says what it looks like), damaged, or not permitted
empty               no bytes, or no frames
truncated           ends before the length that its header declares, or within a frame or page
damaged             frames or pages are missing or broken, and audio with them
joined              several files in one, of different kinds or of a kind that is not read on
length_unknown      sizes that contradict each other, or a length that the decoder does not know
not_finite          NaN or infinities among the samples
sample_rate         below 4 or above 384 kHz
channel_layout      more than eight channels, or speakers that cannot be mixed down to stereo
too_short too_long  by the rules
silent dc_only      by the rules; the second one has nothing but a constant
one_channel         one side is missing: a fault of the file, and as a style an outlier
clipped             by the rules
duplicate           the same audio as another song
layout              FMA: a name that is no track number
missing_stems       MUSDB18-HQ layout: not all of mixture and stems are there
stems_mismatch      MUSDB18-HQ layout: lengths differ
settings            generated set: settings.json is missing or broken
unpaired            pairs: the partner is missing or was refused
outside             a link to a file outside of the collection, and links are not followed
==================  ==============================================================================

A URI is relative when the collection's location was given as a relative path (so a data set
inside the repository gives the same catalogue in every clone) and ``file://`` otherwise. Both
are percent-encoded from the name's bytes: any file name survives, valid text or not. Of a song in a
bucket it is ``gs://bucket/name``, the name as it is (`mixprint.collection.locations`).

The table knows the locations it was made from, in the metadata of its schema; when it is read, a
song that lies elsewhere is refused. So is an id that is no plain name: files are named after ids.
"""

import hashlib
import json
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pyarrow as pa

from mixprint.audio.inspection import Inspection, InspectionRules, inspect_audio
from mixprint.collection.sources import (
    SPLITS,
    UNKNOWN_LICENCE,
    Candidate,
    Refusal,
    find_songs,
    stem_files,
)
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.progress import progress
from mixprint.schema import checked, parse_json
from mixprint.stems import STEMS
from mixprint.storage.tables import read_table, write_table
from mixprint.text import shown

log = logging.getLogger("mixprint.ingest")

CATALOGUE_NAME = "catalogue.parquet"
REJECTS_NAME = "rejects.parquet"
LOCATIONS_KEY = b"mixprint.locations"
_PLAIN_NAME = re.compile(r"[\w-]+", re.ASCII)
# 64 bits: among a million songs two meet by chance once in 37 million collections.
TRACK_ID_DIGITS = 16
# Any text does; this one deals the ten songs of the generated set 5, 2 and 3.
SPLIT_SALT = "split-46"

CATALOGUE_SCHEMA = pa.schema(
    [
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("sample_rate_hz", pa.int32(), nullable=False),
        pa.field("channels", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("has_stems", pa.bool_(), nullable=False),
        pa.field("song", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
    ]
)
REJECTS_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Track:
    """A row of the catalogue.

    Attributes:
        track_id: from the content's SHA-256, so that a renamed file is no new song.
        title: for display.
        uri: where the mix lies, see `path_from_uri`.
        source: folder, fma, musdbhq, pairs or synthetic.
        duration_s: length as decoded.
        sample_rate_hz: rate of the file; readers convert.
        channels: channels of the file; readers convert.
        split: train, valid or test: as the collection names it, else by a hash of `song`.
        licence: as the source states it.
        has_stems: true stems lie beside the mix, see `stem_paths`.
        song: content group: `track_id`, but mixes of one composition share it.
        style: known mix style, or empty.
    """

    track_id: str
    title: str
    uri: str
    source: str
    duration_s: float
    sample_rate_hz: int
    channels: int
    split: str
    licence: str
    has_stems: bool
    song: str
    style: str


@dataclass(frozen=True)
class Reject:
    """A row of the rejects: what was refused, the reason as a slug, and a sentence."""

    uri: str
    reason: str
    detail: str


class Origin:
    """Where the files of a collection come from: in the file system they are themselves."""

    @contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """Return the file that a path of the collection means, as long as the block lasts."""
        yield path

    def uri(self, path: Path) -> str:
        """Return the URI that the catalogue has for a path."""
        return uri_of(path)

    def told(self, text: str) -> str:
        """Let a message name files as the catalogue does."""
        return text


def build_catalogue(
    source: str,
    locations: Sequence[Path],
    rules: InspectionRules,
    *,
    valid_fraction: float,
    test_fraction: float,
    licence: str = UNKNOWN_LICENCE,
    follow_links: bool = True,
    num_workers: int = 1,
    origin: "Origin | None" = None,
) -> tuple[list[Track], list[Reject]]:
    """Decode every song of a collection once, and take or refuse it.

    Memory holds a few blocks of audio per worker, however long the songs and many the files.

    Args:
        source: folder, fma, musdbhq, pairs or synthetic.
        locations: the collection's folder; for pairs the folder of raw mixes, then of finished.
        rules: when a song is refused.
        valid_fraction: part of the songs, by their hash, in the validation split.
        test_fraction: part of the songs in the test split.
        licence: what is noted where the source itself states nothing.
        follow_links: also take links to files outside of the locations.
        num_workers: threads that decode; the result does not depend on it.
        origin: where the files in `locations` come from; None: they are themselves.

    Returns:
        tracks by `track_id`, rejects by `uri`.

    Raises:
        DataError: see `mixprint.collection.sources.find_songs`.
    """
    origin = origin or Origin()
    candidates, refusals = find_songs(source, locations, licence, follow_links=follow_links)
    taken: list[tuple[Candidate, Track]] = []
    first_paths: dict[str, Path] = {}

    def inspect(candidate: Candidate) -> Inspection | AudioError:
        try:
            with origin.opened(candidate.path) as path:
                return inspect_audio(path, rules)
        except AudioError as error:
            return error

    results = _map_in_order(inspect, candidates, num_workers)
    reported = progress(results, len(candidates), "ingested", "songs", log)
    for candidate, result in zip(candidates, reported, strict=True):
        if isinstance(result, AudioError):
            refusals.append(Refusal(candidate.path, result.reason, result.detail))
            continue
        track_id = result.content_sha256[:TRACK_ID_DIGITS]
        if track_id in first_paths:
            detail = f"{shown(candidate.path)}: same audio as {shown(first_paths[track_id])}"
            refusals.append(Refusal(candidate.path, "duplicate", detail))
            continue
        first_paths[track_id] = candidate.path
        uri = origin.uri(candidate.path)
        taken.append((candidate, _track(source, candidate, uri, track_id, result)))
    if source == "pairs":
        taken = _whole_pairs(taken, refusals)
    splits = _splits(taken, valid_fraction, test_fraction)
    tracks = [replace(track, split=splits[track.song]) for _, track in taken]
    rejects = [Reject(origin.uri(r.path), r.reason, origin.told(r.detail)) for r in refusals]
    _log_summary(tracks, rejects)
    return (
        sorted(tracks, key=lambda track: track.track_id),
        sorted(rejects, key=lambda reject: (reject.uri, reject.reason, reject.detail)),
    )


def check_reject_fraction(
    tracks: Sequence[Track], rejects: Sequence[Reject], max_fraction: float
) -> None:
    """Fail when too much was refused, or nothing is left; call it after the tables are written.

    Raises:
        DataError: with the counts by reason.
    """
    num_found = len(tracks) + len(rejects)
    if num_found == 0:
        raise DataError("expected songs in the collection, found no audio file")
    reasons = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejects).items())
    if not tracks:
        raise DataError(f"expected at least one usable song, found {num_found} rejects: {reasons}")
    if len(rejects) > max_fraction * num_found:
        raise DataError(
            f"expected at most {max_fraction:.0%} rejects, found {len(rejects)} of {num_found}: "
            f"{reasons}"
        )


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Count rejects by reason, the most frequent first."""
    counts = Counter(reject.reason for reject in rejects)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def split_of(song: str, valid_fraction: float, test_fraction: float) -> str:
    """Deal a song to a split by its hash alone, so that a growing collection moves no song.

    Test takes the lowest hashes and validation the next, so changing the validation fraction
    moves no song into or out of test.

    Raises:
        ValueError: the fractions are negative or leave nothing for training.
    """
    if valid_fraction < 0 or test_fraction < 0 or valid_fraction + test_fraction >= 1:
        raise ValueError(f"fractions must be >= 0 and sum < 1: {valid_fraction=}, {test_fraction=}")
    position = _position(song)
    if position < test_fraction:
        return "test"
    return "valid" if position < test_fraction + valid_fraction else "train"


def deal_splits(
    songs: Sequence[str], valid_fraction: float, test_fraction: float
) -> dict[str, str]:
    """Deal songs by their hashes, and see that a small collection can be used at all.

    A handful of songs can leave a split without any, and then there is nothing to validate or
    to test with. Such a split gets one song of the largest one, with a warning. In a collection
    of ordinary size this does not happen, and only hashes count.

    Args:
        songs: distinct content groups.
        valid_fraction: see `split_of`; a split with fraction 0 stays empty.
        test_fraction: see `split_of`.

    Returns:
        song -> split.
    """
    splits = {song: split_of(song, valid_fraction, test_fraction) for song in songs}
    fractions = {
        "train": 1 - valid_fraction - test_fraction,
        "valid": valid_fraction,
        "test": test_fraction,
    }
    for empty in SPLITS:
        sizes = Counter(splits.values())
        if fractions[empty] == 0 or sizes[empty] or max(sizes.values(), default=0) < 2:
            continue
        largest = max(SPLITS, key=lambda split: sizes[split])
        moved = min((s for s in splits if splits[s] == largest), key=_position)
        splits[moved] = empty
        log.warning(
            "only %d songs: %s was empty and takes %s from %s", len(songs), empty, moved, largest
        )
    return splits


def shard_of(track_id: str, num_shards: int) -> int:
    """Deal a song to a shard, by its id alone.

    Raises:
        ValueError: num_shards is not positive.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards must be >= 1, got {num_shards}")
    return _hash64(f"shard:{track_id}") % num_shards


def uri_of(path: Path) -> str:
    """Write a path as a URI reference: relative if the path is, else ``file://``."""
    encoded = quote_from_bytes(os.fsencode(path), safe="/")
    return f"file://{encoded}" if path.is_absolute() else encoded


def path_from_uri(uri: str) -> Path:
    """Read a URI of the catalogue; a relative one counts from the working directory.

    Raises:
        DataError: it names something that is not in the file system.
    """
    if uri.startswith("file:///"):
        uri = uri.removeprefix("file://")
    elif ":" in uri:
        raise DataError(f"{uri}: expected file:// or a relative URI")
    return Path(os.fsdecode(unquote_to_bytes(uri)))


def stem_paths(track: Track) -> dict[str, Path]:
    """Find a track's true stems, by name, in the order of `STEMS`.

    Raises:
        DataError: the track has none, or they are gone.
    """
    if not track.has_stems:
        raise DataError(f"track {track.track_id} ({track.uri}): has no true stems")
    files = stem_files(path_from_uri(track.uri).parent)
    if missing := [stem for stem in STEMS if stem not in files]:
        raise DataError(f"track {track.track_id} ({track.uri}): stems {missing} are gone")
    return {stem: files[stem] for stem in STEMS}


def write_catalogue(
    folder: Path,
    tracks: Sequence[Track],
    rejects: Sequence[Reject],
    *,
    locations: Sequence[str] = (".",),
) -> None:
    """Write both tables into a folder, each whole or not at all.

    Args:
        folder: receives them.
        tracks: the songs.
        rejects: what was refused.
        locations: URIs of the folders of the songs; default: below the working directory.
    """
    stated = {LOCATIONS_KEY: json.dumps(list(locations))}
    for name, rows, schema in (
        (REJECTS_NAME, rejects, REJECTS_SCHEMA),
        (CATALOGUE_NAME, tracks, CATALOGUE_SCHEMA.with_metadata(stated)),
    ):
        write_table(folder / name, pa.Table.from_pylist([asdict(row) for row in rows], schema))


def read_catalogue(folder: Path) -> list[Track]:
    """Read the songs.

    Raises:
        DataError: the table is missing, unreadable or has other columns; or a song lies outside of
            the locations that the table was made from, or its id is no plain name.
    """
    path = folder / CATALOGUE_NAME
    table = _read_table(path, CATALOGUE_SCHEMA)
    tracks = [Track(**row) for row in table.to_pylist()]
    stated = (table.schema.metadata or {}).get(LOCATIONS_KEY)
    if stated is None:
        raise DataError(f"{path}: expected the locations of its songs, found none: ingest again")
    locations = _stated_locations(path, stated)
    for track in tracks:
        if not any(_is_inside(track.uri, location) for location in locations):
            raise DataError(f"{path}: expected songs in {list(locations)}, found {track.uri}")
        if _PLAIN_NAME.fullmatch(track.track_id) is None:
            raise DataError(f"{path}: expected plain names as ids, found {track.track_id!r}")
    return tracks


def _stated_locations(path: Path, stated: bytes) -> tuple[str, ...]:
    """Read the locations out of the table's metadata."""
    try:
        locations: tuple[str, ...] = checked("locations", parse_json(stated, path), tuple[str, ...])
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    return locations


def _is_inside(uri: str, location: str) -> bool:
    """Tell by the texts alone whether a song lies in a location, or deeper."""
    parts = unquote_to_bytes(uri).split(b"/")
    root = unquote_to_bytes(location).removesuffix(b"/").split(b"/")
    if root == [b"."] and ":" not in uri:
        root = []  # relative URIs do not begin with the working directory
    rest = parts[len(root) :]
    return parts[: len(root)] == root and bool(rest) and not {b"", b".", b".."} & set(rest)


def read_rejects(folder: Path) -> list[Reject]:
    """Read the rejects.

    Raises:
        DataError: the table is missing, unreadable or has other columns.
    """
    table = _read_table(folder / REJECTS_NAME, REJECTS_SCHEMA)
    return [Reject(**row) for row in table.to_pylist()]


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    table = read_table(path)
    if not table.schema.equals(schema):
        raise DataError(f"{path}: expected columns {schema.names}, found {table.schema.names}")
    return table


def _track(
    source: str, candidate: Candidate, uri: str, track_id: str, inspection: Inspection
) -> Track:
    """Describe a song that was taken; the split follows when the groups are known."""
    return Track(
        track_id=track_id,
        title=candidate.title,
        uri=uri,
        source=source,
        duration_s=inspection.info.duration_s,
        sample_rate_hz=inspection.info.sample_rate_hz,
        channels=inspection.info.channels,
        split="",
        licence=candidate.licence,
        has_stems=candidate.has_stems,
        song=candidate.song or track_id,
        style=candidate.style,
    )


def _splits(
    taken: Sequence[tuple[Candidate, Track]], valid_fraction: float, test_fraction: float
) -> dict[str, str]:
    """Assign each song the split that its collection names, and deal the others.

    Raises:
        DataError: mixes of one song are in several splits.
    """
    named: dict[str, str] = {}
    for candidate, track in taken:
        if candidate.split and named.setdefault(track.song, candidate.split) != candidate.split:
            raise DataError(
                f"{shown(candidate.path)}: expected song {track.song} in one split, found "
                f"{named[track.song]} and {candidate.split}"
            )
    others = sorted({track.song for _, track in taken} - named.keys())
    return {**deal_splits(others, valid_fraction, test_fraction), **named}


def _whole_pairs(
    taken: Sequence[tuple[Candidate, Track]], refusals: list[Refusal]
) -> list[tuple[Candidate, Track]]:
    """Assign both mixes of a pair one song, that of the finished mix; refuse those left alone."""
    sizes = Counter(candidate.pair for candidate, _ in taken)
    songs = {
        candidate.pair: track.track_id for candidate, track in taken if candidate.style == "mixed"
    }
    whole = []
    for candidate, track in taken:
        if sizes[candidate.pair] == 2:
            whole.append((candidate, replace(track, song=songs[candidate.pair])))
        else:
            detail = f"{shown(candidate.path)}: its partner was refused"
            refusals.append(Refusal(candidate.path, "unpaired", detail))
    return whole


def _map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result]:
    """Call a function in threads, give the results in the order of the items, hold only a few.

    Threads are enough: decoding, hashing and NumPy release the interpreter's lock.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="ingest") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 4 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _position(song: str) -> float:
    """Place a song between 0 and 1."""
    return _hash64(f"{SPLIT_SALT}:{song}") / 2.0**64


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _log_summary(tracks: Sequence[Track], rejects: Sequence[Reject]) -> None:
    counts = Counter(track.split for track in tracks)
    log.info(
        "took %d songs (%s), refused %d",
        len(tracks),
        ", ".join(f"{split} {counts[split]}" for split in SPLITS),
        len(rejects),
    )
    for reason, count in count_reasons(rejects).items():
        log.info("refused as %s: %d", reason, count)
