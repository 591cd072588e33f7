"""Parameters of the controller and of its training."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from mixprint.config import StepConfig
from mixprint.controller.examples import ExampleConfig
from mixprint.dsp.spectral_distance import RESOLUTIONS
from mixprint.errors import ConfigError
from mixprint.schema import Above, Length, Part, Range
from mixprint.stems import SAMPLE_RATE_HZ

Head = Literal["settings", "chain"]
# `likelihood` of the settings; distance of the mix to the truth through the console (`audio`);
# Diff-MST's training methods.
Objective = Literal["likelihood", "audio", "method1", "method2"]

_Weight = Annotated[float, Range(0.0)]


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Shape of the network: the part of the architecture that is chosen.

    Attributes:
        width: of a token.
        num_layers: of the transformer.
        num_heads: of its attention.
        head: `settings`: all settings at once, with gates; `chain`: one processor after another.
        dropout: inside the transformer.
        descriptor_noise: that is added to descriptors while it learns, in standard deviations.
    """

    width: Annotated[int, Range(8, 1 << 12)]
    num_layers: Annotated[int, Range(1, 64)]
    num_heads: Annotated[int, Range(1, 64)]
    head: Head
    dropout: Annotated[float, Range(0.0, 0.9)]
    descriptor_noise: Annotated[float, Range(0.0, 10.0)]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        if self.width % self.num_heads:
            raise ConfigError(
                f"controller.width must be a multiple of num_heads, got {self.width} and "
                f"{self.num_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class ControllerConfig(NetworkShape):
    """Architecture of a controller.

    Attributes:
        embedding_dim: of the encoder whose embeddings of a reference it reads.
        roles: of tracks that it knows, beside the unknown one.
    """

    embedding_dim: Annotated[int, Range(1, 1 << 14)]
    roles: Annotated[tuple[str, ...], Length(0, 256)]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase of the training; its rate rises and falls by itself.

    Attributes:
        objective: see `Objective`.
        num_steps: its steps.
        batch_size: examples of a step, over all processes together.
        learning_rate: the highest one.
        likelihood_weight: of the likelihood beside an objective of audio; 0: none. Phases of
            likelihood take no notice.
        prior_weight: of the distance from the prior, in phases of audio.
    """

    objective: Objective
    num_steps: Annotated[int, Range(1)]
    batch_size: Annotated[int, Range(1)]
    learning_rate: Annotated[float, Above(0.0)]
    likelihood_weight: _Weight
    prior_weight: _Weight


@dataclass(frozen=True, kw_only=True)
class TrainParameters(NetworkShape, StepConfig):
    """Parameters of network and training, wherever the examples come from.

    Attributes:
        phases: of the training, one after another.
        num_examples: that are measured once, for phases of likelihood.
        num_audio: examples whose audio is kept, for phases of audio: the first of them.
        num_valid: examples of the validation, of other songs.
        context_s: what of an example is heard by the console and not compared.
        gate_weight: of the gates beside the settings, in the likelihood.
        levels_weight: of each dB by which estimated levels differ (`levels.py`), in phases of
            likelihood; 0: they are not compared, and nothing is learned from examples whose
            settings are unknown.
        track_weight: of the tracks' distances beside the mix's, in phases of audio.
        reference_dropout: part of the examples without any reference.
        stems_dropout: part of the references that are heard as mid and side alone.
        embedding_dropout: part of the references without their embedding.
        embedding_alone: part of the references of which nothing but the embedding is known, as of a
            saved style.
        role_dropout: part of the tracks whose role is not told.
        embedding_noise: length of the noise that is added to embeddings of length 1.
        level_noise_db: by which levels of references are changed in phases of likelihood, with the
            faders that answer to them.
        exchange_share: part of the examples in phases of likelihood that get the dry tracks of
            another one, as far as their style is known.
        style_noise_share: part of the examples in phases of likelihood whose style is changed, as
            far as the tracks of their reference are known; they have no embedding, then.
        tone_noise_db: by which gains of equalisers are changed there,
        tone_noise_octaves: their frequencies and Qs,
        image_noise: and widths and pans, by factors of this natural logarithm.
        prior_shrinkage: part of the correlations of settings that is not believed.
        warmup_fraction: part of each phase in which the rate rises.
        weight_decay: of AdamW.
        max_grad_norm: longer gradients are shortened.
        max_minutes: length in minutes of work, over all resumed runs; 0: the phases alone decide.
        valid_steps: from one validation to the next.
        first_valid_step: where the first one is; 0: after `valid_steps`, too.
        seed: of all that is drawn.
        precision: `float32`, or `bfloat16` for autocast inside the transformer.
        num_processes: ranks on this machine.
        num_workers: processes that make examples, for each rank; 0: the training process itself.
        device: auto, cpu or cuda.
        save_steps: from one state to the next.
        log_steps: from one line in the log to the next.
    """

    phases: Annotated[tuple[Phase, ...], Length(1, 16)]
    num_examples: Annotated[int, Range(1)]
    num_audio: Annotated[int, Range(1)]
    num_valid: Annotated[int, Range(1)]
    context_s: Annotated[float, Range(0.0)]
    gate_weight: _Weight
    levels_weight: _Weight
    track_weight: _Weight
    reference_dropout: Part
    stems_dropout: Part
    embedding_dropout: Part
    embedding_alone: Part
    role_dropout: Part
    embedding_noise: _Weight
    level_noise_db: _Weight
    exchange_share: Part
    style_noise_share: Part
    tone_noise_db: _Weight
    tone_noise_octaves: _Weight
    image_noise: _Weight
    prior_shrinkage: Part
    warmup_fraction: Annotated[float, Range(0.0, 0.99)]
    weight_decay: _Weight
    max_grad_norm: Annotated[float, Above(0.0)]
    max_minutes: Annotated[float, Range(0.0)]
    valid_steps: Annotated[int, Range(1)]
    first_valid_step: Annotated[int, Range(0)]
    seed: int
    precision: Literal["float32", "bfloat16"]
    num_processes: Annotated[int, Range(1)]
    num_workers: Annotated[int, Range(0)]
    device: str
    save_steps: Annotated[int, Range(1)]
    log_steps: Annotated[int, Range(1)]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        super().__post_init__()
        if self.num_audio > self.num_examples:
            raise ConfigError(
                f"{self.section}.num_audio must be at most num_examples, got {self.num_audio} and "
                f"{self.num_examples}"
            )

    @property
    def least_s(self) -> float:
        """Length that examples need at least, in seconds."""
        has_halves = any(phase.objective == "method1" for phase in self.phases)
        return (1 + has_halves) * (self.context_s + max(RESOLUTIONS) / SAMPLE_RATE_HZ)

    def check_length(self, name: str, excerpt_s: float) -> None:
        """Refuse examples that are too short.

        Args:
            name: of the parameter that says how long they are.
            excerpt_s: its value.

        Raises:
            ConfigError: nothing would be left to compare.
        """
        if excerpt_s < self.least_s:
            raise ConfigError(
                f"{self.section}.{name} must be at least {self.least_s:.2f} for context_s "
                f"{self.context_s} and the objectives of the phases, got {excerpt_s}"
            )

    @property
    def num_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)

    def phase(self, step: int) -> tuple[Phase, int]:
        """Return the phase that a step belongs to, and the step that it begins with."""
        first = 0
        for phase in self.phases:
            if step < first + phase.num_steps:
                return phase, first
            first += phase.num_steps
        raise ValueError(f"expected a step below {first}, got {step}")

    def architecture(self, embedding_dim: int, roles: tuple[str, ...]) -> ControllerConfig:
        """Describe the network."""
        shape = {field.name: getattr(self, field.name) for field in fields(NetworkShape)}
        return ControllerConfig(embedding_dim=embedding_dim, roles=roles, **shape)

    def identity(self) -> dict[str, Any]:
        """Return the parameters on which the result depends."""
        return {k: v for k, v in self.to_values().items() if k not in _INDIFFERENT}


@dataclass(frozen=True, kw_only=True)
class ControllerTrainConfig(TrainParameters):
    """Parameters of network and training, as in the section `controller` of `params.yaml`.

    Attributes:
        examples: how they are drawn.
        references: folder or bucket of finished mixes that phases of `method2` take their
            references from; empty: the mixes of other examples.
        reference_excerpts: of each of these mixes, at most.
    """

    section: ClassVar[str] = "controller"
    examples: ExampleConfig
    references: str
    reference_excerpts: Annotated[int, Range(1, 1000)]

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        super().__post_init__()
        self.check_length("examples.excerpt_s", self.examples.excerpt_s)
        objectives = [phase.objective for phase in self.phases]
        if self.references and "method2" not in objectives:
            raise ConfigError(
                f"controller.references: expected a phase of method2, which learns from them, got "
                f"{', '.join(objectives)}"
            )


# Parameters that do not change what a training computes. What lies in the folder of the references
# does, and has a fingerprint of its own.
_INDIFFERENT = frozenset(
    {
        *("num_processes", "num_workers", "device", "save_steps", "log_steps", "max_minutes"),
        "references",
    }
)
