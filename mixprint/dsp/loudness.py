"""Loudness after ITU-R BS.1770-4 and EBU R 128, differentiable and batched.

Shape suffixes: B batch, C channel (1 or 2), T sample, K time step of 100 ms; `...` leading
dimensions are free.

Gates are decided on the values and carry no gradient; the gradient flows through the energy of the
blocks that pass.

Sources: Recommendation ITU-R BS.1770-4 (filters, annex 1, and gating); EBU Tech 3341
(short-term loudness: 3 s); EBU Tech 3342 (gates for short-term loudness: -70 LUFS and -20 LU).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.dsp.quantiles import sorted_quantiles

# BS.1770-4, tables 1 and 2: b0 b1 b2 a1 a2 at 48 kHz of the head's shelf and the high-pass.
_REFERENCE_RATE_HZ = 48_000
_REFERENCE_FILTERS = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285, -1.69065929318241, 0.73248077421585),
    (1.0, -2.0, 1.0, -1.99004745483398, 0.99007225036621),
)
_CHANNEL_SUM_OFFSET_LU = -0.691

HOP_S = 0.1
_MOMENTARY_HOPS = 4  # gating block: 400 ms, overlapping by 75 %
_SHORT_TERM_HOPS = 30  # 3 s, every 100 ms

# The absolute gate. Nothing below it has a loudness in BS.1770, so silence reads just this.
SILENCE_LUFS = -70.0
_INTEGRATED_GATE_LU = -10.0
_SHORT_TERM_GATE_LU = -20.0

# The high-pass rings with exp(-2 pi 38 t): after 0.1 s what is left is below -180 dB.
_IMPULSE_RESPONSE_S = 0.1


def integrated_loudness(audio_BCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Measure the integrated loudness, gated at -70 LUFS and at 10 LU below the ungated mean.

    Args:
        audio_BCT: mono or stereo audio, full scale at +-1, 0.4 s or longer.
        sample_rate_hz: sample rate.

    Returns:
        loudness_B in LUFS; a full-scale sine of 997 Hz in one channel reads -3.01. Audio of which
        no block passes the absolute gate reads -70, with gradient zero.
        Meters that scale the high-pass to unity gain, which the tables do not, read 0.04 LU less.

    Raises:
        ValueError: audio_BCT is not 3-D, has more than 2 channels, or is too short.
    """
    if audio_BCT.ndim != 3 or audio_BCT.shape[1] not in (1, 2):
        raise ValueError(f"audio_BCT must be (B, 1 or 2, T), got {tuple(audio_BCT.shape)}")
    return integrated_from_energy(hop_energy(k_weight(audio_BCT, sample_rate_hz), sample_rate_hz))


def short_term_loudness(audio_BCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Measure the ungated short-term loudness: windows of 3 s, every 100 ms.

    Args:
        audio_BCT: mono or stereo audio, full scale at +-1, 3 s or longer.
        sample_rate_hz: sample rate.

    Returns:
        loudness_BK in LUFS, silence at -70.

    Raises:
        ValueError: audio_BCT is not 3-D, has more than 2 channels, or is too short.
    """
    if audio_BCT.ndim != 3 or audio_BCT.shape[1] not in (1, 2):
        raise ValueError(f"audio_BCT must be (B, 1 or 2, T), got {tuple(audio_BCT.shape)}")
    energy_BK = hop_energy(k_weight(audio_BCT, sample_rate_hz), sample_rate_hz)
    return to_lufs(_sliding_mean(energy_BK, _SHORT_TERM_HOPS))


def k_weight(audio_T: Tensor, sample_rate_hz: int) -> Tensor:
    """Apply the K-weighting filter, from rest, over the last dimension.

    The filter is the impulse response of the exact recursive filter, cut after 0.1 s, applied by
    fast convolution in blocks (overlap-add): parallel in time where a recursion is sequential.

    Args:
        audio_T: (..., T) audio.
        sample_rate_hz: sample rate.

    Returns:
        (..., T) filtered audio.
    """
    response_F, fft_size, num_taps = _k_weighting_kernel(
        sample_rate_hz, audio_T.device, audio_T.dtype
    )
    num_samples = audio_T.shape[-1]
    block_size = fft_size - num_taps + 1
    num_blocks = -(-num_samples // block_size)
    padded = functional.pad(audio_T, (0, num_blocks * block_size - num_samples))
    blocks = padded.unflatten(-1, (num_blocks, block_size))
    spectrum = torch.fft.rfft(blocks, n=fft_size).mul_(response_F)
    filtered = torch.fft.irfft(spectrum, n=fft_size)
    head, tail = filtered.split([block_size, num_taps - 1], dim=-1)
    # What rings on after a block belongs to the beginning of the next one.
    carried = functional.pad(tail[..., :-1, :], (0, block_size - num_taps + 1, 1, 0))
    return (head + carried).flatten(-2)[..., :num_samples]


def hop_energy(weighted_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Sum the mean squares of the channels over whole steps of 100 ms; a rest is left out.

    Args:
        weighted_CT: (..., C, T) K-weighted audio.
        sample_rate_hz: sample rate.

    Returns:
        (..., K) energy per step.
    """
    hop_samples = round(HOP_S * sample_rate_hz)
    num_hops = weighted_CT.shape[-1] // hop_samples
    hops = weighted_CT[..., : num_hops * hop_samples].unflatten(-1, (num_hops, hop_samples))
    return hops.square().mean(dim=-1).sum(dim=-2)


def integrated_from_energy(energy_BK: Tensor) -> Tensor:
    """Return the integrated loudness in LUFS from the energy per 100 ms (see `hop_energy`)."""
    block_BK = _sliding_mean(energy_BK, _MOMENTARY_HOPS)
    gate_BK = _gate(block_BK, _INTEGRATED_GATE_LU)
    return to_lufs(_masked_mean(block_BK, gate_BK))


def dynamic_range_from_energy(energy_BK: Tensor) -> Tensor:
    """Measure the inter-quartile range of the short-term loudness from the energy per 100 ms.

    The loudness windows are 3 s long, every 100 ms, gated as in EBU Tech 3342: at -70 LUFS and at
    20 LU below the mean of what passed. Quartiles are interpolated linearly. In a segment of 10 s
    there are 71 windows; in one of 3 s a single one, so that the range is 0.

    Returns:
        range_B in LU; 0 where no window passes the gates.
    """
    window_BK = _sliding_mean(energy_BK, _SHORT_TERM_HOPS)
    gate_BK = _gate(window_BK, _SHORT_TERM_GATE_LU)
    # Windows outside the gate sort behind all others and are never reached by a quartile.
    loudness_BK = torch.where(gate_BK, to_lufs(window_BK), 1e3).sort(dim=-1).values
    last_B = gate_BK.sum(dim=-1).sub(1).clamp_min(0)
    low_B, high_B = sorted_quantiles(loudness_BK, last_B, (0.25, 0.75)).unbind(dim=-1)
    return torch.where(gate_BK.any(dim=-1), high_B - low_B, 0.0)


def k_weighting_filters(sample_rate_hz: int) -> tuple[tuple[float, ...], ...]:
    """Derive the two filters of BS.1770 for a sample rate, exactly those of its tables at 48 kHz.

    Each table is taken back to the analogue filter that it came from: with
    `z^-1 = (1 - K p) / (1 + K p)`, a bilinear transform whose `K = tan(pi f0 / rate)` makes the
    pole frequency f0 come out right, a polynomial in `z^-1` becomes one in `p`. The way forward
    uses the same f0 at the new rate.

    Returns:
        (b0, b1, b2, a1, a2) of the shelf, then of the high-pass.

    Raises:
        ValueError: the rate is too low for the shelf.
    """
    filters = []
    for b0, b1, b2, a1, a2 in _REFERENCE_FILTERS:
        warp = math.sqrt((1 + a1 + a2) / (1 - a1 + a2))
        frequency_hz = _REFERENCE_RATE_HZ / math.pi * math.atan(warp)
        if sample_rate_hz < 4 * frequency_hz:
            raise ValueError(f"K-weighting needs a rate of 8000 Hz or more, got {sample_rate_hz}")
        ratio = warp / math.tan(math.pi * frequency_hz / sample_rate_hz)
        numerator = _change_rate(b0, b1, b2, ratio)
        denominator = _change_rate(1.0, a1, a2, ratio)
        scaled = [c / denominator[0] for c in (*numerator, *denominator[1:])]
        filters.append(tuple(scaled))
    return tuple(filters)


def k_weighting_response(num_bins: int, sample_rate_hz: int) -> Tensor:
    """Return the response of both filters at bins from 0 Hz to half the rate: complex128."""
    z_F = torch.exp(-1j * torch.linspace(0, math.pi, num_bins, dtype=torch.float64))
    response_F = torch.ones_like(z_F)
    for b0, b1, b2, a1, a2 in k_weighting_filters(sample_rate_hz):
        response_F = response_F * (b0 + z_F * (b1 + z_F * b2)) / (1 + z_F * (a1 + z_F * a2))
    return response_F


def _change_rate(c0: float, c1: float, c2: float, ratio: float) -> tuple[float, float, float]:
    """Move `c0 + c1 z^-1 + c2 z^-2` through the analogue domain to another bilinear constant."""
    constant, linear, quadratic = c0 + c1 + c2, 2 * (c0 - c2) * ratio, (c0 - c1 + c2) * ratio**2
    return (
        (constant + linear + quadratic) / 4,
        (constant - quadratic) / 2,
        (constant - linear + quadratic) / 4,
    )


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a tensor made in inference mode could never serve a gradient
def _k_weighting_kernel(
    sample_rate_hz: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, int, int]:
    """Return the spectrum of the impulse response, its FFT size and its number of taps."""
    num_taps = round(_IMPULSE_RESPONSE_S * sample_rate_hz)
    fft_size = 1 << math.ceil(math.log2(3 * num_taps))
    # Sampling the response this finely folds only what rings after seconds into the taps.
    response_F = k_weighting_response(4 * fft_size + 1, sample_rate_hz)
    impulse_T = torch.fft.irfft(response_F)[:num_taps]
    kernel_F = torch.fft.rfft(impulse_T, n=fft_size)
    return kernel_F.to(device=device, dtype=dtype.to_complex()), fft_size, num_taps


def _sliding_mean(energy_BK: Tensor, num_hops: int) -> Tensor:
    """Average over windows of `num_hops` steps, one step apart."""
    if energy_BK.shape[-1] < num_hops:
        raise ValueError(
            f"loudness needs {num_hops * HOP_S:.1f} s of audio or more, "
            f"got less than {(energy_BK.shape[-1] + 1) * HOP_S:.1f} s"
        )
    return energy_BK.unfold(-1, num_hops, 1).mean(dim=-1)


def _gate(energy_BK: Tensor, relative_lu: float) -> Tensor:
    """Mark what is above the absolute gate and above the relative one."""
    energy_BK = energy_BK.detach()
    absolute_BK = energy_BK > _to_energy(SILENCE_LUFS)
    threshold_B = _masked_mean(energy_BK, absolute_BK) * 10 ** (relative_lu / 10)
    return absolute_BK & (energy_BK > threshold_B.unsqueeze(-1))


def _masked_mean(energy_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """Average over the marked entries; 0 where there are none."""
    count_B = mask_BK.sum(dim=-1).clamp_min(1)
    return torch.where(mask_BK, energy_BK, 0.0).sum(dim=-1) / count_B


def to_lufs(energy: Tensor) -> Tensor:
    """Convert a sum of the channels' mean squares to LUFS, `SILENCE_LUFS` at the least."""
    return _CHANNEL_SUM_OFFSET_LU + 10 * energy.clamp_min(_to_energy(SILENCE_LUFS)).log10()


def _to_energy(loudness_lufs: float) -> float:
    return 10 ** ((loudness_lufs - _CHANNEL_SUM_OFFSET_LU) / 10)
