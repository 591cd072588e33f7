"""Equaliser of second-order sections: its response, and filtering by it.

Designs are those of the audio EQ cookbook (R. Bristow-Johnson). Two forms give the same: an impulse
response out of the exact response, with gradients for settings, and the recursion itself in float64
with a state that is carried from block to block.

Shape suffixes: B track, C channel, K section, 3 coefficients, F frequency bin, T sample, N tap.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

BUTTERWORTH_Q = math.sqrt(0.5)
# At 44.1 kHz. With 2^15 bins the ringing of a narrow bell at 20 Hz would wrap around at -67 dB.
NUM_BINS = 1 << 16
_REFERENCE_RATE_HZ = 44_100
HIGHEST_FREQUENCY = 0.45  # of the sample rate
# Of a section where it lets nothing pass.
_LEAST_POWER = 1e-12


@dataclass(frozen=True)
class Sections:
    """Coefficients of second-order sections, float64: b over a, a beginning with 1.

    Attributes:
        b_BK3: numerators.
        a_BK3: denominators.
    """

    b_BK3: Tensor
    a_BK3: Tensor

    @classmethod
    def joined(cls, sections: Sequence["Sections"]) -> "Sections":
        """Put sections one behind the other."""
        return cls(
            torch.cat([each.b_BK3 for each in sections], dim=1),
            torch.cat([each.a_BK3 for each in sections], dim=1),
        )

    def where(self, is_on_B: Tensor) -> "Sections":
        """Leave sections out where they are off."""
        unity = torch.zeros_like(self.b_BK3)
        unity[..., 0] = 1.0
        is_on_B11 = is_on_B[:, None, None]
        return Sections(
            torch.where(is_on_B11, self.b_BK3, unity), torch.where(is_on_B11, self.a_BK3, unity)
        )


def bell(freq_hz_B: Tensor, gain_db_B: Tensor, q_B: Tensor, sample_rate_hz: int) -> Sections:
    """Design bells, one per track."""
    cosine_B, alpha_B = _angles(freq_hz_B, q_B, sample_rate_hz)
    root_B = torch.pow(10.0, gain_db_B.double() / 40)
    return section(
        (1 + alpha_B * root_B, -2 * cosine_B, 1 - alpha_B * root_B),
        (1 + alpha_B / root_B, -2 * cosine_B, 1 - alpha_B / root_B),
    )


def shelf(freq_hz_B: Tensor, gain_db_B: Tensor, sample_rate_hz: int, *, high: bool) -> Sections:
    """Design shelves of slope 1, below the frequency or above it (high)."""
    q_B = torch.full_like(freq_hz_B, BUTTERWORTH_Q)
    cosine_B, alpha_B = _angles(freq_hz_B, q_B, sample_rate_hz)
    sign = -1.0 if high else 1.0
    cosine_B = sign * cosine_B
    a_B = torch.pow(10.0, gain_db_B.double() / 40)
    root_B = 2 * a_B.sqrt() * alpha_B
    plus_B, minus_B = a_B + 1, a_B - 1
    return section(
        (
            a_B * (plus_B - minus_B * cosine_B + root_B),
            sign * 2 * a_B * (minus_B - plus_B * cosine_B),
            a_B * (plus_B - minus_B * cosine_B - root_B),
        ),
        (
            plus_B + minus_B * cosine_B + root_B,
            sign * -2 * (minus_B + plus_B * cosine_B),
            plus_B + minus_B * cosine_B - root_B,
        ),
    )


def cut(freq_hz_B: Tensor, sample_rate_hz: int, *, high: bool) -> Sections:
    """Design Butterworth low-passes of second order, or high-passes (high)."""
    q_B = torch.full_like(freq_hz_B, BUTTERWORTH_Q)
    cosine_B, alpha_B = _angles(freq_hz_B, q_B, sample_rate_hz)
    sign = -1.0 if high else 1.0
    outer_B = (1 - sign * cosine_B) / 2
    return section(
        (outer_B, sign * 2 * outer_B, outer_B), (1 + alpha_B, -2 * cosine_B, 1 - alpha_B)
    )


def _angles(freq_hz_B: Tensor, q_B: Tensor, sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    ratio_B = (freq_hz_B.double() / sample_rate_hz).clamp_max(HIGHEST_FREQUENCY)
    omega_B = 2 * math.pi * ratio_B
    return torch.cos(omega_B), torch.sin(omega_B) / (2 * q_B.double())


def section(b: tuple[Tensor, Tensor, Tensor], a: tuple[Tensor, Tensor, Tensor]) -> Sections:
    """Make one section of its coefficients, a value per track each."""
    return Sections(
        (torch.stack(b, dim=-1) / a[0][:, None])[:, None],
        (torch.stack(a, dim=-1) / a[0][:, None])[:, None],
    )


def response(sections: Sections, num_fft: int) -> Tensor:
    """Return the complex response of all sections together at the bins of a transform.

    Returns:
        response_BF, complex128.
    """
    delay_F3 = _delays(num_fft).to(sections.b_BK3.device)
    above_BKF = sections.b_BK3.to(delay_F3.dtype) @ delay_F3.mT
    below_BKF = sections.a_BK3.to(delay_F3.dtype) @ delay_F3.mT
    return (above_BKF / below_BKF).prod(dim=1)


def power_response(sections: Sections, freq_hz_F: Tensor, sample_rate_hz: int) -> Tensor:
    """Return the factor of power of all sections together: power_BF, float64."""
    omega_F = 2 * math.pi * freq_hz_F.double() / sample_rate_hz
    cosine_3F = torch.stack([torch.ones_like(omega_F), omega_F.cos(), (2 * omega_F).cos()])

    def powers(c_BK3: Tensor) -> Tensor:
        """Return |c0 + c1 z^-1 + c2 z^-2|^2 on the unit circle."""
        c0_BK, c1_BK, c2_BK = c_BK3.unbind(dim=-1)
        terms_BK3 = torch.stack(
            [c_BK3.square().sum(dim=-1), 2 * c1_BK * (c0_BK + c2_BK), 2 * c0_BK * c2_BK], dim=-1
        )
        return (terms_BK3 @ cosine_3F).clamp_min(_LEAST_POWER)

    return (powers(sections.b_BK3) / powers(sections.a_BK3)).prod(dim=1)


@functools.lru_cache(maxsize=4)
def _delays(num_fft: int) -> Tensor:
    """Return what delays of 0, 1 and 2 samples do at the bins of a transform."""
    bin_F = torch.arange(num_fft // 2 + 1, dtype=torch.float64)
    delay_F = torch.polar(torch.ones_like(bin_F), -2 * math.pi * bin_F / num_fft)
    return torch.stack([torch.ones_like(delay_F), delay_F, delay_F.square()], dim=-1)


def impulse_response(sections: Sections, sample_rate_hz: int) -> Tensor:
    """Return the impulse response, differentiable; as long as its ringing needs.

    Returns:
        impulse_BN, float64.
    """
    num_bins = NUM_BINS * max(round(sample_rate_hz / _REFERENCE_RATE_HZ), 1)
    return torch.fft.irfft(response(sections, 2 * num_bins), n=2 * num_bins)


def convolved(audio_BCT: Tensor, impulse_BN: Tensor) -> Tensor:
    """Filter by an impulse response; the result is as long as the audio."""
    num_samples = audio_BCT.shape[-1]
    num_fft = next_fast_len(num_samples + impulse_BN.shape[-1] - 1, real=True)
    spectrum_BCF = torch.fft.rfft(audio_BCT, n=num_fft)
    filter_B1F = torch.fft.rfft(impulse_BN.to(audio_BCT.dtype), n=num_fft)[:, None]
    return torch.fft.irfft(spectrum_BCF * filter_B1F, n=num_fft)[..., :num_samples]


class StreamedEqualiser:
    """The recursion itself, in float64, on audio that comes in blocks."""

    def __init__(self, sections: Sections, num_channels: int) -> None:
        """Start at rest."""
        b_BK3, a_BK3 = (x.detach().cpu().numpy() for x in (sections.b_BK3, sections.a_BK3))
        self._sos_BK6 = np.concatenate([b_BK3, a_BK3], axis=-1)
        num_tracks, num_sections = self._sos_BK6.shape[:2]
        self._state_BKC2 = np.zeros((num_tracks, num_sections, num_channels, 2))

    def add(self, block_BCT: NDArray[np.float64]) -> NDArray[np.float64]:
        """Filter the next block."""
        from scipy.signal import sosfilt

        filtered_BCT = np.empty_like(block_BCT)
        for track, (sos_K6, block_CT) in enumerate(zip(self._sos_BK6, block_BCT, strict=True)):
            filtered_BCT[track], self._state_BKC2[track] = sosfilt(
                sos_K6, block_CT, axis=-1, zi=self._state_BKC2[track]
            )
        return filtered_BCT
