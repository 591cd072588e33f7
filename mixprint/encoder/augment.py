"""Augmentations: another mix of the same stems, by effects whose parameters are known.

Each stem of each segment has its own chain: compressor, spectral tilt, band limiting, reverb,
pan, width, gain; each effect is on with a given probability. Everything after the compressor is
linear, so one FFT serves it all. Chains are tables of named numbers, drawn from a seeded
generator: the same chain can be put on another song.

Shape suffixes: B segment, S stem, C channel, T sample, F frequency bin, N block,
J stem of any segment on which an effect is active.

Source of the reverb as exponentially decaying noise: Moorer 1979 (CMJ 3(2)).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from mixprint.dsp.compressor import Compressors, block_levels_db
from mixprint.dsp.decibels import amplitude
from mixprint.encoder.settings import MAX_DECAY_S, PARAMETERS, AugmentRanges
from mixprint.stems import NUM_CHANNELS, NUM_STEMS

EFFECTS = ("compressor", "tilt", "band", "reverb", "stereo", "gain")

_TILT_PIVOT_HZ = 1_000.0
_PREDELAY_S = 0.01  # lets the dry sound come first
_ITEMS_AT_ONCE = {"cpu": 1, "cuda": 16}  # a segment's spectra fill a CPU's cache already


# Drawn evenly in their logarithm: what an octave or a doubling changes is what is heard.
_LOGARITHMIC = {"ratio", "attack_ms", "release_ms", "highpass_hz", "lowpass_hz", "reverb_decay_s"}


@dataclass(frozen=True)
class Chains:
    """Named parameters of one chain per segment and stem.

    Attributes:
        values: parameter name -> values_BS.
        active: effect name -> active_BS, bool.
    """

    values: Mapping[str, Tensor]
    active: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.values["gain_db"])

    def take(self, index: Tensor) -> "Chains":
        """Pick chains by index; an index that comes twice gives two segments the same chain."""
        return Chains(
            {name: value[index] for name, value in self.values.items()},
            {name: value[index] for name, value in self.active.items()},
        )

    def to(self, device: torch.device) -> "Chains":
        """Move the tables."""
        return Chains(
            {name: value.to(device) for name, value in self.values.items()},
            {name: value.to(device) for name, value in self.active.items()},
        )


def draw_chains(num_chains: int, ranges: AugmentRanges, generator: torch.Generator) -> Chains:
    """Draw chains; the same generator state gives the same chains on every machine.

    Args:
        num_chains: how many.
        ranges: the range of each parameter.
        generator: a CPU generator.
    """
    shape = (num_chains, NUM_STEMS)
    values = {}
    for name in PARAMETERS:
        low, high = getattr(ranges, name)
        if name in _LOGARITHMIC:
            low, high = math.log(low), math.log(high)
        drawn_BS = low + (high - low) * torch.rand(shape, generator=generator)
        values[name] = drawn_BS.exp() if name in _LOGARITHMIC else drawn_BS
    active = {e: torch.rand(shape, generator=generator) < ranges.probability for e in EFFECTS}
    return Chains(values, active)


def apply_chains(stems_BSCT: Tensor, chains: Chains, sample_rate_hz: int) -> Tensor:
    """Put each segment's stems through its chains.

    The reverb's tail is cut at the end of the segment; nothing before a sound's onset changes.

    Args:
        stems_BSCT: stereo stems, full scale at +-1, on any device.
        chains: one chain per segment and stem.
        sample_rate_hz: rate of the audio.

    Returns:
        stems_BSCT, new; samples may exceed full scale.

    Raises:
        ValueError: the number of chains is not the number of segments.
    """
    if len(chains) != len(stems_BSCT):
        raise ValueError(f"expected {len(stems_BSCT)} chains, got {len(chains)}")
    chains = chains.to(stems_BSCT.device)
    at_once = _ITEMS_AT_ONCE.get(stems_BSCT.device.type, 1)
    index_B = torch.arange(len(stems_BSCT), device=stems_BSCT.device)
    parts = []
    for part_BSCT, part_B in zip(stems_BSCT.split(at_once), index_B.split(at_once), strict=True):
        part = chains.take(part_B)
        compressed_BSCT = _compress(part_BSCT, part, sample_rate_hz)
        parts.append(_filter(compressed_BSCT, part, sample_rate_hz))
    return torch.cat(parts)


def _compress(stems_BSCT: Tensor, chains: Chains, sample_rate_hz: int) -> Tensor:
    """Compress each stem; both channels take the same gain, so the image stays."""
    active_BS = chains.active["compressor"]
    if not active_BS.any():
        return stems_BSCT
    stems_JCT = stems_BSCT[active_BS]
    # Double precision: which of both time constants acts is found exactly.
    values_J = {name: value_BS[active_BS].double() for name, value_BS in chains.values.items()}
    side_chain_JT = stems_JCT.abs().amax(dim=1).double()
    power_JN = torch.pow(10.0, block_levels_db(side_chain_JT) / 10)
    compressors = Compressors(
        10 * torch.log10(power_JN.mean(dim=-1)) + values_J["threshold_db"],
        1 - 1 / values_J["ratio"],
        values_J["attack_ms"] / 1_000,
        values_J["release_ms"] / 1_000,
        torch.zeros_like(values_J["ratio"]),
    )
    gain_JT = compressors.gain(side_chain_JT, sample_rate_hz)
    compressed_BSCT = stems_BSCT.clone()
    compressed_BSCT[active_BS] = stems_JCT * gain_JT[:, None].to(stems_JCT.dtype)
    return compressed_BSCT


def _filter(stems_BSCT: Tensor, chains: Chains, sample_rate_hz: int) -> Tensor:
    """Everything linear: tilt, band, reverb, then width, pan and gain, with one FFT there and back.

    The transform is longer than the segment by the reverb, so that no tail wraps around to the
    start.
    """
    T = stems_BSCT.shape[-1]
    num_fft = next_fast_len(T + round(MAX_DECAY_S * sample_rate_hz), real=True)
    spectrum_BSCF = torch.fft.rfft(stems_BSCT, n=num_fft)
    responses = {"tilt": _tilt_response, "band": _band_response, "reverb": _reverb_response}
    for effect, response in responses.items():
        active_BS = chains.active[effect]
        if active_BS.any():
            values_J = {name: value_BS[active_BS] for name, value_BS in chains.values.items()}
            spectrum_BSCF[active_BS] *= response(values_J, num_fft, sample_rate_hz)
    filtered_BSCT = torch.fft.irfft(spectrum_BSCF, n=num_fft)[..., :T]
    return torch.einsum("bsdc,bsct->bsdt", _stereo_matrix(chains), filtered_BSCT)


def _warped(frequency_hz_J: Tensor, num_fft: int, sample_rate_hz: int) -> Tensor:
    """Return s / (2 pi f) of each bin for the bilinear transform, prewarped at f: s_J1F, imaginary.

    A filter made so is causal: an analogue response sampled in frequency would ring before onsets.
    """
    tan_F = _bin_tangents(num_fft).to(frequency_hz_J.device)
    tan_J = torch.tan(math.pi * frequency_hz_J.double() / sample_rate_hz)
    s_JF = tan_F / tan_J[:, None].float()
    return torch.complex(torch.zeros_like(s_JF), s_JF)[:, None]


@lru_cache(maxsize=4)
def _bin_tangents(num_fft: int) -> Tensor:
    """Return tan(w / 2) of each bin; infinite at half the sample rate: 1e8 stands for it."""
    angle_F = math.pi * torch.arange(num_fft // 2 + 1, dtype=torch.float64) / num_fft
    return torch.tan(angle_F).clamp_max(1e8).float()


def _tilt_response(values_J: Mapping[str, Tensor], num_fft: int, sample_rate_hz: int) -> Tensor:
    """A low shelf down and a high shelf up by half the tilt each, unity at the pivot: J1F."""
    pivot_J = torch.full_like(values_J["tilt_db"], _TILT_PIVOT_HZ)
    s_J1F = _warped(pivot_J, num_fft, sample_rate_hz)
    root_J11 = amplitude(values_J["tilt_db"] / 2)[:, None, None]
    return (root_J11 * s_J1F + 1) / (s_J1F + root_J11)


def _band_response(values_J: Mapping[str, Tensor], num_fft: int, sample_rate_hz: int) -> Tensor:
    """Butterworth high-pass and low-pass of second order: J1F."""
    # The bilinear transform has no frequencies from half the sample rate on.
    lowpass_J = values_J["lowpass_hz"].clamp_max(0.49 * sample_rate_hz)
    high_J1F = _warped(values_J["highpass_hz"], num_fft, sample_rate_hz)
    low_J1F = _warped(lowpass_J, num_fft, sample_rate_hz)
    highpass_J1F = high_J1F.square() / (high_J1F.square() + math.sqrt(2) * high_J1F + 1)
    return highpass_J1F / (low_J1F.square() + math.sqrt(2) * low_J1F + 1)


def _reverb_response(values_J: Mapping[str, Tensor], num_fft: int, sample_rate_hz: int) -> Tensor:
    """Dry plus decaying noise, another noise in each channel, at equal power: JCF."""
    decay_J = values_J["reverb_decay_s"]
    noise_CT = _room_noise(sample_rate_hz).to(decay_J.device)
    time_T = torch.arange(noise_CT.shape[-1], device=decay_J.device) / sample_rate_hz
    tail_JCT = noise_CT * amplitude(-60.0 * time_T / decay_J[:, None])[:, None]
    tail_JCT = tail_JCT / tail_JCT.square().sum(dim=-1, keepdim=True).sqrt()
    predelay = round(_PREDELAY_S * sample_rate_hz)
    tail_JCT = functional.pad(tail_JCT, (predelay, -predelay))
    wet_J11 = values_J["reverb_wet"][:, None, None]
    return (1 - wet_J11).sqrt() + wet_J11.sqrt() * torch.fft.rfft(tail_JCT, n=num_fft)


@lru_cache(maxsize=4)
def _room_noise(sample_rate_hz: int) -> Tensor:
    """The one noise of all reverbs: drawn anew each time, equal parameters would differ."""
    shape = (NUM_CHANNELS, round(MAX_DECAY_S * sample_rate_hz))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _stereo_matrix(chains: Chains) -> Tensor:
    """Width, then pan, then gain as one matrix per stem: matrix_BSCC, from right to left."""
    values, active = chains.values, chains.active
    width_BS = torch.where(active["stereo"], values["width"], 1.0)
    pan_BS = torch.where(active["stereo"], values["pan"], 0.0)
    gain_BS = torch.where(active["gain"], amplitude(values["gain_db"]), 1.0)
    same_BS, cross_BS = (1 + width_BS) / 2, (1 - width_BS) / 2
    left_BS, right_BS = gain_BS * (1 - pan_BS).sqrt(), gain_BS * (1 + pan_BS).sqrt()
    return torch.stack(
        [
            torch.stack([left_BS * same_BS, left_BS * cross_BS], dim=-1),
            torch.stack([right_BS * cross_BS, right_BS * same_BS], dim=-1),
        ],
        dim=-2,
    )
