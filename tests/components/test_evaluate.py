"""The step on a tiny collection: what it writes, and what Kubeflow and MLflow get of it."""

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from components.evaluate.component import evaluate
from components.evaluate.main import EvaluateConfig, headline, run
from components.layout import (
    catalogue_manifest,
    encoder_manifest,
    features_manifest,
    stems_manifest,
)
from components.step import section_json
from mixprint.collection.catalogue import write_catalogue
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.config import load_params
from mixprint.encoder.checkpoint import save_checkpoint
from mixprint.features import extract
from mixprint.features.table import write_features
from mixprint.storage.atomic import read_json, write_json
from tests.evaluation.test_baselines import RATE_HZ, make_encoder
from tests.evaluation.test_evaluate import track

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


class Metrics:
    """Stands for an artifact of KFP that takes metrics."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log_metric(self, name: str, value: float) -> None:
        self.values[name] = value


def make_root(root: Path) -> None:
    """Write what the steps before leave: 3 songs in 2 styles, one segment each."""
    tracks, features = [], []
    generator = torch.Generator().manual_seed(0)
    with write_shard(
        root / "stems" / shard_name(0, 1),
        fingerprint="x",
        sample_rate_hz=RATE_HZ,
        separator=SeparatorFingerprint("true_stems", "", "x"),
    ) as writer:
        for song in range(3):
            for style in ("dry", "wet"):
                one = track(f"{song}{style}", f"song{song}", style)
                stems_SCT = 0.05 * torch.randn(4, 2, 3 * RATE_HZ, generator=generator)
                writer.write(one.track_id, 0, 0.0, stems_SCT)
                tracks.append(one)
                features.append(extract(stems_SCT[None], RATE_HZ))
    write_catalogue(root / "catalogue", tracks, [])
    ids = [one.track_id for one in tracks]
    write_features(root / "features" / "features.parquet", ids, [0] * len(ids), torch.cat(features))
    encoder = make_encoder()
    encoder.standardisation.save(root / "features" / "standardisation.json")
    save_checkpoint(root / "encoder", encoder.model, encoder.standardisation, {})
    write_json(root / "encoder" / "history.json", [{"epoch": 1, "train.loss": 2.0}])


def test_the_step_and_its_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    root = tmp_path / "root"
    make_root(root)
    values = load_params(PARAMS)["evaluate"] | {
        "bootstrap_samples": 10,
        "num_chains": 3,
        "chain_effects": [1],
        "device": "cpu",
    }
    manifests = {
        "catalogue": catalogue_manifest(root),
        "stems": stems_manifest(root),
        "features": features_manifest(root),
        "encoder": encoder_manifest(root),
    }
    inputs = {}
    for name, manifest in manifests.items():
        manifest.save(tmp_path / f"{name}.json")
        inputs[name] = SimpleNamespace(path=str(tmp_path / f"{name}.json"))
    metrics = Metrics()
    evaluate.python_func(
        root=str(root),
        params=section_json(values),
        **inputs,
        evaluation=SimpleNamespace(path=str(tmp_path / "evaluation.json")),
        metrics=metrics,
        report=SimpleNamespace(path=str(tmp_path / "report of KFP.html")),
    )
    report = (tmp_path / "report of KFP.html").read_text()
    assert report.startswith("<!doctype html>")
    assert report.count("<audio") == 16
    written = read_json(root / "evaluation" / "metrics.json")
    assert metrics.values == headline(written)
    assert {"style_recall_at_1", "style_recall_at_1_low", "style_over_song_ratio"} <= set(
        metrics.values
    )
    assert written["data_fingerprint"]
    assert written["chain_retrieval"]["pool_size"] == 3
    assert metrics.values["chain_mrr"] == written["chain_retrieval"]["encoder"]["mrr"]["value"]
    assert report.index("same effect chain") < report.index("same mix style")
    assert "1 effect: recall at 1" in report

    # The encoder came without a run: one was made for it, and holds the report.
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len(runs) == 1
    logged = {f.path for f in MlflowClient().list_artifacts(runs[0].info.run_id, "evaluation")}
    assert {
        "evaluation/report.html",
        "evaluation/metrics.json",
        "evaluation/details.json",
    } <= logged
    logged_value = runs[0].data.metrics["evaluation.style_recall_at_1"]
    assert logged_value == written["style_recall_at_1"]

    before = (root / "evaluation" / "report.html").stat().st_mtime_ns
    again = run(root=str(root), config=EvaluateConfig.from_values(values), **manifests)
    assert (root / "evaluation" / "report.html").stat().st_mtime_ns == before
    assert again.counts == metrics.values
