"""Harmonic and percussive parts of a sound.

What is held draws lines along time in a spectrogram, what is struck draws lines along frequency;
the median along either keeps its own lines and drops the others.

Shape suffixes: S signal, T sample, F frequency bin, N frame, K place in a median.

Source: Fitzgerald, "Harmonic/percussive separation using median filtering" (DAFx 2010), with the
masks of its equation 7 (squares).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WINDOW_S, HOP_S = 0.0427, 0.0107
# Of the medians: 0.2 s along time, 0.5 kHz along frequency.
HARMONIC_S, PERCUSSIVE_HZ = 0.2, 500.0
_TINY = 1e-20


def harmonic_and_percussive(audio_ST: Tensor, sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    """Divide signals into their harmonic and percussive parts, which add up to them.

    Args:
        audio_ST: signals of a window or longer.
        sample_rate_hz: of the signals.

    Returns:
        harmonic_ST and percussive_ST.

    Raises:
        ValueError: the signals are shorter than a window.
    """
    hop = round(HOP_S * sample_rate_hz)
    window_samples = 4 * hop
    if audio_ST.shape[-1] < window_samples:
        raise ValueError(f"expected at least {window_samples} samples, got {audio_ST.shape[-1]}")
    window_T = torch.hann_window(window_samples, device=audio_ST.device)
    spectrum_SFN = torch.stft(audio_ST, window_samples, hop, window=window_T, return_complex=True)
    power_SFN = torch.view_as_real(spectrum_SFN).square().sum(dim=-1)
    magnitude_SFN = power_SFN.sqrt()
    bin_hz = sample_rate_hz / window_samples
    held_SFN = _median(magnitude_SFN, round(HARMONIC_S * sample_rate_hz / hop))
    struck_SFN = _median(magnitude_SFN.mT, round(PERCUSSIVE_HZ / bin_hz)).mT
    held_SFN, struck_SFN = held_SFN.square(), struck_SFN.square()
    share_SFN = (held_SFN + _TINY / 2) / (held_SFN + struck_SFN + _TINY)
    harmonic_ST = torch.istft(
        spectrum_SFN * share_SFN,
        window_samples,
        hop,
        window=window_T,
        length=audio_ST.shape[-1],
    )
    return harmonic_ST, audio_ST - harmonic_ST


def _median(values_SFN: Tensor, length: int) -> Tensor:
    """Return the running median along the last dimension, over an odd number of places."""
    half = min(length // 2, values_SFN.shape[-1] - 1)
    padded_SFN = functional.pad(values_SFN, (half, half), mode="reflect").cpu()
    places_SFNK = padded_SFN.unfold(-1, 2 * half + 1, 1).numpy()
    # Half of the time of torch's median.
    median_SFN = np.partition(places_SFNK, half, axis=-1)[..., half]
    return torch.from_numpy(median_SFN).to(values_SFN.device)
