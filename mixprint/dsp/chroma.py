"""Chroma: how loud each of the twelve pitch classes is, and how alike two harmonies are.

Shape suffixes: S signal, T sample, F frequency bin, N frame, H pitch class, K block.

Source: Fujishima, "Realtime chord recognition of musical sound" (ICMC 1999).
"""

import math

import torch
from torch import Tensor

NUM_CLASSES = 12
LOWEST_HZ, HIGHEST_HZ = 80.0, 2_100.0
BLOCK_S = 0.5
_WINDOW_S, _FRAMES_PER_BLOCK = 0.17, 8
_DEVIATION_SEMITONES = 0.35
_REFERENCE_HZ = 440.0
# RMS of a block over that of the loudest, below which it has no harmony: -50 dB.
_SOUNDING = 3e-3
_TINY = 1e-12


def chroma(audio_ST: Tensor, sample_rate_hz: int) -> Tensor:
    """Measure the pitch classes of blocks of half a second.

    Args:
        audio_ST: signals of a block or longer; their harmonic parts tell it most clearly.
        sample_rate_hz: of the signals.

    Returns:
        chroma_SKH of length 1 without its mean over the classes; 0 in silent blocks. It does not
        depend on the gain. What lies behind the last whole block is left out.

    Raises:
        ValueError: the signals are shorter than a block.
    """
    block = round(BLOCK_S * sample_rate_hz)
    if audio_ST.shape[-1] < block:
        raise ValueError(f"expected at least {block} samples, got {audio_ST.shape[-1]}")
    hop = block // _FRAMES_PER_BLOCK
    window_samples = 2 ** math.ceil(math.log2(_WINDOW_S * sample_rate_hz))
    num_blocks = audio_ST.shape[-1] // block
    window_T = torch.hann_window(window_samples, device=audio_ST.device)
    spectrum_SFN = torch.stft(
        audio_ST[..., : num_blocks * block],
        window_samples,
        hop,
        window=window_T,
        return_complex=True,
    )[..., : num_blocks * _FRAMES_PER_BLOCK]
    power_SFN = torch.view_as_real(spectrum_SFN).square().sum(dim=-1)
    classes_FH = _classes(window_samples, sample_rate_hz).to(audio_ST)
    # Magnitudes, so that the loudest partial is not all that counts.
    chroma_SNH = power_SFN.sqrt().mT @ classes_FH
    chroma_SKH = chroma_SNH.unflatten(1, (num_blocks, _FRAMES_PER_BLOCK)).mean(dim=2)
    level_SK1 = chroma_SKH.norm(dim=-1, keepdim=True)
    sounds_SK1 = level_SK1 > _SOUNDING * level_SK1.amax(dim=1, keepdim=True)
    chroma_SKH = chroma_SKH - chroma_SKH.mean(dim=-1, keepdim=True)
    chroma_SKH = chroma_SKH / chroma_SKH.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    return chroma_SKH * sounds_SK1


def harmony_likeness(chroma_SKH: Tensor, other_SKH: Tensor) -> Tensor:
    """Compare harmonies block by block: the mean cosine, likeness_S, -1 to 1.

    Blocks in which both are silent do not count, those in which one is are like nothing.
    """
    blocks = min(chroma_SKH.shape[1], other_SKH.shape[1])
    chroma_SKH, other_SKH = chroma_SKH[:, :blocks], other_SKH[:, :blocks]
    counts_SK = (chroma_SKH.abs().sum(dim=-1) + other_SKH.abs().sum(dim=-1) > 0).to(chroma_SKH)
    cosine_SK = (chroma_SKH * other_SKH).sum(dim=-1)
    return (cosine_SK * counts_SK).sum(dim=-1) / counts_SK.sum(dim=-1).clamp_min(1)


def _classes(window_samples: int, sample_rate_hz: int) -> Tensor:
    """Return how much a bin counts for each pitch class: classes_FH."""
    bins_F = torch.arange(window_samples // 2 + 1, dtype=torch.float64)
    frequency_F = bins_F * sample_rate_hz / window_samples
    pitch_F = NUM_CLASSES * torch.log2(frequency_F.clamp_min(1.0) / _REFERENCE_HZ)
    away_FH = pitch_F[:, None] - torch.arange(NUM_CLASSES)
    away_FH = (away_FH + NUM_CLASSES / 2) % NUM_CLASSES - NUM_CLASSES / 2
    weight_FH = torch.exp(-0.5 * (away_FH / _DEVIATION_SEMITONES).square())
    heard_F = (frequency_F >= LOWEST_HZ) & (frequency_F <= HIGHEST_HZ)
    return (weight_FH * heard_F[:, None]).float()
