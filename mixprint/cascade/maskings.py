"""Fixed ways to divide two songs: a mask says how much of each place is the input's.

They need no training, and work at any rate and in stereo. A network that learns to divide songs is
worth its cost where it is better than these.

Shape suffixes: C channel, T sample, F frequency row, N frame, 1 one.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.dsp.harmonic import harmonic_and_percussive

WINDOW_S, FRAMES_PER_WINDOW = 0.046, 4
# Of `frequency`: the input has the kick and the cymbals, the target all between.
LOW_HZ, HIGH_HZ = 150.0, 6_000.0
ONSET_S = 0.1  # a stroke is heard for so long
_TINY = 1e-12


class Spectra(NamedTuple):
    """Power spectra of two songs over their channels, and of their percussive and harmonic parts.

    Attributes:
        input_FN: of the input.
        target_FN: of the target.
        struck_FN: of the percussive parts of both: wanted of the input, unwanted of the target.
        held_FN: of the harmonic parts of both: unwanted of the input, wanted of the target.
        frequency_F1: of the rows, Hz.
        hop_s: from frame to frame.
    """

    input_FN: Tensor
    target_FN: Tensor
    struck_FN: Tensor
    held_FN: Tensor
    frequency_F1: Tensor
    hop_s: float

    @classmethod
    def of(cls, stft: "_Stft", input_CT: Tensor, target_CT: Tensor) -> Self:
        """Measure two songs of one length."""
        held, struck = zip(
            *(harmonic_and_percussive(song, stft.sample_rate_hz) for song in (input_CT, target_CT)),
            strict=True,
        )
        rows_F1 = torch.arange(stft.window_samples // 2 + 1, device=input_CT.device)[:, None]
        return cls(
            input_FN=stft.power(input_CT),
            target_FN=stft.power(target_CT),
            struck_FN=stft.power(torch.cat(struck)),
            held_FN=stft.power(torch.cat(held)),
            frequency_F1=rows_F1 * (stft.sample_rate_hz / stft.window_samples),
            hop_s=stft.hop_samples / stft.sample_rate_hz,
        )


def energy(spectra: Spectra) -> Tensor:
    """Give each place to the song that is louder there."""
    return _share(spectra.input_FN, spectra.target_FN)


def spectral(spectra: Spectra) -> Tensor:
    """Give what is struck to the input, and what is held to the target."""
    return _share(spectra.struck_FN, spectra.held_FN)


def frequency(spectra: Spectra) -> Tensor:
    """Give the lowest and the highest rows to the input."""
    row_F1 = spectra.frequency_F1
    is_input_F1 = (row_F1 < LOW_HZ) | (row_F1 > HIGH_HZ)
    return is_input_F1.to(spectra.input_FN).expand_as(spectra.input_FN)


def temporal(spectra: Spectra) -> Tensor:
    """Give the moments to the input in which something is struck."""
    struck_1N, held_1N = (
        power_FN.sum(dim=0, keepdim=True) for power_FN in (spectra.struck_FN, spectra.held_FN)
    )
    frames = max(round(ONSET_S / spectra.hop_s), 1)
    longer_1N = functional.max_pool1d(functional.pad(struck_1N, (frames - 1, 0)), frames, 1)
    return _share(longer_1N, held_1N).expand_as(spectra.input_FN)


def hybrid(spectra: Spectra) -> Tensor:
    """Take the mean of `spectral`, `temporal` and `frequency`."""
    return (spectral(spectra) + temporal(spectra) + frequency(spectra)) / 3


# name -> spectra to mask_FN of the input, 0 to 1
MASKINGS: Mapping[str, Callable[[Spectra], Tensor]] = {
    "temporal": temporal,
    "frequency": frequency,
    "spectral": spectral,
    "energy": energy,
    "hybrid": hybrid,
}


class Masked(NamedTuple):
    """A mix of two songs by a mask.

    Attributes:
        audio_CT: the mix.
        mask_FN: how much of each place was the input's.
    """

    audio_CT: Tensor
    mask_FN: Tensor


def masked_mix(input_CT: Tensor, target_CT: Tensor, masking: str, sample_rate_hz: int) -> Masked:
    """Mix two songs by one of the fixed masks.

    Args:
        input_CT: gives what is struck.
        target_CT: gives what is held; of the same shape, two windows or longer.
        masking: one of `MASKINGS`.
        sample_rate_hz: of both.

    Raises:
        ValueError: the shapes differ.
        KeyError: there is no such masking.
    """
    if input_CT.shape != target_CT.shape:
        raise ValueError(
            f"expected songs of one shape, got {tuple(input_CT.shape)}, {tuple(target_CT.shape)}"
        )
    stft = _Stft(sample_rate_hz)
    mask_FN = MASKINGS[masking](Spectra.of(stft, input_CT, target_CT))
    mix_CFN = mask_FN * stft.forward(input_CT) + (1 - mask_FN) * stft.forward(target_CT)
    return Masked(stft.inverse(mix_CFN, input_CT.shape[-1]), mask_FN)


def stems_mix(drums_CT: Tensor, without_drums_CT: Tensor, sample_rate_hz: int) -> Masked:
    """Add the drums of one song to all else of another; the mask tells how much is the drums'."""
    stft = _Stft(sample_rate_hz)
    drums_FN, other_FN = (stft.power(each_CT).sqrt() for each_CT in (drums_CT, without_drums_CT))
    return Masked(drums_CT + without_drums_CT, _share(drums_FN, other_FN))


def _share(own_FN: Tensor, other_FN: Tensor) -> Tensor:
    """Return the part of the squared power; one half where both are silent."""
    own_FN, other_FN = own_FN.square() + _TINY**2, other_FN.square() + _TINY**2
    return own_FN / (own_FN + other_FN)


class _Stft:
    """A transform with a window of 46 ms and three quarters of overlap."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.hop_samples = round(WINDOW_S * sample_rate_hz / FRAMES_PER_WINDOW)
        self.window_samples = FRAMES_PER_WINDOW * self.hop_samples

    def forward(self, audio_CT: Tensor) -> Tensor:
        window_T = torch.hann_window(self.window_samples, device=audio_CT.device)
        return torch.stft(
            audio_CT, self.window_samples, self.hop_samples, window=window_T, return_complex=True
        )

    def power(self, audio_CT: Tensor) -> Tensor:
        """Return the power over all channels: power_FN."""
        return torch.view_as_real(self.forward(audio_CT)).square().sum(dim=(0, 3))

    def inverse(self, spectrum_CFN: Tensor, length: int) -> Tensor:
        window_T = torch.hann_window(self.window_samples, device=spectrum_CFN.device)
        return torch.istft(
            spectrum_CFN, self.window_samples, self.hop_samples, window=window_T, length=length
        )
