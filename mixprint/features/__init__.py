"""The 64 mixing features: differentiable, named, with a distance on their standardised values."""

from mixprint.features.extraction import extract
from mixprint.features.schema import (
    BLOCKS,
    FEATURE_NAMES,
    FEATURE_UNITS,
    SCHEMA_VERSION,
    Block,
    feature_names,
    feature_units,
)
from mixprint.features.standardisation import Standardisation, feature_distance

__all__ = [
    "BLOCKS",
    "FEATURE_NAMES",
    "FEATURE_UNITS",
    "SCHEMA_VERSION",
    "Block",
    "Standardisation",
    "extract",
    "feature_distance",
    "feature_names",
    "feature_units",
]
