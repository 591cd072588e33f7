"""The arrows point one way: pipelines -> components -> mixprint, and within the library."""

import ast
import re
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.arrows import GROUND, ORDER, REPOSITORY, circles, imported, module_arrows, room_arrows

# Which room of the library may import which, beside the ground.
ALLOWED = {
    "machine": "",
    "weights": "",
    "storage": "machine",
    "dsp": "",
    "chains": "dsp",
    "audio": "dsp storage",
    "checkpoints": "storage",
    "collection": "audio storage",
    "pages": "audio machine storage",
    "training": "checkpoints machine storage",
    "features": "dsp storage",
    "synthesis": "collection machine storage",
    "encoder": "chains checkpoints collection dsp features storage training",
    "controller": "audio checkpoints collection console dsp encoder features storage synthesis "
    "training",
    "zero_shot": "checkpoints collection dsp encoder features storage training",
    "separation": "audio checkpoints collection machine storage synthesis training",
    "codec": "",
    "cascade": "audio codec dsp pages storage",
    "transfer": "audio collection console controller dsp encoder features machine pages separation "
    "storage zero_shot",
    "console": "audio dsp pages storage",
    "evaluation": "audio chains checkpoints collection console controller dsp encoder features "
    "pages storage synthesis training",
    "listening": "audio pages storage transfer",
    "api": "audio checkpoints console controller encoder features machine separation storage "
    "transfer weights zero_shot",
    "cli": "api audio cascade checkpoints collection console controller encoder evaluation "
    "features listening machine separation storage synthesis transfer weights zero_shot",
}
MAX_FILES_IN_ROOT = 10
# Packages whose modules share a folder with those of others.
DISTRIBUTIONS = {
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.cloud.storage": "google-cloud-storage",
}
# What no installed product needs: hera writes the DAG for Argo, which is committed, and _typeshed
# is for type checkers.
NOT_AT_RUN_TIME = {"hera", "_typeshed"}
# A program, and what kfp and torch import.
NOT_BY_NAME = {"dvc", "kfp-kubernetes", "tensorboard"}
STEPS = ("ingest", "separate", "features", "train", "evaluate", "promote", "transfer")


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


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


def test_rooms_import_only_what_lies_below_them_as_listed() -> None:
    assert set(ALLOWED) == set(ORDER) - {GROUND}
    for here, targets in room_arrows(REPOSITORY).items():
        allowed = {GROUND, *ALLOWED.get(here, "").split()}
        assert targets.keys() <= allowed, f"{here}: {dict(targets)}"
    for here, allowed in ALLOWED.items():
        above = ORDER[ORDER.index(here) :]
        assert not set(allowed.split()) & set(above), f"{here} may not import what lies above it"


def test_nothing_goes_in_circles() -> None:
    assert circles(module_arrows(REPOSITORY)) == []
    rooms = {here: set(targets) for here, targets in room_arrows(REPOSITORY).items()}
    assert circles(rooms) == []


def test_circles_are_found() -> None:
    arrows = {"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert circles(arrows) == [{"b", "c"}]


def test_of_the_library_itself_others_take_no_more_than_its_version() -> None:
    taken = {
        name
        for path in modules("mixprint")
        for name in imported(path)
        if name.partition(".")[0] == "mixprint"
        and not (REPOSITORY / "/".join(name.split(".")[:2])).with_suffix(".py").is_file()
        and not (REPOSITORY / "/".join(name.split(".")[:2])).is_dir()
    }
    assert taken <= {"mixprint.__version__"}


def test_the_root_of_the_library_is_small() -> None:
    files = sorted(path.name for path in (REPOSITORY / "mixprint").glob("*.py"))
    assert len(files) <= MAX_FILES_IN_ROOT, files


def test_a_system_that_is_trained_has_its_files_where_one_looks_for_them() -> None:
    trained = [path.parent for path in (REPOSITORY / "mixprint").rglob("training.py")]
    assert len(trained) >= 3
    for folder in trained:
        names = {path.stem for path in folder.glob("*.py")}
        assert names >= {"settings", "data", "model", "checkpoint", "training", "validation"}, (
            folder
        )


def declared() -> set[str]:
    """Names of the packages in requirements.in."""
    lines = (REPOSITORY / "requirements.in").read_text().splitlines()
    return {re.split(r"[^\w-]", line)[0] for line in lines if line and not line.startswith("#")}


def distribution(name: str, installed: Mapping[str, list[str]]) -> str:
    """Name the package that an imported module belongs to."""
    for prefix, package in DISTRIBUTIONS.items():
        if starts_with(name, (prefix,)):
            return package
    packages = installed[name.partition(".")[0]]
    return min(packages, key=len).lower().replace("_", "-")


def test_declared_is_what_is_imported() -> None:
    own = ("mixprint", "components", "pipelines")
    known = {*own, *NOT_AT_RUN_TIME, *sys.stdlib_module_names}
    installed = packages_distributions()
    needed = {
        distribution(name, installed)
        for package in own
        for path in modules(package)
        for name in imported(path)
        if name.partition(".")[0] not in known
    }
    assert needed - declared() == set()
    assert declared() - needed == NOT_BY_NAME
