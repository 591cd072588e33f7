"""Cost of a step on a collection, projected from a short measurement.

The measurement does what the step will do, with the same settings and on this machine, on a few
excerpts of the collection: it separates them and writes their segments into a shard. Windows and
segments of the whole collection are then counted from the songs' lengths.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mixprint.audio.files import probe, stream_audio, write_audio
from mixprint.collection.segments import segment_starts
from mixprint.collection.shards import (
    SeparatorFingerprint,
    StemShardWriter,
    read_index,
    read_segment,
    shard_name,
    write_shard,
)
from mixprint.collection.sources import find_songs
from mixprint.errors import AudioError, DataError
from mixprint.machine.processes import threads_each
from mixprint.progress import progress
from mixprint.separation.runner import MAX_AUTO_BATCH_SIZE
from mixprint.separation.separator import song_level
from mixprint.separation.sharding import ShardedSong

if TYPE_CHECKING:
    from torch import Tensor

    from mixprint.separation import Separator

log = logging.getLogger("mixprint.estimate")

NUM_EXCERPTS = 3
# An excerpt has this many windows, or one batch if that is more, or is a whole song.
EXCERPT_WINDOWS = 8
# A song of a whole number of hops must not gain a window by the rounding of a quotient.
ROUNDING = 1.0e-6


@dataclass(frozen=True, kw_only=True)
class SeparationPlan:
    """Settings of the separation of a collection; see the sections `separate` and `ingest`.

    Attributes:
        segment_s: length of a row in the shards.
        window_s: what the network sees at once.
        overlap: part of a window that it shares with the next.
        batch_size: windows per run of the network; 0: what fits.
        export: `none`, `wav` or `flac`.
        num_shards: what the work is dealt to.
        jobs: worker processes at a time; on the CPU they share its cores.
    """

    segment_s: float
    window_s: float
    overlap: float
    batch_size: int
    export: str
    num_shards: int
    jobs: int


@dataclass(frozen=True)
class SurveyedSong:
    """A song of the collection and its length by its header."""

    path: Path
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Time, memory and storage that the excerpts took.

    Attributes:
        seconds_per_window: of one worker, reading and writing included; median of the excerpts.
        once_s: what the first excerpt took longer than when it came again: memory and kernels are
            made ready, and compiled if that is asked for.
        segment_bytes: size of a segment in a shard.
        export_bytes_per_s: size of the exported files per second of a song.
        peak_bytes: most resident memory of one worker.
        gpu_peak_bytes: most memory that one worker held on a GPU; 0 on the CPU.
    """

    seconds_per_window: float
    once_s: float
    segment_bytes: float
    export_bytes_per_s: float
    peak_bytes: int
    gpu_peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Time, memory and storage that a collection will take.

    Attributes:
        num_songs: songs that fit the rules on length; content is not looked at, so some of them
            may still be refused, as silent or as duplicates say.
        num_left_out: songs that do not, or whose header cannot be read.
        audio_hours: length of all songs.
        num_shards: as planned.
        num_segments: rows in all shards.
        jobs: workers at a time, at most one per shard.
        real_time_factor: time of all workers together per time of audio; lower is faster.
        hours: from the start to the end.
        memory_bytes: of all workers together.
        gpu_memory_bytes: of one worker.
        shards_bytes: storage for the shards.
        export_bytes: storage for the exported files.
    """

    num_songs: int
    num_left_out: int
    audio_hours: float
    num_shards: int
    num_segments: int
    jobs: int
    real_time_factor: float
    hours: float
    memory_bytes: int
    gpu_memory_bytes: int
    shards_bytes: int
    export_bytes: int

    def to_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a table for people."""
        lines = [
            ("songs", f"{self.num_songs}"),
            ("left out", f"{self.num_left_out}"),
            ("audio", _shown_hours(self.audio_hours)),
            ("shards", f"{self.num_shards} ({self.num_segments} segments)"),
            ("workers", f"{self.jobs}"),
            ("real-time factor", f"{self.real_time_factor:.3f}"),
            ("time", _shown_hours(self.hours)),
            ("memory", _shown_bytes(self.memory_bytes)),
            ("memory on the GPU", _shown_bytes(self.gpu_memory_bytes)),
            ("storage, shards", _shown_bytes(self.shards_bytes)),
            ("storage, export", _shown_bytes(self.export_bytes)),
        ]
        return "\n".join(f"{name:<18} {value:>22}" for name, value in lines)


def survey(
    source: str, locations: Sequence[Path], *, min_duration_s: float, max_duration_s: float
) -> tuple[list[SurveyedSong], int]:
    """List a collection's songs and their lengths; headers only, nothing is decoded.

    Args:
        source: a key of `mixprint.collection.sources.SOURCES`.
        locations: its folder or folders.
        min_duration_s: shorter songs are left out.
        max_duration_s: and longer ones.

    Returns:
        the songs, and how many were left out.

    Raises:
        DataError: see `find_songs`; or no song is left.
    """
    candidates, refusals = find_songs(source, locations)
    songs = []
    for candidate in progress(candidates, len(candidates), "looked at", "songs", log):
        try:
            duration_s = probe(candidate.path).duration_s
        except AudioError:
            continue  # counted below; ingest gives each its reason
        if min_duration_s <= duration_s <= max_duration_s:
            songs.append(SurveyedSong(candidate.path, duration_s))
    num_left_out = len(refusals) + len(candidates) - len(songs)
    if not songs:
        places = ", ".join(map(str, locations))
        raise DataError(f"{places}: expected songs that can be used, found {num_left_out} others")
    return songs, num_left_out


def measure_separation(
    separator: "Separator", songs: Sequence[SurveyedSong], plan: SeparationPlan
) -> Measurement:
    """Separate a few excerpts and write them, as a worker of the step would.

    Takes the number of threads that a worker will have, and the peak of this process since it
    began: call it in a process of its own.

    Args:
        separator: what is going to separate, on its device.
        songs: the collection.
        plan: how it is going to be separated.

    Raises:
        AudioError: an excerpt cannot be read.
        DataError: the disk with the temporary files is full.
    """
    import torch

    if separator.device.type == "cpu":
        torch.set_num_threads(threads_each(plan.jobs))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, windows = [], []
        with write_shard(
            folder / shard_name(0, 1),
            fingerprint="",
            sample_rate_hz=separator.sample_rate_hz,
            separator=SeparatorFingerprint("estimate", "0" * 64, "0" * 64),
        ) as writer:
            chosen = _spread(songs, NUM_EXCERPTS)
            # The first one twice: what is done once, memory and kernels say, is no speed.
            for index, song in enumerate([chosen[0], *chosen]):
                elapsed_s, num_windows = _time(separator, song, writer, str(index), plan)
                seconds.append(elapsed_s)
                windows.append(num_windows)
        segment_bytes = (folder / shard_name(0, 1)).stat().st_size / writer.num_segments
        export_bytes_per_s = _export_bytes_per_s(folder, plan, separator.sample_rate_hz)
    on_gpu = separator.device.type == "cuda"
    return Measurement(
        seconds_per_window=median(s / n for s, n in zip(seconds[1:], windows[1:], strict=True)),
        once_s=max(seconds[0] - seconds[1], 0.0),
        segment_bytes=segment_bytes,
        export_bytes_per_s=export_bytes_per_s,
        peak_bytes=_peak_resident_bytes(),
        gpu_peak_bytes=torch.cuda.max_memory_allocated(separator.device) if on_gpu else 0,
    )


def estimate_separation(
    songs: Sequence[SurveyedSong],
    num_left_out: int,
    plan: SeparationPlan,
    measured: Measurement,
    *,
    start_s: float,
) -> Estimate:
    """Project a measurement onto a collection.

    Workers are taken to be equally busy: with few songs per shard the last one ends later.

    Args:
        songs: from `survey`.
        num_left_out: from `survey`.
        plan: how they are going to be separated.
        measured: from `measure_separation`.
        start_s: what a worker takes until it can begin: imports, and loading the separator.
    """
    jobs = min(plan.jobs, plan.num_shards)
    audio_s = math.fsum(song.duration_s for song in songs)
    num_windows = sum(count_windows(s.duration_s, plan.window_s, plan.overlap) for s in songs)
    num_segments = sum(len(segment_starts(s.duration_s, plan.segment_s)) for s in songs)
    seconds = start_s + measured.once_s + num_windows * measured.seconds_per_window / jobs
    return Estimate(
        num_songs=len(songs),
        num_left_out=num_left_out,
        audio_hours=audio_s / 3600,
        num_shards=plan.num_shards,
        num_segments=num_segments,
        jobs=jobs,
        real_time_factor=seconds / audio_s,
        hours=seconds / 3600,
        memory_bytes=jobs * measured.peak_bytes,
        gpu_memory_bytes=measured.gpu_peak_bytes,
        shards_bytes=round(num_segments * measured.segment_bytes),
        export_bytes=round(audio_s * measured.export_bytes_per_s),
    )


def count_windows(duration_s: float, window_s: float, overlap: float) -> int:
    """Count the windows of a song, as `Separator.stream` places them."""
    if duration_s <= window_s:
        return 1
    return 1 + math.ceil((duration_s - window_s) / (window_s * (1 - overlap)) - ROUNDING)


def _spread(songs: Sequence[SurveyedSong], num_wanted: int) -> list[SurveyedSong]:
    """Choose songs from all over a collection."""
    num_chosen = min(num_wanted, len(songs))
    return [songs[(2 * i + 1) * len(songs) // (2 * num_chosen)] for i in range(num_chosen)]


def _time(
    separator: "Separator",
    song: SurveyedSong,
    writer: StemShardWriter,
    name: str,
    plan: SeparationPlan,
) -> tuple[float, int]:
    """Separate the middle of a song into a shard; return the seconds and how many windows."""
    batch_size = plan.batch_size or (MAX_AUTO_BATCH_SIZE if separator.device.type == "cuda" else 1)
    num_windows = math.ceil(EXCERPT_WINDOWS / batch_size) * batch_size
    wanted_s = plan.window_s * (1 + (num_windows - 1) * (1 - plan.overlap))
    length_s = max(wanted_s, plan.segment_s)
    is_whole = song.duration_s <= length_s

    def blocks() -> "Iterator[Tensor]":
        return stream_audio(
            song.path,
            sample_rate_hz=separator.sample_rate_hz,
            start_s=0.0 if is_whole else (song.duration_s - length_s) / 2,
            duration_s=None if is_whole else length_s,
        )

    started_s = time.perf_counter()
    sharded = ShardedSong(
        writer, name, segment_s=plan.segment_s, sample_rate_hz=separator.sample_rate_hz
    )
    for mixture_CT, stems_SCT in separator.stream(
        blocks(),
        window_s=plan.window_s,
        overlap=plan.overlap,
        batch_size=plan.batch_size,
        level=song_level(blocks()) if separator.normalised else None,
    ):
        sharded.add(mixture_CT, stems_SCT)
    sharded.finish()
    elapsed_s = time.perf_counter() - started_s
    duration_s = song.duration_s if is_whole else length_s
    return elapsed_s, count_windows(duration_s, plan.window_s, plan.overlap)


def _export_bytes_per_s(folder: Path, plan: SeparationPlan, sample_rate_hz: int) -> float:
    """Write the stems of the measured segments as files; return their size per second."""
    if plan.export == "none":
        return 0.0
    num_bytes, path = 0, folder / f"stem.{plan.export}"
    references = read_index(folder)
    for reference in references:
        for stem_CT in read_segment(reference):
            write_audio(path, stem_CT, sample_rate_hz)
            num_bytes += path.stat().st_size
    return num_bytes / (len(references) * plan.segment_s)


def _peak_resident_bytes() -> int:
    """Read the most resident memory that this process has had (proc_pid_status(5), VmHWM).

    getrusage() will not do: it also counts what the parent held before it started us.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _shown_hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min"


def _shown_bytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
