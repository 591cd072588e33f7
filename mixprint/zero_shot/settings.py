"""The settings of the zero-shot network and of its training."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from mixprint.config import StepConfig
from mixprint.dsp.spectral_distance import RESOLUTIONS
from mixprint.errors import ConfigError
from mixprint.schema import SAMPLE_RATES_HZ, Length, Range
from mixprint.stems import SAMPLE_RATE_HZ

LOWEST_BAND_HZ, HIGHEST_BAND_HZ = 50.0, 16_000.0
PREDELAY_S = 0.01
MAX_ROOM_S = 10.0
MAX_CONTEXT_S = 60.0  # that much more than a piece is read on either side of it


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """The part of the architecture that is chosen; the rest follows from audio and encoder.

    Attributes:
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
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        if self.n_fft % 4 or self.hop_samples * 4 != self.n_fft:
            raise ConfigError(
                "zero_shot.hop_samples must be a quarter of zero_shot.n_fft, got "
                f"{self.hop_samples} and {self.n_fft}"
            )
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"zero_shot.kernel_size must be odd, got {self.kernel_size}")
        if min(*self.room_decays_s, self.room_s) <= PREDELAY_S:
            raise ConfigError(
                f"zero_shot.room_decays_s and room_s must be above {PREDELAY_S} s, got "
                f"{self.room_decays_s} and {self.room_s}"
            )


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(NetworkShape):
    """Architecture of the network.

    Attributes:
        sample_rate_hz: of the audio.
        embedding_dim: of the encoder whose embeddings it reads.
    """

    sample_rate_hz: Annotated[int, SAMPLE_RATES_HZ]
    embedding_dim: Annotated[int, Range(1, 1 << 14)]

    def __post_init__(self) -> None:
        """Check the shape against the rate of the audio.

        Raises:
            ConfigError: values do not fit together.
        """
        super().__post_init__()
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
        """Samples on either side that an output sample depends on at most.

        Both windows reach half their length, the network its half field; the rooms come after.
        """
        half_field = (self.kernel_size - 1) // 2 * sum(self.dilations) * self.hop_samples
        needed = self.n_fft + half_field + round(self.room_s * self.sample_rate_hz)
        return math.ceil(needed / self.hop_samples) * self.hop_samples


_AtLeastOne = Annotated[int, Range(1)]
_AtLeastZero = Annotated[int, Range(0)]

# Parameters that do not change what a training computes.
_INDIFFERENT = frozenset({"num_processes", "num_workers", "device", "save_steps", "log_steps"})


class Phase(NamedTuple):
    """A phase of the training.

    Attributes:
        hears_audio: whether it learns from audio; else from levels.
        first_step: its first step.
        num_steps: its steps.
        batch_size: examples of a step, over all processes together.
        learning_rate: the highest one.
    """

    hears_audio: bool
    first_step: int
    num_steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class ZeroShotTrainConfig(NetworkShape, StepConfig):
    """Parameters of network and training, as in the section `zero_shot` of `params.yaml`.

    Attributes:
        level_steps: of the first phase, on levels.
        audio_steps: of the second phase, on audio.
        level_batch_size: examples of a step of the first phase, over all processes together.
        audio_batch_size: the same of the second phase.
        level_learning_rate: highest one of the first phase.
        audio_learning_rate: highest one of the second phase.
        warmup_fraction: part of each phase in which the rate rises.
        max_grad_norm: longer gradients are shortened.
        embedding_noise: length of the noise that is added to embeddings of length 1.
        level_s: what the first phase sees of a segment.
        crop_s: what the second phase compares of a segment.
        context_s: what it hears before that.
        crops_per_example: crops of one pair of segments in a step.
        mix_weight: of the mix's distance beside the mean of the stems'.
        cycle_steps: from one cycle loss to the next; 0: none.
        cycle_weight: its weight where it is computed.
        embedding_steps: from one embedding loss to the next; 0: none.
        embedding_weight: its weight where it is computed.
        segments_per_track: of each track so many are renderings.
        num_chains: groups of a chain; each is two renderings.
        num_valid: examples of the validation.
        valid_steps: from one validation to the next, from the end of the first phase on.
        seed: of all that is drawn.
        precision: `float32`, or `bfloat16` for autocast in the first phase; filters of audio need
            more.
        num_processes: ranks on this machine.
        num_workers: processes that read, for each rank; 0: the training process itself reads.
        device: auto, cpu or cuda.
        save_steps: from one state to the next.
        log_steps: from one line in the log to the next.
    """

    section: ClassVar[str] = "zero_shot"
    level_steps: _AtLeastZero
    audio_steps: _AtLeastZero
    level_batch_size: _AtLeastOne
    audio_batch_size: _AtLeastOne
    level_learning_rate: float
    audio_learning_rate: float
    warmup_fraction: float
    max_grad_norm: float
    embedding_noise: float
    level_s: float
    crop_s: float
    context_s: float
    crops_per_example: _AtLeastOne
    mix_weight: float
    cycle_steps: _AtLeastZero
    cycle_weight: float
    embedding_steps: _AtLeastZero
    embedding_weight: float
    segments_per_track: Annotated[int, Range(2)]
    num_chains: _AtLeastZero
    num_valid: _AtLeastOne
    valid_steps: _AtLeastOne
    seed: int
    precision: Literal["float32", "bfloat16"]
    num_processes: _AtLeastOne
    num_workers: _AtLeastZero
    device: str
    save_steps: _AtLeastOne
    log_steps: _AtLeastOne

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        super().__post_init__()
        if self.num_steps < 1:
            raise ConfigError("zero_shot.level_steps + audio_steps must be >= 1, got 0")
        for name in ("level_s", "level_learning_rate", "audio_learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"zero_shot.{name} must be > 0, got {getattr(self, name)}")
        if self.crop_s * SAMPLE_RATE_HZ < max(RESOLUTIONS):
            raise ConfigError(
                f"zero_shot.crop_s must be at least {max(RESOLUTIONS) / SAMPLE_RATE_HZ:.2f}, "
                f"got {self.crop_s}"
            )

    @property
    def num_steps(self) -> int:
        """Steps of both phases."""
        return self.level_steps + self.audio_steps

    def phase(self, step: int) -> Phase:
        """Return the phase that a step belongs to."""
        if step < self.level_steps:
            size, rate = self.level_batch_size, self.level_learning_rate
            return Phase(False, 0, self.level_steps, size, rate)
        size, rate = self.audio_batch_size, self.audio_learning_rate
        return Phase(True, self.level_steps, self.audio_steps, size, rate)

    def architecture(self, embedding_dim: int) -> ZeroShotConfig:
        """Describe the network."""
        shape = {field.name: getattr(self, field.name) for field in fields(NetworkShape)}
        return ZeroShotConfig(sample_rate_hz=SAMPLE_RATE_HZ, embedding_dim=embedding_dim, **shape)

    def identity(self) -> dict[str, Any]:
        """Return the parameters on which the result depends."""
        return {k: v for k, v in self.to_values().items() if k not in _INDIFFERENT}
