"""Songs separated into files, once, whichever process asks first.

    <folder>/{vocals,bass,drums,other}.wav    float, of a whole song, or of an excerpt
    <folder>/song.json                        written last: all is there
    <folder>/lock                             held by who separates

Shape suffixes: S stem, C channel, T sample, N second.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from mixprint.audio.files import probe, stream_audio
from mixprint.audio.writing import FLOAT, StereoFile
from mixprint.progress import Progress
from mixprint.schema import Count, Float32, Length, read_record
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import atomic_path, write_json
from mixprint.storage.locks import locked

if TYPE_CHECKING:
    from mixprint.separation import Separator

log = logging.getLogger("mixprint.transfer")

# Written when all stems of a song are there.
SONG_NAME = "song.json"

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
    with _locked_folder(folder):
        if not (folder / SONG_NAME).is_file():
            with stem_files(folder, audio_CT.shape[-1]) as add:
                add(separate(audio_CT))
            write_json(folder / SONG_NAME, {"num_samples": audio_CT.shape[-1]})
    return torch.cat(list(read_stem_files(folder)), dim=-1)


@dataclass(frozen=True, kw_only=True)
class _StoredSong:
    """Description beside the stems of a whole song."""

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
    with _locked_folder(folder):
        if not (folder / SONG_NAME).is_file():
            power_SN, num_samples = _write_song(folder, num_declared, blocks)
            write_json(
                folder / SONG_NAME, {"num_samples": num_samples, "power_SN": power_SN.tolist()}
            )
    stored = read_record(folder / SONG_NAME, _StoredSong)
    return WholeSong(path, folder, stored.num_samples), torch.tensor(stored.power_SN)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; it is created if it is missing."""
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
            stack.enter_context(float_file(folder / f"{stem}.wav", num_declared)) for stem in STEMS
        ]

        def add(stems_SCT: Tensor) -> None:
            for file, stem_CT in zip(files, stems_SCT, strict=True):
                file.add(stem_CT)

        yield add


@contextmanager
def float_file(path: Path, num_declared: int) -> Iterator[StereoFile]:
    """Write a float WAV at 44.1 kHz piece by piece, whole or not at all."""
    with (
        atomic_path(path) as temporary,
        StereoFile(
            temporary, bit_depth=FLOAT, sample_rate_hz=SAMPLE_RATE_HZ, num_declared=num_declared
        ) as file,
    ):
        yield file
