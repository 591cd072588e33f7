"""Results that are kept one by one."""

import logging
from pathlib import Path
from typing import Any

import pytest

from mixprint.evaluation.finished import Finished


def counted(made: list[int], value: float = 0.5) -> Any:
    def make() -> dict[str, float]:
        made.append(1)
        return {"value": value}

    return make


def test_a_result_is_made_once_for_what_it_follows_from(tmp_path: Path) -> None:
    finished, made = Finished(tmp_path / "new"), []
    for _ in range(2):
        assert finished.result({"a": 1, "b": [2.5, None]}, counted(made)) == {"value": 0.5}
    assert len(made) == 1
    # The order of keys means nothing, any value does.
    assert finished.result({"b": [2.5, None], "a": 1}, counted(made, 9.0)) == {"value": 0.5}
    assert finished.result({"a": 1, "b": [2.5, 0]}, counted(made, 9.0)) == {"value": 9.0}
    assert len(made) == 2


def test_what_fails_is_not_kept_and_what_is_broken_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished, made = Finished(tmp_path), []

    def fail() -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finished.result({}, fail)
    assert list(tmp_path.iterdir()) == []
    finished.result({}, counted(made))
    (path,) = tmp_path.iterdir()
    path.write_text('{"result": [')
    with caplog.at_level(logging.WARNING):
        assert finished.result({}, counted(made, 2.0)) == {"value": 2.0}
    assert f"{path}: unreadable, so it is made anew" in caplog.text
    assert finished.result({}, fail) == {"value": 2.0}
