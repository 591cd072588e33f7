"""How good a separation is.

Shape suffixes: S stem, C channel, T sample; leading dimensions are free.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixprint.separation.remix import find_songs, read_mixture, read_stems
from mixprint.stems import STEMS

if TYPE_CHECKING:
    from mixprint.separation.separator import Separator

LIMIT_DB = 100.0
SILENCE_DBFS = -70.0


def utterance_sdr(estimate_CT: Tensor, reference_CT: Tensor) -> Tensor:
    """Measure the signal-to-distortion ratio over the whole length, all channels together.

    Args:
        estimate_CT: what was separated; leading dimensions are free.
        reference_CT: the true stem, of equal shape.

    Returns:
        the ratio in dB, per leading dimension, within -+`LIMIT_DB`. NaN where the reference is
        silent (RMS under `SILENCE_DBFS`): nothing was there to be found, so that the ratio says
        nothing; how much leaks into it shows elsewhere, as error of the other stems.

    Source: the "global" SDR of the Music Demixing Challenge 2021, 10 log10(|s|^2 / |s - e|^2).
    """
    if estimate_CT.shape != reference_CT.shape:
        raise ValueError(
            f"estimate and reference must have one shape, got {tuple(estimate_CT.shape)} and "
            f"{tuple(reference_CT.shape)}"
        )
    signal = reference_CT.double().square().mean(dim=(-2, -1))
    error = (reference_CT.double() - estimate_CT.double()).square().mean(dim=(-2, -1))
    ratio_db = 10 * (torch.log10(signal) - torch.log10(error))
    silent = signal < 10 ** (SILENCE_DBFS / 10)
    return ratio_db.clamp(-LIMIT_DB, LIMIT_DB).masked_fill(silent, math.nan)


def null_depth_db(stems_SCT: Tensor, mixture_CT: Tensor) -> float:
    """Measure what is left when the stems' sum is taken from the mixture (the null test).

    Returns:
        level of the rest relative to the mixture in dB; lower is better, at least -`LIMIT_DB`;
        0 for a silent mixture with a rest, -`LIMIT_DB` for one without.
    """
    rest = (stems_SCT.double().sum(dim=-3) - mixture_CT.double()).square().sum().item()
    power = mixture_CT.double().square().sum().item()
    if rest == 0.0:
        return -LIMIT_DB
    return max(10 * math.log10(rest / power), -LIMIT_DB) if power else 0.0


def evaluate_separator(
    separator: "Separator",
    song_dirs: Iterable[Path],
    *,
    window_s: float | None = None,
    overlap: float = 0.25,
    batch_size: int = 4,
    max_duration_s: float | None = None,
) -> dict[str, float]:
    """Separate the mixtures of songs with true stems, and compare.

    Args:
        separator: the separator.
        song_dirs: folders with true stems, or folders of such folders.
        window_s: see `Separator.separate`.
        overlap: see `Separator.separate`.
        batch_size: see `Separator.separate`.
        max_duration_s: take only the middle of longer songs.

    Returns:
        utterance SDR per stem, the mean over the songs in which it is not silent, and `average`
        over the stems; in dB. A stem that is silent in all songs is left out.

    Raises:
        DataError: a folder holds no song, or a stem cannot be read.
    """
    per_song = []
    for song in (song for folder in song_dirs for song in find_songs(Path(folder))):
        start, num_samples = 0, song.num_samples
        if max_duration_s is not None:
            num_samples = min(num_samples, round(max_duration_s * separator.sample_rate_hz))
            start = (song.num_samples - num_samples) // 2
        reference_SCT = read_stems(song, start, num_samples)
        estimate_SCT = separator.separate(
            read_mixture(song, start, num_samples),
            window_s=window_s,
            overlap=overlap,
            batch_size=batch_size,
        )
        sdr_S = utterance_sdr(estimate_SCT, reference_SCT).tolist()
        per_song.append(dict(zip(STEMS, sdr_S, strict=True)))
    return mean_sdr(per_song)


def mean_sdr(per_song: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each stem over the songs where its SDR is a number, then over the stems."""
    means = {}
    for stem in STEMS:
        values = [song[stem] for song in per_song if not math.isnan(song[stem])]
        if values:
            means[stem] = fmean(values)
    return {**means, "average": fmean(means.values())} if means else {}
