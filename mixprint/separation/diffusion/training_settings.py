"""Parameters of a diffusion separator's training: the section `diffusion` of `params.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from mixprint.errors import ConfigError
from mixprint.schema import Part, Range
from mixprint.separation.diffusion.settings import (
    DEFAULT_BLOCKS,
    DiffusionConfig,
    SamplingSettings,
)
from mixprint.separation.scnet.architecture import SCNetConfig
from mixprint.separation.training.settings import SongTrainConfig, TrainingConfig


class LossWeights(NamedTuple):
    """Weights of the parts of a loss beside the error of the instrumental.

    Attributes:
        vocal: of the error of the vocals. They are the difference of linear spectra, compressed
            afterwards: the difference of compressed spectra is no spectrum of anything.
        linear: of the error of linear spectra, relative to the level of the training, of examples
            of which nothing but noise is left: the mean of compressed spectra is not the mean that
            a separation in one step is to give.
        variance: of the likelihood of the errors of masks, by which their variance is learned.
        presence: of the likelihood of whether there are vocals in each frame.
    """

    vocal: float
    linear: float
    variance: float
    presence: float


@dataclass(frozen=True, kw_only=True)
class DiffusionTrainingConfig(TrainingConfig):
    """Parameters of how a diffusion separator is trained.

    Attributes:
        level_range_db: examples are brought to the level of the model, -+ this.
        no_vocal_fraction: of the examples, without vocals.
        vocal_only_fraction: of the examples, with nothing but vocals.
        noise_only_fraction: of the examples, at the end of time, where nothing but noise is left of
            the instrumental; these learn the error of linear spectra, too.
        vocal_weight: see `LossWeights`.
        linear_weight: see `LossWeights`.
        variance_weight: see `LossWeights`.
        presence_weight: see `LossWeights`.
        learned: `all`, or `presence`: the head for frames without vocals alone, all else stays.
        new_factor: AdamW's rate for what an SCNet does not have is that of the rest times this.
        prior_dropout: part of the examples that are shown no prior.
        prior_error_db: the errors of a prior are made louder by up to this, for on songs that it
            was not trained on they are.
        valid_sampling_steps: of the validation with few steps, beside that with one.
    """

    level_range_db: Annotated[float, Range(0.0, 40.0)]
    no_vocal_fraction: Part
    vocal_only_fraction: Part
    noise_only_fraction: Annotated[float, Range(0.0, 0.99)]
    vocal_weight: Annotated[float, Range(0.0)]
    linear_weight: Annotated[float, Range(0.0)]
    variance_weight: Annotated[float, Range(0.0)]
    presence_weight: Annotated[float, Range(0.0)]
    learned: Literal["all", "presence"]
    new_factor: Annotated[float, Range(0.0, 1000.0)]
    prior_dropout: Part
    prior_error_db: Annotated[float, Range(0.0, 40.0)]
    valid_sampling_steps: Annotated[int, Range(2, 1000)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_vocal_fraction + self.vocal_only_fraction > 1:
            raise ConfigError(
                "expected no_vocal_fraction and vocal_only_fraction of 1 at most together, found "
                f"{self.no_vocal_fraction:g} and {self.vocal_only_fraction:g}"
            )

    @property
    def weights(self) -> LossWeights:
        """Weights of the parts of the loss."""
        return LossWeights(
            vocal=self.vocal_weight,
            linear=self.linear_weight,
            variance=self.variance_weight,
            presence=self.presence_weight,
        )


@dataclass(frozen=True, kw_only=True)
class DiffusionTrainConfig(SongTrainConfig):
    """Parameters of a training, as in the section `diffusion` of `params.yaml`.

    Attributes:
        initial: checkpoint to start from, an SCNet or a diffusion separator; `default`: the SCNet
            that mixprint ships; empty: random weights.
        prior: checkpoint of an SCNet whose instrumentals it learns to make use of; `default`
            likewise; empty: it learns without.
        model: values of a `DiffusionConfig`; without `blocks`, or with None, these are those of
            `initial`, and without one those of the shipped SCNet.
        sampling: how the separator is run where nothing else is said.
        training: how the network learns.
    """

    section: ClassVar[str] = "diffusion"
    initial: str
    prior: str
    model: Mapping[str, Any]
    sampling: SamplingSettings
    training: DiffusionTrainingConfig

    def __post_init__(self) -> None:
        if self.architecture().head == "free" and self.training.learned == "presence":
            raise ConfigError(
                f"{self.section}.training.learned: expected all with the head free, which tells no "
                "frames without vocals, found presence"
            )

    def architecture(self, blocks: SCNetConfig | None = None) -> DiffusionConfig:
        """Return the architecture.

        Args:
            blocks: of what the training starts from, where the parameters leave them to that.

        Raises:
            ConfigError: a name is unknown, or a value does not fit.
        """
        values = dict(self.model)
        named = values.get("blocks")
        if named is None:
            named = (blocks or DEFAULT_BLOCKS).to_values()
        elif isinstance(named, Mapping):
            named = {**DEFAULT_BLOCKS.to_values(), **named}
        return DiffusionConfig.from_values({**values, "blocks": named})

    def completed(self, model: DiffusionConfig) -> Self:
        """Fill in what is left to what the training starts from."""
        return replace(self, model=model.to_values())
