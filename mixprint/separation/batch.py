"""Many songs, separated one after the other or side by side: names, jobs and outcomes."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from mixprint.audio.files import probe
from mixprint.collection.sources import find_songs
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.fingerprint import file_sha256
from mixprint.log import follow_logging, logging_level
from mixprint.machine.device import resolve_device
from mixprint.machine.memory import is_out_of_memory
from mixprint.machine.processes import ProcessEnded, side_by_side, threads_each
from mixprint.progress import BAR_EVERY_S, Progress
from mixprint.separation.files import FileSettings, separate_file
from mixprint.separation.report import REPORT_NAME
from mixprint.separation.source import SeparatorSource
from mixprint.text import shown

if TYPE_CHECKING:
    from ctypes import Array, c_int64

    from mixprint.separation.separator import Separator

    # Of each job, how many seconds of its song are separated; a process writes, all may read.
    Seconds: TypeAlias = Array[c_int64]

log = logging.getLogger("mixprint.separation.batch")

DIGITS_IN_NAME = 8


@dataclass(frozen=True)
class SeparationJob:
    """A song and the folder that receives its stems."""

    song: Path
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """Result of a separation, or the reason why there is none.

    Attributes:
        song: the song, or a folder in which none was found.
        status: `separated`; `present`: the same was there already; `failed`.
        detail: the folder of the stems, or why there is none.
        notes: what a person should know of it.
    """

    song: Path
    status: Literal["separated", "present", "failed"]
    detail: str
    notes: Sequence[str] = ()


def find_jobs(songs: Sequence[Path], out: Path) -> tuple[list[SeparationJob], list[Outcome]]:
    """Choose a folder for each song.

    A song is called as its file without the suffix; one that was found in a folder keeps the
    folders between. Where several songs would get one name, each gets the beginning of its file's
    SHA-256 too, and so does one whose folder would hold another song's. So the same songs get the
    same names, in whatever order they are given.

    Args:
        songs: audio files, and folders that are searched for audio files. What an earlier
            separation has written is no song there.
        out: receives the stems.

    Returns:
        the jobs, and what cannot become one.
    """
    named, failures = name_songs(songs)
    counts = Counter(_folded(name) for name in named.values())
    between = {parent for name in counts for parent in name.parents}
    jobs: dict[Path, SeparationJob] = {}
    for song, name in named.items():
        if counts[_folded(name)] > 1 or _folded(name) in between:
            try:
                digest = file_sha256(song)[:DIGITS_IN_NAME]
            except DataError as error:
                failures.append(Outcome(song, "failed", str(error)))
                continue
            name = name.with_name(f"{name.name}-{digest}")
        folder = out / name
        if folder in jobs:
            log.info("%s: the same file as %s", shown(song), shown(jobs[folder].song))
        jobs.setdefault(folder, SeparationJob(song, folder))
    return list(jobs.values()), failures


def separate_files(
    jobs: Sequence[SeparationJob],
    source: SeparatorSource,
    settings: FileSettings,
    *,
    num_processes: int = 1,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Separate songs, and go on where one fails.

    Processes share the cores. The result is that of one process with as many threads as each of
    them gets; another number of threads can change the last bit.

    Args:
        jobs: the songs.
        source: the separator.
        settings: what is separated and written.
        num_processes: songs side by side, on the CPU.
        overwrite: see `separate_file`.

    Yields:
        an outcome per job, as they finish.

    Raises:
        CheckpointError, ConfigError: the separator cannot be loaded, lacks a stem that is to be
            written, or several processes would share a GPU.
    """
    if overwrite:
        refused = _inputs_in_the_way(jobs)
        yield from refused.values()
        jobs = [job for job in jobs if job not in refused]
    num_processes = min(num_processes, len(jobs))
    if num_processes > 1:
        if resolve_device(source.device).type != "cpu":
            raise ConfigError(
                f"jobs: expected 1 with a GPU, found {num_processes}; a larger batch size fills it"
            )
        yield from _side_by_side(jobs, source, settings, num_processes, overwrite)
    elif jobs:
        yield from _one_by_one(jobs, source.load(), settings, overwrite)


def _inputs_in_the_way(jobs: Sequence[SeparationJob]) -> dict[SeparationJob, Outcome]:
    """Refuse jobs in whose folder an input lies: it would go when the folder is replaced."""
    parents: dict[str, Path] = {}
    for job in jobs:
        for parent in Path(os.path.realpath(job.song)).parents:
            parents.setdefault(str(parent), job.song)
    return {
        job: Outcome(
            job.song,
            "failed",
            f"{shown(job.folder)}: expected another folder than that of an input, found "
            f"{shown(parents[real])} there, which would be removed; choose another folder",
        )
        for job in jobs
        if (real := os.path.realpath(job.folder)) in parents
    }


def _folded(name: Path) -> Path:
    """Some file systems take A and a for one name."""
    return Path(str(name).casefold())


def name_songs(songs: Sequence[Path]) -> tuple[dict[Path, Path], list[Outcome]]:
    """Name each song, files as they are, those in folders with the folders between.

    Args:
        songs: see `find_jobs`.

    Returns:
        the name of each audio file, which several may share, and what cannot be used.
    """
    named: dict[Path, Path] = {}
    seen: set[str] = set()
    failures: list[Outcome] = []

    def add(song: Path, name: Path) -> None:
        # Path.resolve raises on a link to itself, which is to fail like any unreadable song.
        if (real := os.path.realpath(song)) not in seen:
            seen.add(real)
            named[song] = name

    for given in songs:
        if not os.path.isdir(given):  # noqa: PTH112 - Path raises where a name is too long
            add(given, Path(_stem(given)))
            continue
        candidates, refusals = find_songs("folder", [given])
        failures += [Outcome(refusal.path, "failed", refusal.detail) for refusal in refusals]
        found = [c.path for c in candidates if not (c.path.parent / REPORT_NAME).exists()]
        if not found:
            detail = f"{shown(given)}: expected audio files, found none"
            failures.append(Outcome(given, "failed", detail))
        for path in found:
            add(path, path.relative_to(given).with_name(_stem(path)))
    return named, failures


def _stem(path: Path) -> str:
    """Take the suffix off, unless nothing but dots is left."""
    return path.stem if path.stem.strip(".") else path.name.replace(".", "_")


def _one_by_one(
    jobs: Sequence[SeparationJob], separator: "Separator", settings: FileSettings, overwrite: bool
) -> Iterator[Outcome]:
    lengths_s = [_length_s(job.song) for job in jobs]
    finished_s = 0
    with Progress(log, "separated", total=sum(lengths_s), unit="s of audio") as progress:

        def show(done_s: int) -> None:
            progress.advance(finished_s + done_s - progress.done)

        for job, length_s in zip(jobs, lengths_s, strict=True):
            outcome = _separate(job, separator, settings, overwrite, show)
            # A song that failed or was there already is no work that is left.
            finished_s += length_s
            show(0)
            yield outcome


def _separate(
    job: SeparationJob,
    separator: "Separator",
    settings: FileSettings,
    overwrite: bool,
    show: Callable[[int], None],
) -> Outcome:
    """Separate a song, and tell meanwhile how many seconds of it are done."""
    num_samples = 0

    def on_piece(mixture_CT: Tensor, _stems_SCT: Tensor) -> None:
        nonlocal num_samples
        num_samples += mixture_CT.shape[-1]
        show(num_samples // separator.sample_rate_hz)

    try:
        report, is_new = separate_file(
            separator, job.song, job.folder, settings, overwrite=overwrite, on_piece=on_piece
        )
    except (AudioError, DataError) as error:
        return Outcome(job.song, "failed", str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        detail = (
            f"{shown(job.song)}: expected memory for windows of "
            f"{settings.window_s or separator.window_s:g} s, found too little; try a batch size "
            "of 1, a smaller window or fewer jobs"
        )
        log.info("%s: %s", shown(job.song), error)
        return Outcome(job.song, "failed", detail)
    status: Literal["separated", "present"] = "separated" if is_new else "present"
    return Outcome(job.song, status, shown(job.folder), report.notes)


def _side_by_side(
    jobs: Sequence[SeparationJob],
    source: SeparatorSource,
    settings: FileSettings,
    num_processes: int,
    overwrite: bool,
) -> Iterator[Outcome]:
    # Fetched and checked once, before each process loads its own.
    settings.check_stems(replace(source, device="cpu").load().stems)
    # The longest first, so that no process is left with a long song at the end.
    lengths_s = {job: _length_s(job.song) for job in jobs}
    order = sorted(jobs, key=lambda job: lengths_s[job], reverse=True)
    done_s: Seconds = RawArray("q", len(order))
    start = partial(
        _worker, source, settings, overwrite, done_s, threads_each(num_processes), logging_level()
    )
    with Progress(log, "separated", total=sum(lengths_s.values()), unit="s of audio") as progress:

        def show() -> None:
            progress.advance(sum(done_s) - progress.done)

        for index, outcome in side_by_side(
            list(enumerate(order)), num_processes, start, meanwhile=show, every_s=BAR_EVERY_S
        ):
            job = order[index]
            # Failed and there already, too: that is no work that is left.
            done_s[index] = lengths_s[job]
            show()
            if isinstance(outcome, ProcessEnded):
                yield Outcome(job.song, "failed", f"{shown(job.song)}: {outcome.reason}")
            else:
                yield outcome


def _worker(
    source: SeparatorSource,
    settings: FileSettings,
    overwrite: bool,
    done_s: "Seconds",
    num_threads: int,
    level: int | None,
) -> Callable[[tuple[int, SeparationJob]], Outcome]:
    """Begin a process of `_side_by_side`: return what separates a song there."""
    follow_logging(level)
    torch.set_num_threads(num_threads)
    separator = source.load()

    def work(task: tuple[int, SeparationJob]) -> Outcome:
        index, job = task

        def show(seconds: int) -> None:
            done_s[index] = seconds

        return _separate(job, separator, settings, overwrite, show)

    return work


def _length_s(song: Path) -> int:
    """Read a song's length in whole seconds for the progress; 0 if it cannot be read."""
    try:
        return round(probe(song).duration_s)
    except AudioError:
        return 0
