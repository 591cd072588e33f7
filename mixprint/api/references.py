"""References of a mix as programs and commands give them: songs, stems, saved styles.

Shape suffixes: S stem, C channel, T sample, N track.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from mixprint.api import models
from mixprint.api.arrays import ARRAY_NAME, Array, Audio, is_path, stereo
from mixprint.console.excerpts import FramePower, busiest_part, busiest_second, part_of
from mixprint.console.levels import WorkingLevels
from mixprint.console.tracks import find_tracks, read_in_step
from mixprint.controller.checkpoint import EXCERPT_S
from mixprint.errors import CheckpointError, ConfigError
from mixprint.separation import Separator
from mixprint.separation.source import of_four_stems
from mixprint.stems import SAMPLE_RATE_HZ, STEMS, pack
from mixprint.text import shown
from mixprint.transfer.style import Style

# A song, its stems by name or in a folder, or a saved style.
ReferenceAudio: TypeAlias = Audio | Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference of a mix: its stems and its embedding, as far as they are known.

    Attributes:
        title: what a person calls it.
        stems_SCT: of an excerpt, at 44.1 kHz; None where only a style is known.
        mix_CT: the excerpt itself.
        style: a saved one; None for a song.
    """

    title: str
    stems_SCT: Tensor | None = None
    mix_CT: Tensor | None = None
    style: Style | None = None


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Part of some tracks that is heard, and their levels in all of the song.

    Attributes:
        audio_NCT: the part, at 44.1 kHz.
        trim_db: what brings each track to the working level, measured on the whole song.
    """

    audio_NCT: Tensor
    trim_db: Sequence[float]


def read_reference(
    reference: ReferenceAudio,
    device: torch.device,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    separator: Separator | str | Path = "default",
    separator_config: str | Path | None = None,
) -> Reference:
    """Read the busiest `EXCERPT_S` of a reference, and separate it where its stems are not known.

    Args:
        reference: a song (a file, an array or a tensor), its four stems (a folder of files that are
            called as them, or name -> array), or a saved style (a file that ends in .json).
        device: where the separator runs.
        sample_rate_hz: rate of arrays; files state theirs.
        separator: see `mixprint.separation.load_separator`, or one that is loaded.
        separator_config: see there.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: the reference cannot be read, is empty, or holds NaN or infinities.
        ConfigError: a folder does not hold the four stems.
        CheckpointError, DataError: the separator or the style cannot be read.
    """
    if isinstance(reference, Mapping):
        stems_SCT = pack({name: stereo(reference[name], sample_rate_hz) for name in reference})
        return _of_stems("stems", busiest(stems_SCT))
    if is_path(reference):
        path = Path(reference)
        if path.suffix.lower() == ".json":
            style = Style.load(path)
            return Reference(style.title, style=style)
        if path.is_dir():
            return _of_stems(shown(path.name), _stems_in(path))
        title, mix_CT = shown(path.stem), _busiest_of_file(path)
    else:
        title, mix_CT = ARRAY_NAME, busiest(stereo(reference, sample_rate_hz)[None])[0]
    if isinstance(separator, str | Path):
        separator = models.load_separator(separator, separator_config, device)
    return Reference(title, of_four_stems(separator).separate(mix_CT).cpu(), mix_CT)


def embedding_of(style: Style) -> tuple[Tensor, str]:
    """Return the embedding of a saved style, and the fingerprint of its encoder.

    Raises:
        CheckpointError: it has none.
    """
    if style.embedding_E is None or style.encoder is None:
        raise CheckpointError(
            f"style {style.title}: expected an embedding, found none; add the song again with "
            "`mixprint styles add`"
        )
    return style.embedding_E, style.encoder


def _of_stems(title: str, stems_SCT: Tensor) -> Reference:
    return Reference(title, stems_SCT, stems_SCT.sum(dim=0))


def _stems_in(folder: Path) -> Tensor:
    """Read the busiest part of stems that lie in a folder: stems_SCT."""
    named = find_tracks([folder])
    if set(named) != set(STEMS):
        raise ConfigError(
            f"{shown(folder)}: expected the stems of a reference, {', '.join(STEMS)}, found "
            f"{', '.join(named)}"
        )
    return busiest_of_files([named[stem] for stem in STEMS]).audio_NCT


def busiest_of_files(paths: list[Path], sample_rate_hz: int = SAMPLE_RATE_HZ) -> Excerpt:
    """Read the `EXCERPT_S` of files in which all sound the most, in memory that does not grow.

    Raises:
        AudioError: a file cannot be read.
    """
    power, levels = FramePower(sample_rate_hz), WorkingLevels(sample_rate_hz)
    num_samples = 0
    for block_NCT in power.watch(read_in_step(paths, sample_rate_hz)):
        levels.add(block_NCT)
        num_samples += block_NCT.shape[-1]
    start = 0
    if num_samples >= EXCERPT_S * sample_rate_hz:
        start = busiest_second(power.power(), EXCERPT_S) * sample_rate_hz
    stop = start + EXCERPT_S * sample_rate_hz
    audio_NCT = part_of(read_in_step(paths, sample_rate_hz), start, stop)
    return Excerpt(audio_NCT, levels.trims_db())


def _busiest_of_file(path: Path) -> Tensor:
    (mix_CT,) = busiest_of_files([path]).audio_NCT
    return mix_CT


def busiest(audio_NCT: Tensor) -> Tensor:
    """Cut the `EXCERPT_S` of audio of 44.1 kHz in which all sounds the most."""
    return busiest_part(audio_NCT, SAMPLE_RATE_HZ, EXCERPT_S)
