"""Training the zero-shot network through its component: processes, tracking, command line."""

import sys
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from components.layout import ZERO_SHOT_FILES
from components.train import __main__ as command
from mixprint.collection.catalogue import write_catalogue
from mixprint.config import load_params
from mixprint.zero_shot.checkpoint import load_zero_shot
from tests.components.workplace import REPOSITORY
from tests.zero_shot.trials import Collection, config, encoder_of, make_collection


@pytest.fixture
def data(tmp_path: Path) -> Collection:
    made = make_collection(tmp_path / "root")
    write_catalogue(tmp_path / "root" / "catalogue", made.tracks, [])
    return made


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """Call the program in this process; its imports take longer than all else that it does."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["train", "--task", "zero-shot", *map(str, arguments)])
    command.main()


def test_command_line_trains_once(
    tmp_path: Path,
    data: Collection,
    client: MlflowClient,
    rank_here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = load_params(REPOSITORY / "params.yaml")
    params["zero_shot"] = config(level_steps=1, audio_steps=1, num_valid=1).to_values()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    folder = tmp_path / "root" / "zero_shot"

    def written_ns() -> dict[str, int]:
        call(monkeypatch, "--root", tmp_path / "root", "--params", tmp_path / "params.yaml")
        return {name: (folder / name).stat().st_mtime_ns for name in ZERO_SHOT_FILES}

    assert written_ns() == written_ns()
    load_zero_shot(folder).check_encoder(encoder_of(data).fingerprint)
    experiment = client.get_experiment_by_name("mixprint-zero-shot")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert {"train.loss", "valid.distance", "valid.relative_stems"} <= run.data.metrics.keys()
    logged = {file.path for file in client.list_artifacts(run.info.run_id, "model")}
    assert logged == {f"model/{name}" for name in ZERO_SHOT_FILES}


def test_a_missing_encoder_is_named(
    tmp_path: Path,
    data: Collection,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        call(monkeypatch, "--root", tmp_path / "root", "--encoder", tmp_path / "nowhere")
    assert "Traceback" not in capfd.readouterr().err
