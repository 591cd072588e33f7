"""Each training with its data and an undisturbed run of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mixprint.training.engine import Outcome
from tests.training.cases import CASES, Case, run_case
from tests.training.trials import result_hashes


@dataclass(frozen=True)
class Prepared:
    """A case with its data.

    Attributes:
        name: of the case.
        case: the case.
        data: what it learns from.
        whole: folder of an undisturbed training.
        hashes: `result_hashes` of that.
        outcome: of that.
        told: the steps and figures that it has told of.
    """

    name: str
    case: Case
    data: Any
    whole: Path
    hashes: dict[str, str]
    outcome: Outcome
    told: list[tuple[int, dict[str, float]]]

    def run(self, folder: Path, **changes: Any) -> Outcome:
        return run_case(self.name, self.data, folder, **changes)


@pytest.fixture(scope="session")
def prepare_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    made: dict[str, Prepared] = {}

    def prepare(name: str) -> Prepared:
        if name not in made:
            data = CASES[name].prepare(tmp_path_factory.mktemp(f"{name}-data"))
            whole = tmp_path_factory.mktemp(f"{name}-whole")
            told: list[tuple[int, dict[str, float]]] = []

            def note(step: int, values: dict[str, float], told: list[Any] = told) -> None:
                told.append((step, dict(values)))

            outcome = run_case(name, data, whole, on_metrics=note)
            hashes = result_hashes(whole)
            made[name] = Prepared(name, CASES[name], data, whole, hashes, outcome, told)
        return made[name]

    return prepare


@pytest.fixture(params=CASES)
def prepared(request: pytest.FixtureRequest, prepare_case: Callable[[str], Prepared]) -> Prepared:
    return prepare_case(request.param)
