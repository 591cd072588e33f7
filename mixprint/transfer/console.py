"""A few plain controls per stem, which alone or in front of a TCN are fitted to a style.

Level, equalisation, dynamics, balance and width are what most of a mixing style consists of. As
a handful of parameters they reach it in tens of steps, where free convolution kernels need
thousands, and they leave no artefacts. All start at exactly the identity.

Shape suffixes: S stem, C channel (left, right), T sample, K equaliser band, F frequency bin,
N tap, W envelope window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional

from mixprint.dsp.decibels import NEPER_PER_DB, limited
from mixprint.errors import ConfigError
from mixprint.stems import NUM_STEMS, STEMS

NUM_BANDS = 20
LOWEST_BAND_HZ = 40.0
HIGHEST_BAND_HZ = 16_000.0
# 93 ms at 44.1 kHz: resolves the lowest bands, and is short enough that the ringing of the
# linear-phase filter on both sides of a drum hit stays masked at the gains allowed here.
FILTER_TAPS = 4095
MAX_GAIN_DB = 24.0
MAX_EQ_DB = 15.0
MAX_BALANCE_DB = 12.0
MAX_WIDTH_DB = 18.0
# Windows over which the level is followed: one as short as a transient (it moves the crest
# factor), one as long as a note or word (it moves the loudness range).
ENVELOPE_WINDOWS_S = (0.01, 0.4)
MAX_DYNAMICS = 0.9
# How far a control goes before `Console.departure` counts it straight, not squared; chosen on
# validation songs. Twenty bands are fitted to few features, so the equaliser is held closest.
BROADBAND_UNIT_DB = 6.0
EQ_UNIT_DB = 1.0
DYNAMICS_UNIT = 0.3
# The level that dynamics follow is limited to this distance from its mean, so that compression
# does not lift the noise of the pauses.
MAX_DEVIATION_DB = 15.0
ENVELOPE_FLOOR_DBFS = -80.0


@dataclass(frozen=True)
class Prepared:
    """Measures of the stems that the console needs; they do not depend on the parameters.

    Attributes:
        stems_SCT: the audio.
        spectrum_SCF: its spectrum, zero-padded by one filter length.
        deviation_db_WST: level minus the console's reference level, per envelope window.
    """

    stems_SCT: Tensor
    spectrum_SCF: Tensor
    deviation_db_WST: Tensor


class Console(nn.Module):
    """Equaliser, dynamics, balance and width per stem.

    Parameters are in dB (dynamics: in dB of gain per dB of level), each held within its range by
    a hyperbolic tangent that has slope one at the identity.
    """

    basis_KF: Tensor
    window_N: Tensor
    reference_db_WS: Tensor

    def __init__(self, sample_rate_hz: int, segments_SCT: Sequence[Tensor]) -> None:
        """Start as the identity.

        Args:
            sample_rate_hz: of all audio that it will process.
            segments_SCT: what it is fitted on. Their mean level, where a stem sounds, is the
                reference of the dynamics from then on, so that one console does the same to any
                part of a song.

        Raises:
            ConfigError: the sample rate is too low for the bands.
        """
        super().__init__()
        if sample_rate_hz < 2 * HIGHEST_BAND_HZ:
            raise ConfigError(
                f"sample rate: expected at least {2 * HIGHEST_BAND_HZ:.0f} Hz for the equaliser, "
                f"got {sample_rate_hz}"
            )
        self.sample_rate_hz = sample_rate_hz
        self.gain_S = nn.Parameter(torch.zeros(NUM_STEMS))
        self.balance_S = nn.Parameter(torch.zeros(NUM_STEMS))
        self.width_S = nn.Parameter(torch.zeros(NUM_STEMS))
        self.eq_SK = nn.Parameter(torch.zeros(NUM_STEMS, NUM_BANDS))
        self.dynamics_SW = nn.Parameter(torch.zeros(NUM_STEMS, len(ENVELOPE_WINDOWS_S)))
        reference_db_WS = torch.stack(
            [_mean_level_db(segments_SCT, hop) for hop in _envelope_hops(sample_rate_hz)]
        )
        self.register_buffer("reference_db_WS", reference_db_WS, persistent=False)
        self.register_buffer("basis_KF", _band_basis(sample_rate_hz), persistent=False)
        self.register_buffer(
            "window_N", torch.hann_window(FILTER_TAPS + 2, periodic=False)[1:-1], persistent=False
        )

    @property
    def hop_samples(self) -> int:
        """Grid of the envelopes: a part of a song must start on it to be treated alike."""
        return _envelope_hops(self.sample_rate_hz)[-1]

    @property
    def context_samples(self) -> int:
        """Say how far, on either side, the input reaches into an output sample."""
        # A level lies between two frames, each of two hops.
        return max(FILTER_TAPS // 2, 2 * self.hop_samples)

    def prepare(self, stems_SCT: Tensor) -> Prepared:
        """Compute once what every step of an optimisation reuses."""
        num_samples = stems_SCT.shape[-1]
        length = next_fast_len(num_samples + FILTER_TAPS - 1, real=True)
        deviations = [
            _deviation_db(stems_SCT, hop, reference_db_S)
            for hop, reference_db_S in zip(
                _envelope_hops(self.sample_rate_hz), self.reference_db_WS, strict=True
            )
        ]
        return Prepared(stems_SCT, torch.fft.rfft(stems_SCT, n=length), torch.stack(deviations))

    def forward(self, prepared: Prepared, amount_S: Tensor | None = None) -> Tensor:
        """Process the stems; each is audible only in its own output.

        Args:
            prepared: of the stems.
            amount_S: what every control is multiplied by, in dB or slope; 1 when None. The
                dynamics stay within their range whatever the amount: beyond a slope of 1 loud
                would become quiet.
        """
        gain_db_S, balance_db_S, width_db_S, eq_db_SK, dynamics_SW = self._controls(amount_S)
        stems_SCT = prepared.stems_SCT + _equaliser_part(
            prepared, gain_db_S.unsqueeze(-1) + eq_db_SK @ self.basis_KF, self.window_N
        )
        gain_db_ST = -torch.einsum("sw,wst->st", dynamics_SW, prepared.deviation_db_WST)
        stems_SCT = stems_SCT * torch.exp(NEPER_PER_DB * gain_db_ST).unsqueeze(1)
        # Mid and side as what is added to left and right, so that width zero adds exactly nothing.
        width_S = torch.expm1(NEPER_PER_DB * width_db_S)
        side_ST = (stems_SCT[:, 0] - stems_SCT[:, 1]) / 2 * width_S.unsqueeze(-1)
        stems_SCT = stems_SCT + torch.stack((side_ST, -side_ST), dim=1)
        balance_SC = torch.stack((balance_db_S, -balance_db_S), dim=1) / 2
        return stems_SCT * torch.exp(NEPER_PER_DB * balance_SC).unsqueeze(-1)

    def _controls(self, amount_S: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return gain, balance, width and equaliser in dB, and the dynamics, times an amount."""
        controls = (
            limited(self.gain_S, MAX_GAIN_DB),
            limited(self.balance_S, MAX_BALANCE_DB),
            limited(self.width_S, MAX_WIDTH_DB),
            limited(self.eq_SK, MAX_EQ_DB),
            limited(self.dynamics_SW, MAX_DYNAMICS),
        )
        if amount_S is None:
            return controls
        gain_db_S, balance_db_S, width_db_S, eq_db_SK, dynamics_SW = controls
        amount_S1 = amount_S.unsqueeze(-1)
        return (
            amount_S * gain_db_S,
            amount_S * balance_db_S,
            amount_S * width_db_S,
            amount_S1 * eq_db_SK,
            (amount_S1 * dynamics_SW).clamp(-MAX_DYNAMICS, MAX_DYNAMICS),
        )

    def roughness(self) -> Tensor:
        """Measure how unsmooth the equaliser is: mean square second difference in (6 dB)^2."""
        return (self.eq_SK.diff(n=2, dim=-1) / 6.0).square().mean()

    def departure(self) -> Tensor:
        """Measure how far the controls are from the identity.

        Returns:
            means over gains, balance, width, equaliser and dynamics, added up: of their squares,
            each in its unit, near the identity, and straight on from there (the pseudo-Huber loss),
            so that a large difference between two songs is not too dear.
        """
        units = (*[BROADBAND_UNIT_DB] * 3, EQ_UNIT_DB, DYNAMICS_UNIT)
        controls = zip(self._controls(None), units, strict=True)
        costs = [2 * (torch.hypot(x / unit, torch.ones_like(x)) - 1) for x, unit in controls]
        return torch.stack([cost.mean() for cost in costs]).sum()

    def settings(self, amount_S: Tensor | None = None) -> dict[str, dict[str, float]]:
        """Return the fitted controls per stem, to be read by a person.

        Args:
            amount_S: see `forward`.

        Returns:
            stem -> `gain_db`; the equaliser's mean below 250 Hz, from 250 Hz to 4 kHz and above
            (`eq_low_db`, `eq_mid_db`, `eq_high_db`); `balance_db` (left over right), `width_db`
            (side); `dynamics_fast`, `dynamics_slow` (dB of gain reduction per dB of level, more
            than 0 compresses).
        """
        centres_hz = _band_centres_hz()
        regions = {
            "eq_low_db": centres_hz < 250,
            "eq_mid_db": (centres_hz >= 250) & (centres_hz < 4000),
            "eq_high_db": centres_hz >= 4000,
        }
        with torch.no_grad():
            gain_db_S, balance_db_S, width_db_S, eq_db_SK, dynamics_SW = (
                control.cpu() for control in self._controls(amount_S)
            )
        return {
            stem: {
                "gain_db": float(gain_db_S[i]),
                **{name: float(eq_db_SK[i, in_K].mean()) for name, in_K in regions.items()},
                "balance_db": float(balance_db_S[i]),
                "width_db": float(width_db_S[i]),
                "dynamics_fast": float(dynamics_SW[i, 0]),
                "dynamics_slow": float(dynamics_SW[i, 1]),
            }
            for i, stem in enumerate(STEMS)
        }


def _band_centres_hz() -> Tensor:
    """Place the equaliser's bands evenly on a logarithmic axis."""
    octaves = torch.log2(torch.tensor(HIGHEST_BAND_HZ / LOWEST_BAND_HZ))
    return LOWEST_BAND_HZ * 2 ** (torch.linspace(0, 1, NUM_BANDS) * octaves)


def _band_basis(sample_rate_hz: int) -> Tensor:
    """Interpolate between bands on the logarithmic axis; the outer bands reach to the ends."""
    bins_hz = torch.fft.rfftfreq(FILTER_TAPS + 1, 1 / sample_rate_hz)
    centres_hz = _band_centres_hz()
    clamped_hz = bins_hz.clamp(LOWEST_BAND_HZ, HIGHEST_BAND_HZ)
    spacing = torch.log2(centres_hz[1] / centres_hz[0])
    position_F = torch.log2(clamped_hz / LOWEST_BAND_HZ) / spacing
    return (1 - (position_F - torch.arange(NUM_BANDS).unsqueeze(-1)).abs()).clamp_min(0)


def _equaliser_part(prepared: Prepared, gain_db_SF: Tensor, window_N: Tensor) -> Tensor:
    """Return what level and equaliser add to the stems: exactly zero when all gains are 0 dB."""
    num_samples = prepared.stems_SCT.shape[-1]
    length = next_fast_len(num_samples + FILTER_TAPS - 1, real=True)
    impulse_SN = torch.fft.irfft(torch.expm1(NEPER_PER_DB * gain_db_SF), n=FILTER_TAPS + 1)
    # Zero phase, centred: its middle lands on tap (FILTER_TAPS - 1) / 2 of the causal filter.
    half = FILTER_TAPS // 2
    impulse_SN = torch.cat((impulse_SN[:, -half:], impulse_SN[:, : half + 1]), dim=-1)
    filter_SF = torch.fft.rfft(impulse_SN * window_N, n=length)
    delayed_SCT = torch.fft.irfft(prepared.spectrum_SCF * filter_SF.unsqueeze(1), n=length)
    return delayed_SCT[..., half : half + num_samples]


def _envelope_hops(sample_rate_hz: int) -> tuple[int, ...]:
    """Return half of each envelope window in samples, shortest first, each a multiple of the first.

    So the grid of the longest is a grid of all.
    """
    first_hop = max(1, round(ENVELOPE_WINDOWS_S[0] * sample_rate_hz / 2))
    return tuple(
        first_hop * max(1, round(window_s * sample_rate_hz / 2 / first_hop))
        for window_s in ENVELOPE_WINDOWS_S
    )


def _level_db(stems_SCT: Tensor, hop_samples: int) -> Tensor:
    """Follow each stem's level: the mean power in windows of two hops, one hop apart.

    Returns:
        level_db_SN, frame i centred on sample i * hop.
    """
    power_S1T = stems_SCT.square().mean(dim=1, keepdim=True)
    framed_S1N = functional.avg_pool1d(
        power_S1T,
        2 * hop_samples,
        hop_samples,
        padding=hop_samples,
        ceil_mode=True,
        count_include_pad=False,
    )
    return 10 * torch.log10(framed_S1N.squeeze(1).clamp_min(10 ** (ENVELOPE_FLOOR_DBFS / 10)))


def _mean_level_db(segments_SCT: Sequence[Tensor], hop_samples: int) -> Tensor:
    """Average the level, in dB, where a stem sounds (within 40 dB of its highest level)."""
    level_db_SN = torch.cat([_level_db(stems_SCT, hop_samples) for stems_SCT in segments_SCT], -1)
    sounding_SN = level_db_SN > level_db_SN.amax(dim=-1, keepdim=True) - 40
    return (level_db_SN * sounding_SN).sum(-1) / sounding_SN.sum(-1).clamp_min(1)


def _deviation_db(stems_SCT: Tensor, hop_samples: int, reference_db_S: Tensor) -> Tensor:
    """Follow each stem's distance from the reference level, in dB, by straight lines."""
    level_db_SN = _level_db(stems_SCT, hop_samples)
    deviation_SN = (level_db_SN - reference_db_S.unsqueeze(-1)).clamp(
        -MAX_DEVIATION_DB, MAX_DEVIATION_DB
    )
    # In integers: samples of a long song are too many for float32.
    sample_T = torch.arange(stems_SCT.shape[-1], device=stems_SCT.device)
    left_T = sample_T // hop_samples
    right_T = (left_T + 1).clamp_max(deviation_SN.shape[-1] - 1)
    fraction_T = (sample_T % hop_samples) / hop_samples
    return torch.lerp(deviation_SN[:, left_T], deviation_SN[:, right_T], fraction_T)
