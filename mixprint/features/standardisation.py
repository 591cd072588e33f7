"""Standardised features and the distance between two mixes.

Shape suffixes: B batch, D feature.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from torch import Tensor

from mixprint.errors import CheckpointError, DataError
from mixprint.features.schema import (
    BLOCKS,
    SCHEMA_VERSION,
    Block,
    check_blocks,
    feature_names,
    feature_units,
)
from mixprint.schema import Float32, Range, as_record, shortened
from mixprint.storage.atomic import read_json, write_json

# The least standard deviation per unit. A feature that hardly varies in the training split (a stem
# that is always mono, a bass that is always centred) must not turn an inaudible difference into
# many standard deviations. The floors are about the smallest differences that a listener notices.
MIN_STD_BY_UNIT = {
    "dBFS": 0.5,
    "dB": 0.5,
    "LUFS": 0.5,
    "LU": 0.5,
    "dB/octave": 0.1,
    "1": 0.01,
}


@dataclass(frozen=True, kw_only=True)
class _Values:
    """A standardisation as JSON holds it."""

    schema_version: int
    blocks: tuple[Block, ...]
    names: tuple[str, ...]
    mean: tuple[Float32, ...]
    # The least is a fraction of any floor, and far from underflow.
    std: tuple[Annotated[float, Range(1e-6, 3e38)], ...]


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and standard deviation per feature, fitted on the training split.

    Attributes:
        mean_D: mean, in the feature's unit.
        std_D: standard deviation, not below `MIN_STD_BY_UNIT`.
        blocks: blocks that the columns come from.
        schema_version: version of the features.
    """

    mean_D: Tensor
    std_D: Tensor
    blocks: tuple[Block, ...] = BLOCKS
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def fit(cls, features_BD: Tensor, *, blocks: Sequence[Block] = BLOCKS) -> Self:
        """Measure mean and standard deviation over the rows, with the floors of the module.

        Args:
            features_BD: features of the training split, at least one row.
            blocks: blocks that the columns come from.

        Raises:
            DataError: there is no row, a column is missing, or a value is not finite.
        """
        blocks = check_blocks(blocks)
        names = feature_names(blocks)
        if features_BD.ndim != 2 or features_BD.shape[0] == 0 or features_BD.shape[1] != len(names):
            raise DataError(
                f"standardisation: expected features (1 or more, {len(names)}), "
                f"found {tuple(features_BD.shape)}"
            )
        bad_D = ~features_BD.isfinite().all(dim=0)
        if bad_D.any():
            bad = [name for name, is_bad in zip(names, bad_D.tolist(), strict=True) if is_bad]
            raise DataError(f"standardisation: expected finite features, found others in {bad}")
        features_BD = features_BD.detach().double()
        floor_D = torch.tensor(
            [MIN_STD_BY_UNIT[unit] for unit in feature_units(blocks)], dtype=torch.float64
        ).to(features_BD.device)
        std_D = features_BD.std(dim=0, correction=0).maximum(floor_D)
        return cls(features_BD.mean(dim=0).float(), std_D.float(), blocks)

    def apply(self, features_BD: Tensor) -> Tensor:
        """Express features in standard deviations from the mean, on the features' device.

        Raises:
            ValueError: the last dimension does not hold the features of `blocks`.
        """
        if features_BD.shape[-1] != self.mean_D.shape[0]:
            raise ValueError(
                f"expected {self.mean_D.shape[0]} features, got {tuple(features_BD.shape)}"
            )
        return (features_BD - self.mean_D.to(features_BD)) / self.std_D.to(features_BD)

    def to(self, device: torch.device | str) -> Self:
        """Return the same numbers on another device."""
        return type(self)(
            self.mean_D.to(device), self.std_D.to(device), self.blocks, self.schema_version
        )

    def to_values(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_values` is the inverse, exact to the bit."""
        return {
            "schema_version": self.schema_version,
            "blocks": list(self.blocks),
            "names": list(feature_names(self.blocks)),
            "mean": self.mean_D.tolist(),
            "std": self.std_D.tolist(),
        }

    @classmethod
    def from_values(cls, values: Any, where: str = "standardisation") -> Self:
        """Check plain values and take them over.

        Args:
            values: as given by `to_values`.
            where: file that they come from, for the error message.

        Raises:
            CheckpointError: the values are of another schema, or incomplete or not usable.
        """
        if not isinstance(values, Mapping) or "schema_version" not in values:
            raise CheckpointError(f"{where}: expected a standardisation, found {shortened(values)}")
        if (version := values["schema_version"]) != SCHEMA_VERSION:
            raise CheckpointError(
                f"{where}: expected feature schema {SCHEMA_VERSION}, found {shortened(version)}"
            )
        known = as_record(values, where, _Values, CheckpointError)
        try:
            blocks = check_blocks(known.blocks)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        names = feature_names(blocks)
        if known.names != names:
            raise CheckpointError(f"{where}: expected the features of {blocks}, found other names")
        for key, numbers in (("mean", known.mean), ("std", known.std)):
            if len(numbers) != len(names):
                raise CheckpointError(
                    f"{where}: {key}: expected {len(names)} finite numbers, found {len(numbers)}"
                )
        return cls(torch.tensor(known.mean), torch.tensor(known.std), blocks)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.to_values())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the content does not fit this version of the features.
            DataError: the file is missing or no JSON.
        """
        return cls.from_values(read_json(path), str(path))


def feature_distance(a_BD: Tensor, b_BD: Tensor, standardisation: Standardisation) -> Tensor:
    """Measure how far two mixes are apart: the RMS of the standardised differences.

    Args:
        a_BD: features, not standardised.
        b_BD: features, not standardised.
        standardisation: of the training split.

    Returns:
        distance_B in standard deviations; its gradient is zero where the two are equal.
    """
    # vector_norm has a zero gradient at zero, where a square root of a mean has none.
    difference_BD = standardisation.apply(a_BD) - standardisation.apply(b_BD)
    return torch.linalg.vector_norm(difference_BD, dim=-1) / math.sqrt(difference_BD.shape[-1])
