"""A standardisation for stems that are generated."""

import pytest
import torch

from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, Standardisation


@pytest.fixture(scope="session")
def standardisation() -> Standardisation:
    """Typical spreads by unit, so that no test depends on a data set."""
    spread = {"dBFS": 6.0, "dB": 4.0, "LUFS": 6.0, "LU": 3.0, "dB/octave": 1.5, "1": 0.2}
    return Standardisation(
        torch.zeros(len(FEATURE_NAMES)), torch.tensor([spread[unit] for unit in FEATURE_UNITS])
    )
