"""What glibc is told."""

import ctypes
from typing import ClassVar

import pytest

from mixprint.machine.memory import keep_freed_memory


class _Library:
    def __init__(self) -> None:
        self.options: list[tuple[int, int]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.options.append((option, value))
        return 1


@pytest.fixture(autouse=True)
def _again() -> None:
    keep_freed_memory.cache_clear()


def test_nothing_is_mapped_or_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    library = _Library()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    keep_freed_memory()
    keep_freed_memory()
    # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h, once a process.
    assert library.options == [(-4, 0), (-1, 2**31 - 1)]


def test_a_library_without_the_option_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """Knows no `mallopt`, and notes what it is asked for."""

        asked: ClassVar[list[str]] = []

        def __getattr__(self, name: str) -> object:
            self.asked.append(name)
            raise AttributeError(name)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    keep_freed_memory()
    assert Other.asked == ["mallopt"]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", loaded.append)
    keep_freed_memory()
    assert loaded == []
