"""Slow oscillators, and filters that follow them.

Shape suffixes: N signal, C channel, T sample, J frame, L sample of a frame.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mixprint.dsp.equaliser import Sections
from mixprint.dsp.filters import BlockFilters, filtered
from mixprint.dsp.pieces import padded

# Frames of a moving filter overlap by half.
FRAME_SAMPLES = 4096
HOP_SAMPLES = FRAME_SAMPLES // 2
# Turns are counted in blocks of so many samples: few enough for single precision.
_TURN_SAMPLES = 512
# So much of a frame's ringing is kept.
_RINGING_SAMPLES = 1024


def turns(rate_hz_N: Tensor, num_samples: int, sample_rate_hz: int) -> Tensor:
    """Count the turns of oscillators, without whole ones before each block: turn_NT."""
    rate_N1 = rate_hz_N.double()[:, None] / sample_rate_hz
    place_L = torch.arange(_TURN_SAMPLES, device=rate_hz_N.device)
    start_J = torch.arange(0, num_samples, _TURN_SAMPLES, device=rate_hz_N.device)
    start_NJ1 = (rate_N1 * start_J).frac().to(rate_hz_N.dtype)[..., None]
    within_N1L = (rate_N1 * place_L).to(rate_hz_N.dtype)[:, None]
    return (start_NJ1 + within_N1L).flatten(1)[:, :num_samples]


def sine(turn_NT: Tensor, phase: float | Tensor = 0.0) -> Tensor:
    """Return the sine of turns, begun at a phase in turns."""
    return (turn_NT + phase).mul_(2 * math.pi).sin_()


def frame_centres(num_samples: int, device: torch.device) -> Tensor:
    """Return the sample in the middle of each frame of a moving filter, float32."""
    num_frames = math.ceil(num_samples / HOP_SAMPLES) + 1
    return torch.arange(num_frames, device=device) * float(HOP_SAMPLES)


def frame_levels(audio_NCT: Tensor) -> Tensor:
    """Measure the RMS just before the middle of each frame of a moving filter: level_NJ."""
    num_samples = audio_NCT.shape[-1]
    num_frames = len(frame_centres(num_samples, audio_NCT.device))
    padded_NCT = padded(audio_NCT, HOP_SAMPLES, (num_frames - 1) * HOP_SAMPLES - num_samples)
    norm_NCJ = torch.linalg.vector_norm(padded_NCT.unflatten(-1, (-1, HOP_SAMPLES)), dim=-1)
    return (norm_NCJ.square().mean(dim=1) / HOP_SAMPLES).sqrt()


def moving_filter(
    audio_NCT: Tensor, design: Callable[[Tensor], Sections], value_NJ: Tensor
) -> Tensor:
    """Filter signals by sections that move, in frames that are faded into one another.

    Args:
        audio_NCT: the signals.
        design: returns the sections at values.
        value_NJ: what the design is for, such as the frequency, at each of `frame_centres`.

    Returns:
        audio_NCT. Where the values stay, that is what the sections make of it, but for ringing
        longer than 1024 samples.
    """
    num_signals, num_channels, num_samples = audio_NCT.shape
    num_frames = value_NJ.shape[-1]
    padded_NCT = padded(audio_NCT, HOP_SAMPLES, num_frames * HOP_SAMPLES - num_samples)
    window_L = torch.hann_window(FRAME_SAMPLES, device=audio_NCT.device, dtype=audio_NCT.dtype)
    filters = BlockFilters.of(design(value_NJ.flatten()), audio_NCT.dtype)
    result = audio_NCT.new_zeros(num_signals, num_channels, num_frames + 2, HOP_SAMPLES)
    for n in range(num_signals):
        frames_JCL = padded_NCT[n].unfold(-1, FRAME_SAMPLES, HOP_SAMPLES).transpose(0, 1)
        windowed_JCL = padded(frames_JCL * window_L, 0, _RINGING_SAMPLES)
        rows = slice(n * num_frames, (n + 1) * num_frames)
        ringing_CJL = filters.take(rows).apply(windowed_JCL).transpose(0, 1)
        # Three hops, of which the last one is not a whole one.
        for h, hop_CJL in enumerate(ringing_CJL.split(HOP_SAMPLES, dim=-1)):
            result[n, :, h : h + num_frames, : hop_CJL.shape[-1]] += hop_CJL
    return result.flatten(2)[..., HOP_SAMPLES : HOP_SAMPLES + num_samples]


# Coefficients of two chains of all-passes in z^-2, whose phases differ by 90 degrees between some
# 20 Hz and half the sample rate less 20 Hz, at 44.1 kHz: O. Niemitalo 1999. The first is delayed by
# a sample.
_QUADRATURE = (
    (0.6923878, 0.9360654322959, 0.9882295226860, 0.9987488452737),
    (0.4021921162426, 0.8561710882420, 0.9722909545651, 0.9952884791278),
)


def quadrature(audio_NCT: Tensor) -> tuple[Tensor, Tensor]:
    """Return signals twice, the first 90 degrees (to 1 degree) before the second."""
    parts = []
    for coefficients in _QUADRATURE:
        squares_K = torch.tensor(
            coefficients, device=audio_NCT.device, dtype=torch.float64
        ).square()
        zero_K, one_K = torch.zeros_like(squares_K), torch.ones_like(squares_K)
        b_K3 = torch.stack([squares_K, zero_K, -one_K], dim=-1)
        a_K3 = torch.stack([one_K, zero_K, -squares_K], dim=-1)
        shape = (len(audio_NCT), *b_K3.shape)
        parts.append(filtered(audio_NCT, Sections(b_K3.expand(shape), a_K3.expand(shape))))
    return parts[1], padded(parts[0][..., :-1], 1, 0)
