"""Small songs with true stems for the separator's training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.separation import trials


@pytest.fixture
def make_songs() -> Callable[..., Path]:
    """Write songs whose stems are noise, each at a level of its own."""
    return trials.make_songs
