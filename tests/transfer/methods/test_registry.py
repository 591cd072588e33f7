from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from components.transfer.main import TransferConfig
from mixprint import cli
from mixprint.errors import ConfigError
from mixprint.features import Standardisation
from mixprint.transfer.effect import Running, Stream
from mixprint.transfer.fit import fit_style
from mixprint.transfer.methods import registry
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.registry import (
    METHODS,
    Method,
    ModelKind,
    describe_methods,
    load_models_of,
    model_fingerprints,
)
from mixprint.transfer.methods.result import TransferResult
from mixprint.transfer.style import Style
from tests.transfer.test_fit import RATE_HZ, settings


class Louder:
    """An effect that multiplies."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        return self.factor ** amount_S.view(-1, 1, 1) * stems_SCT

    def start(self, amount_S: Tensor, running: Running) -> Stream:
        raise AssertionError("no song is processed here")

    def settings(self, amount_S: Tensor) -> None:
        return None

    def to(self, device: object) -> "Louder":
        return self


class Factor:
    """Stands for a trained network."""

    fingerprint = "factor"

    def to(self, device: object) -> "Factor":
        return self


def find_louder(problem: Problem) -> TransferResult:
    effect = Louder(2.0)
    rendered = [effect(s, torch.ones(4)) for s in problem.segments_SCT]
    measure = problem.distances.measure
    found = [measure(0, problem.segments_SCT), measure(1, rendered)]
    return TransferResult(
        effect=effect,
        segments_SCT=tuple(rendered),
        initial=found[0],
        final=found[1],
        iterations=found,
        best_step=1,
        num_steps=1,
        converged=True,
        stems_left_alone=problem.distances.left_alone,
        tcn_residual_db=None,
        receptive_field_samples=None,
        step_s=0.0,
    )


LOUDER = Method(
    name="louder",
    summary="twice the amplitude",
    find=find_louder,
    model=ModelKind(key="factor", load=lambda folder, device: Factor()),
)


@pytest.fixture
def louder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a method, as CONTRIBUTING.md says."""
    monkeypatch.setitem(METHODS, "louder", LOUDER)  # type: ignore[arg-type]
    monkeypatch.setitem(registry.MODELS, "factor", LOUDER.model)  # type: ignore[arg-type]


@pytest.mark.usefixtures("louder")
def test_a_method_that_is_registered_is_known_everywhere(
    make_stems: Any, standardisation: Standardisation
) -> None:
    source = make_stems()
    wanted = settings(method="louder")
    assert describe_methods().endswith(", or louder (twice the amplitude)")
    values = TransferConfig.load(Path(__file__).parents[3] / "params.yaml").to_values()
    config = TransferConfig.from_values(values | {"methods": ["console", "louder"]})
    assert [each.method for each in config.defaults().settings] == ["console", "louder"]
    models = load_models_of((name for name in ("louder", "console")), {}, "cpu")
    assert models.keys() == {"factor"}
    assert model_fingerprints("louder", models["factor"]) == {
        "zero_shot": None,
        "controller": None,
        "factor": "factor",
    }
    style = Style.of("b", [2 * source], RATE_HZ)
    result = fit_style(
        [source],
        style,
        RATE_HZ,
        wanted,
        standardisation=standardisation,
        model=models["factor"],
    )
    assert result.initial.feature_distance > 0.1
    assert result.final.feature_distance < 1e-3
    with pytest.raises(ConfigError, match="method louder: expected a trained model"):
        fit_style([source], style, RATE_HZ, wanted, standardisation=standardisation)


def test_an_unknown_method_is_refused_and_the_known_ones_are_told() -> None:
    with pytest.raises(ConfigError, match="'console', 'tcn', 'zero-shot'"):
        settings(method="louder")
    shown = CliRunner().invoke(cli.app, ["transfer", "--help"], env={"COLUMNS": "400"})
    assert describe_methods() in shown.stdout
