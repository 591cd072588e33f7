"""Excerpts of songs, from which a transfer learns.

Shape suffixes: S stem, C channel, T sample, N second.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.audio.resampling import resampling_notes
from mixprint.errors import AudioError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.text import shown
from mixprint.transfer.methods.result import MIN_DURATION_S
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.stem_store import Block, Separate, WholeSong, separate_song
from mixprint.transfer.style import SILENT_STEM_DBFS

if TYPE_CHECKING:
    from mixprint.separation import Separator

log = logging.getLogger("mixprint.transfer")

# Shorter audio has no style to speak of.
MIN_SONG_S = 1.0
# Chosen segments start on whole seconds.
CHOICE_STEP_S = 1.0


@dataclass(frozen=True, eq=False)
class Segment:
    """Part of a song that is heard: a piece, or several that lie one after the other.

    Attributes:
        name: what the song is called in metrics.json: its path or URI.
        title: what a person calls it.
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
) -> Segment:
    """Read a segment of a file and separate it.

    Args:
        path: the song.
        settings: which part.
        separate: the separator.
        separator: its fingerprint.

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
) -> Segment:
    """Separate a whole song into files, and read the segments that are heard.

    Args:
        path: the song.
        settings: how long the segments are, and how many; with one it is that at the offset.
        separator: the separator.
        folder: receives the stems; they must stay as long as `Segment.whole` is used.

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
        the segments, not yet with a title and a separator.

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
        audio_CT=torch.cat([audio_CT for audio_CT, _ in pieces], dim=-1),
        stems_SCT=torch.cat([stems_SCT for _, stems_SCT in pieces], dim=-1),
        separator={},
        notes=notes,
        lengths=tuple(audio_CT.shape[-1] for audio_CT, _ in pieces),
        whole=whole,
    )


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
