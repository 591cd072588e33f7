"""Transfer in one forward pass: a network that was trained once reads two embeddings.

A temporal convolutional network runs at the rate of frames: it reads how loud each stem is in each
band, in the middle and at the sides, is steered by the two embeddings through FiLM, and gives the
gain of each band at each time. That is what an equaliser, a compressor and a width control do
together. Balance and reverb of each stem follow from the embeddings alone. There is no other path
from stem to stem than the gains, so what is silent stays silent, and everything is zero at the
start: the untrained network is the identity to the bit.

Shape suffixes: B batch, S stem, C channel (left, right; of gains: mid, side), T sample, F frequency
bin, K band, N frame, H hidden channel, E embedding, R room (one decay time), L tap.

Source: FiLM, Perez et al. 2018 (arXiv 1709.07871).
"""

import copy
import math
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional

from mixprint.dsp.decibels import NEPER_PER_DB, limited
from mixprint.stems import NUM_CHANNELS, NUM_STEMS
from mixprint.zero_shot.settings import (
    HIGHEST_BAND_HZ,
    LOWEST_BAND_HZ,
    PREDELAY_S,
    ZeroShotConfig,
)

MAX_GAIN_DB = 30.0
MAX_BALANCE_DB = 12.0
# The heads are linear layers whose outputs are about one; so many dB is that.
GAIN_SCALE_DB, BALANCE_SCALE_DB = 10.0, 3.0
WET_SCALE = 0.3
LEVEL_FLOOR = 1e-8  # of the power in a band; -80 dB
MIDDLE_DB, SPREAD_DB = -50.0, 20.0  # brings the levels of music to about -1..1
DECAY_DB = 60.0


@dataclass(frozen=True)
class Conditioning:
    """Parameters that follow from the embeddings, before any audio is heard.

    Attributes:
        films: film_2BH of each block: gamma, beta.
        gain_BJ: part of the gains that does not change in time, J = S * C * K.
        balance_BS: of each stem.
        wet_BSR: how much of each room.
    """

    films: tuple[Tensor, ...]
    gain_BJ: Tensor
    balance_BS: Tensor
    wet_BSR: Tensor

    def to(self, device: torch.device | str) -> "Conditioning":
        """Move them."""
        films = tuple(film_2BH.to(device) for film_2BH in self.films)
        rest = (self.gain_BJ, self.balance_BS, self.wet_BSR)
        return Conditioning(films, *(tensor.to(device) for tensor in rest))


class _Block(nn.Module):
    """h + mix(gelu(film(dilated convolution of h)))."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2 * dilation
        self.conv = nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, hidden_BHN: Tensor, film_2BH: Tensor) -> Tensor:
        gamma_BH1, beta_BH1 = film_2BH.unsqueeze(-1)
        steered_BHN = gamma_BH1 * self.conv(hidden_BHN) + beta_BH1
        out_BHN: Tensor = hidden_BHN + self.mix(functional.gelu(steered_BHN))
        return out_BHN


class ZeroShotNetwork(nn.Module):
    """The network; see the module's docstring."""

    basis_FK: Tensor
    window_T: Tensor
    rooms_RCL: Tensor

    def __init__(self, config: ZeroShotConfig) -> None:
        """Start as the identity; the random weights come from torch's own generator."""
        super().__init__()
        self.config = config
        H, num_gains = config.channels, NUM_STEMS * NUM_CHANNELS * config.num_bands
        width = config.conditioning_hidden
        # The difference of the embeddings is a linear function of both, so a linear layer that
        # reads both reads it too.
        self.condition_on = nn.Sequential(
            nn.Linear(2 * config.embedding_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
        )
        self.films = nn.ModuleList(nn.Linear(width, 2 * H) for _ in config.dilations)
        self.gain_head = _zero(nn.Linear(width, num_gains))
        self.balance_head = _zero(nn.Linear(width, NUM_STEMS))
        self.wet_head = _zero(nn.Linear(width, NUM_STEMS * len(config.room_decays_s)))
        self.enter = nn.Conv1d(num_gains, H, 1)
        self.blocks = nn.ModuleList(
            _Block(H, config.kernel_size, dilation) for dilation in config.dilations
        )
        self.leave = _zero(nn.Conv1d(H, num_gains, 1))
        with torch.device(
            "cpu"
        ):  # see `restored`; and the noise of rooms is the same on all devices
            self.register_buffer("basis_FK", _band_basis(config), persistent=False)
            self.register_buffer("window_T", torch.hann_window(config.n_fft), persistent=False)
            self.register_buffer("rooms_RCL", _rooms(config), persistent=False)

    def condition(self, input_BE: Tensor, target_BE: Tensor) -> Conditioning:
        """Read the embeddings of the input and of the target."""
        width_BH = self.condition_on(torch.cat([input_BE, target_BE], dim=-1))
        films = []
        for head in self.films:
            gamma_BH, beta_BH = head(width_BH).chunk(2, dim=-1)
            films.append(torch.stack([1.0 + gamma_BH, beta_BH]))
        return Conditioning(
            films=tuple(films),
            gain_BJ=self.gain_head(width_BH),
            balance_BS=self.balance_head(width_BH),
            wet_BSR=self.wet_head(width_BH).unflatten(-1, (NUM_STEMS, -1)),
        )

    def forward(
        self, stems_BSCT: Tensor, conditioning: Conditioning, amount_BS: Tensor | None = None
    ) -> Tensor:
        """Process the stems.

        Args:
            stems_BSCT: the audio, of any length.
            conditioning: from `condition`.
            amount_BS: factor of all gains in dB and of the reverbs; 0 leaves a stem as it is, to
                the bit. None: 1.

        Returns:
            stems_BSCT, as long as the input.
        """
        T = stems_BSCT.shape[-1]
        if amount_BS is None:
            amount_BS = torch.ones_like(conditioning.balance_BS)
        # Mid and side only as what is added to left and right, so that no gain adds exactly none.
        spectrum_BSCFN = self.analyse(stems_BSCT)
        gain_db_BSCKN = self.gains_db(self.levels_db(spectrum_BSCFN), conditioning)
        gain_BSCKN = torch.expm1(NEPER_PER_DB * amount_BS[..., None, None, None] * gain_db_BSCKN)
        added_BSCT = self._synthesise(spectrum_BSCFN * (self.basis_FK @ gain_BSCKN), T)
        mid_BST, side_BST = added_BSCT.unbind(2)
        out_BSCT = stems_BSCT + torch.stack([mid_BST + side_BST, mid_BST - side_BST], dim=2)
        out_BSCT = out_BSCT + self._reverb(out_BSCT, conditioning.wet_BSR * amount_BS[..., None])
        balance_db_BS = (
            limited(BALANCE_SCALE_DB * conditioning.balance_BS, MAX_BALANCE_DB) * amount_BS
        )
        balance_BSC = NEPER_PER_DB / 2 * torch.stack([balance_db_BS, -balance_db_BS], dim=-1)
        return out_BSCT + out_BSCT * torch.expm1(balance_BSC)[..., None]

    @torch.no_grad()
    def weakened(self, strength: float) -> "ZeroShotNetwork":
        """Return a copy that does this part of what this one does (in dB, up to the limits)."""
        network = copy.deepcopy(self)
        for head in (network.gain_head, network.balance_head, network.wet_head, network.leave):
            for parameter in head.parameters():
                parameter.mul_(strength)
        return network

    def levels_db(self, spectrum_BSCFN: Tensor) -> Tensor:
        """Measure level_BSCKN of mid and side in each band, from -80 dBFS on.

        A full-scale sine whose power all falls into one bin reads 0 dB there.
        """
        power_BSCFN = spectrum_BSCFN.real.square() + spectrum_BSCFN.imag.square()
        share_KF = (self.basis_FK / self.basis_FK.sum(dim=0)).T
        scale = (2.0 / self.window_T.sum()).square()
        return 10.0 * torch.log10(scale * (share_KF @ power_BSCFN) + LEVEL_FLOOR)

    def gains_db(self, level_BSCKN: Tensor, conditioning: Conditioning) -> Tensor:
        """Return gain_db_BSCKN of mid and side."""
        hidden_BHN = self.enter((level_BSCKN.flatten(1, 3) - MIDDLE_DB) / SPREAD_DB)
        for block, film_2BH in zip(self.blocks, conditioning.films, strict=True):
            hidden_BHN = block(hidden_BHN, film_2BH)
        gain_BJN = self.leave(hidden_BHN) + conditioning.gain_BJ.unsqueeze(-1)
        gain_BSCKN = gain_BJN.unflatten(1, level_BSCKN.shape[1:4])
        return limited(GAIN_SCALE_DB * gain_BSCKN, MAX_GAIN_DB)

    def analyse(self, stems_BSCT: Tensor) -> Tensor:
        """Transform mid and side to spectrum_BSCFN; zeros lie beyond both ends."""
        left_BST, right_BST = stems_BSCT.unbind(2)
        pair_BSCT = torch.stack([left_BST + right_BST, left_BST - right_BST], dim=2) / 2
        spectrum_JFN = torch.stft(
            pair_BSCT.flatten(0, 2),
            self.config.n_fft,
            self.config.hop_samples,
            window=self.window_T,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum_JFN.unflatten(0, pair_BSCT.shape[:3])

    def _synthesise(self, spectrum_BSCFN: Tensor, num_samples: int) -> Tensor:
        """Transform back, to pair_BSCT."""
        pair_JT = torch.istft(
            spectrum_BSCFN.flatten(0, 2),
            self.config.n_fft,
            self.config.hop_samples,
            window=self.window_T,
            length=num_samples,
        )
        return pair_JT.unflatten(0, spectrum_BSCFN.shape[:3])

    def _reverb(self, stems_BSCT: Tensor, wet_BSR: Tensor) -> Tensor:
        """Return what the rooms add: the middle of each stem, convolved with decaying noise."""
        T = stems_BSCT.shape[-1]
        length = next_fast_len(T + self.rooms_RCL.shape[-1] - 1, real=True)
        room_BSCL = torch.einsum("bsr,rcl->bscl", WET_SCALE * wet_BSR, self.rooms_RCL)
        send_BS1F = torch.fft.rfft(stems_BSCT.mean(dim=2, keepdim=True), n=length)
        wet_BSCF = send_BS1F * torch.fft.rfft(room_BSCL, n=length)
        return torch.fft.irfft(wet_BSCF, n=length)[..., :T]


def _zero(layer: nn.Linear | nn.Conv1d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _band_basis(config: ZeroShotConfig) -> Tensor:
    """Divide each bin among the bands: linear in the logarithm of the frequency: basis_FK."""
    bins_hz = torch.linspace(0, config.sample_rate_hz / 2, config.n_fft // 2 + 1)
    octaves = math.log2(HIGHEST_BAND_HZ / LOWEST_BAND_HZ)
    position_F = torch.log2(bins_hz.clamp_min(LOWEST_BAND_HZ) / LOWEST_BAND_HZ) / octaves
    position_F = position_F.clamp(0, 1) * (config.num_bands - 1)
    centre_K = torch.arange(config.num_bands)
    return (1 - (position_F[:, None] - centre_K).abs()).clamp_min(0)


def _rooms(config: ZeroShotConfig) -> Tensor:
    """Make the reverbs: decaying noise, another one in each channel, of norm one: rooms_RCL."""
    num_taps = round(config.room_s * config.sample_rate_hz)
    num_silent = round(PREDELAY_S * config.sample_rate_hz)
    time_L = torch.arange(num_taps - num_silent) / config.sample_rate_hz
    generator = torch.Generator().manual_seed(0)
    rooms = []
    for decay_s in config.room_decays_s:
        noise_CL = torch.randn(NUM_CHANNELS, len(time_L), generator=generator)
        tail_CL = noise_CL * torch.exp(-NEPER_PER_DB * DECAY_DB * time_L / decay_s)
        rooms.append(functional.pad(tail_CL / tail_CL.norm(dim=-1, keepdim=True), (num_silent, 0)))
    return torch.stack(rooms)
