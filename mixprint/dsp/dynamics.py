"""The gain of a compressor.

Shape suffixes: B segment, S stem, N control block.

Source: peak-hold release decoupled from the attack, Giannoulis, Massberg and Reiss 2012
(JAES 60(6)).
"""

import torch
from torch import Tensor


def compressor_gain_db(
    level_db_BSN: Tensor,
    threshold_db_BS: Tensor,
    ratio_BS: Tensor,
    attack_ms_BS: Tensor,
    release_ms_BS: Tensor,
    block_s: float,
) -> Tensor:
    """Follow a level with attack and release.

    Release: the reduction r of the past falls by 10 dB per release time, so that the held
    reduction is max over past blocks j of r[j] - slope * (n - j), a running maximum in closed
    form. Attack: a one-pole low-pass of the held reduction, applied as a causal convolution.

    Args:
        level_db_BSN: level of each control block.
        threshold_db_BS: level above which the gain falls.
        ratio_BS: dB of input for a dB of output.
        attack_ms_BS: time constant.
        release_ms_BS: time for 10 dB.
        block_s: length of a control block.

    Returns:
        gain_db_BSN, at most 0.
    """
    N = level_db_BSN.shape[-1]
    over_BSN = (level_db_BSN - threshold_db_BS[..., None]).clamp_min(0)
    reduction_BSN = over_BSN * (1 - 1 / ratio_BS)[..., None]
    # Double precision: over minutes of blocks the ramp grows to 1e5 dB.
    ramp_N = torch.arange(N, device=level_db_BSN.device, dtype=torch.float64)
    ramp_BSN = (10.0 * block_s * 1_000 / release_ms_BS.double())[..., None] * ramp_N
    held_BSN = ((reduction_BSN + ramp_BSN).cummax(dim=-1).values - ramp_BSN).clamp_min(0).float()
    pole_BS1 = torch.exp(-block_s * 1_000 / attack_ms_BS)[..., None]
    kernel_BSN = (1 - pole_BS1) * pole_BS1 ** torch.arange(N, device=pole_BS1.device)
    spectrum = torch.fft.rfft(held_BSN, n=2 * N) * torch.fft.rfft(kernel_BSN, n=2 * N)
    return -torch.fft.irfft(spectrum, n=2 * N)[..., :N].clamp_min(0)
