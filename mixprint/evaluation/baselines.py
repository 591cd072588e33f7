"""Baselines of an encoder: a mean spectrum, and an encoder that has learned nothing.

Shape suffixes: B batch, S stem, C channel, T sample, J signal, F frequency bin, M mel, N frame.
"""

from functools import cache

import torch
from torch import Tensor

from mixprint.dsp.mel import mel_filterbank
from mixprint.encoder.building import build_encoder
from mixprint.encoder.checkpoint import Encoder

N_FFT, HOP_SAMPLES, NUM_MELS = 2048, 1024, 64
# Below this a level says nothing but that a stem rests.
MIN_POWER = 1e-8


def log_mel_mean(stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Average log-mel levels over time, for each channel of each stem.

    It is fixed, so that the figures of different encoders stand beside the same baseline.

    Args:
        stems_BSCT: stems, full scale at +-1.
        sample_rate_hz: rate of the audio.

    Returns:
        levels, (B, S * C * 64), in dBFS; silence reads -80.
    """
    B, S, C, T = stems_BSCT.shape
    window_T, filters_MF = _constants(sample_rate_hz, stems_BSCT.device)
    levels = []
    for stems_SCT in stems_BSCT.float():
        spectrum_JFN = torch.stft(
            stems_SCT.reshape(S * C, T),
            N_FFT,
            HOP_SAMPLES,
            window=window_T,
            pad_mode="constant",
            return_complex=True,
        )
        power_JMN = filters_MF @ spectrum_JFN.abs().square()
        levels.append(10 * torch.log10(power_JMN + MIN_POWER).mean(dim=-1))
    return torch.stack(levels).view(B, S * C * NUM_MELS)


@cache
def _constants(sample_rate_hz: int, device: torch.device) -> tuple[Tensor, Tensor]:
    window_T = torch.hann_window(N_FFT, device=device)
    filters_MF = mel_filterbank(NUM_MELS, N_FFT, sample_rate_hz).to(device)
    # A full-scale sine whose power all falls into one bin reads 0 dBFS there.
    return window_T, filters_MF * (2.0 / window_T.sum()).square()


def untrained_encoder(encoder: Encoder, seed: int) -> Encoder:
    """Make an encoder of the same architecture with fresh weights.

    Args:
        encoder: the one that it is compared with; it keeps its own weights.
        seed: equal seeds give equal weights on one machine.

    Returns:
        the encoder, on the same device, with the same standardisation.
    """
    device = next(encoder.model.parameters()).device
    # Weights are drawn on the CPU: they do not depend on the device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_encoder(encoder.model.config)
    with torch.no_grad():
        # What inputs usually are is measured, not trained.
        for fresh, own in zip(model.buffers(), encoder.model.buffers(), strict=True):
            fresh.copy_(own)
    return Encoder(
        model.to(device),
        encoder.standardisation,
        metadata={},
        fingerprint=f"{encoder.fingerprint}, untrained by seed {seed}",
    )
