"""The convolutions of all sub-bands at once.

Each sub-band has kernels of its own, and no band hears another. On a GPU one grouped convolution
does that. On a CPU, in float32, a kernel of 7 frames is cheaper to apply in the frequency domain:
frames are cut into overlapping tiles, a discrete Fourier transform over a tile turns the
convolution over time into one product per frequency, and these products, for all bands and
frequencies together, are again one grouped convolution, over the mels alone. That is a third of
the multiplications. Both ways hold the same weights and give the same results but for rounding.

Shape suffixes: B batch, K sub-band, I input channel, O output channel, H output channels of all
bands, M mel, R mel of a band, N frame, G batch x sub-band, L frame of a tile or number of its
transform, V frame of a tile that is output, Q frequency, A and B the two numbers of a frequency, J
tap over time, U tap over mels, T tile, P pooled frame of a tile, X what is left alone.

Sources: overlap-save, Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7; group
normalisation, Wu and He 2018 (arXiv 1803.08494).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mixprint.encoder.settings import POOL

_KERNEL = 7
_MARGIN = _KERNEL // 2
# A tile of 32 frames yields 26 frames of output; of these, whole pools are used.
_TILE = 32
_VALID = (_TILE - _KERNEL + 1) // POOL[1] * POOL[1]
_NUM_FREQUENCIES = _TILE // 2


class BandBlock(nn.Module):
    """Conv2D 7x7 -> norm -> FiLM -> pool -> ReLU for all sub-bands at once.

    The norm takes each band by itself. ReLU and the maximum commute, and after the pool ReLU has
    an eighth of the work.
    """

    def __init__(
        self,
        num_bands: int,
        in_channels: int,
        out_channels: int,
        *,
        affine: bool,
        band_rows: Sequence[slice] = (),
    ) -> None:
        """Make a block.

        Args:
            num_bands: number of sub-bands.
            in_channels: input channels of a band.
            out_channels: output channels of a band.
            affine: whether the norm has gamma and beta of its own, for want of FiLM.
            band_rows: the rows of each band, where the input is a spectrogram that the bands
                share; empty: the input is cut into bands.
        """
        super().__init__()
        self.num_bands = num_bands
        self.band_rows = tuple(band_rows)
        self.conv = nn.Conv2d(
            num_bands * in_channels,
            num_bands * out_channels,
            _KERNEL,
            padding=_MARGIN,
            groups=num_bands,
            bias=False,  # the norm would take it away
        )
        self.norm = nn.GroupNorm(num_bands, num_bands * out_channels, affine=affine)

    def forward(self, x: Tensor, film_2BH: Tensor | None) -> Tensor:
        """Run the block.

        Args:
            x: x_BKIRN, the sub-bands; or x_BIMN, where they are rows of it.
            film_2BH: gamma and beta, or None: then the norm has an affine part of its own.

        Returns:
            (B, K, O, R // 2, N // 4).
        """
        if film_2BH is None:
            affine_2H = torch.stack([self.norm.weight, self.norm.bias])
            film_2BH = affine_2H.unsqueeze(1).expand(-1, len(x), -1)
        # The transform needs the resolution of float32, and a compiler cannot look into its pool.
        is_exact = x.dtype.itemsize >= 4 and not torch.is_autocast_enabled("cpu")
        if x.device.type == "cpu" and is_exact and not torch.compiler.is_compiling():
            return self._by_frequency(x, film_2BH)
        return self._direct(x, film_2BH)

    def _direct(self, x: Tensor, film_2BH: Tensor) -> Tensor:
        # Channels last: grouped kernels run up to a third faster on that layout.
        x_BHRN = self._cut(x).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        y_BHRN = functional.group_norm(self.conv(x_BHRN), self.num_bands, eps=self.norm.eps)
        gamma_BH11, beta_BH11 = film_2BH[..., None, None]
        y_BHRN = functional.max_pool2d(torch.addcmul(beta_BH11, y_BHRN, gamma_BH11), POOL)
        return functional.relu(y_BHRN).unflatten(1, (self.num_bands, -1))

    def _by_frequency(self, x: Tensor, film_2BH: Tensor) -> Tensor:
        B, K, N = len(x), self.num_bands, x.shape[-1]
        constants = _constants(x.dtype)
        # Cut into bands after the transform: what they share is transformed once.
        spectrum_BKXRT = self._cut(_analyse(x, constants.analysis_LL))
        R, T = spectrum_BKXRT.shape[-2:]
        product_BHRT = functional.conv2d(
            spectrum_BKXRT.flatten(1, 2),
            self._kernels(constants.taps_QABJ),
            padding=(_MARGIN, 0),
            groups=K * _NUM_FREQUENCIES,
        )
        y_GVX = constants.synthesis_VL @ product_BHRT.reshape(B * K, _TILE, -1)
        gamma_GO, beta_GO = film_2BH.reshape(2, B * K, -1)
        pooled_GPORT = _NormScalePool.apply(
            y_GVX.view(B * K, _VALID, -1, R, T), gamma_GO, beta_GO, N, self.norm.eps
        )
        frames_GORN = pooled_GPORT.permute(0, 2, 3, 4, 1).flatten(-2)
        return frames_GORN[..., : N // POOL[1]].unflatten(0, (B, K))

    def _cut(self, x: Tensor) -> Tensor:
        """Lay the bands side by side after the batch, where they are rows of one spectrogram."""
        if not self.band_rows:
            return x
        return torch.stack([x[..., rows, :] for rows in self.band_rows], dim=1)

    def _kernels(self, taps_QABJ: Tensor) -> Tensor:
        """Transform the kernels over time: (K * Q * A * O, B * I, U, 1)."""
        weight_HIUJ = self.conv.weight
        H, num_inputs, U, J = weight_HIUJ.shape
        # Copied, for the gradient of a product with a transposed view is a slow product.
        weight_JX = weight_HIUJ.view(-1, J).T.contiguous()
        matrix_QABKOX = (taps_QABJ.view(-1, J) @ weight_JX).view(
            _NUM_FREQUENCIES, 2, 2, self.num_bands, H // self.num_bands, num_inputs * U
        )
        return matrix_QABKOX.permute(3, 0, 1, 4, 2, 5).reshape(-1, 2 * num_inputs, U, 1)


def _analyse(x_IRN: Tensor, analysis_LL: Tensor) -> Tensor:
    """Cut frames into overlapping tiles and transform each; the leading dimensions are free.

    Returns:
        (..., L * I, R, T).
    """
    *leading, num_inputs, R, N = x_IRN.shape
    T = -(-N // _VALID)
    x_GXN = x_IRN.reshape(-1, num_inputs * R, N)
    # Zeros before the first frame, and after the last one up to a whole run.
    padded_GXN = functional.pad(x_GXN, (_MARGIN, (T + 1) * _VALID - N - _MARGIN))
    # A tile is a run of whole outputs and the head of the next run: cheaper than unfold, whose
    # backward scatters.
    runs_GVXT = padded_GXN.unflatten(-1, (T + 1, _VALID)).permute(0, 3, 1, 2)
    heads_GLXT = runs_GVXT[:, : _TILE - _VALID, :, 1:]
    tiles_GLX = torch.cat([runs_GVXT[..., :-1], heads_GLXT], dim=1).flatten(2)
    return (analysis_LL @ tiles_GLX).view(*leading, _TILE * num_inputs, R, T)


class _Constants(NamedTuple):
    """Real matrices of a Fourier transform over a tile.

    A transform holds two numbers per frequency: the real and the imaginary part, and in the place
    of frequency 0 the real numbers of frequency 0 and of the highest one.
    """

    analysis_LL: Tensor
    synthesis_VL: Tensor
    """Back to the first frames, those that no kernel reaches round the end of the tile for."""
    taps_QABJ: Tensor
    """Taps to the 2x2 matrices that multiply the two numbers of each frequency."""


@lru_cache(maxsize=2)
@torch.inference_mode(False)  # a tensor made in inference mode could never serve a gradient
def _constants(dtype: torch.dtype) -> _Constants:
    """Build the matrices, once."""
    time_L = torch.arange(_TILE, dtype=torch.float64)
    frequency_Q1 = torch.arange(_NUM_FREQUENCIES, dtype=torch.float64)[:, None]
    angle_QL = 2 * math.pi / _TILE * frequency_Q1 * time_L
    cos_QL, sin_QL = angle_QL.cos(), angle_QL.sin()
    highest_L = torch.cos(math.pi * time_L)
    analysis_Q2L = torch.stack([cos_QL, -sin_QL], dim=1)
    analysis_Q2L[0, 1] = highest_L
    scale_Q = torch.full((_NUM_FREQUENCIES, 1, 1), 2 / _TILE, dtype=torch.float64)
    scale_Q[0] = 1 / _TILE
    synthesis_VL = (analysis_Q2L * scale_Q).flatten(0, 1).T[:_VALID]
    # A network's convolution is a correlation: its kernel's spectrum is conjugated.
    cos_QJ, sin_QJ = cos_QL[:, :_KERNEL], sin_QL[:, :_KERNEL]
    taps_QABJ = torch.stack(
        [torch.stack([cos_QJ, -sin_QJ], dim=1), torch.stack([sin_QJ, cos_QJ], dim=1)], dim=1
    )
    taps_QABJ[0, 1, 1] = highest_L[:_KERNEL]
    return _Constants(
        analysis_Q2L.flatten(0, 1).to(dtype),
        synthesis_VL.to(dtype).contiguous(),
        taps_QABJ.to(dtype),
    )


class _NormScalePool(torch.autograd.Function):
    """Norm of each group, gamma and beta of each channel, maximum over the pool, ReLU.

    The norm, gamma and beta only scale and shift a channel, so they can follow the maximum (the
    minimum, where gamma is negative) and have an eighth of the work.
    """

    @staticmethod
    def forward(
        ctx: Any, y_GVORT: Tensor, gamma_GO: Tensor, beta_GO: Tensor, num_frames: int, eps: float
    ) -> Tensor:
        """Take over y_GVORT, which is changed in place, and give pooled_GPORT."""
        _clear_rest(y_GVORT, num_frames)
        count = y_GVORT[0, 0, ..., 0].numel() * num_frames
        values_GX = y_GVORT.flatten(1)
        mean_G = values_GX.sum(dim=1) / count
        power_G = torch.linalg.vector_norm(values_GX, dim=1).square() / count
        inverse_std_G = ((power_G - mean_G.square()).clamp_min(0) + eps).rsqrt()
        sign_GO = torch.where(gamma_GO < 0, -torch.ones_like(gamma_GO), 1.0)
        if (gamma_GO < 0).any():  # rare, for gamma varies around 1
            y_GVORT.mul_(sign_GO[:, None, :, None, None])
        peak_GPORT, position_GPORT = _pool(y_GVORT)
        scale_GO = gamma_GO * inverse_std_G[:, None]
        shift_GO = beta_GO - mean_G[:, None] * scale_GO
        out_GPORT = torch.addcmul(
            shift_GO[:, None, :, None, None],
            peak_GPORT,
            scale_GO.abs()[:, None, :, None, None],
        ).relu_()
        ctx.save_for_backward(
            y_GVORT, peak_GPORT, position_GPORT, out_GPORT, gamma_GO, sign_GO, mean_G, inverse_std_G
        )
        ctx.num_frames = num_frames
        return out_GPORT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GPORT: Tensor) -> tuple[Tensor | None, ...]:
        (
            y_GVORT,
            peak_GPORT,
            position_GPORT,
            out_GPORT,
            gamma_GO,
            sign_GO,
            mean_G,
            inverse_std_G,
        ) = ctx.saved_tensors
        count = y_GVORT[0, 0, ..., 0].numel() * ctx.num_frames
        grad_GPORT = grad_GPORT * (out_GPORT > 0)
        shift_grad_GO = grad_GPORT.sum(dim=(1, 3, 4))
        scale_grad_GO = sign_GO * (grad_GPORT * peak_GPORT).sum(dim=(1, 3, 4))
        # scale = gamma / std and shift = beta - mean * scale
        scale_GO = gamma_GO * inverse_std_G[:, None]
        normed_grad_GO = scale_grad_GO - mean_G[:, None] * shift_grad_GO
        gamma_grad_GO = inverse_std_G[:, None] * normed_grad_GO
        variance_grad_G = -0.5 * inverse_std_G**3 * (gamma_GO * normed_grad_GO).sum(dim=1)
        mean_grad_G = -(scale_GO * shift_grad_GO).sum(dim=1)
        # The variance's part is 2 (y - mean) / count, where y may lie here with its sign changed.
        slope_G = 2 / count * variance_grad_G
        offset_G = mean_grad_G / count - slope_G * mean_G
        y_grad_GVORT = torch.addcmul(
            offset_G[:, None, None, None, None],
            y_GVORT,
            (slope_G[:, None] * sign_GO)[:, None, :, None, None],
        )
        y_grad_GVORT.flatten(1).scatter_add_(
            1,
            position_GPORT.flatten(1),
            (grad_GPORT * scale_GO[:, None, :, None, None]).flatten(1),
        )
        _clear_rest(y_grad_GVORT, ctx.num_frames)
        return y_grad_GVORT, gamma_grad_GO, shift_grad_GO, None, None


def _pool(y_GVORT: Tensor) -> tuple[Tensor, Tensor]:
    """Take the maximum of each pool, and its position among all values of its group."""
    T = y_GVORT.shape[-1]
    # With the tiles as channels that are last in memory the kernel is vectorised.
    size = (POOL[1], 1, POOL[0])
    peak_GTPOR, index_GTPOR = torch.ops.aten.max_pool3d_with_indices(
        y_GVORT.permute(0, 4, 1, 2, 3), size, size
    )
    index_GPORT = index_GTPOR.permute(0, 2, 3, 4, 1)
    position_GPORT = index_GPORT.mul_(T).add_(torch.arange(T))
    return peak_GTPOR.permute(0, 2, 3, 4, 1), position_GPORT


def _clear_rest(x_GVORT: Tensor, num_frames: int) -> None:
    """Set what the last tile holds beyond the last frame to zero."""
    T = x_GVORT.shape[-1]
    x_GVORT[:, num_frames - (T - 1) * _VALID :, ..., -1] = 0
