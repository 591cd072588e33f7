"""Settings of a diffusion separator: its architecture, and how it is sampled."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any, Literal, Self, get_args

from mixprint.errors import ConfigError
from mixprint.schema import Length, Range, checked_fields
from mixprint.separation.scnet.architecture import SCNetConfig

ScheduleKind = Literal["cosine", "linear"]
SamplerKind = Literal["dpm", "ddim", "ddpm"]
SAMPLERS: tuple[str, ...] = get_args(SamplerKind)
# Frames of half a window, as in the shipped SCNet: half the work of a quarter.
DEFAULT_BLOCKS = SCNetConfig(dims=(4, 16, 32, 64), hop_size=2048, num_dplayer=6)
NUM_CHANNELS = 2  # as in `mixprint.stems`, which imports torch
DEFAULT_STRENGTH = 0.3  # of a start that is not noise alone
Width = Annotated[int, Range(1, 4096)]


class _FromValues:
    """Reads a record from plain values, and gives them back."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Check plain values; what is missing has its default.

        Raises:
            ConfigError: a name is unknown, or a value does not fit.
        """
        return cls(**checked_fields("diffusion", values, cls))

    def to_values(self) -> dict[str, Any]:
        """Return the values back, with lists in place of tuples."""
        return _plain(asdict(self))  # type: ignore[call-overload]


def _check(where: str, record: Any) -> None:
    """Check the fields of a record that is built from Python; nested records have checked theirs.

    Raises:
        ConfigError: a value does not fit.
    """
    values = {name: value for name, value in vars(record).items() if not is_dataclass(value)}
    checked_fields(where, values, type(record))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """Sizes of the backbone `conformer`.

    Attributes:
        width: channels.
        num_heads: of the attention; the width is a multiple of twice as many.
        hidden: width between the two linear layers of a feed-forward module.
        num_layers: layers, alternately along time and along frequency.
        kernel: of the convolution modules; odd.
        patch: frequency rows that become one.
    """

    width: Width = 128
    num_heads: Annotated[int, Range(1, 64)] = 4
    hidden: Width = 256
    num_layers: Annotated[int, Range(1, 32)] = 4
    kernel: Annotated[int, Range(1, 255)] = 31
    patch: Annotated[int, Range(1, 256)] = 16

    def __post_init__(self) -> None:
        _check("conformer", self)
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"conformer.width: expected a multiple of {2 * self.num_heads} (2 x num_heads), "
                f"found {self.width}"
            )
        if self.kernel % 2 == 0:
            raise ConfigError(f"conformer.kernel: expected an odd number, found {self.kernel}")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of the backbone `unet`.

    Attributes:
        width: channels of the first scale; a multiple of 8.
        multipliers: channels of each scale divided by `width`; three scales or more.
        num_heads: of the attention at the coarsest scale.
        patch: frequency rows that become one before the first scale.
    """

    width: Width = 64
    multipliers: Annotated[tuple[Annotated[int, Range(1, 64)], ...], Length(3, 6)] = (1, 2, 4)
    num_heads: Annotated[int, Range(1, 64)] = 4
    patch: Annotated[int, Range(1, 256)] = 8

    def __post_init__(self) -> None:
        _check("unet", self)
        if self.width % 8 or self.width * self.multipliers[-1] % (2 * self.num_heads):
            raise ConfigError(
                f"unet.width: expected a multiple of 8 that gives each of {self.num_heads} heads "
                f"an even number of channels, found {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(_FromValues):
    """Configuration that a diffusion separator was trained with.

    Attributes:
        backbone: `bands`, SCNet's blocks; or `conformer` or `unet`, which are there for
            comparison.
        blocks: the STFT of every backbone, and the sizes of `bands`.
        conformer: sizes of `conformer`.
        unet: sizes of `unet`.
        conditioning: width of what is known of noise level and prior.
        presence: width of what tells in which frames there are vocals, for the head `mask`.
        level_dbfs: songs of level 1 (see `mixprint.separation.separator.song_level`) are brought
            to this level, which is that of the training.
        power: magnitudes of spectra are raised to this.
        schedule: of the noise: `cosine`, or `linear` for the betas of the first diffusion models,
            rescaled to end in nothing but noise.
        timesteps: 0 for continuous time; else times are multiples of one part of so many.
        target: what the backbone estimates: the instrumental (`x0`), or `v`, from which it
            follows with the noisy instrumental as a skip.
        head: `mask` takes the vocals out of the mixture by a complex mask whose parts are within
            +-1; `free` can also give back what the mixture does not hold.
    """

    backbone: Literal["bands", "conformer", "unet"] = "bands"
    blocks: SCNetConfig = DEFAULT_BLOCKS
    conformer: ConformerConfig = field(default_factory=ConformerConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    conditioning: Annotated[int, Range(2, 4096)] = 64
    presence: Width = 48
    level_dbfs: Annotated[float, Range(-80.0, 0.0)] = -22.0
    power: Annotated[float, Range(0.1, 1.0)] = 0.5
    schedule: ScheduleKind = "cosine"
    timesteps: Annotated[int, Range(0, 100_000)] = 0
    target: Literal["x0", "v"] = "x0"
    head: Literal["mask", "free"] = "mask"

    def __post_init__(self) -> None:
        _check("diffusion", self)
        if self.blocks.audio_channels != NUM_CHANNELS:
            raise ConfigError(
                f"diffusion.blocks.audio_channels: expected {NUM_CHANNELS}, found "
                f"{self.blocks.audio_channels}"
            )
        if self.head == "mask" and self.target != "x0":
            raise ConfigError(
                f"diffusion.target: expected x0 with the head mask, which gives the instrumental "
                f"itself, found {self.target}"
            )
        if self.conditioning % 2:
            raise ConfigError(
                f"diffusion.conditioning: expected an even number, found {self.conditioning}"
            )

    @property
    def widest(self) -> float:
        """Values per frequency row and frame in the widest layer of the backbone."""
        if self.backbone == "conformer":
            # Query, key and value lie side by side.
            return max(3 * self.conformer.width, self.conformer.hidden) / self.conformer.patch
        if self.backbone == "unet":
            # A skip lies beside what comes up; each scale has half the rows and frames.
            widths = (m / 4**scale for scale, m in enumerate(self.unet.multipliers))
            return 2 * self.unet.width * max(widths) / self.unet.patch
        return max(self.blocks.dims)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(_FromValues):
    """Settings by which instrumentals are drawn.

    Attributes:
        sampler: `dpm` for DPM-Solver++(2M); `ddim`; or `ddpm`, which is `ddim` at `eta` 1.
        steps: passes of the network from noise alone; 1 gives the mean of all instrumentals that
            fit the mixture. A start at `strength` takes that part of them.
        eta: of `ddim`: the part of the noise that is drawn anew at each step; 0: all follows from
            the start.
        samples: instrumentals that are drawn and averaged.
        start: `noise`; the noisy `prior`, which is another separator's instrumental; or the noisy
            `mixture`.
        strength: time at which it begins, where 1 is noise alone: 1 for `noise`, less for others.
        spacing: see `mixprint.separation.diffusion.schedule.Schedule.grid`.
        prior: the network is shown the prior at every step; it must have been trained with one.
        seed: of the noise.
    """

    sampler: SamplerKind = "dpm"
    steps: Annotated[int, Range(1, 1000)] = 20
    eta: Annotated[float, Range(0.0, 1.0)] = 0.0
    samples: Annotated[int, Range(1, 1000)] = 1
    start: Literal["noise", "prior", "mixture"] = "noise"
    strength: Annotated[float, Range(0.001, 1.0)] = 1.0
    spacing: Annotated[float, Range(1.0, 10.0)] = 2.0
    prior: bool = False
    seed: Annotated[int, Range(0, (1 << 63) - 1)] = 0

    def __post_init__(self) -> None:
        _check("sampling", self)
        if self.eta and self.sampler != "ddim":
            raise ConfigError(
                f"sampling.eta: expected 0 with the sampler {self.sampler}, for only ddim has a "
                f"choice, found {self.eta:g}"
            )
        if self.eta and self.steps == 1:
            raise ConfigError(
                "sampling.eta: expected 0 with one step, behind which there is no noise, found "
                f"{self.eta:g}"
            )
        if self.start == "noise" and self.strength != 1:
            raise ConfigError(
                f"sampling.strength: expected 1 with the start noise, found {self.strength:g}"
            )
        if self.start != "noise" and self.strength == 1:
            raise ConfigError(
                f"sampling.strength: expected less than 1 with the start {self.start}, of which "
                "nothing is left at 1, found 1"
            )

    @property
    def needs_prior(self) -> bool:
        """True if another separator must have been run."""
        return self.prior or self.start == "prior"

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return these settings with others in their place.

        What is not named stays, unless it does nothing beside what is: another sampler has its
        own `eta`, 0, so has a single step, and another start its own `strength`.

        Args:
            changes: name -> value.

        Raises:
            ConfigError: a name is unknown, a value does not fit, or does nothing.
        """
        values = self.to_values()
        if changes.get("sampler", self.sampler) != self.sampler or changes.get("steps") == 1:
            values["eta"] = 0.0
        start = changes.get("start", self.start)
        if start != self.start:
            values["strength"] = 1.0 if start == "noise" else DEFAULT_STRENGTH
        return self.from_values(values | dict(changes))
