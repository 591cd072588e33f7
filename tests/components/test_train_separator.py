"""Training a separator through its component: processes, tracking, command line, errors."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
import yaml
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from components.train import __main__ as command
from components.train import separator
from mixprint.errors import ConfigError, DataError
from mixprint.separation.scnet.training import train_separator
from mixprint.stems import STEMS
from tests.components.workplace import REPOSITORY
from tests.separation.trials import separator_config

VALUES = {
    "variant": "plain",
    "model": {"dims": [4, 4, 4], "nfft": 512, "hop_size": 256, "win_size": 512, "num_dplayer": 2},
    "training": {
        "segment_s": 0.1,
        "batch_size": 4,
        "max_minutes": 0.0,
        "max_steps": 3,
        "warmup_steps": 1,
        "log_steps": 1,
        "save_steps": 3,
        "valid_steps": 3,
        "num_valid": 1,
        "max_valid_songs": 1,
        "precision": "float32",
        "max_bad_fraction": 0.0,
    },
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for index in range(3):
        folder = tmp_path / "songs" / f"song{index}"
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(index)
        for stem in STEMS:
            audio_TC = 0.05 * torch.randn(22_050, 2, generator=generator)
            sf.write(folder / f"{stem}.wav", audio_TC.numpy(), 44_100)
    return tmp_path / "songs"


NETWORKS = ("separator", "separator-last")  # of the best validation, of the last step


def test_two_processes_learn_together_what_one_learns(
    tmp_path: Path, data_dir: Path, client: MlflowClient
) -> None:
    config = separator_config(VALUES)
    alone = train_separator(data_dir, tmp_path / "alone", config, device="cpu")
    both = separator.run(
        out_dir=tmp_path / "both",
        config=replace(config, num_processes=2, device="cpu"),
        data_dir=data_dir,
    )
    first, second = load_file(alone), load_file(both)
    fresh = train_separator(
        data_dir, tmp_path / "fresh", separator_config(_one_step()), device="cpu"
    )
    moved = max((load_file(fresh)[key] - first[key]).abs().max().item() for key in first)
    assert moved > 1e-4, "the weights have moved by more than the tolerance below"
    for key, value in first.items():
        # Stored as float16: a difference of rounding may move the last of its ten bits.
        torch.testing.assert_close(second[key], value, rtol=2e-3, atol=2e-5)

    experiment = client.get_experiment_by_name("mixprint-separator")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "4"
    assert run.data.params["data_dir"] == str(data_dir)
    assert {"train.relative_loss", "valid.held_out.museval_sdr.average"} <= set(run.data.metrics)
    losses = client.get_metric_history(run.info.run_id, "train.relative_loss")
    assert [metric.step for metric in losses] == [1, 2, 3, 3], "the mean of the epoch, too"
    files = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "model")}
    networks = {
        f"separator{which}.{kind}" for which in ("", "-last") for kind in ("safetensors", "json")
    }
    assert files == networks | {"history.json"}


@pytest.mark.parametrize("name", ["separator.safetensors", "history.json", "songs"])
def test_files_that_no_training_has_written_stay(tmp_path: Path, data_dir: Path, name: str) -> None:
    out_dir = tmp_path / "out"
    (out_dir / name).mkdir(parents=True)
    message = rf"out: expected a new folder or that of a training, found {name} and no state/"
    with pytest.raises(DataError, match=message):
        separator.run(out_dir=out_dir, config=separator_config(VALUES), data_dir=data_dir)
    assert [path.name for path in out_dir.iterdir()] == [name]


def _one_step() -> dict[str, Any]:
    """Return the recipe for weights that have hardly moved."""
    values = {**VALUES["training"], "max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    return {"variant": VALUES["variant"], "model": VALUES["model"], "training": values}


def test_a_song_that_cannot_be_used_is_all_that_the_user_is_told(
    tmp_path: Path,
    data_dir: Path,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (data_dir / "song1" / "bass.wav").unlink()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(VALUES))
    line = f"--task separator --data {data_dir} --out {tmp_path / 'out'} --device cpu"
    line += f" --recipe {tmp_path / 'recipe.yaml'} --processes 2"
    monkeypatch.setattr(sys, "argv", ["train", *line.split()])
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as ended:
        command.main()
    # Python writes such a message, and nothing else, and the exit code is 1.
    told = str(ended.value.code)
    assert told.startswith("error: expected at most 0 of 3 songs to be unusable, found 1: ")
    assert f"{data_dir}/song1/bass.wav: expected a readable stem" in told
    assert "\n" not in told
    # Nor have the ranks.
    assert "Traceback" not in capfd.readouterr().err


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="found 4 and 3"):
        separator.run(
            out_dir=tmp_path / "out",
            config=separator_config({**VALUES, "num_processes": 3}),
            data_dir=data_dir,
        )
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(**arguments: Any) -> Path:
        seen.update(arguments)
        return tmp_path

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(separator, "run", run)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    line = f"--task separator --data songs --out out --recipe {path} --processes 2"
    line += " --set training.seed=5 --valid real=folder --initial weights.ckpt"
    monkeypatch.setattr(sys, "argv", ["train", *line.split()])
    command.main()
    config = seen.pop("config")
    assert (config.training.seed, config.variant) == (5, "plain")
    assert (config.num_processes, config.device) == (2, "auto")
    assert seen == {
        "out_dir": Path("out"),
        "data_dir": Path("songs"),
        "extra_valid": {"real": Path("folder")},
        "initial": Path("weights.ckpt"),
        "initial_config": None,
    }
    monkeypatch.setattr(sys, "argv", ["train", "--task", "separator", "--generate", "--out", "o"])
    command.main()
    assert seen["data_dir"] is None
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--valid", "folder"])
    with pytest.raises(SystemExit, match="error: --valid: expected NAME=DIR"):
        command.main()


def test_help_names_the_tasks_and_a_task_has_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    command.main()
    assert "{encoder,separator,zero-shot}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["train", "--task", "separator", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert "--initial-config" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "expected --task" in capsys.readouterr().err
