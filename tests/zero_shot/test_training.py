import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.errors import TrainingError
from mixprint.training.recorder import TIMES
from mixprint.zero_shot import training
from mixprint.zero_shot.checkpoint import load_zero_shot
from tests.zero_shot.trials import (
    Collection,
    config,
    encoder_of,
    make_collection,
    quick_validation,
    run,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("zero-shot"))


@pytest.fixture(scope="module")
def whole(data: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with quick_validation():
        run(config(), data, folder)
    return folder


def copy_measured(whole: Path, folder: Path) -> None:
    """Bring what was measured of the same renderings: that takes longer than some steps."""
    shutil.copytree(whole / "state" / "measured", folder / "state" / "measured")


def test_training_comes_nearer_to_the_truth(tmp_path: Path, data: Collection) -> None:
    used = config(
        level_steps=60, audio_steps=20, level_batch_size=8, level_learning_rate=2.0e-2,
        audio_learning_rate=2.0e-3, valid_steps=80, num_valid=2, num_chains=0, log_steps=10,
        cycle_steps=0, embedding_steps=0,
    )  # fmt: skip
    losses: dict[int, float] = {}

    def keep(step: int, metrics: Any) -> None:
        if "train.loss" in metrics:
            losses[step] = metrics["train.loss"]

    best = run(used, data, tmp_path, on_metrics=keep).best
    assert losses[60] < 0.6 * losses[10]
    assert best["valid.relative_stems"] < 0.7, "songs that it has not met"
    assert best["valid.relative_mix"] < 0.8
    loaded = load_zero_shot(tmp_path)
    loaded.check_encoder(encoder_of(data).fingerprint)
    assert loaded.metadata["data_fingerprint"] == "tiny"
    assert loaded.metadata["metrics"] == {k: v for k, v in best.items() if k not in TIMES}


def test_the_best_network_is_written_in_the_strength_that_comes_nearest(
    whole: Path, data: Collection
) -> None:
    metrics = load_zero_shot(whole).metadata["metrics"]
    history = json.loads((whole / "history.json").read_text())
    assert [entry["step"] for entry in history] == [4, 8], "the end of the first phase, then all 4"
    best = min(history, key=lambda entry: entry["valid.distance"])
    assert metrics["step"] == best["step"]
    assert metrics["valid.distance"] <= best["valid.distance"]
    assert metrics["strength"] in training.STRENGTHS
    trained, written = (load_zero_shot(folder).network for folder in (whole / "best_model", whole))
    assert torch.equal(
        written.gain_head.weight, trained.weakened(metrics["strength"]).gain_head.weight
    )
    assert trained.gain_head.weight.abs().max() > 0


def test_each_phase_has_a_rate_of_its_own(whole: Path) -> None:
    rates = [
        entry["train.learning_rate"] for entry in json.loads((whole / "history.json").read_text())
    ]
    # Half a cosine over four steps: 1, 0.854, 0.5 and 0.146 of the highest.
    assert rates == pytest.approx([0.625 * 1.5e-3, 0.625 * 2.0e-4], rel=1e-3)


def test_states_of_other_parameters_go_and_what_was_measured_stays(
    tmp_path: Path, data: Collection
) -> None:
    with quick_validation():
        run(config(level_steps=1, audio_steps=1), data, tmp_path)
    measured = {path: path.stat().st_mtime_ns for path in tmp_path.glob("state/measured/*/*")}
    with quick_validation():
        run(config(level_steps=2, audio_steps=1), data, tmp_path)
    assert len(list(tmp_path.glob("state/*/identity.json"))) == 1
    assert measured == {path: path.stat().st_mtime_ns for path in measured}
    assert measured


def test_a_loss_of_levels_that_is_not_finite_names_its_example(
    tmp_path: Path, data: Collection, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_measured(whole, tmp_path)
    distance = training.level_distance

    def broken(*arguments: Any) -> Tensor:
        return distance(*arguments).index_fill(0, torch.tensor([1]), float("nan"))

    monkeypatch.setattr(training, "level_distance", broken)
    message = r"step 0: expected a finite loss, found nan; input track [ab]-\w+ segment \d"
    with pytest.raises(TrainingError, match=message) as caught:
        run(config(), data, tmp_path)
    assert str(caught.value).count("input track") == 1


def test_a_loss_of_audio_that_is_not_finite_names_its_example(
    tmp_path: Path, data: Collection, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_measured(whole, tmp_path)
    distance, calls = training.audio_distance, []

    def broken(*arguments: Any) -> Tensor:
        calls.append(1)
        return distance(*arguments) * (float("nan") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(training, "audio_distance", broken)
    message = r"step 0: expected a finite loss, found nan; input track [ab]-\w+ segment \d"
    with pytest.raises(TrainingError, match=message) as caught:
        run(config(level_steps=0, cycle_steps=0), data, tmp_path)
    assert str(caught.value).count("input track") == 1


def test_audio_of_another_rate_is_refused(tmp_path: Path, data: Collection) -> None:
    encoder = encoder_of(data)
    encoder.model.config = dataclasses.replace(encoder.model.config, sample_rate_hz=48_000)
    with pytest.raises(TrainingError, match="the encoder: expected 44100 Hz, found 48000"):
        run(config(), data, tmp_path, encoder=encoder)
