"""Spectral features from one shared power spectrogram.

Shape suffixes: C channel, T sample, N frame, F frequency bin, M mel band,
R range of `BAND_EDGES_HZ`, O third-octave band;
`...` leading dimensions are free.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.features.schema import (
    BAND_EDGES_HZ,
    MEL_HIGH_HZ,
    MEL_LOW_HZ,
    NUM_MELS,
    SILENCE_POWER,
    SPECTRUM_HIGH_HZ,
    SPECTRUM_LOW_HZ,
)

# 2048 samples at 44.1 kHz; other rates take the power of two that is next on a log scale, so that
# the bins stay about 22 Hz wide.
_WINDOW_S = 2048 / 44_100

# Power of a bin, as a part of the stem's own power, that is added before a logarithm: bins that a
# codec or a low-pass emptied read -90 dB at every gain instead of minus infinity.
_BIN_FLOOR = 1e-9

# Third-octave centres of the tilt: 62.5 Hz to 12.7 kHz, so that the last one ends at 16 kHz.
_TILT_CENTRES_HZ = tuple(1000.0 * 2 ** (k / 3) for k in range(-12, 12))


class SpectralConstants(NamedTuple):
    """Tensors that depend on the sample rate alone, built once per rate, device and dtype."""

    window_T: Tensor
    """Hann window, scaled so that the power of all bins adds up to the mean square."""
    mel_FM: Tensor
    """Triangles of height 1 that add up to 1 from the first centre to the last."""
    band_FR: Tensor
    """Each column averages the mel bands of one range of `BAND_EDGES_HZ`."""
    low_bin: int
    high_bin: int
    """Bins `low_bin:high_bin` are in the range of flatness."""
    third_octave_FO: Tensor
    """Each column averages the bins of one third-octave band."""
    tilt_O: Tensor
    """Weights that turn levels into the slope over octaves by least squares."""


def window_samples(sample_rate_hz: int) -> int:
    """Return the length of a window, two hops long."""
    return 1 << round(math.log2(_WINDOW_S * sample_rate_hz))


def power_spectrogram(audio_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Measure the power per frame and bin, averaged over the channels.

    Hann windows of 46 ms, half overlapping; samples after the last whole window are left out.

    Args:
        audio_CT: (..., C, T) audio, full scale at +-1.
        sample_rate_hz: sample rate.

    Returns:
        (..., N, F) one-sided power; over the bins it adds up to the frame's mean square (weighted
        by the window).
    """
    return power(spectrogram(audio_CT, sample_rate_hz)).mean(dim=-3)


def spectrogram(audio_T: Tensor, sample_rate_hz: int) -> Tensor:
    """Compute the complex spectrum of each frame, of which `power` adds up to the mean square.

    Args:
        audio_T: (..., T) audio, full scale at +-1.
        sample_rate_hz: sample rate.

    Returns:
        (..., N, F) one-sided spectra, of the windows that `power_spectrogram` describes.
    """
    window_T = spectral_constants(sample_rate_hz, audio_T.device, audio_T.dtype).window_T
    hop_samples = window_T.shape[0] // 2
    num_hops = audio_T.shape[-1] // hop_samples
    hops = audio_T[..., : num_hops * hop_samples].unflatten(-1, (num_hops, hop_samples))
    # A window is two neighbouring hops: cheaper than unfold, whose backward scatters.
    frames_NT = torch.cat([hops[..., :-1, :], hops[..., 1:, :]], dim=-1).mul_(window_T)
    return torch.fft.rfft(frames_NT)


def power(spectrum_F: Tensor) -> Tensor:
    """Return the squared magnitude of complex values."""
    # Three times faster than abs().square(), and smooth at zero.
    return spectrum_F.real.square() + spectrum_F.imag.square()


def band_levels_db(spectrum_F: Tensor, constants: SpectralConstants) -> Tensor:
    """Measure the mean power of the mel bands in the low, mid and high range.

    Args:
        spectrum_F: (..., F) power, averaged over time.
        constants: of the sample rate.

    Returns:
        (..., R) levels in dB, silence at -80.
    """
    return 10 * (spectrum_F @ constants.band_FR + SILENCE_POWER).log10()


def tilt_db_per_octave(spectrum_F: Tensor, constants: SpectralConstants) -> Tensor:
    """Fit a line to the level of the power density over log-frequency, 62.5 Hz to 12.7 kHz.

    The density is averaged in 24 third-octave bands of equal weight, so that every octave counts
    the same. White noise gives 0, pink noise -3.01, silence 0; gain changes nothing.

    Returns:
        (...) slope in dB per octave.
    """
    density_O = _relative(spectrum_F, constants) @ constants.third_octave_FO
    return (10 * (density_O + _BIN_FLOOR).log10()) @ constants.tilt_O


def flatness(spectrum_F: Tensor, constants: SpectralConstants) -> Tensor:
    """Divide the geometric by the arithmetic mean of the power spectrum, 40 Hz to 16 kHz.

    On the spectrum averaged over time: white noise gives nearly 1, a sine nearly 0, silence 0;
    gain changes nothing.

    Returns:
        (...) flatness from 0 to 1.
    """
    bins_F = _relative(spectrum_F, constants)[..., constants.low_bin : constants.high_bin]
    # The floor is taken off again, so that silence, which is all floor, gives 0 and not 1.
    geometric = (bins_F + _BIN_FLOOR).log().mean(dim=-1).exp() - _BIN_FLOOR
    return geometric / (bins_F.mean(dim=-1) + _BIN_FLOOR)


def _relative(spectrum_F: Tensor, constants: SpectralConstants) -> Tensor:
    """Divide the spectrum by its total power in the range, which silence takes to zero."""
    in_range_F = spectrum_F[..., constants.low_bin : constants.high_bin]
    return spectrum_F / (in_range_F.sum(dim=-1, keepdim=True) + SILENCE_POWER)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a tensor made in inference mode could never serve a gradient
def spectral_constants(
    sample_rate_hz: int, device: torch.device, dtype: torch.dtype
) -> SpectralConstants:
    """Build the window and the filter banks of a sample rate.

    Raises:
        ValueError: the rate does not reach the highest band edge.
    """
    if sample_rate_hz < 2 * MEL_HIGH_HZ:
        raise ValueError(
            f"features up to {MEL_HIGH_HZ:.0f} Hz need a sample rate of "
            f"{2 * MEL_HIGH_HZ:.0f} Hz or more, got {sample_rate_hz}"
        )
    window_size = window_samples(sample_rate_hz)
    window_T = torch.hann_window(window_size, dtype=torch.float64)
    # One-sided power: the factor 2 stands for the negative frequencies (DC is used by no feature).
    window_T = window_T * math.sqrt(2 / (window_size * window_T.square().sum().item()))
    bin_hz_F = (
        torch.arange(window_size // 2 + 1, dtype=torch.float64) * sample_rate_hz / window_size
    )

    edge_mel_M = torch.linspace(
        _hz_to_mel(MEL_LOW_HZ), _hz_to_mel(MEL_HIGH_HZ), NUM_MELS + 2, dtype=torch.float64
    )
    edge_hz_M = 700 * (10 ** (edge_mel_M / 2595) - 1)
    rising_FM = (bin_hz_F[:, None] - edge_hz_M[:-2]) / (edge_hz_M[1:-1] - edge_hz_M[:-2])
    falling_FM = (edge_hz_M[2:] - bin_hz_F[:, None]) / (edge_hz_M[2:] - edge_hz_M[1:-1])
    mel_FM = torch.minimum(rising_FM, falling_FM).clamp_min(0)
    centre_hz_M = edge_hz_M[1:-1]
    band_FR = torch.stack(
        [
            mel_FM[:, (centre_hz_M >= low_hz) & (centre_hz_M < high_hz)].mean(dim=-1)
            for low_hz, high_hz in BAND_EDGES_HZ.values()
        ],
        dim=-1,
    )

    in_range_F = (bin_hz_F >= SPECTRUM_LOW_HZ) & (bin_hz_F < SPECTRUM_HIGH_HZ)
    range_bins = in_range_F.nonzero().squeeze(-1)

    octave_F = bin_hz_F.clamp_min(1.0).log2()
    centre_octave_O = torch.tensor(_TILT_CENTRES_HZ, dtype=torch.float64).log2()
    # Triangles over log-frequency, two third-octaves wide; 1/f makes a bin count for its width.
    third_octave_FO = (1 - 3 * (octave_F[:, None] - centre_octave_O).abs()).clamp_min(0)
    third_octave_FO = third_octave_FO / bin_hz_F.clamp_min(1.0)[:, None]
    third_octave_FO = third_octave_FO / third_octave_FO.sum(dim=0)
    # The lowest bands hold one or two bins: use the frequency that was really measured.
    measured_octave_O = (octave_F[:, None] * third_octave_FO).sum(dim=0)
    deviation_O = measured_octave_O - measured_octave_O.mean()
    tilt_O = deviation_O / deviation_O.square().sum()

    return SpectralConstants(
        window_T=window_T.to(device, dtype),
        mel_FM=mel_FM.to(device, dtype),
        band_FR=band_FR.to(device, dtype),
        low_bin=int(range_bins[0]),
        high_bin=int(range_bins[-1]) + 1,
        third_octave_FO=third_octave_FO.to(device, dtype),
        tilt_O=tilt_O.to(device, dtype),
    )


def _hz_to_mel(frequency_hz: float) -> float:
    """Convert to the HTK mel scale."""
    return 2595 * math.log10(1 + frequency_hz / 700)
