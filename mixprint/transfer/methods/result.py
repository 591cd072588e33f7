"""Aims and results of methods: the effect that was found, and how near it comes.

Shape suffixes: S stem, C channel, T sample.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from mixprint.errors import AudioError
from mixprint.transfer.effect import Effect

OptimizeTarget = Literal["features", "embeddings"]

# The loudness range and the encoder's attention pooling need at least one short-term window.
MIN_DURATION_S = 3.0
# A start nearer than this is the target itself, up to rounding.
NEAR_ENOUGH = 1e-5


def check_duration(what: str, audio_T: Tensor, sample_rate_hz: int) -> None:
    """Refuse audio that is too short for a fit.

    Args:
        what: it is, for the message.
        audio_T: `...T`.
        sample_rate_hz: of it.

    Raises:
        AudioError: it is shorter than `MIN_DURATION_S`.
    """
    duration_s = audio_T.shape[-1] / sample_rate_hz
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            "too_short",
            f"{what}: expected at least {MIN_DURATION_S:g} s for a fit, found {duration_s:.2f} s",
        )


class FitSettings(Protocol):
    """The settings that methods read; see `mixprint.transfer.settings.Hyperparameters`."""

    @property
    def optimize_target(self) -> OptimizeTarget:
        """`features`, the root mean square of standardised differences, or `embeddings`, cosine."""

    @property
    def share(self) -> Tensor | None:
        """Share of the way to the style that each feature goes, share_D; None: all of it."""

    @property
    def num_steps(self) -> int:
        """Most updates."""

    @property
    def lr(self) -> float:
        """Learning rate of a TCN at the start, which falls to a tenth of it over `num_steps`.

        Of a console how far one step may move a setting: 0.001 is four standard deviations.
        """

    @property
    def receptive_field(self) -> float:
        """Least receptive field of the TCN, in seconds."""

    @property
    def seed(self) -> int:
        """Of the TCN's small random taps."""


@dataclass(frozen=True)
class Iteration:
    """The distances at one step.

    Attributes:
        embedding_distance: to the target's embedding; None without an encoder.
        feature_distance: to the target's features.
        aim_distance: to the features that are aimed at; None where embeddings are optimised.
    """

    step: int
    embedding_distance: float | None
    feature_distance: float
    aim_distance: float | None


@dataclass(frozen=True, eq=False)
class TransferResult:
    """Effect that was found, with the segments as it makes them.

    Attributes:
        effect: what was found, on the device that was asked for.
        segments_SCT: the transferred stems of each segment at amount 1, on the CPU.
        initial, final: both distances before, and of the best step, which is the one kept.
        iterations: both distances at the first and the last step, and at some between.
        best_step: the number of updates behind the result; 0 is the input itself.
        num_steps: updates made until the end or the plateau; the pass of a trained network counts
            as one.
        converged: the run ended on a plateau nearer to the target than it began, or began at the
            target. Without steps: it ended nearer than it began.
        stems_left_alone: stems that are silent in the input or in the style, or are kept; they are
            passed through to the bit and their features take no part in the feature distance.
        tcn_residual_db: power that the TCN added, relative to its input; None if none.
        receptive_field_samples: of the TCN; None without one.
        notes: sentences for the person who reads the result.
        step_s: mean wall-clock time of a step.
    """

    effect: Effect
    segments_SCT: tuple[Tensor, ...]
    initial: Iteration
    final: Iteration
    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    stems_left_alone: tuple[str, ...]
    tcn_residual_db: float | None
    receptive_field_samples: int | None
    step_s: float
    notes: list[str] = field(default_factory=list)

    @property
    def stems_SCT(self) -> Tensor:  # noqa: N802 (the suffix is the tensor's shape)
        """The transferred stems of the first segment."""
        return self.segments_SCT[0]
