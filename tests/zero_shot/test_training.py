import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixprint.errors import TrainingError
from mixprint.zero_shot import training as zero_shot_training
from mixprint.zero_shot.checkpoint import load_zero_shot
from tests.zero_shot.trials import Collection, config, encoder_of, make_collection, run


class KilledError(Exception):
    """Stands for a kill: nothing of the library catches it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("zero-shot"))


def test_training_comes_nearer_to_the_truth(tmp_path: Path, data: Collection) -> None:
    used = config(
        level_steps=60, audio_steps=20, level_batch_size=8, level_learning_rate=2.0e-2,
        audio_learning_rate=2.0e-3, valid_steps=80, num_valid=4, num_chains=0, log_steps=10,
        cycle_steps=0, embedding_steps=0,
    )  # fmt: skip
    losses: dict[int, float] = {}

    def keep(step: int, metrics: Any) -> None:
        losses.update({step: metrics["train.loss"]} if "train.loss" in metrics else {})

    result = run(used, data, tmp_path, on_metrics=keep)
    assert losses[60] < 0.6 * losses[10]
    assert result["relative_stems"] < 0.7, "songs that it has not met"
    assert result["relative_mix"] < 0.8
    loaded = load_zero_shot(tmp_path)
    loaded.check_encoder(encoder_of(data).fingerprint)
    assert loaded.metadata["data_fingerprint"] == "tiny"
    assert loaded.metadata["metrics"] == result
    assert result["strength"] in zero_shot_training.STRENGTHS
    history = json.loads((tmp_path / "history.json").read_text())
    assert result["distance"] <= min(entry["distance"] for entry in history)


def test_states_of_other_parameters_go_and_what_was_measured_stays(
    tmp_path: Path, data: Collection
) -> None:
    run(config(level_steps=1, audio_steps=1), data, tmp_path)
    measured = sorted(tmp_path.glob("state/measured/*/*"))
    run(config(level_steps=2, audio_steps=1), data, tmp_path)
    assert len(list(tmp_path.glob("state/*/state-0.json"))) == 1
    assert sorted(tmp_path.glob("state/measured/*/*")) == measured


def weights(out_dir: Path) -> dict[str, torch.Tensor]:
    (marker,) = [
        path
        for path in out_dir.glob("state/*/state-*.json")
        if json.loads(path.read_text())["step"] == 8
    ]
    state = torch.load(marker.with_suffix(".pt"), weights_only=True)
    return dict(state["model"])


def test_a_killed_training_goes_on_to_the_same_bits(
    tmp_path: Path, data: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(), data, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "state" / "measured", tmp_path / "cut/state/measured")
    steps = 0

    class DyingTrainer(zero_shot_training._Trainer):
        def _take_step(self, measured: Any) -> float:
            nonlocal steps
            steps += 1
            if steps in (4, 8):  # in the first part, and in the second one
                raise KilledError
            return super()._take_step(measured)

    monkeypatch.setattr(zero_shot_training, "_Trainer", DyingTrainer)
    for _ in range(2):
        with pytest.raises(KilledError):
            run(config(), data, tmp_path / "cut")
    run(config(), data, tmp_path / "cut")
    assert steps == 4 + 4 + 4, "killed at step 3, then at 5; resumed at 2, then at 4"
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    results = [load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "cut")]
    assert all(torch.equal(results[1][name], value) for name, value in results[0].items())
    history = [(tmp_path / n / "history.json").read_text() for n in ("whole", "cut")]
    assert history[0] == history[1]


@pytest.mark.parametrize("part", ["_learn_levels", "_learn_audio"])
def test_a_loss_that_is_not_finite_stops_before_the_optimiser(
    tmp_path: Path, data: Collection, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    class Broken(zero_shot_training._Trainer):
        def _take_step(self, measured: Any) -> float:
            before = [p.detach().clone() for p in self.network.parameters()]
            try:
                return super()._take_step(measured)
            except TrainingError:
                after = list(self.network.parameters())
                assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
                raise

    learn = getattr(Broken, part)

    def broken(self: Broken, examples: Any, rows: range, measured: Any) -> torch.Tensor:
        losses_B = learn(self, examples, rows, measured)
        return losses_B.index_fill(0, torch.tensor([1]), float("nan"))

    monkeypatch.setattr(Broken, part, broken)
    monkeypatch.setattr(zero_shot_training, "_Trainer", Broken)
    step = {"_learn_levels": 0, "_learn_audio": 4}[part]
    with pytest.raises(TrainingError, match=rf"step {step}: .*track [ab]-\w+ segment \d"):
        run(config(), data, tmp_path)


def test_audio_of_another_rate_is_refused(tmp_path: Path, data: Collection) -> None:
    encoder = encoder_of(data)
    encoder.model.config = dataclasses.replace(encoder.model.config, sample_rate_hz=48_000)
    with pytest.raises(TrainingError, match="the encoder: expected 44100 Hz, found 48000"):
        run(config(), data, tmp_path, encoder=encoder)
