"""Measures of a separation that need no true stems, gathered piece by piece.

The null test (how far the stems' sum is from the mixture), an estimate of the leakage between
stems, and levels. All take a song in consecutive pieces of any lengths and do not depend on
where it is cut; sums are kept in float64.

Shape suffixes: S stem (A and B too, for pairs), C channel, T sample, N frame, F frequency row.
"""

import math

import torch
from torch import Tensor

from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ

FLOOR_DB = -200.0  # stands for nothing at all: below what float32 audio can hold
FULL_SCALE = 1.0

FRAME_SAMPLES = 4096
BLOCK_FRAMES = 16  # about 1.5 s: long enough to tell likeness from chance
# Octaves; the lowest band goes down to DC, the highest up to the Nyquist frequency.
BAND_EDGES_HZ = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12800.0)
# Neighbouring rows of a Hann-windowed noise spectrum correlate by 2/3 and, two rows apart, 1/6.
# So many rows count as one independent observation: 1 + 2 (2/3)^2 + 2 (1/6)^2.
ROWS_PER_OBSERVATION = 35 / 18


class NullTest:
    """Distance of the sum of the stems from the mixture."""

    def __init__(self) -> None:
        self._rest = 0.0
        self._power = 0.0

    def add(self, stems_SCT: Tensor, mixture_CT: Tensor) -> None:
        """Take the next piece."""
        rest_CT = stems_SCT.double().sum(dim=-3) - mixture_CT.double()
        self._rest += rest_CT.square().sum().item()
        self._power += mixture_CT.double().square().sum().item()

    @property
    def depth_db(self) -> float:
        """Level of the rest relative to the mixture in dB; lower is better.

        `FLOOR_DB` where there is no rest at all, 0 for a silent mixture with a rest.
        """
        if self._rest == 0.0:
            return FLOOR_DB
        return max(power_db(self._rest / self._power), FLOOR_DB) if self._power else 0.0


class StemLevels:
    """Peak, level and samples beyond full scale of one stem."""

    def __init__(self) -> None:
        self._power = 0.0
        self._num_values = 0
        self.peak = 0.0
        self.num_clipped = 0

    def add(self, audio_CT: Tensor) -> None:
        """Take the next piece."""
        self._power += audio_CT.double().square().sum().item()
        self._num_values += audio_CT.numel()
        self.peak = max(self.peak, audio_CT.abs().max().item())
        self.num_clipped += int((audio_CT.abs() > FULL_SCALE).sum())

    @property
    def level_dbfs(self) -> float:
        """RMS level over both channels."""
        return max(power_db(self._power / max(self._num_values, 1)), FLOOR_DB)

    @property
    def peak_dbfs(self) -> float:
        """Largest sample, whatever its sign."""
        return max(power_db(self.peak**2), FLOOR_DB)


class Leakage:
    """Share of each stem's energy that a copy of another stem explains.

    In blocks of 1.5 s, per octave and channel, stem A is fitted by least squares with stem B
    times one complex gain: what a copy of B in A, coloured and changing slowly, would be. The
    energy of the fit, over all blocks, bands and channels, as a share of A's energy, is the
    estimate. The gain counts up to 1: B cannot have given more than it has. What unrelated
    noises would share by chance is subtracted (the adjusted R^2 of a regression).

    It is an estimate without the truth. Stems that really play alike (unison, doublings) read as
    leakage too; a pair reads alike in both directions where the levels are equal, for the data do
    not tell which of two likes is the copy; and what leaks in parts finer than an octave, or
    delayed by more than a few ms, is seen in part only. It is good for comparing separators on
    the same songs, and for finding stems that hold another one.
    """

    def __init__(self, num_stems: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        self._held_SCT = torch.zeros(num_stems, NUM_CHANNELS, 0)
        self._shared_AB = torch.zeros(num_stems, num_stems, dtype=torch.float64)
        self._energy_S = torch.zeros(num_stems, dtype=torch.float64)
        rows = [round(edge * FRAME_SAMPLES / sample_rate_hz) for edge in BAND_EDGES_HZ]
        self._bands = list(zip([0, *rows], [*rows, FRAME_SAMPLES // 2 + 1], strict=True))

    def add(self, stems_SCT: Tensor) -> None:
        """Take the next piece."""
        held_SCT = torch.cat([self._held_SCT, stems_SCT], dim=-1)
        block = BLOCK_FRAMES * FRAME_SAMPLES
        num_whole = held_SCT.shape[-1] // block
        for index in range(num_whole):
            shared_AB, energy_S = self._measure(held_SCT[..., index * block : (index + 1) * block])
            self._shared_AB += shared_AB
            self._energy_S += energy_S
        # A copy, so that what is held does not keep the memory of what is done.
        self._held_SCT = held_SCT[..., num_whole * block :].clone()

    def shares_db(self) -> list[list[float | None]]:
        """Return the shares: row A, column B says how much of A a copy of B explains, in dB.

        None on the diagonal and for a silent stem A; `FLOOR_DB` where there is none.
        """
        shared_AB, energy_S = self._measure(self._held_SCT)
        shared_AB, energy_S = self._shared_AB + shared_AB, self._energy_S + energy_S
        return [
            [
                None
                if a == b or energy_S[a] == 0
                else max(power_db(max(shared.item() / energy_S[a].item(), 0.0)), FLOOR_DB)
                for b, shared in enumerate(row_B)
            ]
            for a, row_B in enumerate(shared_AB)
        ]

    def _measure(self, block_SCT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy of A that B explains, and the energy of each, in one block."""
        num_frames = -(-block_SCT.shape[-1] // FRAME_SAMPLES)
        if num_frames == 0:
            return torch.zeros_like(self._shared_AB), torch.zeros_like(self._energy_S)
        missing = num_frames * FRAME_SAMPLES - block_SCT.shape[-1]
        padded_SCT = torch.nn.functional.pad(block_SCT, (0, missing))
        frames = padded_SCT.unflatten(-1, (num_frames, FRAME_SAMPLES))
        spectrum_SCNF = torch.fft.rfft(frames * torch.hann_window(FRAME_SAMPLES))
        shared_AB, energy_S = torch.zeros_like(self._shared_AB), torch.zeros_like(self._energy_S)
        for low, high in self._bands:
            band_CST = spectrum_SCNF[..., low:high].flatten(2).transpose(0, 1)
            product_CAB = (band_CST @ band_CST.mH).to(torch.complex128)
            energy_CS = product_CAB.diagonal(dim1=1, dim2=2).real
            energy_CA, energy_CB = energy_CS.unsqueeze(2), energy_CS.unsqueeze(1)
            fit_CAB = product_CAB.abs().square() / energy_CB.clamp_min(1e-300)
            observations = num_frames * (high - low) / ROWS_PER_OBSERVATION
            fit_CAB = fit_CAB - (energy_CA - fit_CAB) / (observations - 1)
            shared_AB += torch.minimum(fit_CAB, energy_CB).sum(dim=0)
            energy_S += energy_CS.sum(dim=0)
        return shared_AB, energy_S


def power_db(ratio: float) -> float:
    """Convert a ratio of powers to dB; -infinity for 0."""
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf
