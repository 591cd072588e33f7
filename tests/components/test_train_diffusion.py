"""Training a diffusion separator through its component, as `params.yaml` has it."""

import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from components.train import __main__ as command
from components.train.diffusion import TASK
from mixprint.config import load_params
from mixprint.separation import load_separator
from mixprint.separation.diffusion.separator import DiffusionSeparator
from tests.components.workplace import REPOSITORY
from tests.separation.trials import make_songs


def test_the_tiny_profile_trains_and_its_run_holds_what_it_gave(
    tmp_path: Path, client: MlflowClient, rank_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = make_songs(tmp_path / "songs", 3, duration_s=1.5)
    out_dir = tmp_path / "out"
    line = f"--task diffusion --data {songs} --out {out_dir} --device cpu --profile tiny"
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["train", *line.split()])
    command.main()
    separator = load_separator(out_dir / "diffusion.safetensors")
    assert isinstance(separator.network, DiffusionSeparator)
    assert separator.stems == ("vocals", "instrumental")

    experiment = client.get_experiment_by_name("mixprint-diffusion")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.backbone"] == "bands"
    assert run.data.params["data_dir"] == str(songs)
    expected = {"train.loss_t25", "valid.held_out.no_vocal_leak_db.vocals"}
    assert expected <= run.data.metrics.keys()
    losses = client.get_metric_history(run.info.run_id, "train.loss")
    assert [metric.step for metric in losses] == [5, 10, 15, 20]
    files = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "model")}
    networks = {f"diffusion{which}.{k}" for which in ("", "-last") for k in ("safetensors", "json")}
    assert files == networks | {"history.json"}


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(**arguments: Any) -> Path:
        seen.update(arguments)
        return tmp_path

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(TASK, "run", run)
    line = (
        "--task diffusion --generate --out out --profile representation --prior my: #1.safetensors"
    )
    arguments = [*line.split()[:-2], "my: #1.safetensors"]
    arguments += ["--set", "model.backbone=unet", "--set", "initial=''"]
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    command.main()
    config = seen["config"]
    assert (config.prior, config.initial) == ("my: #1.safetensors", "")
    assert config.architecture().backbone == "unet"
    values = load_params(REPOSITORY / "params.yaml", "representation")["diffusion"]
    assert config.training.max_minutes == values["training"]["max_minutes"] == 60.0
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--initial", "weights.safetensors"])
    command.main()
    assert seen["config"].initial == "weights.safetensors"
    assert (seen["inputs"], seen["data_dir"]) == ({}, None)
