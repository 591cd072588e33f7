"""Parameters of a separator's training: the section `separator` of `params.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from mixprint.separation.scnet.architecture import SCNetConfig, Variant
from mixprint.separation.training.settings import SongTrainConfig, TrainingConfig

# The separator that mixprint ships. Frames of half a window, not a quarter: half the work, and the
# shipped model is small.
DEFAULT_VARIANT: Variant = "masked"
DEFAULT_MODEL = SCNetConfig(dims=(4, 16, 32, 64), hop_size=2048, num_dplayer=6)


@dataclass(frozen=True, kw_only=True)
class SCNetTrainingConfig(TrainingConfig):
    """Parameters of how an SCNet is trained.

    Attributes:
        waveform_weight: weight of the L1 distance of waveforms, beside the spectral loss.
    """

    waveform_weight: float


@dataclass(frozen=True, kw_only=True)
class SeparatorTrainConfig(SongTrainConfig):
    """Parameters of a separator's training, as in the section `separator` of `params.yaml`.

    Attributes:
        variant: of the SCNet; None: that of the checkpoint that the training starts from, and
            without one that of the shipped separator.
        model: its architecture; None: likewise. Of one that is named, what is left out is as in
            the shipped separator.
        training: how the network learns.
    """

    section: ClassVar[str] = "separator"
    variant: Variant | None
    model: SCNetConfig | None
    training: SCNetTrainingConfig

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """See `StepConfig.from_values`."""
        model = values.get("model")
        if isinstance(model, Mapping):
            values = {**values, "model": {**DEFAULT_MODEL.to_values(), **model}}
        return super().from_values(values)

    def completed(self, variant: Variant, model: SCNetConfig) -> Self:
        """Fill in what is left to the checkpoint that the training starts from."""
        return replace(self, variant=self.variant or variant, model=self.model or model)
