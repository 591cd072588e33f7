"""SCNet, the sparse compression network, in its two published variants.

Names and shapes of the parameters are those of the published checkpoints, so that their state
dicts load as they are; the arithmetic is laid out for speed. Channels lie last in memory from the
first convolution to the last, as (B, F, N, D): oneDNN and cuDNN convolve that without reordering,
a frequency row with its frames is one piece, and the LSTMs read it as it is.
`benchmarks.plain_scnet` has the same network as the paper writes it.

Shape suffixes: B batch, S stem (in SCNet's order), C audio channel, T sample, D feature channel,
F frequency row, N frame, R frequency row of a batch entry (B x F), 1 a dimension of size one.

Source: Tong et al., "SCNet: Sparse Compression Network for Music Source Separation",
arXiv 2401.13276.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.errors import ConfigError
from mixprint.machine.device import cpu_has_lstm
from mixprint.separation.scnet.architecture import VARIANTS, SCNetConfig, Variant, band_rows

# x_BDFN of a block to what goes on in its place.
Modulation = Callable[[Tensor], Tensor]
MASK_CHANNELS = 64  # width of the mask head in every published masked checkpoint


class Skip(NamedTuple):
    """Skip connection from a block of the encoder to its twin in the decoder.

    Attributes:
        x_BDFN: what the twin made before it grew narrower.
        rows: of each compressed band.
        wanted: rows of each band before.
    """

    x_BDFN: Tensor
    rows: Sequence[int]
    wanted: Sequence[int]


def build_scnet(config: SCNetConfig | Mapping[str, Any], variant: str) -> "SCNet":
    """Build an SCNet with fresh weights.

    Args:
        config: the architecture, or the values of a published `model` section.
        variant: `plain` or `masked`.

    Raises:
        ConfigError: the configuration or the variant is not known.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"scnet variant: expected one of {VARIANTS}, found {variant!r}")
    if not isinstance(config, SCNetConfig):
        config = SCNetConfig.from_values(config)
    return SCNet(config, masked=variant == "masked")


def deepened(network: "SCNet", num_dplayer: int) -> "SCNet":
    """Add dual-path layers that change nothing yet: the function is the same, with room to learn.

    Args:
        network: it stays as it is.
        num_dplayer: dual-path layers of the result, as many as the network's or more.

    Returns:
        a network with the same weights, whose new layers add zero to what they are given.
    """
    known = network.config.num_dplayer
    result = build_scnet(replace(network.config, num_dplayer=num_dplayer), network.variant)
    with torch.no_grad():
        for layer in result.separation_net.dp_modules[known:]:
            assert isinstance(layer, _DualPath)
            for parameter in layer.linear_layers.parameters():
                parameter.zero_()
    result.load_state_dict({**result.state_dict(), **network.state_dict()})
    return result


def _to_rows(x_BDFN: Tensor) -> Tensor:
    """View each frequency row as an image of height 1: x_RD1N, channels last like x_BDFN."""
    return x_BDFN.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def _from_rows(x_RD1N: Tensor, batch: int) -> Tensor:
    """Invert `_to_rows`."""
    return x_RD1N.squeeze(2).unflatten(0, (batch, -1)).transpose(1, 2)


def _along_time(conv: nn.Module, x_RD1N: Tensor) -> Tensor:
    """Convolve rows along time."""
    assert isinstance(conv, nn.Conv1d)
    weight = conv.weight.unsqueeze(2)
    padding = (0, conv.kernel_size[0] // 2)
    return functional.conv2d(x_RD1N, weight, conv.bias, padding=padding, groups=conv.groups)


class _ConvModule(nn.Module):
    """A residual stack of convolutions along time, each frequency row on its own."""

    def __init__(self, channels: int, depth: int, compress: int, kernel: int) -> None:
        super().__init__()
        hidden = channels // compress
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, channels),
                nn.Conv1d(channels, 2 * hidden, kernel, padding=kernel // 2),
                nn.GLU(dim=1),
                nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden),
                nn.GroupNorm(1, hidden),
                nn.SiLU(),
                nn.Conv1d(hidden, channels, 1),
            )
            for _ in range(depth)
        )

    def forward(self, x_RD1N: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.Sequential)
            y_RD1N = x_RD1N
            for step in layer:
                y_RD1N = _along_time(step, y_RD1N) if isinstance(step, nn.Conv1d) else step(y_RD1N)
            x_RD1N = x_RD1N + y_RD1N
        return x_RD1N


class _BandDown(nn.Module):
    """Compress each band along frequency by its own stride.

    Further channels have convolutions of their own, whose results are added: with weights of 0
    they change not a bit of what comes of the others.
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: SCNetConfig, extra_channels: int = 0
    ) -> None:
        super().__init__()
        self.shares = config.band_SR
        sizes = list(zip(config.band_kernel, config.band_stride, strict=True))
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, (kernel, 1), (stride, 1))
            for kernel, stride in sizes
        )
        self.extra_convs = nn.ModuleList(
            nn.Conv2d(extra_channels, out_channels, (kernel, 1), (stride, 1), bias=False)
            for kernel, stride in sizes
            if extra_channels
        )

    def forward(
        self, x_BDFN: Tensor, extra_BDFN: Tensor | None = None
    ) -> tuple[list[Tensor], list[int]]:
        """Return the compressed bands, and the rows that each had before."""
        rows = band_rows(x_BDFN.shape[2], self.shares)
        bands = _compressed(self.convs, x_BDFN, rows)
        if extra_BDFN is not None:
            extra = _compressed(self.extra_convs, extra_BDFN, rows)
            bands = [band + more for band, more in zip(bands, extra, strict=True)]
        return bands, rows


def _compressed(convs: nn.ModuleList, x_BDFN: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Convolve each band, padded to a whole number of strides."""
    bands = []
    for conv, band in zip(convs, x_BDFN.split(list(rows), dim=2), strict=True):
        assert isinstance(conv, nn.Conv2d)
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        padding = kernel - 1 if stride == 1 else -band.shape[2] % stride
        before = padding // 2
        bands.append(conv(functional.pad(band, (0, 0, before, padding - before))))
    return bands


class _BandUp(nn.Module):
    """Expand each band along frequency to the rows it had before compression."""

    def __init__(self, in_channels: int, out_channels: int, config: SCNetConfig) -> None:
        super().__init__()
        self.convtrs = nn.ModuleList(
            nn.ConvTranspose2d(in_channels, out_channels, (kernel, 1), (stride, 1))
            for kernel, stride in zip(config.band_kernel, config.band_stride, strict=True)
        )

    def forward(self, x_BDFN: Tensor, rows: Sequence[int], wanted: Sequence[int]) -> Tensor:
        """Expand.

        Args:
            x_BDFN: the bands, joined.
            rows: rows of each band in x_BDFN.
            wanted: rows of each band in the result.
        """
        bands = []
        for conv, band, length in zip(
            self.convtrs, x_BDFN.split(list(rows), dim=2), wanted, strict=True
        ):
            expanded = conv(band)
            surplus = (expanded.shape[2] - length) // 2
            bands.append(expanded[:, :, surplus : surplus + length])
        return torch.cat(bands, dim=2)


class _DownBlock(nn.Module):
    """An encoder block: compression per band, convolution modules, then the full band."""

    def __init__(
        self, in_channels: int, out_channels: int, config: SCNetConfig, extra_channels: int = 0
    ) -> None:
        super().__init__()
        self.SDlayer = _BandDown(in_channels, out_channels, config, extra_channels)
        self.conv_modules = nn.ModuleList(
            _ConvModule(out_channels, depth, config.compress, config.conv_kernel)
            for depth in config.conv_depths
        )
        self.globalconv = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(
        self, x_BDFN: Tensor, extra_BDFN: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[int], list[int]]:
        """Return the output, the skip, and the rows of each band after and before."""
        bands, rows_before = self.SDlayer(x_BDFN, extra_BDFN)
        done = []
        for module, band_BDFN in zip(self.conv_modules, bands, strict=True):
            rows_RD1N = functional.gelu(module(_to_rows(band_BDFN)))
            done.append(_from_rows(rows_RD1N, len(band_BDFN)))
        skip = torch.cat(done, dim=2)
        return self.globalconv(skip), skip, [band.shape[2] for band in bands], rows_before


class _Fusion(nn.Module):
    """Join the decoder's input with the encoder's skip through a gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x_BDFN: Tensor, skip_BDFN: Tensor) -> Tensor:
        joined = x_BDFN + skip_BDFN
        # The published network repeats its input to twice the channels. Both halves of the kernel
        # see the same input, so that adding the halves gives the same result for half the work.
        channels = joined.shape[1]
        weight = self.conv.weight[:, :channels] + self.conv.weight[:, channels:]
        return functional.glu(functional.conv2d(joined, weight, self.conv.bias, padding=1), dim=1)


def _hidden_states(lstm: nn.Module, x_NRD: Tensor) -> Tensor:
    """Run an LSTM, in float32 where autocast asks for a type in which this CPU has none."""
    kind = x_NRD.device.type
    if kind == "cpu" and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        if not cpu_has_lstm(dtype):
            with torch.autocast(kind, enabled=False):
                exact: Tensor = lstm(x_NRD.float())[0]
            return exact.to(dtype)
    hidden: Tensor = lstm(x_NRD)[0]
    return hidden


class _DualPath(nn.Module):
    """A bidirectional LSTM along frequency, then one along time, each with a residual."""

    def __init__(self, channels: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        self.lstm_layers = nn.ModuleList(
            nn.LSTM(channels, hidden, bidirectional=True) for _ in range(2)
        )
        self.linear_layers = nn.ModuleList(nn.Linear(2 * hidden, channels) for _ in range(2))
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2))

    def forward(self, x_BFND: Tensor) -> Tensor:
        """Run both paths; an LSTM wants its sequence first."""
        x_BFND = x_BFND + self._path(0, x_BFND, (1, 0, 2, 3))
        return x_BFND + self._path(1, x_BFND, (2, 0, 1, 3))

    def _path(self, path: int, x_BFND: Tensor, order: Sequence[int]) -> Tensor:
        """Run a norm, an LSTM along the first dimension of `order`, and a linear layer."""
        x = self._normalised(path, x_BFND).permute(*order)
        hidden = _hidden_states(self.lstm_layers[path], x.flatten(1, 2))
        linear = self.linear_layers[path]
        assert isinstance(linear, nn.Linear)
        # As a convolution of size 1, which oneDNN computes; a linear layer goes to MKL, which is
        # less than half as fast in float32 on processors that are not Intel's.
        weight_DH11 = linear.weight[:, :, None, None]
        out = functional.conv2d(hidden.transpose(1, 2).unsqueeze(2), weight_DH11, linear.bias)
        out = out.squeeze(2).transpose(1, 2).reshape(x.shape)
        return out.permute(*(order.index(axis) for axis in range(x.ndim)))

    def _normalised(self, path: int, x_BFND: Tensor) -> Tensor:
        """Group norm with one group, in the layout of this network.

        `torch.var_mean` is exact too, but three times as slow on a CPU; `functional.group_norm`
        subtracts large sums there, and on a GPU brings its channels to the front.
        """
        norm = self.norm_layers[path]
        assert isinstance(norm, nn.GroupNorm)
        centred = x_BFND - x_BFND.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        assert norm.bias is not None
        return torch.addcmul(norm.bias, centred, torch.rsqrt(variance + norm.eps) * norm.weight)


def rfft_along_time(x_BFND: Tensor) -> Tensor:
    """Transform frames; the imaginary parts are channels behind the real ones."""
    spectrum = torch.fft.rfft(x_BFND, dim=2, norm="ortho")
    return torch.cat([spectrum.real, spectrum.imag], dim=3)


def irfft_along_time(x_BFND: Tensor) -> Tensor:
    """Invert `rfft_along_time`, for an even number of frames."""
    real, imag = x_BFND.chunk(2, dim=3)
    # The inverse transform leaves time, not channels, last in memory.
    return torch.fft.irfft(torch.complex(real, imag), dim=2, norm="ortho").contiguous()


def _unchanged(x_BDFN: Tensor) -> Tensor:
    return x_BDFN


class _SeparationNet(nn.Module):
    """Dual-path layers, alternately on frames and on their Fourier transform along time."""

    def __init__(self, channels: int, config: SCNetConfig) -> None:
        super().__init__()
        self.dp_modules = nn.ModuleList(
            _DualPath(channels * (1 + index % 2), config.expand)
            for index in range(config.num_dplayer)
        )
        self.transforms = (rfft_along_time, irfft_along_time)

    def forward(self, x_BDFN: Tensor, modulated: Modulation) -> Tensor:
        # In float32 also under autocast: what the layers add up are small steps.
        x_BFND = x_BDFN.permute(0, 2, 3, 1).float()
        for index, layer in enumerate(self.dp_modules):
            x_BFND = self.transforms[index % 2](layer(x_BFND))
            if index % 2:
                x_BFND = modulated(x_BFND.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x_BFND.permute(0, 3, 1, 2)


def mask_head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build what makes masks of the decoder's channels; for `masks`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, MASK_CHANNELS, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(MASK_CHANNELS, out_channels, 1),
        nn.Tanh(),
    )


def masks(head: nn.Sequential, x_BDFN: Tensor) -> Tensor:
    """Run a mask head."""
    for step in head:
        if isinstance(step, nn.Conv2d) and step.kernel_size == (1, 1):
            # By rows: torch sends a 1x1 convolution of one image to a kernel of its own, which
            # is slow and brings the channels to the front.
            rows_RD1N = functional.conv2d(_to_rows(x_BDFN), step.weight, step.bias)
            x_BDFN = _from_rows(rows_RD1N, len(x_BDFN))
        else:
            x_BDFN = step(x_BDFN)
    return x_BDFN


def real_channels(spectrum_BCFN: Tensor) -> Tensor:
    """Return x_BDFN: real and imaginary part of each channel, channels last in memory."""
    # P: real, imaginary. In this order, for torch_xla cannot permute what view_as_real gives.
    x_BFNCP = torch.view_as_real(spectrum_BCFN.permute(0, 2, 3, 1))
    return x_BFNCP.flatten(3).permute(0, 3, 1, 2)


def complex_channels(x_BDFN: Tensor, channels: int) -> Tensor:
    """Invert `real_channels` for each stem of so many channels: stems_BSCFN, complex64."""
    x_BFNSCP = x_BDFN.float().permute(0, 2, 3, 1).unflatten(3, (-1, channels, 2))
    return torch.view_as_complex(x_BFNSCP.contiguous()).permute(0, 3, 4, 1, 2)


def analysed(audio_CT: Tensor, config: SCNetConfig, window_T: Tensor) -> Tensor:
    """Take the STFT with an even number of frames; see `SCNet.analyse`."""
    length = audio_CT.shape[-1]
    num_hops = length // config.hop_size + 1
    # Centring reflects half an FFT at either end, so the padded audio must be longer than that.
    num_hops = max(num_hops, config.nfft // 2 // config.hop_size + 1)
    num_hops += 1 - num_hops % 2  # a centred STFT has one frame more than hops
    padded = functional.pad(audio_CT.flatten(0, -2), (0, num_hops * config.hop_size - length))
    spectrum = torch.stft(
        padded,
        config.nfft,
        config.hop_size,
        config.win_size,
        window_T,
        normalized=config.normalized,
        return_complex=True,
    )
    return spectrum.unflatten(0, audio_CT.shape[:-1])


def synthesised(spectrum_CFN: Tensor, length: int, config: SCNetConfig, window_T: Tensor) -> Tensor:
    """Invert `analysed`; see `SCNet.synthesise`."""
    # In parts, for torch holds each frame three times on the way.
    parts = [
        torch.istft(
            part,
            config.nfft,
            config.hop_size,
            config.win_size,
            window_T,
            normalized=config.normalized,
            length=length,
        )
        for part in spectrum_CFN.flatten(0, -3).chunk(len(config.sources))
    ]
    audio = torch.cat(parts)
    return audio.unflatten(0, spectrum_CFN.shape[:-2])


class SCNetBody(nn.Module):
    """Encoder, dual-path layers and decoder: from a spectrum's channels to those of its stems."""

    def __init__(self, config: SCNetConfig, extra_channels: int = 0) -> None:
        """Build it with fresh weights.

        Args:
            config: the architecture.
            extra_channels: of the input, beside the spectrum's; see `features`.
        """
        super().__init__()
        self.config = config
        dims = config.dims
        out_channels = dims[0] * len(config.sources)
        self.encoder = nn.ModuleList(
            _DownBlock(before, after, config, 0 if index else extra_channels)
            for index, (before, after) in enumerate(pairwise(dims))
        )
        self.separation_net = _SeparationNet(dims[-1], config)
        self.decoder = nn.ModuleList(
            nn.ModuleList(
                [
                    _Fusion(dims[index]),
                    _BandUp(dims[index], dims[index - 1] if index > 1 else out_channels, config),
                ]
            )
            for index in range(len(dims) - 1, 0, -1)
        )

    def features(self, x_BDFN: Tensor) -> Tensor:
        """Run encoder, dual-path layers and decoder: from `encoded` to `decoded`."""
        return self.decoded(*self.encoded(x_BDFN))

    def encoded(
        self,
        x_BDFN: Tensor,
        extra_BDFN: Tensor | None = None,
        modulated: Modulation = _unchanged,
    ) -> tuple[Tensor, list[Skip]]:
        """Run encoder and dual-path layers.

        Args:
            x_BDFN: real and imaginary parts of the spectrum's channels.
            extra_BDFN: the extra channels; they are added behind the first convolutions.
            modulated: is given what each block makes, and returns what goes on: with that of
                `decoded` as often as `modulated_channels` says.

        Returns:
            x_BDFN of the innermost rows, and what the decoder takes beside it.
        """
        skips = []
        # In float32 also under autocast: what bfloat16 rounds off the loud parts of a mixture is as
        # loud as a quiet stem.
        with torch.autocast(x_BDFN.device.type, enabled=False):
            for block in self.encoder:
                x_BDFN, *skip = block(x_BDFN, extra_BDFN)
                x_BDFN, extra_BDFN = modulated(x_BDFN), None
                skips.append(Skip(*skip))
        return self.separation_net(x_BDFN, modulated), skips

    def decoded(
        self, x_BDFN: Tensor, skips: Sequence[Skip], modulated: Modulation = _unchanged
    ) -> Tensor:
        """Run the decoder on what `encoded` gives.

        Returns:
            stems_BDFN: real and imaginary parts of each stem's channels.
        """
        for layer, (skip_BDFN, rows, wanted) in zip(self.decoder, reversed(skips), strict=True):
            assert isinstance(layer, nn.ModuleList)
            fusion, expand = layer
            x_BDFN = expand(modulated(fusion(x_BDFN, skip_BDFN)), rows, wanted)
        return x_BDFN

    @property
    def modulated_channels(self) -> list[int]:
        """Channels of what `modulated` is given.

        In this order: the encoder's blocks, pairs of dual-path layers (the second of a pair works
        on the transform of time), the decoder's blocks.
        """
        _, *dims = self.config.dims
        return [*dims, *[dims[-1]] * (self.config.num_dplayer // 2), *reversed(dims)]

    @property
    def extra_weights(self) -> list[nn.Parameter]:
        """Weights of the extra channels; where all are 0, these change nothing."""
        first = self.encoder[0]
        assert isinstance(first, _DownBlock)
        return list(first.SDlayer.extra_convs.parameters())


class SCNet(SCNetBody):
    """Separate audio into drums, bass, other and vocals. Use `build_scnet` to make one."""

    stft_window: Tensor

    def __init__(self, config: SCNetConfig, *, masked: bool) -> None:
        super().__init__(config)
        self.masked = masked
        if masked:
            dims, out_channels = config.dims, config.dims[0] * len(config.sources)
            self.pos_embed_f = nn.Parameter(torch.zeros(1, dims[0], config.num_bins, 1))
            self.mask_layer = mask_head(out_channels, out_channels)
        # The plain variant was published with a rectangular window, the masked one with Hann.
        window = torch.hann_window if masked else torch.ones
        window_T = window(config.win_size, device="cpu")  # see `restored`
        self.register_buffer("stft_window", window_T, persistent=False)

    @property
    def variant(self) -> Variant:
        """Which of the two published variants this is."""
        return "masked" if self.masked else "plain"

    def forward(self, audio_BCT: Tensor) -> Tensor:
        """Separate.

        Args:
            audio_BCT: the mixture, full scale at +-1, at the rate the weights were trained on.

        Returns:
            stems_BSCT in the order of `config.sources`, as long as the input.
        """
        return self.synthesise(self.estimate(self.analyse(audio_BCT)), audio_BCT.shape[-1])

    def analyse(self, audio_CT: Tensor) -> Tensor:
        """Take the STFT with an even number of frames.

        Args:
            audio_CT: audio; leading dimensions are free.

        Returns:
            spectrum_CFN, complex, with the leading dimensions of the audio.
        """
        return analysed(audio_CT, self.config, self.stft_window)

    def synthesise(self, spectrum_CFN: Tensor, length: int) -> Tensor:
        """Invert `analyse`.

        Args:
            spectrum_CFN: complex; leading dimensions are free.
            length: samples of the result.
        """
        return synthesised(spectrum_CFN, length, self.config, self.stft_window)

    def estimate(self, mixture_BCFN: Tensor) -> Tensor:
        """Estimate the stems' spectra from the mixture's.

        Args:
            mixture_BCFN: complex, from `analyse`.

        Returns:
            stems_BSCFN, complex64.
        """
        x_BDFN = real_channels(mixture_BCFN)
        if self.masked:
            x_BDFN = x_BDFN + self.pos_embed_f
        x_BDFN = self.features(x_BDFN)
        if self.masked:
            x_BDFN = masks(self.mask_layer, x_BDFN)
        stems_BSCFN = complex_channels(x_BDFN, mixture_BCFN.shape[1])
        return stems_BSCFN * mixture_BCFN.unsqueeze(1) if self.masked else stems_BSCFN
