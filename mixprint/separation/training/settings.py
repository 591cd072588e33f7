"""Parameters that the trainings of all kinds of separators have."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from mixprint.config import StepConfig
from mixprint.errors import ConfigError
from mixprint.schema import Above, Length, Range
from mixprint.separation.material.pool import PoolConfig
from mixprint.separation.material.remix import RemixConfig

# Parameters that do not change what is learned, beside those of `training`.
_INDIFFERENT = frozenset({"num_processes", "device", "download"})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Parameters of how a separator of any kind is trained.

    Attributes:
        segment_s: length of an example.
        batch_size: examples per step, over all processes together.
        optimiser: `muon` for matrices and kernels with AdamW for all else, or `adamw`.
        learning_rate: of AdamW, at its highest.
        muon_factor: Muon's learning rate is that of AdamW times this.
        final_fraction: part of it that is left at the end of the cosine.
        warmup_steps: steps to the highest.
        weight_decay: of either.
        betas: of AdamW.
        max_grad_norm: gradients are scaled down to this.
        ema_decay: of the averaged weights, which are those that are validated and exported.
        precision: `float32`, or `bfloat16` for autocast.
        max_steps: length of the training; 0: `max_minutes` alone decides.
        max_minutes: length in minutes of work, over all resumed runs; 0: `max_steps` decides.
            Only with `max_steps` alone does a training give the same weights again.
        patience: validations without a better score, after which it ends; 0: no limit.
        log_steps: steps between two lines of the log.
        save_steps: steps between two saved states.
        valid_steps: steps between two validations.
        num_valid: compositions that are held out; of MUSDB18-HQ its own validation split.
        max_valid_songs: of their songs, so many are validated on.
        valid_s: the middle of each, so long; 0: all of it.
        max_bad_fraction: songs that cannot be used are left out up to this part.
        seed: of weights and examples.
        num_workers: processes that make examples ahead of time; 0: the training itself makes
            them. It changes no example.
    """

    segment_s: Annotated[float, Above(0.0)]
    batch_size: Annotated[int, Range(1)]
    optimiser: Literal["muon", "adamw"]
    learning_rate: Annotated[float, Above(0.0)]
    muon_factor: Annotated[float, Above(0.0)]
    final_fraction: float
    warmup_steps: int
    weight_decay: float
    betas: Annotated[tuple[float, float], Length(2, 2)]
    max_grad_norm: Annotated[float, Above(0.0)]
    ema_decay: Annotated[float, Range(0.0, 1.0)]
    precision: Literal["float32", "bfloat16"]
    max_steps: int
    max_minutes: float
    patience: Annotated[int, Range(0)]
    log_steps: Annotated[int, Range(1)]
    save_steps: Annotated[int, Range(1)]
    valid_steps: Annotated[int, Range(1)]
    num_valid: Annotated[int, Range(0)]
    max_valid_songs: Annotated[int, Range(0)]
    valid_s: Annotated[float, Range(0.0)]
    max_bad_fraction: float
    seed: int
    num_workers: Annotated[int, Range(0)]

    def __post_init__(self) -> None:
        if self.max_steps <= 0 and self.max_minutes <= 0:
            raise ConfigError("expected max_steps or max_minutes above 0, found neither")
        if self.ema_decay == 1:
            raise ConfigError("ema_decay: expected less than 1, at which nothing is averaged")


@dataclass(frozen=True, kw_only=True)
class SongTrainConfig(StepConfig):
    """Parameters of a training on songs with true stems: the base of a kind's own section.

    Attributes:
        remix: how examples are made.
        songs: which songs there are, when they are made on the fly.
        training: how the network learns from them.
        num_processes: ranks on this machine; on GPUs one each.
        device: auto, cpu, cuda or xla.
        download: `if-empty` fetches MUSDB18-HQ to the folder of the songs, if none are there.
    """

    remix: RemixConfig
    songs: PoolConfig
    training: TrainingConfig
    num_processes: Annotated[int, Range(1)]
    device: str
    download: Literal["never", "if-empty"]

    def to_values(self) -> dict[str, Any]:
        """Return the section back as plain values, with lists in place of tuples."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def identity(self) -> dict[str, Any]:
        """Return the values that decide what is learned: the recipe of a separator."""
        return {k: v for k, v in self.to_values().items() if k not in _INDIFFERENT}
