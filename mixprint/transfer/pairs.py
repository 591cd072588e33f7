"""Tables of pairs: which songs get the mix of which, and what of it is asked for otherwise.

    input,target,method,optimize_target,amount,keep
    a.wav,b.wav,,,,
    a.wav,c.wav,"console,tcn",features,drums=0.5,vocals

The first two columns are needed; an empty cell of another column stands for what was asked for
all pairs. Several methods or targets in a cell are each a transfer of its own.
"""

import csv
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mixprint.collection.catalogue import Track
from mixprint.errors import ConfigError, DataError, MixprintError, error_text
from mixprint.text import shown
from mixprint.transfer.inputs import SongFinder
from mixprint.transfer.jobs import Failure, Job
from mixprint.transfer.settings import (
    ApplyTo,
    Controls,
    Hyperparameters,
    Loudness,
    listed,
    parse_amounts,
)

log = logging.getLogger("mixprint.transfer")

COLUMNS = ("input", "target")
OPTIONAL_COLUMNS = ("method", "optimize_target", "amount", "keep")
MAX_SLUG = 24


@dataclass(frozen=True)
class Pair:
    """A song and the song whose mix it is to get, each by track_id or path.

    Attributes:
        input: the song that is changed.
        target: the other one.
        asked: optional column -> cell that is not empty.
        where: where a person finds the pair; empty if nowhere.
    """

    input: str
    target: str
    asked: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def name(self) -> str:
        """Return what a person knows it by."""
        return self.where or f"{shown(self.input)} to {shown(self.target)}"


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Options for all pairs that do not have their own.

    Attributes:
        settings: each is done.
        amount, keep: see `parse_amounts`.
        loudness, apply_to: see `Controls`.
    """

    settings: tuple[Hyperparameters, ...]
    amount: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    loudness: Loudness = "free"
    apply_to: ApplyTo = "segment"

    def __post_init__(self) -> None:
        """Check them."""
        self.asked_for(Pair("", ""))

    def asked_for(self, pair: Pair) -> tuple[tuple[Hyperparameters, ...], Controls]:
        """Lay the cells of a pair over them.

        Raises:
            ConfigError: a cell holds what is not known.
        """
        settings = list(self.settings)
        # What is not known is refused there.
        for name in ("method", "optimize_target"):
            if name in pair.asked:
                values = listed([pair.asked[name]], name)
                settings = [replace(s, **{name: value}) for s in settings for value in values]  # type: ignore[arg-type]
        controls = Controls(
            amount=parse_amounts(
                [pair.asked["amount"]] if "amount" in pair.asked else self.amount,
                listed([pair.asked["keep"]], "keep") if "keep" in pair.asked else self.keep,
            ),
            loudness=self.loudness,
            apply_to=self.apply_to,
        )
        return tuple(dict.fromkeys(settings)), controls


@dataclass(frozen=True)
class Plan:
    """A pair and what is to be done with it: every one of the settings, with the controls."""

    pair: Pair
    settings: tuple[Hyperparameters, ...]
    controls: Controls


def read_pairs(path: Path) -> tuple[list[Pair], list[Failure]]:
    """Read a table of pairs as CSV, see the module.

    A path in it is relative to the CSV's folder.

    Returns:
        the pairs, and the rows that are none.

    Raises:
        DataError: the file is unreadable, lacks a column, has an unknown one, or no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{shown(path)}: expected a CSV of {COLUMNS}, found: {error_text(error)}"
        ) from error
    unknown = [column for column in columns if column not in COLUMNS + OPTIONAL_COLUMNS]
    if unknown or not set(COLUMNS) <= set(columns):
        raise DataError(
            f"{shown(path)}: expected the columns {COLUMNS}, and of {OPTIONAL_COLUMNS} any, "
            f"found {columns}"
        )
    if not rows:
        raise DataError(f"{shown(path)}: expected at least one pair, found none")
    pairs, failures = [], []
    for line, row in rows:
        where = f"{shown(path.name)}, line {line}"
        cells = {column: (row[column] or "").strip() for column in columns}
        # What has no column is a list below the key None, and a missing cell is None.
        if len(row) > len(columns) or not all(cells[column] for column in COLUMNS):
            found = list(row.values())
            detail = f"{where}: expected values for {COLUMNS} in {columns}, found {found}"
            failures.append(Failure(where, DataError(detail)))
            continue
        asked = {column: cells[column] for column in OPTIONAL_COLUMNS if cells.get(column)}
        song, target = (_resolved(cells[column], path.parent) for column in COLUMNS)
        pairs.append(Pair(song, target, asked, where))
    return pairs, failures


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


def plan_pairs(pairs: Sequence[Pair], defaults: Defaults) -> tuple[list[Plan], list[Failure]]:
    """Say what is to be done with each pair.

    Returns:
        the plans, and the pairs of which something is asked that is not known.
    """
    plans, failures = [], []
    for pair in pairs:
        try:
            plans.append(Plan(pair, *defaults.asked_for(pair)))
        except ConfigError as error:
            failures.append(Failure(pair.name, error))
    return plans, failures


def find_jobs(plans: Sequence[Plan], source: SongFinder) -> tuple[list[Job], list[Failure]]:
    """Find the songs.

    Returns:
        the jobs, each once, and the pairs whose songs are not there.
    """
    jobs: dict[str, Job] = {}
    failures = []
    for plan in plans:
        pair, controls = plan.pair, plan.controls
        try:
            song, target = source.find(pair.input), source.find(pair.target)
        except MixprintError as error:
            failures.append(Failure(pair.name, error))
            continue
        for settings in plan.settings:
            name = job_name(pair, song.title, target.title, settings, controls)
            job = Job(name=name, song=song, targets=(target,), settings=settings, controls=controls)
            jobs.setdefault(name, job)
    return list(jobs.values()), failures


def job_name(
    pair: Pair,
    input_title: str,
    target_title: str,
    settings: Hyperparameters,
    controls: Controls,
) -> str:
    """Name the folder of a transfer: readable, and different for what differs within a batch."""
    amounts = [f"{amount:g}" for amount in controls.amount.values()]
    parts = (pair.input, pair.target, settings.optimize_target, f"{settings.lr:g}", *amounts)
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{_slug(input_title)}-to-{_slug(target_title)}-{settings.method}-{digest}"


def _slug(title: str) -> str:
    """Keep what is safe in a folder's name on every system."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:MAX_SLUG].strip("-") or "song"
