"""Stems, features and embedding of a song, for programs.

Models are loaded at the first call and kept: a checkpoint that changes under its name is not read
again.

Shape suffixes: S stem, C channel, T sample, E embedding.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.api.arrays import Array, Audio, stereo
from mixprint.api.models import load_encoder
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import CheckpointError
from mixprint.features import FEATURE_NAMES, extract
from mixprint.machine.device import resolve_device
from mixprint.separation import Separator, load_separator
from mixprint.separation.runner import AUTO_BATCH_SIZE
from mixprint.separation.source import of_four_stems
from mixprint.stems import SAMPLE_RATE_HZ, pack
from mixprint.transfer.settings import TRAINED_SEGMENT_S, check_segment
from mixprint.transfer.style import segment_embedding
from mixprint.weights import SHIPPED_ENCODER

Stems: TypeAlias = Mapping[str, Array]


def separate(
    song: Audio,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    separator: Separator | str | Path = "default",
    separator_config: str | Path | None = None,
    device: str = "auto",
) -> dict[str, NDArray[np.float32]]:
    """Separate a song into vocals, bass, drums and other, as `mixprint separate` does.

    A diffusion separator gives vocals and instrumental, or what it was configured for, see
    `mixprint.separation.source.SeparatorSource`.

    Args:
        song: a file (WAV, FLAC, MP3 and others, see `mixprint.audio.files`), or audio as an array
            or tensor of shape (channels, samples) or (samples,), one channel or two, float, full
            scale at +-1.
        sample_rate_hz: rate of an array; files state theirs.
        separator: `default` or `diffusion` for those that mixprint ships, another checkpoint (see
            `mixprint.separation.load_separator`), or one that is loaded.
        separator_config: the configuration of a published checkpoint.
        device: where the network runs: `auto`, `cpu`, `cuda` or `cuda:<index>`. Not read where the
            separator is loaded.

    Returns:
        stem -> array (2, samples) at 44.1 kHz, aligned with the song to the sample. Levels are
        as the network gives them: nothing is clipped or scaled.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: the song cannot be read, is empty, or holds NaN or infinities.
        CheckpointError: the separator is missing, broken or of another kind.
        ConfigError: the device is not known or not there.
    """
    network = _separator(separator, separator_config, device)
    audio_CT = stereo(song, sample_rate_hz)
    stems_SCT = network.separate(audio_CT, batch_size=AUTO_BATCH_SIZE)
    named = zip(network.stems, stems_SCT, strict=True)
    return {stem: stem_CT.numpy() for stem, stem_CT in named}


def measure(
    song: Audio | Stems,
    *,
    segment_duration: float = TRAINED_SEGMENT_S,
    segment_offset: float = 0.0,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    separator: Separator | str | Path = "default",
    separator_config: str | Path | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """Measure the 64 mixing features of a segment of a song, as `mixprint features` does.

    Args:
        song: see `separate`; or stems that it has returned, which are not separated again.
            Stems of a whole song differ a little from those of a segment alone.
        segment_duration: length of the segment in s, 3 or more.
        segment_offset: its start in s.
        sample_rate_hz: see `separate`; of stems, too.
        separator: see `separate`; not loaded for stems.
        separator_config: see `separate`.
        device: see `separate`.

    Returns:
        feature -> value, in the order of `mixprint.features.FEATURE_NAMES`; the units are
        `FEATURE_UNITS` beside it: dB, LUFS, LU, dB per octave, or none.

    Raises:
        ValueError: see `separate`; also where stems are missing or of different lengths.
        AudioError: see `separate`; also where the segment reaches beyond the song's end.
        CheckpointError: see `separate`.
        ConfigError: see `separate`; also where the segment is too short, or the separator gives no
            four stems.
    """
    check_segment(segment_duration, segment_offset)
    segment = (segment_offset, segment_duration)
    stems_SCT = _segment_stems(song, segment, sample_rate_hz, separator, separator_config, device)
    with torch.inference_mode():
        values_D = extract(stems_SCT.unsqueeze(0), SAMPLE_RATE_HZ).squeeze(0)
    return dict(zip(FEATURE_NAMES, values_D.tolist(), strict=True))


def embed(
    song: Audio | Stems,
    *,
    segment_duration: float = TRAINED_SEGMENT_S,
    segment_offset: float = 0.0,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    encoder: Encoder | str | Path = "",
    separator: Separator | str | Path = "default",
    separator_config: str | Path | None = None,
    device: str = "auto",
) -> NDArray[np.float32]:
    """Embed how a segment of a song is mixed, as transfers with `--optimize_target embeddings` do.

    Args:
        song: see `measure`.
        segment_duration: length of the segment in s, 3 or more; encoders are trained on 10 s.
        segment_offset: its start in s.
        sample_rate_hz: see `measure`.
        encoder: empty for the one that mixprint ships, the folder of another one, a name in a
            registry such as `models:/name@champion`, or one that is loaded.
        separator: see `measure`.
        separator_config: see `separate`.
        device: where separator and encoder run, as far as they are not loaded.

    Returns:
        array (embedding,) of length one. The product of two embeddings is the cosine of their
        angle: 1 for mixes that are alike.

    Raises:
        ValueError: see `measure`.
        AudioError: see `measure`.
        CheckpointError: the separator or the encoder is missing, broken or of another kind.
        ConfigError: see `measure`; also where nothing that is installed knows the registry.
    """
    check_segment(segment_duration, segment_offset)
    used = encoder if isinstance(encoder, Encoder) else _loaded_encoder(str(encoder), device)
    segment = (segment_offset, segment_duration)
    stems_SCT = _segment_stems(song, segment, sample_rate_hz, separator, separator_config, device)
    stems_SCT = stems_SCT.to(next(used.model.parameters()).device)
    with torch.inference_mode():
        embedding_E = segment_embedding(used, [stems_SCT], SAMPLE_RATE_HZ)
    return embedding_E.cpu().numpy()


def _segment_stems(
    song: Audio | Stems,
    segment: tuple[float, float],
    sample_rate_hz: int,
    separator: Separator | str | Path,
    separator_config: str | Path | None,
    device: str,
) -> Tensor:
    """Return stems_SCT of a segment, given by its start and its length in seconds."""
    if isinstance(song, Mapping):
        return pack({stem: stereo(song[stem], sample_rate_hz, segment) for stem in song})
    network = of_four_stems(_separator(separator, separator_config, device))
    return network.separate(stereo(song, sample_rate_hz, segment))


def _separator(
    separator: Separator | str | Path, config: str | Path | None, device: str
) -> Separator:
    if isinstance(separator, str | Path):
        return _loaded_separator(str(separator), None if config is None else str(config), device)
    return separator


@lru_cache(maxsize=2)
def _loaded_separator(checkpoint: str, config: str | None, device: str) -> Separator:
    return load_separator(checkpoint, config, resolve_device(device))


@lru_cache(maxsize=2)
def _loaded_encoder(checkpoint: str, device: str) -> Encoder:
    encoder = load_encoder(checkpoint, resolve_device(device))
    if encoder is None:
        raise CheckpointError(f"{SHIPPED_ENCODER}: expected the shipped encoder, found none")
    return encoder
