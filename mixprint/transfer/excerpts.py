"""The parts of songs that a transfer hears, and whole songs separated into files.

    <folder>/{vocals,bass,drums,other}.wav    float, of a whole song, or of what is heard of it
    <folder>/song.json                        written last: all is there
    <folder>/lock                             held by who separates

Shape suffixes: S stem, C channel, T sample, N second.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio, stream_audio
from mixprint.audio.resampling import resampling_notes
from mixprint.errors import AudioError
from mixprint.progress import Progress
from mixprint.schema import Count, Float32, Length, read_record
from mixprint.separation.stemfile import FLOAT, StemFile
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import atomic_path, write_json
from mixprint.storage.locks import locked
from mixprint.text import shown
from mixprint.transfer.methods.fitting import MIN_DURATION_S
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.style import SILENT_STEM_DBFS

if TYPE_CHECKING:
    from mixprint.separation import Separator

log = logging.getLogger("mixprint.transfer")

# Shorter audio has no style to speak of.
MIN_SONG_S = 1.0
# Written when all stems of a song are there.
SONG_NAME = "song.json"
# Chosen segments start on whole seconds.
CHOICE_STEP_S = 1.0

# Separates audio_CT at 44.1 kHz into stems_SCT.
Separate = Callable[[Tensor], Tensor]
# A mixture and its stems.
Block = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class WholeSong:
    """A song whose stems lie in files.

    Attributes:
        path: the song itself.
        folder: holds its stems.
        num_samples: length of the stems.
    """

    path: Path
    folder: Path
    num_samples: int

    def blocks(self) -> Iterator[Block]:
        """Read it: mixture_CT, stems_SCT in equal blocks, in memory that does not grow with it."""
        return read_blocks(self.path, self.folder)


@dataclass(frozen=True, eq=False)
class Segment:
    """What is heard of a song: a piece, or several that lie one after the other.

    Attributes:
        name: what the song is called in metrics.json: its path or URI.
        title: what a person calls it.
        identity: JSON-able; equal for equal audio and stems.
        audio_CT: the mixture.
        stems_SCT: its stems.
        separator: fingerprint of what made the stems.
        notes: what a person should know about it.
        separation_s: wall-clock time of the separation; 0 for stems that were there.
        lengths: of the pieces, in samples; empty for a single one.
        whole: the whole song, where its stems are stored.
    """

    name: str
    title: str
    identity: Mapping[str, Any]
    audio_CT: Tensor
    stems_SCT: Tensor
    separator: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    separation_s: float = 0.0
    lengths: tuple[int, ...] = ()
    whole: WholeSong | None = None

    def pieces(self) -> list[Block]:
        """Take the pieces apart: audio_CT, stems_SCT."""
        lengths = list(self.lengths) or [self.audio_CT.shape[-1]]
        return list(
            zip(self.audio_CT.split(lengths, -1), self.stems_SCT.split(lengths, -1), strict=True)
        )

    def heard(self) -> list[Tensor]:
        """Return the stems of each piece as measured: repeated where they are too short."""
        return [measurable(stems_SCT, self.name) for _, stems_SCT in self.pieces()]


def measurable(audio: Tensor, where: str) -> Tensor:
    """Repeat audio as often as measuring it needs (`MIN_DURATION_S`); longer audio stays as it is.

    Args:
        audio: (..., T) at 44.1 kHz.
        where: what it is called in an error.

    Raises:
        AudioError: it is shorter than `MIN_SONG_S`.
    """
    num_samples = math.ceil(MIN_DURATION_S * SAMPLE_RATE_HZ)
    if audio.shape[-1] < round(MIN_SONG_S * SAMPLE_RATE_HZ):
        raise AudioError(
            "too_short",
            f"{where}: expected at least {MIN_SONG_S} s, "
            f"found {audio.shape[-1] / SAMPLE_RATE_HZ:.2f} s",
        )
    if audio.shape[-1] >= num_samples:
        return audio
    repeats = [1] * (audio.ndim - 1) + [math.ceil(num_samples / audio.shape[-1])]
    return audio.repeat(*repeats)[..., :num_samples]


def segment_bounds(where: str, duration_s: float, settings: Hyperparameters) -> tuple[float, float]:
    """Find the part of a song that is used: start and length in seconds.

    The part is shortened where the song ends sooner; it is never padded.

    Raises:
        AudioError: less than `MIN_SONG_S` is left behind the offset.
    """
    length_s = min(settings.segment_duration, duration_s - settings.segment_offset)
    if length_s < MIN_SONG_S:
        raise AudioError(
            "too_short",
            f"{where}: expected at least {MIN_SONG_S} s from {settings.segment_offset} s on, "
            f"found a song of {duration_s:.2f} s",
        )
    return settings.segment_offset, length_s


def length_notes(where: str, length_s: float, settings: Hyperparameters) -> tuple[str, ...]:
    """Say where a segment is shorter than it should be, and what was done."""
    if length_s >= settings.segment_duration:
        return ()
    note = f"{where}: shortened to {length_s:.2f} s, where the song ends"
    if length_s < MIN_DURATION_S:
        note += f"; repeated to {MIN_DURATION_S:.0f} s to be measured"
    return (note,)


def load_segment(
    path: Path,
    settings: Hyperparameters,
    separate: Separate,
    separator: Mapping[str, Any],
    *,
    content: str,
) -> Segment:
    """Read a segment of a file and separate it.

    Args:
        path: the song.
        settings: which part.
        separate: the separator.
        separator: its fingerprint.
        content: SHA-256 of the file.

    Raises:
        AudioError: the file cannot be read or is too short.
    """
    where = shown(path)
    info = probe(path)
    start_s, length_s = segment_bounds(where, info.duration_s, settings)
    audio_CT = read_audio(path, start_s=start_s, duration_s=length_s)
    started_s = time.perf_counter()
    stems_SCT = separate(audio_CT)
    return Segment(
        name=where,
        title=shown(path.stem),
        identity={"content": content},
        audio_CT=audio_CT,
        stems_SCT=stems_SCT,
        separator=separator,
        notes=(
            *length_notes(where, length_s, settings),
            *resampling_notes(where, info.sample_rate_hz, SAMPLE_RATE_HZ),
        ),
        separation_s=time.perf_counter() - started_s,
    )


def load_whole(
    path: Path,
    settings: Hyperparameters,
    separator: "Separator",
    folder: Path,
    *,
    content: str,
) -> Segment:
    """Separate a whole song into files, and read the segments that are heard.

    Args:
        path: the song.
        settings: how long the segments are, and how many; with one it is that at the offset.
        separator: the separator.
        folder: receives the stems; they must stay as long as `Segment.whole` is used.
        content: SHA-256 of the file.

    Raises:
        AudioError: the file cannot be read or is too short.
    """
    where = shown(path)
    info = probe(path)
    segment_bounds(where, info.duration_s, settings)
    started_s = time.perf_counter()
    whole, power_SN = separate_song(path, separator, folder)
    heard = hear(where, whole, power_SN, settings)
    return replace(
        heard,
        title=shown(path.stem),
        identity={"content": content},
        separator=separator.fingerprint,
        notes=heard.notes + resampling_notes(where, info.sample_rate_hz, SAMPLE_RATE_HZ),
        separation_s=time.perf_counter() - started_s,
    )


def hear(where: str, whole: WholeSong, power_SN: Tensor, settings: Hyperparameters) -> Segment:
    """Read the segments of a song that are heard.

    Args:
        where: what the song is called in metrics.json.
        whole: the song.
        power_SN: mean power of each stem in each whole second.
        settings: how long the segments are, and how many; with one it is that at the offset.

    Returns:
        the segments, not yet with a title, an identity and a separator.

    Raises:
        AudioError: the song is too short.
    """
    # What was decoded counts: an MP3 may end a few frames before its declared end.
    duration_s = whole.num_samples / SAMPLE_RATE_HZ
    start_s, length_s = segment_bounds(where, duration_s, settings)
    starts_s, notes = [start_s], length_notes(where, length_s, settings)
    if settings.segments > 1:
        length_s = min(settings.segment_duration, duration_s)
        seconds = choose_segments(power_SN, max(math.ceil(length_s), 1), settings.segments)
        last_s = duration_s - length_s
        starts_s = [min(second * CHOICE_STEP_S, last_s) for second in seconds]
        notes = length_notes(where, length_s, settings)
        if len(starts_s) < settings.segments:
            notes += (f"{where}: has room for {len(starts_s)} of {settings.segments} segments",)
        places = ", ".join(f"{start:.0f} s" for start in starts_s)
        notes += (f"{where}: heard from {places} on",)
    pieces = [
        (
            read_audio(whole.path, start_s=start, duration_s=length_s),
            torch.stack(
                [
                    read_audio(whole.folder / f"{stem}.wav", start_s=start, duration_s=length_s)
                    for stem in STEMS
                ]
            ),
        )
        for start in starts_s
    ]
    return Segment(
        name=where,
        title=where,
        identity={},
        audio_CT=torch.cat([audio_CT for audio_CT, _ in pieces], dim=-1),
        stems_SCT=torch.cat([stems_SCT for _, stems_SCT in pieces], dim=-1),
        separator={},
        notes=notes,
        lengths=tuple(audio_CT.shape[-1] for audio_CT, _ in pieces),
        whole=whole,
    )


def separate_song(path: Path, separator: "Separator", folder: Path) -> tuple[WholeSong, Tensor]:
    """Separate a song into files, unless they are there; see `store_song`.

    Args:
        path: the song.
        separator: the separator.
        folder: receives the stems.

    Raises:
        AudioError: see `mixprint.audio.files.stream_audio`.
        DataError: the files cannot be written.
    """
    num_declared = round(probe(path).duration_s * SAMPLE_RATE_HZ) + SAMPLE_RATE_HZ
    blocks = (stems_SCT for _, stems_SCT in separator.stream_file(path))
    return store_song(path, folder, num_declared, blocks)


def separate_once(folder: Path, separate: Separate, audio_CT: Tensor) -> Tensor:
    """Separate audio and keep its stems in files; asked again, they are read.

    Of several processes one separates, and the others wait.

    Args:
        folder: for these stems alone.
        separate: the separator.
        audio_CT: the same at every call with this folder.

    Returns:
        stems_SCT.
    """
    with _alone(folder):
        if not (folder / SONG_NAME).is_file():
            with stem_files(folder, audio_CT.shape[-1]) as add:
                add(separate(audio_CT))
            write_json(folder / SONG_NAME, {"num_samples": audio_CT.shape[-1]})
    return torch.cat(list(read_stem_files(folder)), dim=-1)


@dataclass(frozen=True, kw_only=True)
class _StoredSong:
    """What lies beside the stems of a whole song."""

    num_samples: Count
    power_SN: Annotated[tuple[tuple[Float32, ...], ...], Length(len(STEMS), len(STEMS))]


def store_song(
    path: Path, folder: Path, num_declared: int, blocks: Iterable[Tensor]
) -> tuple[WholeSong, Tensor]:
    """Write the stems of a whole song, in memory that does not grow with it; whole or not at all.

    Where the folder holds them, nothing is written: it is for this song and separator alone. Of
    several processes one writes, and the others wait.

    Args:
        path: the song.
        folder: receives the stems as float WAV.
        num_declared: how many samples will come, at most.
        blocks: stems_SCT, one after the other.

    Returns:
        the song, and power_SN, the mean power of each stem in each whole second.
    """
    with _alone(folder):
        if not (folder / SONG_NAME).is_file():
            power_SN, num_samples = _write_song(folder, num_declared, blocks)
            write_json(
                folder / SONG_NAME, {"num_samples": num_samples, "power_SN": power_SN.tolist()}
            )
    stored = read_record(folder / SONG_NAME, _StoredSong)
    return WholeSong(path, folder, stored.num_samples), torch.tensor(stored.power_SN)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        yield


def _write_song(folder: Path, num_declared: int, blocks: Iterable[Tensor]) -> tuple[Tensor, int]:
    # Of the second that has begun.
    rest_ST, powers_SN, num_samples = torch.zeros(len(STEMS), 0), [], 0
    with (
        stem_files(folder, num_declared) as add,
        Progress(log, "separated", total=num_declared // SAMPLE_RATE_HZ, unit="s") as shown_work,
    ):
        for stems_SCT in blocks:
            add(stems_SCT)
            rest_ST = torch.cat((rest_ST, stems_SCT.square().mean(1)), dim=-1)
            num_seconds = rest_ST.shape[-1] // SAMPLE_RATE_HZ
            whole_ST, rest_ST = rest_ST.split(
                [num_seconds * SAMPLE_RATE_HZ, rest_ST.shape[-1] % SAMPLE_RATE_HZ], dim=-1
            )
            powers_SN.append(whole_ST.unflatten(-1, (num_seconds, SAMPLE_RATE_HZ)).mean(-1))
            num_samples += stems_SCT.shape[-1]
            shown_work.advance(num_seconds)
    return torch.cat(powers_SN, dim=-1), num_samples


def read_blocks(mixture_path: Path, stems_folder: Path) -> Iterator[Block]:
    """Read a mixture and its stems in equal blocks: mixture_CT, stems_SCT."""
    # The mixture may come in other blocks, resampled as it is.
    mixture_CT, mixture = torch.empty(NUM_CHANNELS, 0), stream_audio(mixture_path)
    for stems_SCT in read_stem_files(stems_folder):
        length = stems_SCT.shape[-1]
        while mixture_CT.shape[-1] < length:
            mixture_CT = torch.cat((mixture_CT, next(mixture)), dim=-1)
        yield mixture_CT[:, :length], stems_SCT
        mixture_CT = mixture_CT[:, length:]


def read_stem_files(folder: Path) -> Iterator[Tensor]:
    """Read what `stem_files` wrote: stems_SCT, block by block."""
    files = [stream_audio(folder / f"{stem}.wav") for stem in STEMS]
    for parts in zip(*files, strict=True):
        yield torch.stack(parts)


@contextmanager
def stem_files(folder: Path, num_declared: int) -> Iterator[Callable[[Tensor], None]]:
    """Write the four stems of a song as float WAV, block by block, whole or not at all.

    Args:
        folder: created if it is missing.
        num_declared: how many samples will come, at most.

    Yields:
        what takes the next stems_SCT.
    """
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                StemFile(
                    stack.enter_context(atomic_path(folder / f"{stem}.wav")),
                    bit_depth=FLOAT,
                    sample_rate_hz=SAMPLE_RATE_HZ,
                    num_declared=num_declared,
                )
            )
            for stem in STEMS
        ]

        def add(stems_SCT: Tensor) -> None:
            for file, stem_CT in zip(files, stems_SCT, strict=True):
                file.add(stem_CT)

        yield add


def choose_segments(power_SN: Tensor, length: int, num_segments: int) -> list[int]:
    """Choose segments of a song that do not overlap: those in which most is going on.

    Each leaves room for those that are still to be chosen, if the song has it.

    One after the other is chosen: first by how many stems it brings that sound somewhere in the
    song but in none of the chosen ones, then by how many stems sound in it, then by its energy,
    then the earliest.

    Args:
        power_SN: mean power of each stem in each second.
        length: of a segment, in seconds.
        num_segments: how many, at most.

    Returns:
        the first second of each, in the order of time; at least one.
    """
    num_seconds = power_SN.shape[-1]
    num_starts = max(num_seconds - length + 1, 1)
    windows_SN = torch.stack(
        [power_SN[:, start : start + length].mean(-1) for start in range(num_starts)], dim=-1
    )
    sounds_SN = windows_SN > 10 ** (SILENT_STEM_DBFS / 10)
    covered_S = torch.zeros(len(STEMS), dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(num_segments):
        free = [s for s in range(num_starts) if all(abs(s - other) >= length for other in chosen)]
        if not free:
            break
        rooms = {start: _room(sorted([*chosen, start]), length, num_seconds) for start in free}
        wanted = min(num_segments - len(chosen) - 1, max(rooms.values()))
        free = [start for start in free if rooms[start] >= wanted]

        def merit(start: int, covered_S: Tensor = covered_S) -> tuple[int, int, float, int]:
            sounds_S = sounds_SN[:, start]
            energy = float(windows_SN[:, start].sum())
            return int((sounds_S & ~covered_S).sum()), int(sounds_S.sum()), energy, -start

        best = max(free, key=merit)
        chosen.append(best)
        covered_S = covered_S | sounds_SN[:, best]
    return sorted(chosen)


def _room(chosen: list[int], length: int, num_seconds: int) -> int:
    """Count the segments that fit between those that are chosen, in the order of time."""
    ends = [0, *(start + length for start in chosen)]
    gaps = [start - end for start, end in zip([*chosen, num_seconds], ends, strict=True)]
    return sum(gap // length for gap in gaps)
