"""Fourier transform of real signals with the adjoint that costs as much as itself.

PyTorch differentiates `torch.fft.rfft` by a complex transform of full length, twice the work.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def rfft(signal: Tensor, n: int) -> Tensor:
    """Transform real signals, as `torch.fft.rfft` does; differentiable once.

    Args:
        signal: `...T`, of at most `n` samples.
        n: length of the transform.

    Returns:
        spectrum `...F` of n // 2 + 1 bins.
    """
    result: Tensor = _RealTransform.apply(signal, n)
    return result


class _RealTransform(Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, n: int) -> Tensor:
        ctx.n, ctx.num_samples = n, signal.shape[-1]
        return torch.fft.rfft(signal, n=n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Each bin but the first and, of an even number, the last stands for two in the inverse.
        half = grad * 0.5
        half[..., 0] *= 2
        if ctx.n % 2 == 0:
            half[..., -1] *= 2
        return torch.fft.irfft(half, n=ctx.n, norm="forward")[..., : ctx.num_samples], None
