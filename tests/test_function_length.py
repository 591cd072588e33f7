"""A function is short enough to be read at once."""

import ast
from pathlib import Path

import pytest

from tests.arrows import REPOSITORY

MAX_LINES = 80
# A graph in one piece, as KFP wants it.
EXCEPT = {("pipelines/mix_style.py", "pipeline")}
FILES = sorted(
    path
    for folder in ("mixprint", "components", "pipelines", "benchmarks", "tests")
    for path in (REPOSITORY / folder).rglob("*.py")
)


def too_long(path: Path) -> list[str]:
    name = str(path.relative_to(REPOSITORY))
    return [
        f"{node.name}: {lines} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_LINES
        and (name, node.name) not in EXCEPT
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_functions_are_short(path: Path) -> None:
    assert too_long(path) == []
