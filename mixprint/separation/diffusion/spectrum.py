"""The domain that is diffused: complex spectra whose magnitudes are compressed, and scaled by row.

A spectrum's treble lies a hundred times below its bass, and a sampler of few steps loses what has
not about the deviation of its noise. So magnitudes are raised to a power, phases kept, and each
frequency row divided by a number that is fixed for all songs.

Shape suffixes: B example of a batch, C channel, F frequency row, N frame.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Of real and imaginary parts, in every row of the training songs.
DEVIATION = 0.5
# Below this magnitude the compression is linear, so that its gradient has a limit: noise at
# -96 dB of full scale, in an STFT that is divided by the root of its size.
KNEE = 1e-5
# A row that is silent in all songs is scaled as if it were so loud, of the loudest row.
LEAST_SCALE = 1e-2


class Compression(nn.Module):
    """Compression of spectra, and its inverse.

    Attributes:
        scales_F: what each frequency row is divided by; see `fitted_scales`.
    """

    scales_F: Tensor

    def __init__(self, num_rows: int, power: float) -> None:
        """Start with scales of 1.

        Args:
            num_rows: frequency rows.
            power: that magnitudes are raised to.
        """
        super().__init__()
        self.power = power
        self.register_buffer("scales_F", torch.ones(num_rows))

    def compress(self, spectrum_BCFN: Tensor) -> Tensor:
        """Compress and scale."""
        return compressed(spectrum_BCFN, self.power) / self.scales_F[:, None]

    def expand(self, z_BCFN: Tensor) -> Tensor:
        """Invert `compress`."""
        scaled_BCFN = z_BCFN * self.scales_F[:, None]
        knee = KNEE**self.power
        gain_BCFN = _power(scaled_BCFN).clamp_min(knee**2).pow((1 / self.power - 1) / 2)
        return scaled_BCFN * gain_BCFN


def compressed(spectrum_BCFN: Tensor, power: float) -> Tensor:
    """Raise magnitudes to a power, and keep phases.

    Below `KNEE` it is linear: magnitude and slope are finite everywhere, and what it does can be
    inverted exactly.
    """
    return spectrum_BCFN * _power(spectrum_BCFN).clamp_min(KNEE**2).pow((power - 1) / 2)


def fitted_scales(spectra: Iterable[Tensor], power: float) -> Tensor:
    """Fit the scales of frequency rows to songs.

    Args:
        spectra: spectrum_BCFN of instrumentals as loud as in the training.
        power: that magnitudes are raised to.

    Returns:
        scales_F: compressed spectra divided by them have the deviation `DEVIATION` in every row,
        on an average over an octave around it.

    Raises:
        ValueError: there is no spectrum, or only silence.
    """
    total_F, count = None, 0
    for spectrum_BCFN in spectra:
        power_BCFN = _power(compressed(spectrum_BCFN, power)).double()
        sums_F = power_BCFN.sum(dim=(0, 1, 3)).cpu()
        total_F = sums_F if total_F is None else total_F + sums_F
        count += 2 * power_BCFN[:, :, 0].numel()  # real and imaginary parts
    if total_F is None or not total_F.any():
        raise ValueError("expected spectra that are not silent")
    scales_F = _octave_means(total_F / count).sqrt() / DEVIATION
    return scales_F.clamp_min(LEAST_SCALE * scales_F.max().item()).float()


def _power(spectrum: Tensor) -> Tensor:
    """Squared magnitude; its gradient is finite at 0, as that of the magnitude is not."""
    return torch.view_as_real(spectrum).square().sum(dim=-1)


def _octave_means(values_F: Tensor) -> Tensor:
    """Average each row with its neighbours from half an octave below to half an octave above."""
    rows_F = torch.arange(len(values_F), dtype=torch.float64)
    first_F = (rows_F / 2**0.5).ceil().long()
    last_F = (rows_F * 2**0.5).floor().long().clamp_max(len(values_F) - 1)
    sums_F = torch.cat([values_F.new_zeros(1), values_F.cumsum(0)])
    return (sums_F[last_F + 1] - sums_F[first_F]) / (last_F + 1 - first_F)
