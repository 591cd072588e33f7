"""Tracks of a console as files: found, read in step, and written.

Shape suffixes: N track, C channel, T sample.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import Tensor

from mixprint.audio.files import convert_advice, probe, stream_audio
from mixprint.audio.signatures import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, is_hidden
from mixprint.console.settings import MAX_TRACKS
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.stems import NUM_CHANNELS
from mixprint.text import printable, shown

# What file names may not hold somewhere, and names that are devices on Windows.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
# File systems take 255 bytes; this leaves room for a suffix.
_MAX_STEM_BYTES = 200

BLOCK_S = 5.0


def find_tracks(paths: Sequence[Path]) -> dict[str, Path]:
    """Name the tracks of a song: files, and the audio files that lie in a folder, by their names.

    Hidden files and those that are no audio are left out of a folder.

    Raises:
        ConfigError: there is none, or too many, or two have one name.
        AudioError: a folder holds audio of a kind that is not read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            if not (inside := _audio_files(path)):
                raise ConfigError(f"{shown(path)}: expected audio files in it, found none")
            found += inside
        else:
            found.append(path)
    if not 1 <= len(found) <= MAX_TRACKS:
        raise ConfigError(f"tracks: expected 1 to {MAX_TRACKS} files, found {len(found)}")
    named: dict[str, Path] = {}
    for path in found:
        name = track_name(path)
        if name in named:
            raise ConfigError(
                f"tracks: expected different names, found {shown(named[name])} and {shown(path)}"
            )
        named[name] = path
    return named


def _audio_files(folder: Path) -> list[Path]:
    """List the audio files of a folder; a track that cannot be read must not be missed in a mix."""
    files = [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]
    for path in files:
        if path.suffix.lower() in UNREADABLE_SUFFIXES:
            raise AudioError(
                "unsupported_format",
                f"{shown(path)}: expected one of {', '.join(sorted(AUDIO_SUFFIXES))}, found "
                f"{path.suffix}: {convert_advice(path)}",
            )
    return [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]


def track_name(path: Path) -> str:
    """Return the name of a track: that of its file without the suffix, see `plain_name`."""
    return plain_name(path.stem)


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """Return for each track a file name without a suffix that any file system takes.

    Names that differ only in letter case, which some systems take for one, get numbers.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = _UNSAFE.sub("_", printable(unicodedata.normalize("NFC", name))).strip(" .") or "_"
        if _DEVICES.fullmatch(plain):
            plain += "_"
        stem = plain = plain.encode()[:_MAX_STEM_BYTES].decode(errors="ignore").rstrip(" .")
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain} ({number})"
        taken.add(stem.casefold())
        stems[name] = stem
    return stems


def plain_name(name: str) -> str:
    """Return a name without dots, which part settings from tracks, and in one spelling.

    macOS writes an accent as a character of its own (NFD), others as part of its letter (NFC).
    """
    return unicodedata.normalize("NFC", shown(name)).replace(".", "_")


def check_not_among(tracks: Mapping[str, Path], out_dir: Path) -> None:
    """Refuse the folder of the tracks for results, which the next call would take for tracks.

    Raises:
        DataError: a track lies there.
    """
    for path in tracks.values():
        if out_dir.is_dir() and path.parent.samefile(out_dir):
            raise DataError(
                f"{shown(out_dir)}: expected another folder than that of the tracks, found "
                f"{shown(path)} in it; choose another folder"
            )


def common_rate_hz(paths: Iterable[Path]) -> int:
    """Return the highest sample rate of some files: at it nothing is lost."""
    return max(probe(path).sample_rate_hz for path in paths)


def length_s(paths: Iterable[Path]) -> float:
    """Return the length of the longest file."""
    return max(probe(path).duration_s for path in paths)


def read_whole(paths: Sequence[Path], sample_rate_hz: int) -> Tensor:
    """Read files into tracks_NCT, float32, the shorter ones silent at the end.

    Raises:
        AudioError: see `stream_audio`.
    """
    # At once in its place: parts that are joined in the end would need the memory twice.
    num_declared = math.ceil((length_s(paths) + 1) * sample_rate_hz)
    whole_NCT = torch.zeros(len(paths), NUM_CHANNELS, num_declared)
    num_read = 0
    for block_NCT in read_in_step(paths, sample_rate_hz):
        end = num_read + block_NCT.shape[-1]
        if end > whole_NCT.shape[-1]:
            whole_NCT = torch.nn.functional.pad(whole_NCT, (0, end - whole_NCT.shape[-1]))
        whole_NCT[..., num_read:end] = block_NCT
        num_read = end
    return whole_NCT[..., :num_read]


def read_in_step(paths: Sequence[Path], sample_rate_hz: int) -> Iterator[Tensor]:
    """Read files side by side, the shorter ones silent at the end.

    Yields:
        tracks_NCT: float32, two channels, `BLOCK_S` long but for the last one.

    Raises:
        AudioError: see `stream_audio`.
    """
    num_samples = math.ceil(BLOCK_S * sample_rate_hz)
    with ExitStack() as stack:
        readers = [
            _Reader(stack.enter_context(closing(stream_audio(path, sample_rate_hz=sample_rate_hz))))
            for path in paths
        ]
        while True:
            parts = [reader.next(num_samples) for reader in readers]
            longest = max(part_CT.shape[-1] for part_CT in parts)
            if longest == 0:
                return
            yield torch.stack(
                [
                    torch.nn.functional.pad(part_CT, (0, longest - part_CT.shape[-1]))
                    for part_CT in parts
                ]
            )


class _Reader:
    """Stream that gives parts of an asked length."""

    def __init__(self, blocks: Iterator[Tensor]) -> None:
        self._blocks = blocks
        self._held_CT = torch.zeros(NUM_CHANNELS, 0)

    def next(self, num_samples: int) -> Tensor:
        """Return the next samples; fewer at the end."""
        parts, length = [self._held_CT], self._held_CT.shape[-1]
        while length < num_samples and (block_CT := next(self._blocks, None)) is not None:
            parts.append(block_CT)
            length += block_CT.shape[-1]
        whole_CT = torch.cat(parts, dim=-1)
        self._held_CT = whole_CT[:, num_samples:].clone()
        return whole_CT[:, :num_samples]
