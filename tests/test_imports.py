"""The arrows between the packages point one way: pipelines -> components -> mixprint."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = ("ingest", "separate", "features", "train", "evaluate", "promote", "transfer")


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def starts_with(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", modules("mixprint"), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_the_library_knows_nothing_of_the_platform(path: Path) -> None:
    barred = ("kfp", "mlflow", "dvc", "components", "pipelines")
    assert [name for name in imported(path) if starts_with(name, barred)] == []


@pytest.mark.parametrize("step", STEPS)
def test_no_step_imports_another_or_a_pipeline(step: str) -> None:
    others = tuple(f"components.{other}" for other in STEPS if other != step)
    found = [
        name
        for path in modules(f"components/{step}")
        for name in imported(path)
        if starts_with(name, (*others, "pipelines"))
    ]
    assert found == []


def test_every_step_has_its_two_files() -> None:
    for step in STEPS:
        folder = REPOSITORY / "components" / step
        assert {"main.py", "component.py"} <= {path.name for path in folder.iterdir()}


def test_only_entry_points_set_up_logging() -> None:
    """A library that is imported leaves logging to its host."""
    allowed = {"mixprint/log.py", "mixprint/cli/exits.py", "components/step.py"}
    callers = {
        str(path.relative_to(REPOSITORY))
        for package in ("mixprint", "components", "pipelines")
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "setup_logging"
        and "def main(" not in path.read_text()
    }
    assert callers <= allowed
