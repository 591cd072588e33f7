"""Distances of two renderings of the same music: of their spectra, at several resolutions.

Shape suffixes: C channel, T sample, J all leading dimensions together, F frequency bin, N frame.

Source: Yamamoto, Song and Kim 2020 (arXiv 1910.11480): spectral convergence plus the mean
difference of logarithmic magnitudes; sum and difference of the channels as Steinmetz, Pons,
Pascual and Serra 2021 (arXiv 2010.10291).
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mixprint.dsp.decibels import amplitude
from mixprint.stems import NUM_CHANNELS

RESOLUTIONS = (512, 2048, 8192)
FRAMES_PER_WINDOW = 4
# Where it is measured often: neighbouring frames say almost the same, and cost as much.
FEW_FRAMES_PER_WINDOW = 2
# Of a full-scale sine's bin: what is quieter than this counts as equally silent.
FLOOR_DBFS = -80.0


def multi_resolution_stft(
    a_CT: Tensor,
    b_CT: Tensor,
    resolutions: Sequence[int] = RESOLUTIONS,
    frames_per_window: int = FRAMES_PER_WINDOW,
) -> Tensor:
    """Measure the distance of `a` to the truth `b`, beside left and right also of mid and side.

    For each resolution: the mean difference of the natural logarithms of the magnitudes (0.115
    for 1 dB), plus the spectral convergence, the norm of the difference of the magnitudes over
    the norm of the truth's. Both are means over left, right, mid and side; the norm in the
    denominator is that of all four, so that a mono truth does not make the side's term infinite.

    Args:
        a_CT: stereo audio, full scale at +-1, with any leading dimensions.
        b_CT: of the same shape.
        resolutions: window lengths in samples.
        frames_per_window: how many frames start within one window.

    Returns:
        distance without the last two dimensions, the mean over the resolutions; 0 for equal
        audio. Two silences are equal.

    Raises:
        ValueError: the shapes differ, or the audio is not stereo or shorter than a window.
    """
    if a_CT.shape != b_CT.shape or a_CT.ndim < 2 or a_CT.shape[-2] != NUM_CHANNELS:
        raise ValueError(
            f"expected two of one shape (..., {NUM_CHANNELS}, T), "
            f"got {tuple(a_CT.shape)} and {tuple(b_CT.shape)}"
        )
    if a_CT.shape[-1] < max(resolutions):
        raise ValueError(f"expected at least {max(resolutions)} samples, got {a_CT.shape[-1]}")
    parts = []
    for n_fft in resolutions:
        hop_samples = n_fft // frames_per_window
        a_JCFN, b_JCFN = (_stereo_magnitudes(x_CT, n_fft, hop_samples) for x_CT in (a_CT, b_CT))
        parts.append(_distance(a_JCFN, b_JCFN).view(a_CT.shape[:-2]))
    return torch.stack(parts).mean(dim=0)


def mono_distance(a_BT: Tensor, b_BT: Tensor, resolutions: Sequence[int]) -> Tensor:
    """Measure as `multi_resolution_stft` does, of mono audio: distance_B.

    Raises:
        ValueError: the shapes differ, or the audio is shorter than a window.
    """
    if a_BT.shape != b_BT.shape or a_BT.shape[-1] < max(resolutions):
        raise ValueError(
            f"expected two of one shape with at least {max(resolutions)} samples, got "
            f"{tuple(a_BT.shape)} and {tuple(b_BT.shape)}"
        )
    parts = []
    for n_fft in resolutions:
        a_BCFN, b_BCFN = (
            _magnitudes(_spectra(x_BT, n_fft, n_fft // FRAMES_PER_WINDOW))[:, None]
            for x_BT in (a_BT, b_BT)
        )
        parts.append(_distance(a_BCFN, b_BCFN))
    return torch.stack(parts).mean(dim=0)


def _distance(a_JCFN: Tensor, b_JCFN: Tensor) -> Tensor:
    floor = amplitude(FLOOR_DBFS)
    logarithmic_J = (torch.log(a_JCFN + floor) - torch.log(b_JCFN + floor)).abs().mean((1, 2, 3))
    # The floor keeps gradient and ratio finite where there is only silence.
    tiny = floor**2
    difference_J = (a_JCFN - b_JCFN).square().mean((1, 2, 3))
    reference_J = b_JCFN.square().mean((1, 2, 3))
    convergence_J = ((difference_J + tiny) / (reference_J + tiny)).sqrt()
    none_J = (tiny / (reference_J + tiny)).sqrt()
    return logarithmic_J + convergence_J - none_J


def _stereo_magnitudes(x_CT: Tensor, n_fft: int, hop_samples: int) -> Tensor:
    """Return the magnitudes of left, right, mid and side."""
    flat_JT = x_CT.reshape(-1, x_CT.shape[-1])
    channel_JCFN = _spectra(flat_JT, n_fft, hop_samples).unflatten(0, (-1, NUM_CHANNELS))
    left_JFN, right_JFN = channel_JCFN.unbind(1)
    all_JCFN = torch.stack(
        [left_JFN, right_JFN, (left_JFN + right_JFN) / 2, (left_JFN - right_JFN) / 2], dim=1
    )
    return _magnitudes(all_JCFN)


def _spectra(audio_JT: Tensor, n_fft: int, hop_samples: int) -> Tensor:
    """Return spectrum_JFN, of magnitude 1 for a full-scale sine in its bin."""
    window_F = _window(n_fft, audio_JT.device)
    return torch.stft(
        audio_JT, n_fft, hop_samples, window=window_F, pad_mode="constant", return_complex=True
    )


def _magnitudes(spectrum: Tensor) -> Tensor:
    # The tiny term keeps the gradient of the root finite at zero; -160 dBFS.
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.sqrt(power + 1e-16)


@lru_cache(maxsize=16)
def _window(n_fft: int, device: torch.device) -> Tensor:
    window_T = torch.hann_window(n_fft, device=device)
    return window_T * (2 / window_T.sum())
