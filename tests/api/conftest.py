"""Stand-in for the separator, and no model that an earlier test has left."""

from collections.abc import Iterator

import pytest

from mixprint.api import models, songs
from tests.cli.stand_ins import QuarterSeparator


@pytest.fixture(autouse=True)
def fresh_models() -> Iterator[None]:
    kept = (songs._loaded_separator, songs._loaded_encoder)
    for cache in kept:
        cache.cache_clear()
    yield
    for cache in kept:
        cache.cache_clear()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[QuarterSeparator]:
    """Let a stand-in be loaded instead of the separator; all that were loaded."""
    found: list[QuarterSeparator] = []

    def load(*_: object) -> QuarterSeparator:
        found.append(QuarterSeparator())
        return found[-1]

    for module in (models, songs):
        monkeypatch.setattr(module, "load_separator", load)
    return found
