"""Measures of a mask m that says how much of each latent is the input's; 1 - m is the target's.

Shape suffixes: B pair, D dimension, N frame.
"""

from typing import NamedTuple

from torch import Tensor

# Of two masks that say nothing, one half everywhere; the published measure calls this 75 %.
CHANCE_COMPLEMENTARITY = 0.75


class MaskMeasures(NamedTuple):
    """Mean and overlap of masks.

    Attributes:
        mean: of the mask over all pairs; one half if both songs have equal parts.
        least_mean: of a pair.
        most_mean: of a pair.
        overlap: mean of m (1 - m): 0 where each latent is of one song, 1/4 where all are halves.
    """

    mean: float
    least_mean: float
    most_mean: float
    overlap: float

    @classmethod
    def of(cls, mask_BDN: Tensor) -> "MaskMeasures":
        """Measure masks of 0 to 1."""
        mean_B = mask_BDN.mean(dim=(1, 2))
        return cls(
            mean=float(mean_B.mean()),
            least_mean=float(mean_B.min()),
            most_mean=float(mean_B.max()),
            overlap=float((mask_BDN * (1 - mask_BDN)).mean()),
        )

    @property
    def complementarity(self) -> float:
        """Part that does not overlap: 1 of any hard mask, `CHANCE_COMPLEMENTARITY` of halves."""
        return 1 - self.overlap

    @property
    def decisiveness(self) -> float:
        """0 where all are halves, 1 where each latent is of one song."""
        return 1 - 4 * self.overlap
