"""Building of the catalogue: every song of a collection is decoded once, and taken or refused."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mixprint.audio.inspection import Inspection, InspectionRules, inspect_audio
from mixprint.collection.catalogue import SPLITS, Reject, Track, hash64, uri_of
from mixprint.collection.sources import (
    UNKNOWN_LICENCE,
    Candidate,
    Refusal,
    find_songs,
)
from mixprint.errors import AudioError, DataError
from mixprint.progress import progress
from mixprint.text import shown

log = logging.getLogger("mixprint.ingest")

# 64 bits: among a million songs two meet by chance once in 37 million collections.
TRACK_ID_DIGITS = 16
# Any text does; this one deals the ten songs of the generated set 5, 2 and 3.
SPLIT_SALT = "split-46"
Item = TypeVar("Item")
Result = TypeVar("Result")


class Origin:
    """Origin of a collection's files: in the file system they are themselves."""

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
    tracks: Sequence[Track], rejects: Sequence[Reject], max_fraction: float, where: str
) -> None:
    """Fail when too much was refused, or nothing is left; call it after the tables are written.

    Args:
        tracks: what was taken.
        rejects: what was refused.
        max_fraction: of all, that may be.
        where: the table that names them, for the message.

    Raises:
        DataError: with the counts by reason.
    """
    num_found = len(tracks) + len(rejects)
    if num_found == 0:
        raise DataError("expected songs in the collection, found no audio file")
    counts = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejects).items())
    told = f"{counts}; {where} names each with its reason"
    if not tracks:
        raise DataError(f"expected at least one usable song, found {num_found} rejects: {told}")
    if len(rejects) > max_fraction * num_found:
        raise DataError(
            f"expected at most {max_fraction:.0%} rejects (ingest.max_reject_fraction), found "
            f"{len(rejects)} of {num_found}: {told}"
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
    return hash64(f"{SPLIT_SALT}:{song}") / 2.0**64


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
