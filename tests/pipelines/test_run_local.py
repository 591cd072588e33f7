import re
from pathlib import Path

import pytest

from components.run_folder import sole_use_of_root
from mixprint.config import load_params
from mixprint.errors import ConfigError, DataError
from mixprint.storage.atomic import write_json
from pipelines.arguments import default_name
from pipelines.run_local import (
    container_settings,
    essence,
    failure,
    read_records,
    run,
    summary,
)


def record(root: Path, name: str, started_s: float, **values: object) -> None:
    base = {"step": name, "started_s": started_s, "seconds": 10.0, "peak_bytes": 100}
    write_json(root / "steps" / f"{name}.json", {**base, "state": "done", **values})


@pytest.mark.parametrize(
    ("source", "profile", "name"),
    [
        ("synthetic", "tiny", "tiny"),
        ("synthetic", "full", "full"),
        ("folder", "tiny", "folder"),
        ("folder", "full", "folder-full"),
    ],
)
def test_default_name(source: str, profile: str, name: str) -> None:
    assert default_name(source, profile) == name


def test_tasks_of_a_fan_out_count_together(tmp_path: Path) -> None:
    record(tmp_path, "ingest", 100)
    # The first two overlap, the third runs alone: at most 150 bytes at a time, 35 s in all.
    record(tmp_path, "separate-00000", 110, peak_bytes=70)
    record(tmp_path, "separate-00001", 115, peak_bytes=80)
    record(tmp_path, "separate-00002", 135, peak_bytes=140)
    record(tmp_path, "train", 20)  # of an older run
    write_json(tmp_path / "steps" / "ingest.done.json", {"recipe": ""})
    ingest, separate = read_records(tmp_path, started_s=100)
    assert (ingest.step, ingest.seconds, ingest.num_tasks) == ("ingest", 10, 1)
    assert (separate.step, separate.seconds, separate.num_tasks) == ("separate", 35, 3)
    assert separate.peak_bytes == 150


def test_failure_names_step_and_error(tmp_path: Path) -> None:
    record(tmp_path, "ingest", 100)
    assert failure(tmp_path, 100) == ""
    record(tmp_path, "features", 110, state="failed", error="DataError: empty split")
    assert failure(tmp_path, 100) == "step features failed: DataError: empty split"
    record(tmp_path, "features", 110, state="running")
    assert "features was killed" in failure(tmp_path, 100)


def test_summary_says_where_the_results_are(tmp_path: Path) -> None:
    record(tmp_path, "train", 100, peak_bytes=2_500_000_000)
    song = tmp_path / "transfer" / "a-to-b" / "output_transferred.wav"
    song.parent.mkdir(parents=True)
    song.touch()
    write_json(
        tmp_path / "steps" / "ingest.done.json",
        {"recipe": "a", "files": {}, "counts": {"tracks": 28, "rejects": 2}},
    )
    decided = {"model_name": "m", "version": "7", "decision": "refused", "reasons": ["too few"]}
    write_json(tmp_path / "promotion.json", {**decided, "value": 0.1})
    text = summary(tmp_path, read_records(tmp_path, 100), 12.0)
    assert f"28, 2 left out: see {tmp_path}/catalogue/rejects.parquet" in text
    assert re.search(r"version 7 of m: refused\n +too few\n", text)
    for part in ("2500 MB", "report.html", "a-to-b/output_transferred.wav", "make mlflow-ui"):
        assert part in text


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "        2026-01-02 03:04:05,678 I mixprint.features: measured 8/90 segments",
            "2026-01-02 03:04:05,678 I mixprint.features: measured 8/90 segments",
        ),
        (
            "03:04:05.678 - INFO - Executing task \x1b[96m'train'\x1b[0m",
            "Executing task 'train'",
        ),
        ("03:04:05.678 - INFO - Task \x1b[96m'train'\x1b[0m outputs:", ""),
        ('            "uri": "/somewhere"', ""),
        ("    [KFP Executor 2026-01-02 03:04:05,678 INFO]: Got executor_input:", ""),
        ("", ""),
    ],
)
def test_essence_of_the_log(line: str, shown: str) -> None:
    assert essence(line) == shown


def test_missing_folder_is_found_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="no such songs"):
        run(source="folder", locations=["no such songs"], name="x", params={})


def test_containers_write_the_root_and_the_store_and_read_the_songs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MIXPRINT_WORKERS", "2")
    monkeypatch.setenv("SECRET", "s")
    for name in ("songs", "models"):
        (tmp_path / name).mkdir()
    root = Path("results/tiny")
    options = {"readable": {Path("/inside"): Path("models")}, "network": "none"}
    settings = container_settings(root, ["songs"], options)
    assert settings.writable == (root, tmp_path / "mlstore")
    assert all(folder.is_dir() for folder in settings.writable)
    assert settings.readable == {Path("songs"): Path("songs"), Path("/inside"): Path("models")}
    assert settings.network == "none"
    assert settings.environment["MIXPRINT_WORKERS"] == "2"
    assert "SECRET" not in settings.environment
    monkeypatch.setenv("MIXPRINT_SCRATCH", "scratch")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9000")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "models")
    for settings in (
        container_settings(root, ["gs://bucket/songs"], {}),
        container_settings(root, ["songs"], {}, has_bucket=True),
    ):
        assert settings.writable == (root, tmp_path / "mlstore", tmp_path / "scratch")
        assert settings.readable[Path("models")] == Path("models")
        assert settings.environment["MIXPRINT_SCRATCH"] == str(tmp_path / "scratch")
        assert settings.environment["STORAGE_EMULATOR_HOST"] == "http://127.0.0.1:9000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert container_settings(root, [], {}).writable == (root,)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(ConfigError, match="in a folder of its own"):
        container_settings(root, [], {})


def test_a_second_run_on_one_root_is_refused_and_leaves_the_first_ones_files(
    tmp_path: Path,
) -> None:
    (tmp_path / "kfp").mkdir()
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    with (
        sole_use_of_root(str(tmp_path), tmp_path, "the pipeline run one"),
        pytest.raises(DataError, match="only run at work there, found the pipeline run one"),
    ):
        run(source="folder", locations=[], name="two", root=str(tmp_path), params=params)
    assert [path.name for path in tmp_path.iterdir()] == ["kfp"]
