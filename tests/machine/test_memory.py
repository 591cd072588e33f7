"""What glibc is told."""

import ctypes

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


def test_other_libraries_and_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()
    keep_freed_memory.cache_clear()
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    keep_freed_memory()
