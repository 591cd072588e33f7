"""Fundamental frequency of a voice, frame by frame.

The difference function and its cumulative mean are those of YIN (de Cheveigné and Kawahara 2002):
the shortest period whose normalised difference falls below a threshold, followed to its minimum.

Shape suffixes: T sample, M frame, W sample of a frame, L lag.
"""

import torch
from torch import Tensor

_WINDOW_S, _HOP_S = 0.05, 0.02
_THRESHOLD = 0.15
# Frames this much quieter than the loudest say nothing of the voice.
_GATE_DB = -35.0
_LEAST_POWER = 1e-12


def fundamentals_hz(
    voice_T: Tensor, sample_rate_hz: int, *, low_hz: float = 60.0, high_hz: float = 1_000.0
) -> Tensor:
    """Find the fundamental in each frame that has one.

    Args:
        voice_T: one voice, mono; 8 kHz suffice.
        sample_rate_hz: of the voice.
        low_hz: the lowest that is looked for.
        high_hz: the highest.

    Returns:
        fundamental_hz_M of the voiced frames alone, in their order; none where nothing is voiced.
    """
    longest, shortest = int(sample_rate_hz / low_hz), max(int(sample_rate_hz / high_hz), 2)
    window, hop = round(_WINDOW_S * sample_rate_hz), round(_HOP_S * sample_rate_hz)
    if voice_T.shape[-1] < window + longest + 1:
        return voice_T.new_zeros(0)
    frames_MW = voice_T.unfold(-1, window + longest + 1, hop)
    power_M = frames_MW.square().mean(dim=-1)
    is_loud_M = power_M > (10 ** (_GATE_DB / 10) * power_M.max()).clamp_min(_LEAST_POWER)
    if not is_loud_M.any():
        return voice_T.new_zeros(0)
    difference_ML = _normalised_difference(frames_MW[is_loud_M], window, longest + 1)
    # Each frame: the first lag below the threshold, then down to the least value of that dip.
    is_low_ML = difference_ML < _THRESHOLD
    is_low_ML[:, :shortest] = False
    is_low_ML[:, longest:] = False
    is_voiced_M = is_low_ML.any(dim=-1)
    difference_ML, is_low_ML = difference_ML[is_voiced_M], is_low_ML[is_voiced_M]
    lag_L = torch.arange(difference_ML.shape[-1], device=voice_T.device)
    first_M1 = is_low_ML.float().argmax(dim=-1, keepdim=True)
    rises_ML = torch.nn.functional.pad(difference_ML.diff(dim=-1) >= 0, (0, 1), value=True)
    lag_M = (rises_ML & (lag_L >= first_M1)).float().argmax(dim=-1)
    return sample_rate_hz / _between(difference_ML, lag_M)


def _normalised_difference(frames_MW: Tensor, window: int, num_lags: int) -> Tensor:
    """Return YIN's cumulative mean normalised difference, difference_ML, of lags from 0 on."""
    num_fft = 1 << (frames_MW.shape[-1] + window).bit_length()
    head_MF = torch.fft.rfft(frames_MW[:, :window], n=num_fft)
    whole_MF = torch.fft.rfft(frames_MW, n=num_fft)
    product_ML = torch.fft.irfft(head_MF.conj() * whole_MF, n=num_fft)[:, :num_lags]
    energy_MW = torch.nn.functional.pad(frames_MW.double().square().cumsum(dim=-1), (1, 0))
    energy_ML = energy_MW[:, window : window + num_lags] - energy_MW[:, :num_lags]
    difference_ML = (energy_ML[:, :1] + energy_ML - 2 * product_ML.double()).clamp_min(0.0)
    lag_L = torch.arange(1, num_lags, device=frames_MW.device)
    mean_ML = difference_ML[:, 1:].cumsum(dim=-1) / lag_L
    normal_ML = difference_ML[:, 1:] / mean_ML.clamp_min(_LEAST_POWER)
    return torch.nn.functional.pad(normal_ML, (1, 0), value=1.0).float()


def _between(difference_ML: Tensor, lag_M: Tensor) -> Tensor:
    """Refine lags by the parabola through a value and its two neighbours."""
    last = difference_ML.shape[-1] - 1
    before_M, here_M, after_M = (
        difference_ML.gather(1, (lag_M + step).clamp(0, last)[:, None])[:, 0] for step in (-1, 0, 1)
    )
    bend_M = before_M - 2 * here_M + after_M
    shift_M = torch.where(bend_M > 0, (before_M - after_M) / (2 * bend_M.clamp_min(1e-9)), 0.0)
    return lag_M + shift_M.clamp(-1.0, 1.0)
