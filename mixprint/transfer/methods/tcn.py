"""A temporal convolutional network that starts as the identity.

Shape suffixes: B batch, C channels (4 stems x stereo, stem-major), T samples, K kernel taps; of the
convolution: G group of channels, I input and O output channel of a group, X items (B * G), R rows
of folded time, D dilation (columns of folded time), Q tile, P output row of a tile, L input row of
a tile, N = Q * D columns of all tiles, H = O * P, J = I * L.
"""

import math
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mixprint.errors import ConfigError
from mixprint.stems import NUM_CHANNELS, NUM_STEMS

KERNEL_SIZE = 15
NUM_STEM_CHANNELS = NUM_STEMS * NUM_CHANNELS
# Deviation of the taps beside the centre: enough that the seed matters and that every tap gets a
# gradient from the second step on, too little to be heard as an echo.
INITIAL_TAP_DEVIATION = 0.01
# Outputs of a column that one product gives; with 15 taps it sees 32 rows. Fewer repeat more of the
# input, more hold more zeros.
TILE_ROWS = 18


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


def dilated_conv1d(x_BCT: Tensor, weight_GOIK: Tensor, dilation: int, padding: int) -> Tensor:
    """Convolve with a dilated kernel; the length stays, with zeros beyond both ends.

    Time is folded into rows of `dilation` samples, so that the taps of an output lie in its own
    column, row by row. `TILE_ROWS` outputs of a column and the inputs that they see are then
    joined by one matrix that holds the kernel along its diagonals, the same for all columns: the
    convolution is one product of matrices. It has a third more arithmetic than the plain one has
    with all channels, twice that of the grouped one, and runs at the full speed of the processor,
    forward and backward, where kernels for small channels and large dilations do not.

    Args:
        x_BCT: input; C = G * I channels.
        weight_GOIK: kernels of G groups of channels, each from I to O channels.
        dilation: distance of the taps in samples.
        padding: zeros before the start in units of the dilation: (K - 1) / 2 centres the kernel,
            K - 1 makes it causal.

    Returns:
        y_BCT with C = G * O channels, as long as the input.
    """
    num_groups, _, num_inputs, _ = weight_GOIK.shape
    num_batch, _, num_samples = x_BCT.shape
    x_XIT = x_BCT.reshape(num_batch * num_groups, num_inputs, num_samples)
    weight_XOIK = weight_GOIK.repeat(num_batch, 1, 1, 1)
    y_XOT: Tensor = _TiledConvolution.apply(x_XIT, weight_XOIK, dilation, padding)
    return y_XOT.reshape(num_batch, -1, num_samples)


class _TiledConvolution(torch.autograd.Function):
    """Convolution of each item with its own kernels; see `dilated_conv1d`."""

    @staticmethod
    def forward(
        ctx: Any, x_XIT: Tensor, weight_XOIK: Tensor, dilation: int, padding: int
    ) -> Tensor:
        tiles_XILN = _tiles(x_XIT, weight_XOIK.shape[-1], dilation, padding)
        ctx.save_for_backward(tiles_XILN, weight_XOIK)
        ctx.dilation, ctx.padding = dilation, padding
        return _product(tiles_XILN, weight_XOIK, dilation, x_XIT.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XOT: Tensor) -> tuple[Tensor, Tensor, None, None]:
        tiles_XILN, weight_XOIK = ctx.saved_tensors
        kernel_size = weight_XOIK.shape[-1]
        rows_after = kernel_size - 1 - ctx.padding
        grad_XOLN = _tiles(grad_XOT, kernel_size, ctx.dilation, rows_after)
        # The gradient of the input is the convolution with the kernels turned round.
        turned_XIOK = weight_XOIK.flip(-1).transpose(1, 2)
        x_grad_XIT = _product(grad_XOLN, turned_XIOK, ctx.dilation, grad_XOT.shape[-1])
        # That of the matrix, and then of the kernel along its diagonals.
        inner_XOPN = grad_XOLN[:, :, rows_after : rows_after + TILE_ROWS]
        transposed_XNJ = tiles_XILN.flatten(1, 2).transpose(1, 2)
        matrix_grad_XOPJ = torch.stack(
            [torch.bmm(inner_XPN, transposed_XNJ) for inner_XPN in inner_XOPN.unbind(1)], dim=1
        )
        matrix_grad_XOIPL = matrix_grad_XOPJ.unflatten(-1, tiles_XILN.shape[1:3]).transpose(2, 3)
        sheared = functional.pad(matrix_grad_XOIPL.flatten(-2), (0, TILE_ROWS))
        weight_grad_XOIK = sheared.unflatten(-1, (TILE_ROWS, -1))[..., :kernel_size].sum(-2)
        return x_grad_XIT, weight_grad_XOIK, None, None


def _tiles(x_XIT: Tensor, kernel_size: int, dilation: int, rows_before: int) -> Tensor:
    """Lay out what each tile of `TILE_ROWS` outputs sees: L rows, N = tiles * dilation columns."""
    num_items, num_inputs, num_samples = x_XIT.shape
    num_tiles = math.ceil(num_samples / (dilation * TILE_ROWS))
    rows_seen = TILE_ROWS + kernel_size - 1
    num_rows = (num_tiles - 1) * TILE_ROWS + rows_seen
    before = rows_before * dilation
    padded_XIT = functional.pad(x_XIT, (before, num_rows * dilation - before - num_samples))
    rows_XIRD = padded_XIT.unflatten(-1, (num_rows, dilation))
    seen_XIQDL = rows_XIRD.unfold(2, rows_seen, TILE_ROWS)
    return seen_XIQDL.permute(0, 1, 4, 2, 3).reshape(num_items, num_inputs, rows_seen, -1)


def _product(tiles_XILN: Tensor, weight_XOIK: Tensor, dilation: int, num_samples: int) -> Tensor:
    """Multiply by the matrix of the kernels, and unfold time."""
    num_items, num_outputs, _, kernel_size = weight_XOIK.shape
    rows_seen = TILE_ROWS + kernel_size - 1
    # Row p of the matrix is the kernel, p places on: of rows one longer than it, all are alike.
    shifted_XOIY = functional.pad(weight_XOIK, (0, TILE_ROWS)).repeat(1, 1, 1, TILE_ROWS)
    matrix_XOIPL = shifted_XOIY[..., : TILE_ROWS * rows_seen].unflatten(-1, (TILE_ROWS, -1))
    matrix_XHJ = matrix_XOIPL.transpose(2, 3).reshape(num_items, num_outputs * TILE_ROWS, -1)
    y_XHN = torch.bmm(matrix_XHJ, tiles_XILN.flatten(1, 2))
    y_XOPQD = y_XHN.view(num_items, num_outputs, TILE_ROWS, -1, dilation)
    return y_XOPQD.transpose(2, 3).flatten(2)[..., :num_samples]


class Block(nn.Module):
    """x + mix(tanh(dilated convolution of x)); the mix starts at zero, so the block at x.

    There are no biases, so silence stays silence. Each stem is a group of channels of its own,
    unless `cross_stem`, so that a stem that is silent stays exactly silent.
    """

    def __init__(
        self, dilation: int, *, kernel_size: int, causal: bool, cross_stem: bool, seed: int
    ) -> None:
        """Start as the identity; see `TCN` for the arguments."""
        super().__init__()
        self.dilation = dilation
        self.padding = kernel_size - 1 if causal else (kernel_size - 1) // 2
        num_groups = 1 if cross_stem else NUM_STEMS
        width = NUM_STEM_CHANNELS // num_groups
        generator = torch.Generator().manual_seed(seed)
        shape = (num_groups, width, width, kernel_size)
        weight_GOIK = INITIAL_TAP_DEVIATION * torch.randn(shape, generator=generator)
        weight_GOIK[..., self.padding] += torch.eye(width)
        self.conv_GOIK = nn.Parameter(weight_GOIK)
        self.mix_GOI = nn.Parameter(torch.zeros(num_groups, width, width))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Add what this block changes."""
        h_BCT = torch.tanh(dilated_conv1d(x_BCT, self.conv_GOIK, self.dilation, self.padding))
        mixed_BGOT = self.mix_GOI @ h_BCT.unflatten(1, self.mix_GOI.shape[:2])
        return x_BCT + mixed_BGOT.flatten(1, 2)


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
        """Return how far the input reaches into an output sample, on either side."""
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
