"""The task `controller` on the command line, and what its ranks are told."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from components.train import __main__ as command
from components.train import controller
from components.train.job import find_task
from mixprint.console.pairs import Unpaired
from mixprint.console.settings import Settings
from mixprint.controller import own_style, shipped
from mixprint.controller.fits import Fit
from mixprint.controller.own_style import OwnStyleConfig
from mixprint.controller.settings import ControllerTrainConfig
from mixprint.errors import ConfigError, DataError
from mixprint.weights import SHIPPED_ENCODER


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """Run the command, and return what the ranks would have been started with."""
    seen: dict[str, Any] = {}

    def start_ranks(task: Any, run: Any, folder: Path, config: Any, **options: Any) -> None:
        seen.update(options, task=task, folder=folder, config=config)

    monkeypatch.setattr(controller, "start_ranks", start_ranks)
    monkeypatch.setattr(sys, "argv", ["train", "--task", "controller", *arguments])
    command.main()
    return seen


def test_options_and_layers_reach_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = tmp_path / "layer.json"
    phase = {"objective": "method2", "num_steps": 1, "batch_size": 2, "learning_rate": 1e-4}
    phases = [phase | {"likelihood_weight": 0.0, "prior_weight": 0.1}]
    values = {"examples": {"songs": {"seed": 5}}, "head": "chain", "phases": phases}
    layer.write_text(json.dumps(values))
    out = tmp_path / "out"
    seen = started(
        monkeypatch,
        *("--out", str(out), "--config", str(layer), "--initial", "known"),
        *("--set", "max_minutes=7", "--set", "controller.seed=3"),
        *("--references", "my: mixes #1"),
    )
    config = seen["config"]
    assert isinstance(config, ControllerTrainConfig)
    assert (config.head, config.max_minutes, config.seed) == ("chain", 7.0, 3)
    assert config.examples.songs.seed == 5
    assert config.references == "my: mixes #1"
    assert seen["inputs"] == {"encoder": str(SHIPPED_ENCODER), "initial": "known"}
    assert seen["folder"] == out
    assert seen["task"] is find_task("controller")
    # Ranks read the parameters back from a file of JSON.
    values = json.loads(json.dumps(config.to_values()))
    assert ControllerTrainConfig.from_values(values) == config


def test_a_controller_may_read_no_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = started(monkeypatch, "--out", str(tmp_path / "out"), "--encoder", "none")
    assert seen["inputs"] == {}


def test_pairs_are_fitted_before_the_ranks_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Fit("song", Settings.neutral(["a"]), tmp_path / "audio.safetensors", "made of", 0.1)
    seen: dict[str, Any] = {}

    def fit_folders(*given: Any) -> tuple[list[Fit], list[Unpaired]]:
        seen["given"] = given
        return [fit], []

    monkeypatch.setattr(own_style, "fit_folders", fit_folders)
    monkeypatch.setattr(shipped, "SHIPPED_CONTROLLER", tmp_path / "none is shipped")
    out = tmp_path / "out"
    given = ["--pairs", "raw", "mixed", "--out", str(out), "--profile", "full"]
    seen |= started(monkeypatch, *given, "--set", "fit_steps=7", "--set", "max_minutes=2")
    config = seen["config"]
    assert isinstance(config, OwnStyleConfig)
    assert (config.fit_steps, config.max_minutes) == (7, 2.0)
    assert seen["given"] == (Path("raw"), Path("mixed"), out, config)
    assert seen["inputs"] == {"encoder": str(SHIPPED_ENCODER), "pairs": str(out)}
    assert seen["recipe"][-1] == ["made of"]
    values = json.loads(json.dumps(config.to_values()))
    assert OwnStyleConfig.from_values(values) == config
    seen = started(monkeypatch, *given, "--initial", "known")
    assert seen["inputs"]["initial"] == "known"


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_text("mine")
    config = ControllerTrainConfig.load(Path(__file__).parents[2] / "params.yaml")
    with pytest.raises(DataError, match="expected a new folder or that of a training"):
        controller.run(out_dir=tmp_path, config=config)
    # A controller to start from would be replaced, and missed by a resumed training.
    (tmp_path / "state").mkdir()
    for initial in (tmp_path, tmp_path / "final"):
        with pytest.raises(ConfigError, match="expected a controller outside of"):
            controller.run(out_dir=tmp_path, config=config, initial=initial)
    assert (tmp_path / "weights.safetensors").read_text() == "mine"
