"""Quantiles of a part of each row, with a gradient to the values between which they lie.

Shape suffixes: B batch, K entry, Q quantile.
"""

import torch
from torch import Tensor


def sorted_quantiles(sorted_BK: Tensor, last_B: Tensor, parts: tuple[float, ...]) -> Tensor:
    """Interpolate quantiles of the entries 0 to `last_B` of rows in ascending order.

    Args:
        sorted_BK: rows; what follows entry `last_B` is not looked at.
        last_B: place of the last entry that counts.
        parts: from 0, the first entry, to 1, the last.

    Returns:
        quantile_BQ, linear between two entries, as `torch.quantile`.
    """
    part_Q = torch.tensor(parts, dtype=sorted_BK.dtype, device=sorted_BK.device)
    position_BQ = last_B.unsqueeze(-1) * part_Q
    below_BQ = position_BQ.floor().long()
    above_BQ = torch.minimum(below_BQ + 1, last_B.unsqueeze(-1))
    low_BQ, high_BQ = sorted_BK.gather(-1, below_BQ), sorted_BK.gather(-1, above_BQ)
    return torch.lerp(low_BQ, high_BQ, position_BQ - below_BQ)
