"""Training a separator through its component: processes, tracking, command line, errors."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from components.train import __main__ as command
from components.train import songs
from components.train.separator import TASK
from mixprint.errors import ConfigError, DataError
from tests.components.workplace import REPOSITORY
from tests.separation.trials import TINY_MODEL, make_songs, separator_config

VALUES = {
    "variant": "plain",
    "model": TINY_MODEL,
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
    return make_songs(tmp_path / "songs", 3)


def test_a_run_holds_what_the_training_was_and_gave(
    tmp_path: Path, data_dir: Path, client: MlflowClient, rank_here: None
) -> None:
    TASK.run(out_dir=tmp_path / "out", config=separator_config(VALUES), data_dir=data_dir)
    experiment = client.get_experiment_by_name("mixprint-separator")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "4"
    assert run.data.params["data_dir"] == str(data_dir)
    assert {"train.relative_loss", "valid.held_out.museval_sdr.average"} <= set(run.data.metrics)
    losses = client.get_metric_history(run.info.run_id, "train.relative_loss")
    assert [metric.step for metric in losses] == [1, 2, 3]
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
        TASK.run(out_dir=out_dir, config=separator_config(VALUES), data_dir=data_dir)
    assert [path.name for path in out_dir.iterdir()] == [name]


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
        TASK.run(
            out_dir=tmp_path / "out",
            config=separator_config({**VALUES, "num_processes": 3}),
            data_dir=data_dir,
        )
    assert not (tmp_path / "out").exists()


def test_songs_are_downloaded_on_request_alone_and_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir, config = tmp_path / "songs", separator_config(VALUES)
    there: list[bool] = []
    monkeypatch.setattr(songs, "download_songs", lambda folder: make_songs(folder, 3))
    monkeypatch.setattr(
        songs, "start_ranks", lambda *_, **__: there.append((data_dir / "song2").is_dir())
    )
    TASK.run(out_dir=tmp_path / "out", config=config, data_dir=data_dir)
    config = separator_config({**VALUES, "download": "if-empty"})
    TASK.run(out_dir=tmp_path / "out", config=config, data_dir=data_dir)
    assert there == [False, True]
    with pytest.raises(ConfigError, match=r"separator\.download: expected --data, the folder"):
        TASK.run(out_dir=tmp_path / "out", config=config)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(**arguments: Any) -> Path:
        seen.update(arguments)
        return tmp_path

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(TASK, "run", run)
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
        "inputs": {"initial": Path("weights.ckpt"), "initial_config": None},
    }
    monkeypatch.setattr(sys, "argv", ["train", "--task", "separator", "--generate", "--out", "o"])
    command.main()
    assert seen["data_dir"] is None
    assert seen["config"].download == "never"
    line = "--task separator --data songs --download --out o"
    monkeypatch.setattr(sys, "argv", ["train", *line.split()])
    command.main()
    assert (seen["data_dir"], seen["config"].download) == (Path("songs"), "if-empty")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--valid", "folder"])
    with pytest.raises(SystemExit, match="error: --valid: expected NAME=DIR"):
        command.main()


def test_help_names_the_tasks_and_a_task_has_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    command.main()
    assert "{controller,diffusion,encoder,separator,zero-shot}" in capsys.readouterr().out
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
