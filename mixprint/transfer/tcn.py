"""A temporal convolutional network that starts as the identity.

Shape suffixes: B batch, C channels (4 stems x stereo, stem-major), T samples, R rows of folded
time, D dilation (columns of folded time), K kernel taps.
"""

import math
from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.errors import ConfigError
from mixprint.stems import NUM_CHANNELS, NUM_STEMS

KERNEL_SIZE = 15
NUM_STEM_CHANNELS = NUM_STEMS * NUM_CHANNELS
# Deviation of the taps beside the centre: enough that the seed matters and that every tap gets a
# gradient from the second step on, too little to be heard as an echo.
INITIAL_TAP_DEVIATION = 0.01


def receptive_field_samples(dilations: Sequence[int], kernel_size: int = KERNEL_SIZE) -> int:
    """Count the input samples that one output sample of a stack of dilated layers can see."""
    return 1 + (kernel_size - 1) * sum(dilations)


def plan_dilations(num_samples: int, kernel_size: int = KERNEL_SIZE) -> tuple[int, ...]:
    """Choose the dilations of the smallest stack that sees at least `num_samples`.

    Dilations are powers of one integer. While that integer is at most the kernel size, the taps
    of a layer lie no further apart than the layer below sees, so the field has no gaps; so the
    fewest layers are the least n with kernel_size ** n >= num_samples, and with that n the
    smallest integer that still covers is taken.

    Args:
        num_samples: receptive field asked for.
        kernel_size: odd number of taps, at least 3.

    Raises:
        ConfigError: the receptive field is below one sample or the kernel is not odd.
    """
    if num_samples < 1:
        raise ConfigError(f"receptive field: expected at least 1 sample, got {num_samples}")
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ConfigError(f"kernel size: expected an odd number from 3 on, got {kernel_size}")
    num_layers = next(n for n in count(1) if kernel_size**n >= num_samples)
    for growth in range(1, kernel_size + 1):
        dilations = tuple(growth**i for i in range(num_layers))
        if receptive_field_samples(dilations, kernel_size) >= num_samples:
            return dilations
    raise AssertionError("growth equal to the kernel size always covers")


def dilated_conv1d(x_BCT: Tensor, weight_OCK: Tensor, dilation: int, padding: int) -> Tensor:
    """Convolve with a dilated kernel; the length stays, with zeros beyond both ends.

    Time is folded into rows of `dilation` samples. A tap then reaches to the row above or below
    in the same column, so the dilated convolution is an undilated one down the columns, with the
    columns as a batch. The arithmetic is the same; CPU kernels for it are several times faster
    than those for a dilation of thousands of samples, mostly in the backward pass.

    Args:
        x_BCT: input.
        weight_OCK: kernels, O output channels.
        dilation: distance of the taps in samples.
        padding: zeros before the start in units of the dilation: (K - 1) / 2 centres the kernel,
            K - 1 makes it causal.

    Returns:
        y_BOT, as long as the input.
    """
    num_samples, kernel_size = x_BCT.shape[-1], weight_OCK.shape[-1]
    num_rows = math.ceil(num_samples / dilation)
    rows_after = kernel_size - 1 - padding
    # The tail row is filled up with zeros, which is what lies beyond the end anyway.
    padded_BCT = functional.pad(x_BCT, (0, num_rows * dilation - num_samples))
    folded_BCRD = padded_BCT.unflatten(-1, (num_rows, dilation))
    if padding != rows_after:
        folded_BCRD = functional.pad(folded_BCRD, (0, 0, padding, rows_after))
        padding = 0
    y_BORD = functional.conv2d(folded_BCRD, weight_OCK.unsqueeze(-1), padding=(padding, 0))
    return y_BORD.flatten(-2)[..., :num_samples]


class Block(nn.Module):
    """x + mix(tanh(dilated convolution of x)); the mix starts at zero, so the block at x.

    There are no biases, so silence stays silence. Stems are kept apart unless `cross_stem`: the
    kernels are dense tensors with a fixed mask, which on CPUs is faster than grouped kernels of
    two channels, and a stem that is silent stays exactly silent.
    """

    mask_OC1: Tensor

    def __init__(
        self, dilation: int, *, kernel_size: int, causal: bool, cross_stem: bool, seed: int
    ) -> None:
        """Start as the identity; see `TCN` for the arguments."""
        super().__init__()
        self.dilation = dilation
        self.padding = kernel_size - 1 if causal else (kernel_size - 1) // 2
        one_stem_OC = torch.ones(NUM_CHANNELS, NUM_CHANNELS)
        mask_OC = torch.block_diag(*[one_stem_OC] * NUM_STEMS)
        if cross_stem:
            mask_OC = torch.ones_like(mask_OC)
        self.register_buffer("mask_OC1", mask_OC.unsqueeze(-1), persistent=False)
        shape = (NUM_STEM_CHANNELS, NUM_STEM_CHANNELS, kernel_size)
        generator = torch.Generator().manual_seed(seed)
        weight_OCK = INITIAL_TAP_DEVIATION * torch.randn(shape, generator=generator)
        weight_OCK[:, :, self.padding] += torch.eye(NUM_STEM_CHANNELS)
        self.conv_OCK = nn.Parameter(weight_OCK)
        self.mix_OC1 = nn.Parameter(torch.zeros(NUM_STEM_CHANNELS, NUM_STEM_CHANNELS, 1))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Add what this block changes."""
        conv_OCK = self.conv_OCK * self.mask_OC1
        h_BCT = torch.tanh(dilated_conv1d(x_BCT, conv_OCK, self.dilation, self.padding))
        return x_BCT + functional.conv1d(h_BCT, self.mix_OC1 * self.mask_OC1)


class TCN(nn.Module):
    """Blocks of growing dilation over the eight channels of the stems.

    At the start the output equals the input to the bit.
    """

    def __init__(
        self,
        dilations: Sequence[int],
        *,
        kernel_size: int = KERNEL_SIZE,
        causal: bool = False,
        cross_stem: bool = False,
        seed: int = 0,
    ) -> None:
        """Build one block per dilation.

        Args:
            dilations: in samples, one per block; see `plan_dilations`.
            kernel_size: taps, odd.
            causal: see only the past; else as much of the past as of the future.
            cross_stem: let stems flow into one another.
            seed: of the small random taps that each block starts with.
        """
        super().__init__()
        self.dilations = tuple(dilations)
        self.kernel_size = kernel_size
        self.causal = causal
        self.blocks = nn.Sequential(
            *(
                Block(
                    dilation,
                    kernel_size=kernel_size,
                    causal=causal,
                    cross_stem=cross_stem,
                    seed=seed + i,
                )
                for i, dilation in enumerate(self.dilations)
            )
        )

    @classmethod
    def for_receptive_field(
        cls,
        receptive_field_s: float,
        sample_rate_hz: int,
        *,
        causal: bool = False,
        cross_stem: bool = False,
        seed: int = 0,
    ) -> "TCN":
        """Build the smallest network that sees at least `receptive_field_s` seconds."""
        dilations = plan_dilations(math.ceil(receptive_field_s * sample_rate_hz))
        return cls(dilations, causal=causal, cross_stem=cross_stem, seed=seed)

    @property
    def receptive_field_samples(self) -> int:
        """Input samples that one output sample depends on."""
        return receptive_field_samples(self.dilations, self.kernel_size)

    @property
    def context_samples(self) -> int:
        """Give how far the input reaches into an output sample, on either side."""
        both_sides = self.receptive_field_samples - 1
        return both_sides if self.causal else both_sides // 2

    def forward(self, stems_BCT: Tensor) -> Tensor:
        """Filter the stems.

        Args:
            stems_BCT: 8 channels: left and right of each stem in the order of `STEMS`.

        Raises:
            ValueError: the channels are not 8.
        """
        if stems_BCT.ndim != 3 or stems_BCT.shape[1] != NUM_STEM_CHANNELS:
            expected = f"(B, {NUM_STEM_CHANNELS}, T)"
            raise ValueError(f"stems_BCT must be {expected}, got {tuple(stems_BCT.shape)}")
        out_BCT: Tensor = self.blocks(stems_BCT)
        return out_BCT
