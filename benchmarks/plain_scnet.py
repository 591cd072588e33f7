"""SCNet as the paper writes it: the yardstick for speed and exactness of `mixprint.separation`.

The same weights, one plain torch module after the other: channels first, every convolution module
on tensors that are brought into its order, the input of each fusion repeated as published, and no
thought given to the processor. With `separate` around it, which takes a song window by window, it
is what a straightforward implementation does.

Shape suffixes: B batch, S stem, C audio channel, T sample, D feature channel, F frequency row,
N frame.

Source: Tong et al., "SCNet: Sparse Compression Network for Music Source Separation",
arXiv 2401.13276.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.separation.scnet.model import SCNet
from mixprint.stems import STEMS


class PlainSCNet(nn.Module):
    """The plain float32 forward of an SCNet."""

    def __init__(self, net: SCNet) -> None:
        """Share the weights of a network.

        Args:
            net: from `build_scnet`; its forward is not used.
        """
        super().__init__()
        self.net: Any = net

    def forward(self, audio_BCT: Tensor) -> Tensor:
        """Separate; see `SCNet.forward`."""
        net, config = self.net, self.net.config
        mixture_BCFN = net.analyse(audio_BCT)
        x_BDFN = torch.cat([mixture_BCFN.real, mixture_BCFN.imag], dim=1)
        # From all real parts first to pairs of real and imaginary part, channel by channel.
        x_BDFN = x_BDFN.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        if net.masked:
            x_BDFN = x_BDFN + net.pos_embed_f
        skips = []
        for block in net.encoder:
            x_BDFN, skip, rows, wanted = self._encode(block, x_BDFN)
            skips.append((skip, rows, wanted))
        for index, layer in enumerate(net.separation_net.dp_modules):
            x_BDFN = _dual_path(layer, x_BDFN)
            if index % 2 == 0:
                spectrum = torch.fft.rfft(x_BDFN, dim=3, norm="ortho")
                x_BDFN = torch.cat([spectrum.real, spectrum.imag], dim=1)
            else:
                real, imag = x_BDFN.chunk(2, dim=1)
                x_BDFN = torch.fft.irfft(torch.complex(real, imag), dim=3, norm="ortho")
        for fusion, expand in net.decoder:
            skip, rows, wanted = skips.pop()
            joined = (x_BDFN + skip).repeat(1, 2, 1, 1)
            x_BDFN = _expand(expand, functional.glu(fusion.conv(joined), dim=1), rows, wanted)
        if net.masked:
            x_BDFN = net.mask_layer(x_BDFN)
        x = x_BDFN.unflatten(1, (len(config.sources), config.audio_channels, 2))
        stems_BSCFN = torch.complex(x[:, :, :, 0], x[:, :, :, 1])
        if net.masked:
            stems_BSCFN = stems_BSCFN * mixture_BCFN.unsqueeze(1)
        stems_BSCT: Tensor = net.synthesise(stems_BSCFN, audio_BCT.shape[-1])
        return stems_BSCT

    def _encode(self, block: Any, x_BDFN: Tensor) -> tuple[Tensor, Tensor, list[int], list[int]]:
        """Return the output, the skip, and the rows of each band after and before."""
        num_bins = x_BDFN.shape[2]
        edges = [-int(-num_bins * share // 1) for share in accumulate(self.net.config.band_SR[:2])]
        wanted = [edges[0], edges[1] - edges[0], num_bins - edges[1]]
        bands = []
        for conv, stack, band in zip(
            block.SDlayer.convs, block.conv_modules, x_BDFN.split(wanted, dim=2), strict=True
        ):
            kernel, stride = conv.kernel_size[0], conv.stride[0]
            padding = kernel - 1 if stride == 1 else -band.shape[2] % stride
            padded = functional.pad(band, (0, 0, padding // 2, padding - padding // 2))
            compressed_BDFN = conv(padded)
            batch, channels, num_rows, num_frames = compressed_BDFN.shape
            rows = compressed_BDFN.permute(0, 2, 1, 3).reshape(-1, channels, num_frames)
            for layer in stack.layers:
                rows = rows + layer(rows)
            rows = functional.gelu(rows).view(batch, num_rows, channels, num_frames)
            bands.append(rows.permute(0, 2, 1, 3))
        skip = torch.cat(bands, dim=2)
        return block.globalconv(skip), skip, [band.shape[2] for band in bands], wanted


def _dual_path(layer: Any, x_BDFN: Tensor) -> Tensor:
    """Run an LSTM along frequency, then one along time."""
    batch, channels, num_rows, num_frames = x_BDFN.shape
    x = layer.norm_layers[0](x_BDFN).permute(2, 0, 3, 1).reshape(num_rows, -1, channels)
    x = layer.linear_layers[0](layer.lstm_layers[0](x)[0])
    x_BDFN = x_BDFN + x.view(num_rows, batch, num_frames, channels).permute(1, 3, 0, 2)
    x = layer.norm_layers[1](x_BDFN).permute(3, 0, 2, 1).reshape(num_frames, -1, channels)
    x = layer.linear_layers[1](layer.lstm_layers[1](x)[0])
    return x_BDFN + x.view(num_frames, batch, num_rows, channels).permute(1, 3, 2, 0)


def _expand(block: Any, x_BDFN: Tensor, rows: list[int], wanted: list[int]) -> Tensor:
    """Expand each band to the rows it had before compression."""
    bands = []
    for conv, band, length in zip(block.convtrs, x_BDFN.split(rows, dim=2), wanted, strict=True):
        expanded = conv(band)
        surplus = (expanded.shape[2] - length) // 2
        bands.append(expanded[:, :, surplus : surplus + length])
    return torch.cat(bands, dim=2)


def separate(model: nn.Module, audio_CT: Tensor, window: int, overlap: float) -> Tensor:
    """Add up overlapping windows, one at a time, with the whole song in memory.

    Args:
        model: gives stems_BSCT in SCNet's order.
        audio_CT: the mixture.
        window: samples of a window.
        overlap: part of a window that it shares with the next.

    Returns:
        stems_SCT in the order of `STEMS`.
    """
    hop = max(window - round(window * overlap), 1)
    total = audio_CT.shape[1]
    stems_SCT, weight_T = torch.zeros(len(STEMS), *audio_CT.shape), torch.zeros(total)
    ramp_T = torch.arange(1, window - hop + 1) / (window - hop + 1)
    for start in range(0, max(total - window, 0) + hop, hop):
        start = min(start, max(total - window, 0))
        part_CT = audio_CT[:, start : start + window]
        fade_T = torch.ones(part_CT.shape[1])
        if start > 0:
            fade_T[: window - hop] *= ramp_T
        if start + window < total:
            fade_T[hop:] *= ramp_T.flip(0)
        with torch.no_grad():
            estimate_SCT = model(part_CT.unsqueeze(0))[0]
        stems_SCT[..., start : start + window] += estimate_SCT * fade_T
        weight_T[start : start + window] += fade_T
    order = [model.net.config.sources.index(stem) for stem in STEMS]
    return (stems_SCT / weight_T)[order]
