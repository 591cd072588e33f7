"""Training: it learns, resumes exactly, exports what loads, and stops on what is broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mixprint.errors import CheckpointError, ConfigError, TrainingError
from mixprint.separation import load_separator, training
from mixprint.separation.training import Recipe, spectral_rmse, train_separator

MODEL = {"dims": [4, 4, 4], "nfft": 512, "hop_size": 256, "win_size": 512, "num_dplayer": 2}
TRAINING = {
    "segment_s": 0.1,
    "batch_size": 2,
    "max_minutes": 0.0,
    "max_steps": 4,
    "warmup_steps": 2,
    "log_steps": 2,
    "save_steps": 2,
    "valid_steps": 2,
    "num_valid": 1,
    "max_valid_songs": 1,
    "valid_s": 0.3,
    "precision": "float32",
}


def _recipe(variant: str = "masked", **changes: Any) -> Recipe:
    return Recipe.from_values(
        {"variant": variant, "model": MODEL, "training": {**TRAINING, **changes}}
    )


@pytest.fixture
def data_dir(tmp_path: Path, make_songs: Callable[..., Path]) -> Path:
    return make_songs(tmp_path / "songs", 3)


def _state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_outputs(tmp_path: Path, data_dir: Path, variant: str, precision: str) -> None:
    recipe = _recipe(variant, precision=precision, waveform_weight=0.5)
    path = train_separator(
        data_dir, tmp_path / "out", recipe, device="cpu", extra_valid={"more": data_dir}
    )
    separator = load_separator(path)
    assert separator.model.variant == variant
    assert separator.window_s == 0.1
    description = json.loads(path.with_suffix(".json").read_text())
    assert description["training"]["steps"] == 4
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4]
    assert set(history[-1]["more"]) == {"vocals", "bass", "drums", "other", "average"}
    assert set(history[-1]) == {"step", "minutes", "generated", "more"}


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_separator(data_dir, tmp_path / "whole", _recipe(), device="cpu")

    step = training._Run.train_step

    def killed(run: training._Run, *batch: torch.Tensor) -> float:
        if run.step == 3:
            raise KeyboardInterrupt
        return step(run, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_separator(data_dir, tmp_path / "killed", _recipe(), device="cpu")
    assert _state(tmp_path / "killed")["step"] == 2
    resumed = train_separator(data_dir, tmp_path / "killed", _recipe(), device="cpu")
    assert resumed.read_bytes() == whole.read_bytes()
    for part in ("model", "average"):
        first, second = _state(tmp_path / "whole")[part], _state(tmp_path / "killed")[part]
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_it_learns(tmp_path: Path, data_dir: Path) -> None:
    # The stems are noise at levels 1:2:3:4, so the best guess is a share of the mixture.
    recipe = _recipe(max_steps=60, valid_steps=60, save_steps=60, ema_decay=0.5, learning_rate=0.01)
    quiet = {
        "remix_probability": 0.0,
        "gain_range_db": 0.0,
        "equaliser_probability": 0.0,
        "dropout_probability": 0.0,
    }
    recipe = Recipe.from_values({**recipe.to_values(), "remix": quiet})
    train_separator(data_dir, tmp_path / "out", recipe, device="cpu")
    scores = json.loads((tmp_path / "out" / "history.json").read_text())[-1]["generated"]
    # Wiener: the error of the loudest stem is its power times 14/30, so 3.3 dB; silence gives 0.
    assert scores["other"] > 2.0
    assert scores["average"] > 0.5


def test_a_training_can_start_from_a_checkpoint(tmp_path: Path, data_dir: Path) -> None:
    first = train_separator(data_dir, tmp_path / "first", _recipe(), device="cpu")
    second = train_separator(
        data_dir,
        tmp_path / "second",
        _recipe(max_steps=1, learning_rate=1e-12, weight_decay=0.0),
        device="cpu",
        initial=first,
    )
    before, after = (load_separator(path).model.state_dict() for path in (first, second))
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-3)


def test_a_loss_that_is_not_finite_stops_it(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training, "spectral_rmse", lambda a, b: spectral_rmse(a, b) * torch.tensor(torch.nan)
    )
    with pytest.raises(TrainingError, match="step 0"):
        train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_state_of_another_model_is_refused(tmp_path: Path, data_dir: Path) -> None:
    train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")
    with pytest.raises(CheckpointError, match="variant"):
        train_separator(data_dir, tmp_path / "out", _recipe("plain"), device="cpu")
    (tmp_path / "out" / "state.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")


def test_spectral_rmse_of_known_errors() -> None:
    target = torch.zeros(1, 2, 1, 3, 4, dtype=torch.complex64)
    estimate = target.clone()
    estimate[:, 0] = 3 + 4j  # mean square over real and imaginary parts: 12.5
    expected = (12.5**0.5 + 1e-4) / 2
    assert spectral_rmse(estimate, target).item() == pytest.approx(expected, rel=1e-5)


def test_silence_has_a_finite_gradient() -> None:
    estimate = torch.zeros(1, 1, 1, 3, 4, dtype=torch.complex64, requires_grad=True)
    spectral_rmse(estimate, torch.zeros_like(estimate)).backward()
    assert estimate.grad is not None
    assert torch.view_as_real(estimate.grad).isfinite().all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modell": {}}, "modell"),
        ({"training": {"epochs": 3}}, "epochs"),
        ({"training": {"segment_s": "4"}}, "segment_s"),
        ({"training": {"precision": "float16"}}, "precision"),
        ({"training": {"max_minutes": 0.0}}, "max_minutes"),
        ({"remix": {"gain": 1.0}}, "gain"),
        ({"model": {"num_dplayer": 3}}, "num_dplayer"),
    ],
)
def test_wrong_recipes_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_values(values)


def test_recipe_round_trip() -> None:
    assert Recipe.from_values(json.loads(json.dumps(_recipe().to_values()))) == _recipe()


def test_command_line(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both change the whole process, and so the tests that come after.
    monkeypatch.setattr(training, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(training, "setup_logging", lambda: None)
    config_path = tmp_path / "recipe.yaml"
    config_path.write_text(yaml.safe_dump({"model": MODEL, "training": TRAINING}))
    out_dir = tmp_path / "out"
    options = ["--data", str(data_dir), "--out", str(out_dir), "--config", str(config_path)]
    options += ["--threads", "1", "--device", "cpu"]
    assert training.main([*options, "--steps", "2", "--valid", f"same={data_dir}"]) == 0
    assert (out_dir / "separator.safetensors").exists()
    assert training.main([*options[:1], str(tmp_path / "absent"), *options[2:]]) == 1
