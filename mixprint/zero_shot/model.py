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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional

from mixprint.checkpoints.folder import (
    read_architecture,
    read_config,
    read_weights,
    write_folder,
)
from mixprint.errors import CheckpointError, ConfigError
from mixprint.fingerprint import fingerprint
from mixprint.schema import SAMPLE_RATES_HZ, Length, Range
from mixprint.stems import NUM_CHANNELS, NUM_STEMS
from mixprint.transfer.console import NEPER_PER_DB, limited

FORMAT = "mixprint-zero-shot"
FORMAT_VERSION = 1
SHIPPED_ZERO_SHOT = Path(__file__).parents[1] / "weights" / "zero_shot"

LOWEST_BAND_HZ, HIGHEST_BAND_HZ = 50.0, 16_000.0
MAX_GAIN_DB = 30.0
MAX_BALANCE_DB = 12.0
# The heads are linear layers whose outputs are about one; so many dB is that.
GAIN_SCALE_DB, BALANCE_SCALE_DB = 10.0, 3.0
WET_SCALE = 0.3
LEVEL_FLOOR = 1e-8  # of the power in a band; -80 dB
MIDDLE_DB, SPREAD_DB = -50.0, 20.0  # brings the levels of music to about -1..1
PREDELAY_S = 0.01
MAX_ROOM_S = 10.0
MAX_CONTEXT_S = 60.0  # that much more than a piece is read on either side of it
DECAY_DB = 60.0


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """Architecture of the network.

    Attributes:
        sample_rate_hz: of the audio.
        embedding_dim: of the encoder whose embeddings it reads.
        n_fft: window in samples.
        hop_samples: from frame to frame.
        num_bands: of the gains.
        channels: hidden ones of the network over time.
        kernel_size: its taps, odd.
        dilations: in frames, one per block.
        conditioning_hidden: width of the layers that read the embeddings.
        room_decays_s: times in which the reverbs fall by 60 dB.
        room_s: where their tails are cut.
    """

    sample_rate_hz: Annotated[int, SAMPLE_RATES_HZ]
    embedding_dim: Annotated[int, Range(1, 1 << 14)]
    n_fft: Annotated[int, Range(4, 1 << 15)]
    hop_samples: Annotated[int, Range(1, 1 << 13)]
    num_bands: Annotated[int, Range(2, 512)]
    channels: Annotated[int, Range(1, 1 << 12)]
    kernel_size: Annotated[int, Range(1, 255)]
    dilations: Annotated[tuple[Annotated[int, Range(1, 1 << 14)], ...], Length(1, 32)]
    conditioning_hidden: Annotated[int, Range(1, 1 << 14)]
    room_decays_s: Annotated[tuple[Annotated[float, Range(0.0, 60.0)], ...], Length(1, 8)]
    room_s: Annotated[float, Range(0.0, MAX_ROOM_S)]

    def __post_init__(self) -> None:
        """Check what does not follow from the shapes.

        Raises:
            ConfigError: a value is out of range.
        """
        counts = ("embedding_dim", "num_bands", "channels", "conditioning_hidden")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"zero_shot.{name} must be >= 1, got {getattr(self, name)}")
        if self.num_bands < 2:
            raise ConfigError(f"zero_shot.num_bands must be >= 2, got {self.num_bands}")
        if self.n_fft < 4 or self.n_fft % 4 or self.hop_samples * 4 != self.n_fft:
            raise ConfigError(
                "zero_shot.hop_samples must be a quarter of zero_shot.n_fft, got "
                f"{self.hop_samples} and {self.n_fft}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"zero_shot.kernel_size must be odd, got {self.kernel_size}")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"zero_shot.dilations must be >= 1 each, got {self.dilations}")
        if not self.room_decays_s or min(*self.room_decays_s, self.room_s) <= PREDELAY_S:
            raise ConfigError(
                f"zero_shot.room_decays_s and room_s must be above {PREDELAY_S} s, got "
                f"{self.room_decays_s} and {self.room_s}"
            )
        if self.context_samples > MAX_CONTEXT_S * self.sample_rate_hz:
            raise ConfigError(
                f"zero_shot.dilations must reach at most {MAX_CONTEXT_S:g} s, got {self.dilations}"
            )
        if self.sample_rate_hz < 2 * HIGHEST_BAND_HZ:
            raise ConfigError(
                f"zero_shot.sample_rate_hz must be at least {2 * HIGHEST_BAND_HZ:.0f}, "
                f"got {self.sample_rate_hz}"
            )

    @property
    def context_samples(self) -> int:
        """How far the input lies at most that an output sample depends on, either side.

        Both windows reach half their length, the network its half field; the rooms come after.
        """
        half_field = (self.kernel_size - 1) // 2 * sum(self.dilations) * self.hop_samples
        needed = self.n_fft + half_field + round(self.room_s * self.sample_rate_hz)
        return math.ceil(needed / self.hop_samples) * self.hop_samples


@dataclass(frozen=True)
class Controls:
    """What the embeddings decide, before any audio is heard.

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

    def to(self, device: torch.device | str) -> "Controls":
        """Move them."""
        films = tuple(film_2BH.to(device) for film_2BH in self.films)
        rest = (self.gain_BJ, self.balance_BS, self.wet_BSR)
        return Controls(films, *(tensor.to(device) for tensor in rest))


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
        self.register_buffer("basis_FK", _band_basis(config), persistent=False)
        self.register_buffer("window_T", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("rooms_RCL", _rooms(config), persistent=False)

    def condition(self, input_BE: Tensor, target_BE: Tensor) -> Controls:
        """Read the embeddings of the input and of the target."""
        width_BH = self.condition_on(torch.cat([input_BE, target_BE], dim=-1))
        films = []
        for head in self.films:
            gamma_BH, beta_BH = head(width_BH).chunk(2, dim=-1)
            films.append(torch.stack([1.0 + gamma_BH, beta_BH]))
        return Controls(
            films=tuple(films),
            gain_BJ=self.gain_head(width_BH),
            balance_BS=self.balance_head(width_BH),
            wet_BSR=self.wet_head(width_BH).unflatten(-1, (NUM_STEMS, -1)),
        )

    def forward(
        self, stems_BSCT: Tensor, controls: Controls, amount_BS: Tensor | None = None
    ) -> Tensor:
        """Process the stems.

        Args:
            stems_BSCT: the audio, of any length.
            controls: from `condition`.
            amount_BS: factor of all gains in dB and of the reverbs; 0 leaves a stem as it is, to
                the bit. None: 1.

        Returns:
            stems_BSCT, as long as the input.
        """
        T = stems_BSCT.shape[-1]
        if amount_BS is None:
            amount_BS = torch.ones_like(controls.balance_BS)
        # Mid and side only as what is added to left and right, so that no gain adds exactly none.
        spectrum_BSCFN = self.analyse(stems_BSCT)
        gain_db_BSCKN = self.gains_db(self.levels_db(spectrum_BSCFN), controls)
        gain_BSCKN = torch.expm1(NEPER_PER_DB * amount_BS[..., None, None, None] * gain_db_BSCKN)
        added_BSCT = self._synthesise(spectrum_BSCFN * (self.basis_FK @ gain_BSCKN), T)
        mid_BST, side_BST = added_BSCT.unbind(2)
        out_BSCT = stems_BSCT + torch.stack([mid_BST + side_BST, mid_BST - side_BST], dim=2)
        out_BSCT = out_BSCT + self._reverb(out_BSCT, controls.wet_BSR * amount_BS[..., None])
        balance_db_BS = limited(BALANCE_SCALE_DB * controls.balance_BS, MAX_BALANCE_DB) * amount_BS
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

    def gains_db(self, level_BSCKN: Tensor, controls: Controls) -> Tensor:
        """Return gain_db_BSCKN of mid and side."""
        hidden_BHN = self.enter((level_BSCKN.flatten(1, 3) - MIDDLE_DB) / SPREAD_DB)
        for block, film_2BH in zip(self.blocks, controls.films, strict=True):
            hidden_BHN = block(hidden_BHN, film_2BH)
        gain_BJN = self.leave(hidden_BHN) + controls.gain_BJ.unsqueeze(-1)
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


class ZeroShotModel:
    """A trained network with what it needs to be used.

    Attributes:
        network: in evaluation mode, its weights frozen.
        encoder_fingerprint: of the encoder whose embeddings it reads.
        metadata: how it came to be: metrics, fingerprint of the training data.
        fingerprint: SHA-256 over weights and configuration.
    """

    def __init__(
        self,
        network: ZeroShotNetwork,
        *,
        encoder_fingerprint: str,
        metadata: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.encoder_fingerprint = encoder_fingerprint
        self.metadata = dict(metadata)
        self.fingerprint = fingerprint

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.network.to(device)
        return self

    def check_encoder(self, fingerprint: str) -> None:
        """Refuse embeddings of another encoder.

        Raises:
            CheckpointError: the encoder is not the one that it was trained with.
        """
        if fingerprint != self.encoder_fingerprint:
            raise CheckpointError(
                "zero-shot: expected embeddings of the encoder "
                f"{self.encoder_fingerprint}, found those of {fingerprint}; train it with "
                "`python -m components.train --task zero-shot`, or use the encoder that it knows"
            )

    @torch.no_grad()
    def effect(self, input_embedding_E: Tensor, target_embedding_E: Tensor) -> "ZeroShotEffect":
        """Prepare the transfer from one style to another.

        Args:
            input_embedding_E: of the song that is changed; means of several segments are
                normalised here.
            target_embedding_E: of the song whose mix it gets.

        Raises:
            ValueError: the shapes do not fit.
        """
        shape = (self.network.config.embedding_dim,)
        if input_embedding_E.shape != shape or target_embedding_E.shape != shape:
            raise ValueError(
                f"expected embeddings of shape {shape}, got {tuple(input_embedding_E.shape)} and "
                f"{tuple(target_embedding_E.shape)}"
            )
        device = self.network.window_T.device
        input_1E, target_1E = (
            functional.normalize(e.to(device, torch.float32), dim=-1).unsqueeze(0)
            for e in (input_embedding_E, target_embedding_E)
        )
        return ZeroShotEffect(self.network, self.network.condition(input_1E, target_1E))


class ZeroShotEffect:
    """What the network does for one pair of styles.

    Attributes:
        context_samples: an output sample depends on input at most this far away, either side.
        hop_samples: windows of a song must start at multiples of this.
    """

    def __init__(self, network: ZeroShotNetwork, controls: Controls) -> None:
        """Keep the network with what the embeddings decide."""
        self._network, self._controls = network, controls
        self.context_samples = network.config.context_samples
        self.hop_samples = network.config.hop_samples

    @torch.no_grad()
    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """Process stems.

        Args:
            stems_SCT: of any length, on the network's device.
            amount_S: per stem; 0 gives the input to the bit.

        Raises:
            ValueError: the shapes do not fit.
        """
        expected = (NUM_STEMS, NUM_CHANNELS)
        if stems_SCT.ndim != 3 or stems_SCT.shape[:2] != expected:
            raise ValueError(f"stems_SCT must be {(*expected, 'T')}, got {tuple(stems_SCT.shape)}")
        if amount_S.shape != (NUM_STEMS,):
            raise ValueError(f"amount_S must be ({NUM_STEMS},), got {tuple(amount_S.shape)}")
        out_BSCT: Tensor = self._network(
            stems_SCT.unsqueeze(0), self._controls, amount_S.to(stems_SCT).unsqueeze(0)
        )
        return out_BSCT.squeeze(0)

    def to(self, device: torch.device | str) -> Self:
        """Move it, and with it the model that it came from."""
        self._network.to(device)
        self._controls = self._controls.to(device)
        return self

    def settings(self, amount_S: Tensor) -> dict[str, dict[str, float]]:  # noqa: ARG002
        """Return none: the gains follow the music, and no one number stands for them."""
        return {}


def save_zero_shot(
    folder: Path,
    network: ZeroShotNetwork,
    encoder_fingerprint: str,
    metadata: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write a network, see `mixprint.checkpoints.folder`.

    Args:
        folder: created if missing; files of an older one are replaced.
        network: what is saved.
        encoder_fingerprint: of the encoder whose embeddings it reads.
        metadata: JSON values that describe how it came to be.
        half: store 16-bit numbers, half the size; it computes in 32 bits all the same.
    """
    dtype = torch.float16 if half else torch.float32
    write_folder(
        folder,
        {name: value.to(dtype) for name, value in network.state_dict().items()},
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": asdict(network.config),
            "encoder": encoder_fingerprint,
            "metadata": dict(metadata),
        },
    )


def load_zero_shot(
    folder: Path = SHIPPED_ZERO_SHOT, device: torch.device | str = "cpu"
) -> ZeroShotModel:
    """Read a network.

    Args:
        folder: as written by `save_zero_shot`; the shipped one by default.
        device: where it shall compute.

    Raises:
        CheckpointError: a file is missing, broken, of another format, or does not fit the
            architecture.
    """
    folder = Path(folder)
    keys = ("architecture", "encoder", "metadata")
    config = read_config(folder, FORMAT, FORMAT_VERSION, keys)
    architecture = read_architecture(ZeroShotConfig, config["architecture"], folder)
    # An outline on the meta device takes no memory, whatever the architecture asks for.
    with torch.device("meta"):
        outline = ZeroShotNetwork(architecture)
    weights = read_weights(
        folder, outline.state_dict(), config["weights_sha256"], is_any_precision=True
    )
    network = ZeroShotNetwork(architecture)
    network.load_state_dict(weights)
    identity = {key: config[key] for key in ("architecture", "encoder", "weights_sha256")}
    return ZeroShotModel(
        network,
        encoder_fingerprint=config["encoder"],
        metadata=config["metadata"],
        fingerprint=fingerprint(identity),
    ).to(device)


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
    # On the CPU, also where the network is only outlined: the noise is the same on all devices.
    time_L = torch.arange(num_taps - num_silent, device="cpu") / config.sample_rate_hz
    generator = torch.Generator("cpu").manual_seed(0)
    rooms = []
    for decay_s in config.room_decays_s:
        noise_CL = torch.randn(NUM_CHANNELS, len(time_L), generator=generator, device="cpu")
        tail_CL = noise_CL * torch.exp(-NEPER_PER_DB * DECAY_DB * time_L / decay_s)
        rooms.append(functional.pad(tail_CL / tail_CL.norm(dim=-1, keepdim=True), (num_silent, 0)))
    return torch.stack(rooms)
