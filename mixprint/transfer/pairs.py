"""Transfer over a table of pairs: resumable per pair, with a summary and one page for all.

    <out>/<pair id>/...      one folder per pair, see `mixprint.transfer.songs`
    <out>/summary.json       a row per pair and the medians
    <out>/report.html        all pairs

A pair that was finished with the same songs, settings, checkpoints and code is not done again.
"""

import csv
import hashlib
import logging
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixprint.atomic import read_json, write_json
from mixprint.audio import read_audio
from mixprint.catalogue import Track, path_from_uri
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.features import Standardisation
from mixprint.fingerprint import file_sha256
from mixprint.shards import SegmentRef, read_index, read_row, read_segment
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.transfer.report import write_report
from mixprint.transfer.segments import Segment, Separate, load_segment
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.songs import (
    METRICS_NAME,
    Target,
    is_done,
    transfer_fingerprint,
    transfer_segments,
)

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

log = logging.getLogger("mixprint.transfer")

COLUMNS = ("input", "target")
MAX_SLUG = 24


@dataclass(frozen=True)
class Song:
    """A song of a pair, known but not yet read.

    Attributes:
        title: for people and folder names.
        identity: JSON-able; equal for equal audio and stems.
        separator: fingerprint of what makes or made its stems.
        load: reads its segment.
    """

    title: str
    identity: Mapping[str, Any]
    separator: Mapping[str, Any]
    load: Callable[[], Segment]


@dataclass(frozen=True)
class Pair:
    """A song and the song whose mix it is to get, each by track_id or path."""

    input: str
    target: str


class SongSource:
    """Finds songs by track_id in the stem shards, or by path, to be separated.

    A track's stems are those of the one stored segment that starts nearest to the offset asked
    for, so that no song of the pipeline is separated twice.
    """

    def __init__(
        self,
        settings: Hyperparameters,
        *,
        tracks: Sequence[Track] = (),
        stems_dir: Path | None = None,
        separate: Separate | None = None,
        separator: Mapping[str, Any] | None = None,
    ) -> None:
        """Index what there is.

        Args:
            settings: which part of a song is used.
            tracks: the catalogue.
            stems_dir: folder of the stem shards; without it songs come by path only.
            separate: the separator for songs that come by path.
            separator: its fingerprint.
        """
        settings.warn_of_length()
        self._settings = settings
        self._tracks = {track.track_id: track for track in tracks}
        self._separate = separate
        self._separator = separator
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
        if name in self._tracks and name in self._references:
            return self._stored(self._tracks[name], self._references[name])
        path = Path(name)
        if not path.is_file():
            raise DataError(f"{name}: expected a track_id with stems or a file, found neither")
        if self._separate is None or self._separator is None:
            raise ConfigError(f"{name}: expected a separator for a song given by path, got none")
        content = file_sha256(path)
        load = partial(
            load_segment, path, self._settings, self._separate, self._separator, content=content
        )
        return Song(path.stem, {"content": content}, self._separator, load)

    def _stored(self, track: Track, references: list[SegmentRef]) -> Song:
        offset_s = self._settings.segment_offset
        reference = min(references, key=lambda r: (abs(r.start_s - offset_s), r.start_s))
        row = read_row(reference)
        if row["sample_rate_hz"] != SAMPLE_RATE_HZ:
            raise DataError(
                f"{reference.shard_path}: expected stems at {SAMPLE_RATE_HZ} Hz, "
                f"found {row['sample_rate_hz']} Hz"
            )
        separator = {
            key.removeprefix("separator_"): value
            for key, value in row.items()
            if key.startswith("separator_")
        }
        identity = {"track_id": track.track_id, "segment": reference.segment}
        load = partial(self._load_stored, track, reference, separator, identity)
        return Song(track.title, identity, separator, load)

    def _load_stored(
        self,
        track: Track,
        reference: SegmentRef,
        separator: Mapping[str, Any],
        identity: Mapping[str, Any],
    ) -> Segment:
        stems_SCT = read_segment(reference)
        wanted_samples = round(self._settings.segment_duration * SAMPLE_RATE_HZ)
        stems_SCT = stems_SCT[..., :wanted_samples]
        length_s = stems_SCT.shape[-1] / SAMPLE_RATE_HZ
        notes = []
        if reference.start_s != self._settings.segment_offset or length_s < (
            self._settings.segment_duration
        ):
            notes.append(
                f"{track.title}: {length_s:.2f} s from {reference.start_s:.2f} s on, "
                "the nearest segment whose stems are stored"
            )
        path = _local_path(track.uri)
        if path is not None:
            audio_CT = read_audio(path, start_s=reference.start_s, duration_s=length_s)
        else:
            audio_CT = stems_SCT.sum(0)
            notes.append(f"{track.title}: {track.uri} is not here; its original is its stems' sum")
        return Segment(
            name=track.uri,
            title=track.title,
            identity=identity,
            audio_CT=audio_CT,
            stems_SCT=stems_SCT,
            separator=separator,
            notes=tuple(notes),
        )


def _local_path(uri: str) -> Path | None:
    """Give a track's file if it is on this machine: only its stems need to be."""
    try:
        path = path_from_uri(uri)
    except DataError:
        return None
    return path if path.is_file() else None


def read_pairs(path: Path) -> list[Pair]:
    """Read a CSV with the columns `input` and `target`.

    A path in it is relative to the CSV's folder.

    Raises:
        DataError: the file is unreadable, has other columns, an empty cell, or no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV of {COLUMNS}, found: {error}") from error
    if not rows:
        raise DataError(f"{path}: expected at least one pair, found none")
    pairs = []
    for number, row in enumerate(rows, start=2):
        if not all(row.get(column) for column in COLUMNS):
            raise DataError(f"{path}, line {number}: expected values for {COLUMNS}, found {row}")
        pairs.append(Pair(*(_resolved(row[column], path.parent) for column in COLUMNS)))
    return pairs


def _resolved(name: str, folder: Path) -> str:
    """Lay a relative path into the CSV's folder; a track_id is no file there and stays."""
    candidate = folder / name
    return str(candidate) if candidate.is_file() else name


def default_pairs(tracks: Sequence[Track], num_pairs: int) -> tuple[list[Pair], str]:
    """Choose pairs of different songs from the test split; the same ones each time.

    The i-th input, in the order of track_id, gets the next track after it (round and round) that
    is another song, and of another style where styles are known. If the test split has no two
    songs, all tracks are used.

    Args:
        tracks: tracks whose stems are stored.
        num_pairs: most pairs.

    Returns:
        the pairs, and the name of the split that they come from (`test` or `all`).

    Raises:
        DataError: there are no two different songs.
    """
    ordered = sorted(tracks, key=lambda track: track.track_id)
    split, chosen = "test", [track for track in ordered if track.split == "test"]
    if len({track.song for track in chosen}) < 2:
        split, chosen = "all", ordered
    if len({track.song for track in chosen}) < 2:
        raise DataError(f"pairs: expected at least 2 different songs, found {len(chosen)} tracks")
    pairs = []
    for index, track in enumerate(chosen[:num_pairs]):
        others = [t for t in chosen[index + 1 :] + chosen[:index] if t.song != track.song]
        other_style = [t for t in others if not track.style or t.style != track.style]
        pairs.append(Pair(track.track_id, (other_style or others)[0].track_id))
    return pairs, split


def pair_id(pair: Pair, input_title: str, target_title: str) -> str:
    """Name a pair's folder: readable, and different for different pairs."""
    digest = hashlib.sha256(f"{pair.input}\0{pair.target}".encode("utf-8", "surrogateescape"))
    return f"{_slug(input_title)}-to-{_slug(target_title)}-{digest.hexdigest()[:8]}"


def _slug(title: str) -> str:
    """Keep what is safe in a folder's name on every system."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:MAX_SLUG].strip("-") or "song"


def transfer_pairs(
    pairs: Sequence[Pair],
    source: SongSource,
    out_dir: Path,
    settings: Hyperparameters,
    *,
    standardisation: Standardisation,
    encoder: "Encoder | None",
    device: torch.device | str,
) -> dict[str, Any]:
    """Transfer every pair that is not done yet, then write the summary and the page.

    A pair is done when its folder was made from the same songs, settings, checkpoints and code.
    A pair whose audio cannot be used is reported in the summary; the others go on.

    Returns:
        what summary.json holds.

    Raises:
        DataError: a song is not found.
        AudioError: not one pair could be used; the first reason.
        TrainingError: an optimisation met a value that is not finite.
    """
    finished: list[tuple[Path, dict[str, Any]]] = []
    failures: list[AudioError] = []
    rejected: list[dict[str, str]] = []
    for number, pair in enumerate(pairs, start=1):
        input_song, target_song = source.find(pair.input), source.find(pair.target)
        name = pair_id(pair, input_song.title, target_song.title)
        folder = out_dir / name
        wanted = transfer_fingerprint(
            input_song.identity,
            target_song.identity,
            input_song.separator,
            settings,
            standardisation,
            encoder,
        )
        if is_done(folder, wanted):
            log.info("pair %d/%d %s: done before", number, len(pairs), name)
            finished.append((folder, read_json(folder / METRICS_NAME)))
            continue
        try:
            metrics = transfer_segments(
                input_song.load(),
                Target.of_song(target_song.load(), encoder=encoder, device=device),
                folder,
                settings,
                standardisation=standardisation,
                encoder=encoder,
                device=device,
            )
        except AudioError as error:
            log.warning("pair %d/%d %s: rejected: %s", number, len(pairs), name, error)
            rejected.append({"pair": name, "reason": error.reason, "detail": error.detail})
            failures.append(error)
            continue
        log.info(
            "pair %d/%d %s: feature distance %.3f -> %.3f in %.0f s",
            number,
            len(pairs),
            name,
            metrics["initial_feature_distance"],
            metrics["final_feature_distance"],
            metrics["timings"]["total_s"],
        )
        finished.append((folder, metrics))
    if not finished and failures:
        raise failures[0]
    summary = summarise(finished, rejected)
    write_report(out_dir / "report.html", finished)
    write_json(out_dir / "summary.json", summary)
    return summary


def summarise(
    finished: Sequence[tuple[Path, Mapping[str, Any]]], rejected: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Gather the pairs' distances; medians are null where there is nothing to take them of."""
    rows = []
    for folder, metrics in finished:
        kept = (
            "input_audio",
            "target_audio",
            "optimize_target",
            "method",
            "converged",
            "num_steps_run",
        )
        row = {"pair": folder.name} | {key: metrics[key] for key in kept}
        for kind in ("feature", "embedding"):
            initial = metrics[f"initial_{kind}_distance"]
            final = metrics[f"final_{kind}_distance"]
            row |= {f"initial_{kind}_distance": initial, f"final_{kind}_distance": final}
            row[f"{kind}_distance_reduction"] = 1 - final / initial if initial else None
        rows.append(row | {"total_s": metrics["timings"]["total_s"]})
    return {
        "num_pairs": len(rows),
        "num_rejected": len(rejected),
        "rejected": list(rejected),
        "median_feature_distance_reduction": _median(r["feature_distance_reduction"] for r in rows),
        "median_embedding_distance_reduction": _median(
            r["embedding_distance_reduction"] for r in rows
        ),
        "pairs": rows,
    }


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
