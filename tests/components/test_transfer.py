"""The step transfer, but for the registry."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.layout import TRANSFER_FOLDER, TRANSFER_METRICS_FILE
from components.run_folder import RunFolder
from components.step import Manifest
from components.transfer import main
from components.transfer.main import TransferConfig
from mixprint.collection.catalogue import Track, write_catalogue
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.errors import AudioError
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.fingerprint import file_sha256
from mixprint.storage.atomic import read_json
from mixprint.transfer.jobs import Models

RATE_HZ = 44_100


def track(name: str) -> Track:
    return Track(
        track_id=name,
        title=name,
        uri=f"nowhere/{name}.wav",
        source="folder",
        duration_s=3.0,
        sample_rate_hz=RATE_HZ,
        channels=2,
        split="test",
        licence="",
        has_stems=False,
        song=name,
        style="",
    )


def load_models() -> Models:
    ones_D = torch.ones(len(FEATURE_NAMES))
    return Models(standardisation=Standardisation(-20 * ones_D, 5 * ones_D))


@pytest.fixture
def run(tmp_path: Path, short_reports: None) -> Callable[..., dict[str, float]]:
    write_catalogue(tmp_path / "catalogue", [track("a"), track("b"), track("short")], [])
    generator = torch.Generator().manual_seed(1)
    with write_shard(
        tmp_path / "stems" / shard_name(0, 1),
        fingerprint="x",
        sample_rate_hz=RATE_HZ,
        separator=SeparatorFingerprint("test", "abc", "def"),
    ) as writer:
        for name, length_s in (("a", 3.0), ("b", 3.0), ("short", 0.5)):
            shape = (4, 2, round(length_s * RATE_HZ))
            writer.write(name, 0, 0.0, 0.1 * torch.randn(shape, generator=generator))

    def run(pairs: str = "", **more: object) -> dict[str, float]:
        values = TransferConfig.load(Path(__file__).parents[2] / "params.yaml").to_values()
        if pairs:
            (tmp_path / "pairs.csv").write_text(f"input,target\n{pairs}\n")
            values["pairs"] = str(tmp_path / "pairs.csv")
        values |= {"methods": ["console"], "num_steps": 1, "num_processes": 1}
        values |= {"segment_duration": 3.0, "num_pairs": 2, "device": "cpu", **more}
        config = TransferConfig.from_values(values)
        return main._transfer(
            RunFolder(tmp_path),
            config,
            load_models,
            load_models(),
            Manifest(step="", uri=str(tmp_path / "catalogue"), fingerprint="", counts={}),
            tmp_path / "stems",
        )

    return run


def test_each_method_of_each_pair(tmp_path: Path, run: Callable[..., dict[str, float]]) -> None:
    assert run(methods=["console", "tcn"], receptive_field=0.01, amount="0.5") == {
        "transfers": 2,
        "failed": 2,
    }
    metrics = read_json(tmp_path / TRANSFER_METRICS_FILE)
    folders = sorted(p.name for p in (tmp_path / TRANSFER_FOLDER).iterdir() if p.is_dir())
    assert sorted(metrics["transfers"]) == folders
    assert metrics["methods"].keys() == {"console, features", "tcn, features"}
    assert "total_s" not in str(metrics)
    # Of an older table nothing is left; what fails is not the end of the rest.
    counts = run("a,b\nshort,a\na,nowhere")
    assert counts == {"transfers": 1, "failed": 2}
    (folder,) = (p for p in (tmp_path / TRANSFER_FOLDER).iterdir() if p.is_dir())
    assert read_json(folder / "metrics.json")["amount"]["drums"] == 1


def test_songs_that_a_table_names_by_path_count_too(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("input,target\na.wav,b1946ac9\na.wav,gone.wav\n")
    (tmp_path / "a.wav").write_bytes(b"first")
    before = main._named_songs(table)
    assert before == {str(tmp_path / "a.wav"): file_sha256(tmp_path / "a.wav")}
    (tmp_path / "a.wav").write_bytes(b"other")
    assert main._named_songs(table) != before


def test_it_fails_where_nothing_could_be_done(run: Callable[..., dict[str, float]]) -> None:
    with pytest.raises(AudioError, match="at least"):
        run("a,short")
