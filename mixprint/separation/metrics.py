"""Measures of how good a separation is.

Shape suffixes: S stem, C channel, T sample, N frame; leading dimensions are free.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mixprint.separation.diffusion.separator import INSTRUMENTAL, INSTRUMENTAL_STEMS
from mixprint.separation.material.songs import Song, find_songs, read_mixture, read_stems
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

if TYPE_CHECKING:
    from mixprint.separation.separator import Separator

LIMIT_DB = 100.0
SILENCE_DBFS = -70.0
MUSEVAL_FRAME_S = 1.0
# The two ratios have one name each, here, in histories and in model cards.
UTTERANCE_SDR, MUSEVAL_SDR = "utterance_sdr", "museval_sdr"

Scores = dict[str, dict[str, float]]


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
    _check_shapes(estimate_CT, reference_CT)
    signal = reference_CT.double().square().mean(dim=(-2, -1))
    error = (reference_CT.double() - estimate_CT.double()).square().mean(dim=(-2, -1))
    ratio_db = 10 * (torch.log10(signal) - torch.log10(error))
    silent = signal < 10 ** (SILENCE_DBFS / 10)
    return ratio_db.clamp(-LIMIT_DB, LIMIT_DB).masked_fill(silent, math.nan)


def framewise_sdr(estimate_SCT: Tensor, reference_SCT: Tensor, frame_samples: int) -> Tensor:
    """Measure the signal-to-distortion ratio of BSSEval v4 in frames that follow each other.

    BSSEval takes the error apart by projections through filters of 512 taps, but its SDR is the
    energy of the true image over that of all parts together, and these add up to the plain error
    `estimate - reference` again: no filter is left in it.

    Args:
        estimate_SCT: what was separated, all stems of a song.
        reference_SCT: the true stems, of equal shape.
        frame_samples: length of a frame. A rest at the end is left out; audio that is no longer
            than a frame is one.

    Returns:
        sdr_SN in dB. As in museval a frame is NaN for all stems where any stem, true or estimated,
        is silent (its channels add up to nothing but zeros). It is NaN, too, for a stem that is
        perfect to the bit, where museval gives what its rounding leaves, hundreds of dB.

    Source: Stoeter, Liutkus and Ito, "The 2018 Signal Separation Evaluation Campaign", LVA/ICA
    2018; museval 0.4.1 gives the same numbers to 1e-14 dB.
    """
    _check_shapes(estimate_SCT, reference_SCT)
    total = reference_SCT.shape[-1]
    num_frames, length = max(total // frame_samples, 1), min(frame_samples, total)
    used = num_frames * length
    reference_SCNT = reference_SCT[..., :used].double().unflatten(-1, (num_frames, length))
    estimate_SCNT = estimate_SCT[..., :used].double().unflatten(-1, (num_frames, length))
    signal_SN = reference_SCNT.square().sum(dim=(1, 3))
    error_SN = (estimate_SCNT - reference_SCNT).square().sum(dim=(1, 3))
    silent_N = torch.zeros(num_frames, dtype=torch.bool)
    for audio_SCNT in (reference_SCNT, estimate_SCNT):
        silent_N |= (audio_SCNT.sum(dim=1) == 0).all(dim=-1).any(dim=0)
    ratio_SN = 10 * torch.log10(signal_SN / error_SN)
    return ratio_SN.masked_fill(silent_N | (error_SN == 0), math.nan)


def museval_sdr(
    estimate_SCT: Tensor, reference_SCT: Tensor, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> list[float]:
    """Measure the ratio that museval reports of a song: the median over frames of a second.

    Args:
        estimate_SCT: what was separated, all stems of a song.
        reference_SCT: the true stems, of equal shape.
        sample_rate_hz: their rate.

    Returns:
        a value per stem in dB; NaN where no frame has one, see `framewise_sdr`.
    """
    frames_SN = framewise_sdr(estimate_SCT, reference_SCT, round(MUSEVAL_FRAME_S * sample_rate_hz))
    known = [row[~np.isnan(row)] for row in frames_SN.numpy()]
    return [float(np.median(row)) if len(row) else math.nan for row in known]


def score_separator(
    separator: "Separator",
    song_dirs: Iterable[Path],
    *,
    window_s: float | None = None,
    overlap: float = 0.25,
    batch_size: int = 4,
    max_duration_s: float | None = None,
) -> Scores:
    """Separate the mixtures of songs with true stems, and compare by both definitions of SDR.

    Args:
        separator: the separator.
        song_dirs: folders with true stems, or folders of such folders.
        window_s: see `Separator.separate`.
        overlap: see `Separator.separate`.
        batch_size: see `Separator.separate`.
        max_duration_s: take only the middle of longer songs.

    Returns:
        for each measure its value per stem, and `average` over the stems; in dB:
        `utterance_sdr`, the mean over the songs in which the stem is not silent;
        `museval_sdr`, the median over the songs of the medians over frames, as museval reports.
        A stem without a value in any song is left out.

    Raises:
        DataError: a folder holds no song, or a stem cannot be read.
    """
    utterance, museval = [], []
    for song in (song for folder in song_dirs for song in find_songs(Path(folder))):
        start, num_samples = middle(song, max_duration_s, separator.sample_rate_hz)
        reference_SCT = as_stems(read_stems(song, start, num_samples), separator.stems)
        estimate_SCT = separator.separate(
            read_mixture(song, start, num_samples),
            window_s=window_s,
            overlap=overlap,
            batch_size=batch_size,
        )
        utterance_S = utterance_sdr(estimate_SCT, reference_SCT).tolist()
        museval_S = museval_sdr(estimate_SCT, reference_SCT, separator.sample_rate_hz)
        utterance.append(dict(zip(separator.stems, utterance_S, strict=True)))
        museval.append(dict(zip(separator.stems, museval_S, strict=True)))
    return {UTTERANCE_SDR: mean_sdr(utterance), MUSEVAL_SDR: median_sdr(museval)}


def middle(
    song: Song, max_duration_s: float | None, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> tuple[int, int]:
    """Return first sample and length of a song's middle; None: of all of it."""
    num_samples = song.num_samples
    if max_duration_s is not None:
        num_samples = min(num_samples, round(max_duration_s * sample_rate_hz))
    return (song.num_samples - num_samples) // 2, num_samples


def as_stems(stems_SCT: Tensor, wanted: Sequence[str]) -> Tensor:
    """Return true stems as a separator gives them.

    Args:
        stems_SCT: in the order of `STEMS`.
        wanted: names of them, or `instrumental` for the sum of all but the vocals.
    """
    named = dict(zip(STEMS, stems_SCT, strict=True))
    if INSTRUMENTAL in wanted:
        named[INSTRUMENTAL] = torch.stack([named[stem] for stem in INSTRUMENTAL_STEMS]).sum(dim=0)
    return torch.stack([named[stem] for stem in wanted])


def evaluate_separator(
    separator: "Separator", song_dirs: Iterable[Path], **options: Any
) -> dict[str, float]:
    """Return the utterance SDR alone; arguments and errors are those of `score_separator`."""
    return score_separator(separator, song_dirs, **options)[UTTERANCE_SDR]


def mean_sdr(per_song: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each stem over the songs where its SDR is a number, then over the stems."""
    return _over_songs(per_song, fmean)


def median_sdr(per_song: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Take each stem's median over the songs where its SDR is a number; average over the stems."""
    return _over_songs(per_song, median)


def _over_songs(
    per_song: Sequence[Mapping[str, float]], summary: Callable[[list[float]], float]
) -> dict[str, float]:
    found = {}
    for stem in per_song[0] if per_song else ():
        values = [song[stem] for song in per_song if not math.isnan(song[stem])]
        if values:
            found[stem] = summary(values)
    return {**found, "average": fmean(found.values())} if found else {}


def _check_shapes(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape != reference.shape:
        raise ValueError(
            f"estimate and reference must have one shape, got {tuple(estimate.shape)} and "
            f"{tuple(reference.shape)}"
        )
