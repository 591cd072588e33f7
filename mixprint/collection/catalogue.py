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
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pyarrow as pa

from mixprint.errors import ConfigError, DataError
from mixprint.schema import checked, parse_json
from mixprint.storage.tables import read_table, write_table

SPLITS = ("train", "valid", "test")
CATALOGUE_NAME = "catalogue.parquet"
REJECTS_NAME = "rejects.parquet"
LOCATIONS_KEY = b"mixprint.locations"
_PLAIN_NAME = re.compile(r"[\w-]+", re.ASCII)

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
        has_stems: true stems lie beside the mix.
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


def hash64(text: str) -> int:
    """Hash a text to the 64 bits by which songs are dealt."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


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
