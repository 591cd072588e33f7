"""Training: it learns, resumes exactly, exports what loads, and stops on what is broken."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch

from mixprint.errors import CheckpointError, ConfigError, DataError, TrainingError
from mixprint.fingerprint import file_sha256
from mixprint.separation import SCNetConfig, build_scnet, export_separator, load_separator
from mixprint.separation.material.pool import PoolConfig
from mixprint.separation.material.songs import training_songs
from mixprint.separation.metrics import score_separator
from mixprint.separation.scnet import training
from mixprint.separation.scnet.settings import SeparatorTrainConfig
from mixprint.separation.scnet.training import (
    SeparatorTask,
    spectral_rmse,
    train_separator,
)
from mixprint.stems import STEMS
from tests.separation.trials import TINY_MODEL, make_songs, separator_config
from tests.training.trials import KilledError, killed_in_step, newest_state, result_hashes

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
    "max_bad_fraction": 0.0,
    "precision": "float32",
}


def _recipe(variant: str = "masked", **changes: Any) -> SeparatorTrainConfig:
    return separator_config(
        {"variant": variant, "model": TINY_MODEL, "training": {**TRAINING, **changes}}
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return make_songs(tmp_path / "songs", 3)


def _assert_equal_results(one: Path, other: Path) -> None:
    """Expect the same weights, in what is exported and in the states."""
    assert result_hashes(one) == result_hashes(other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_outputs(tmp_path: Path, data_dir: Path, variant: str, precision: str) -> None:
    recipe = _recipe(variant, precision=precision, waveform_weight=0.5)
    path = train_separator(
        data_dir, tmp_path / "out", recipe, device="cpu", extra_valid={"more": data_dir}
    )
    separator = load_separator(path)
    assert separator.network.model.variant == variant
    assert separator.window_s == 0.1
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4]
    names = {
        f"{songs}.{measure}.{stem}"
        for songs in ("held_out", "more")
        for measure in ("utterance_sdr", "museval_sdr")
        for stem in (*STEMS, "average")
    }
    figures = {f"valid.{name}" for name in names} | {"valid.time_s"}
    assert {name for name in history[-1] if name.startswith("valid.")} == figures
    best = max(history, key=lambda entry: entry["valid.held_out.utterance_sdr.average"])
    for name, entry in (("separator", best), ("separator-last", history[-1])):
        description = json.loads((tmp_path / "out" / f"{name}.json").read_text())["training"]
        assert description["steps"] == entry["step"]
        scores = description["validation"]["more"]["museval_sdr"]
        assert scores == {
            stem: round(entry[f"valid.more.museval_sdr.{stem}"], 3) for stem in (*STEMS, "average")
        }
        assert description["recipe"] == recipe.identity()


def _scores_of_steps(
    monkeypatch: pytest.MonkeyPatch, by_step: Mapping[int, float]
) -> dict[int, dict[str, torch.Tensor]]:
    """Let validations have these results; gives the averaged weights that were validated."""
    validated: dict[int, dict[str, torch.Tensor]] = {}

    def noted(
        task: SeparatorTask, step: int, parts: Mapping[str, torch.nn.Module]
    ) -> dict[str, float]:
        task._validated_step = step
        state = parts["network"].state_dict()
        validated[step] = {key: value.clone() for key, value in state.items()}
        # Where all stems are silent there is no figure.
        value = by_step[step]
        return {} if math.isnan(value) else {"held_out.utterance_sdr.average": value}

    monkeypatch.setattr(SeparatorTask, "validate", noted)
    return validated


def _has_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> bool:
    found = load_separator(path).network.model.state_dict()
    # On disk they are rounded to float16.
    return all(torch.equal(found[key], value.half().float()) for key, value in expected.items())


SCORES_AND_BEST: dict[str, tuple[dict[int, float], int]] = {
    "middle": ({2: 1.0, 4: 3.0, 6: 2.0}, 4),
    "first": ({2: 3.0, 4: 1.0, 6: 2.0}, 2),
    "last": ({2: 1.0, 4: 2.0, 6: 3.0}, 6),
    "others silent": ({2: -9.0, 4: math.nan, 6: math.nan}, 2),
    "all silent": ({2: math.nan, 4: math.nan, 6: math.nan}, 6),
    "equal": ({2: 1.0, 4: 3.0, 6: 3.0}, 6),
}


# Without a kill the scores are compared in the same place: two of them show that it needs none.
@pytest.mark.parametrize(
    ("scores", "killed"),
    [*((scores, True) for scores in SCORES_AND_BEST), ("middle", False), ("all silent", False)],
)
def test_the_best_validated_weights_are_exported_and_the_last_beside_them(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, scores: str, killed: bool
) -> None:
    by_step, best = SCORES_AND_BEST[scores]
    validated = _scores_of_steps(monkeypatch, by_step)
    out = tmp_path / "out"
    if killed:
        with killed_in_step(6, torch.optim.AdamW), pytest.raises(KilledError):
            train_separator(data_dir, out, _recipe(max_steps=6), device="cpu")
    path = train_separator(data_dir, out, _recipe(max_steps=6), device="cpu")
    assert _has_weights(path, validated[best])
    assert _has_weights(out / "separator-last.safetensors", validated[6])
    description = json.loads(path.with_suffix(".json").read_text())["training"]
    assert description["steps"] == description["validation"]["step"] == best


def test_a_best_validation_on_other_songs_is_not_compared(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = _scores_of_steps(monkeypatch, {2: 9.0, 4: 1.0})
    train_separator(data_dir, tmp_path / "out", _recipe(max_steps=2), device="cpu")
    recipe = _recipe(max_steps=4, valid_s=0.2)
    path = train_separator(data_dir, tmp_path / "out", recipe, device="cpu")
    assert _has_weights(path, validated[4])


def test_a_longer_training_goes_on_from_a_finished_one(tmp_path: Path, data_dir: Path) -> None:
    train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")
    before = file_sha256(tmp_path / "out" / "separator.safetensors")
    train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")
    assert file_sha256(tmp_path / "out" / "separator.safetensors") == before
    train_separator(data_dir, tmp_path / "out", _recipe(max_steps=5), device="cpu")
    assert newest_state(tmp_path / "out")["step"] == 5


class NoiseWriter:
    """Writes songs of noise, a hundredth of a second apart in length, and notes which."""

    fingerprint = "noise" * 4

    def __call__(self, number: int, folder: Path) -> None:
        generator = torch.Generator().manual_seed(number)
        for stem in STEMS:
            audio_TC = 0.1 * torch.randn(22_050 + 441 * number, 2, generator=generator).clamp(-3, 3)
            sf.write(folder / f"{stem}.wav", audio_TC.numpy(), 44_100)


SONGS = {"pool_size": 3, "refresh_steps": 2, "new_songs": 2, "num_generators": 0}


def _made_recipe(**changes: Any) -> SeparatorTrainConfig:
    songs = PoolConfig(**{**vars(separator_config().songs), **SONGS, **changes})
    return replace(_recipe(max_steps=6), songs=songs)


def test_songs_are_made_while_the_training_goes_on(tmp_path: Path) -> None:
    outs = {}
    for name, recipe in (
        ("inline", _made_recipe()),
        ("ahead", _made_recipe(num_generators=2)),
    ):
        outs[name] = tmp_path / name
        train_separator(None, outs[name], recipe, device="cpu", writer=NoiseWriter())
    _assert_equal_results(outs["inline"], outs["ahead"])
    made = {int(p.name) for p in (outs["inline"] / "songs").glob("*/[0-9]*")}
    # Song 0 is held out. Step 6, the last, has songs 7 to 9 and takes none; the state before, of
    # step 4, has 5 to 7: what lies before is gone.
    assert 0 in made
    assert made - {0} <= set(range(5, 10))


def test_a_training_on_made_songs_resumes_exactly(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    train_separator(None, whole, _made_recipe(), device="cpu", writer=NoiseWriter())
    with killed_in_step(6, torch.optim.AdamW), pytest.raises(KilledError):
        train_separator(
            None, tmp_path / "killed", _made_recipe(), device="cpu", writer=NoiseWriter()
        )
    train_separator(None, tmp_path / "killed", _made_recipe(), device="cpu", writer=NoiseWriter())
    _assert_equal_results(whole, tmp_path / "killed")


def test_other_songs_are_noticed(tmp_path: Path, data_dir: Path, caplog: Any) -> None:
    train_separator(data_dir, tmp_path / "out", _recipe(max_steps=2), device="cpu")
    other = make_songs(tmp_path / "other", 4)
    with caplog.at_level(logging.WARNING, "mixprint.separation.scnet.training"):
        train_separator(other, tmp_path / "out", _recipe(), device="cpu")
    assert "the songs are others than before" in caplog.text


def test_it_learns(tmp_path: Path, data_dir: Path) -> None:
    # The stems are noise at levels 1:2:3:4, so the best guess is a share of the mixture.
    recipe = _recipe(max_steps=60, valid_steps=60, save_steps=60, ema_decay=0.5, learning_rate=0.01)
    quiet = {
        "remix_probability": 0.0,
        "gain_range_db": 0.0,
        "equaliser_probability": 0.0,
        "dropout_probability": 0.0,
    }
    recipe = replace(recipe, remix=replace(recipe.remix, **quiet))
    train_separator(data_dir, tmp_path / "out", recipe, device="cpu")
    entry = json.loads((tmp_path / "out" / "history.json").read_text())[-1]
    # Wiener: the error of the loudest stem is its power times 14/30, so 3.3 dB; silence gives 0.
    assert entry["valid.held_out.utterance_sdr.other"] > 2.0
    assert entry["valid.held_out.utterance_sdr.average"] > 0.5


def _unmoving(**changes: Any) -> SeparatorTrainConfig:
    """Return a recipe that names no model, and a rate at which nothing is learned."""
    training_values = {**TRAINING, "max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    return separator_config({"training": training_values, **changes})


@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_a_training_can_start_from_a_checkpoint_of_any_model(
    tmp_path: Path, data_dir: Path, variant: str
) -> None:
    model = SCNetConfig.from_values({**TINY_MODEL, "dims": [4, 8, 4]})
    first = export_separator(build_scnet(model, variant), tmp_path / "first", window_s=0.1)
    second = train_separator(
        data_dir, tmp_path / "second", _unmoving(), device="cpu", initial=first
    )
    before, after = (load_separator(path).network.model for path in (first, second))
    assert after.variant == variant
    assert after.config == model
    for key, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[key], value, rtol=0, atol=1e-3)
    # A resumption takes the model from its state, whether the checkpoint is named again or not.
    train_separator(data_dir, tmp_path / "second", _unmoving(), device="cpu")


def test_a_recipe_that_names_another_model_than_the_checkpoint_is_refused(
    tmp_path: Path, data_dir: Path
) -> None:
    network = build_scnet({**TINY_MODEL, "dims": [4, 8, 4]}, "plain")
    first = export_separator(network, tmp_path / "first", window_s=0.1)
    with pytest.raises(CheckpointError, match="do not fit"):
        train_separator(
            data_dir, tmp_path / "second", _unmoving(model=TINY_MODEL), device="cpu", initial=first
        )


def test_a_recipe_may_name_more_layers_than_the_checkpoint_has(
    tmp_path: Path, data_dir: Path
) -> None:
    network = build_scnet(TINY_MODEL, "masked")
    first = export_separator(network, tmp_path / "first", window_s=0.1)
    recipe = _unmoving(model={**TINY_MODEL, "num_dplayer": 4})
    paths = [
        train_separator(data_dir, tmp_path / name, recipe, device="cpu", initial=first)
        for name in ("second", "third")
    ]
    second, third = (load_separator(path).network.model for path in paths)
    audio_BCT = 0.1 * torch.randn(1, 2, 4000)
    assert torch.allclose(second(audio_BCT), network.eval()(audio_BCT), atol=1e-3)
    # What the new layers begin with follows from the seed.
    for key, value in second.state_dict().items():
        assert torch.equal(third.state_dict()[key], value)


def test_metrics_are_reported(tmp_path: Path, data_dir: Path) -> None:
    seen: list[tuple[int, Mapping[str, float]]] = []
    train_separator(
        data_dir,
        tmp_path / "out",
        _recipe(),
        device="cpu",
        on_metrics=lambda step, metrics: seen.append((step, metrics)),
    )
    logged = {step: metrics for step, metrics in seen if "epoch" not in metrics}
    names = {"loss", "relative_loss", "learning_rate", "gradient_norm", "step_s"}
    assert {step: set(metrics) for step, metrics in logged.items()} == {
        step: {f"train.{name}" for name in names} for step in (2, 4)
    }
    valid = [metrics for _, metrics in seen if "epoch" in metrics]
    assert [metrics["step"] for metrics in valid] == [2, 4]
    assert all("valid.held_out.museval_sdr.average" in metrics for metrics in valid)


def test_broken_songs_are_left_out_until_there_are_too_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_dir = make_songs(tmp_path / "songs", 6)
    (data_dir / "song1" / "bass.wav").unlink()
    # Its header promises more than there is: found only when it is read.
    cut = data_dir / "song2" / "other.wav"
    cut.write_bytes(cut.read_bytes()[:2000])
    recipe = _recipe(max_bad_fraction=0.4, max_steps=6)
    with caplog.at_level(logging.WARNING):
        train_separator(data_dir, tmp_path / "out", recipe, device="cpu")
    assert "song1/bass.wav: expected a readable stem" in caplog.text
    with pytest.raises(DataError, match=r"at most 0 of 6 songs .* found 1: .*song1/bass\.wav"):
        train_separator(data_dir, tmp_path / "strict", _recipe(), device="cpu")


def test_a_validation_tells_the_mean_of_the_songs_so_far(
    tmp_path: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mixprint.separation"):
        recipe = _recipe(num_valid=2, max_valid_songs=2)
        train_separator(data_dir, tmp_path / "out", recipe, device="cpu")
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    told = [text for text in caplog.messages if text.startswith("validated 2/2 songs, ")]
    assert [text.rpartition(", ")[2] for text in told] == [
        f"SDR {entry['valid.held_out.utterance_sdr.average']:.2f} dB" for entry in history
    ]


def test_broken_songs_to_validate_on_are_left_out_until_there_are_too_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data_dir = make_songs(tmp_path / "songs", 6)
    held_out = [song.path for song in training_songs(data_dir, 3)[1]]
    extra = make_songs(tmp_path / "extra", 4)
    (extra / "song0" / "bass.wav").unlink()
    # Found only when they are read: samples that are no numbers, and a mixture that ends early.
    broken = (held_out[1] / "other.wav", extra / "song3" / "mixture.wav")
    sf.write(broken[0], torch.full((22_050, 2), torch.nan).numpy(), 44_100, subtype="FLOAT")
    sf.write(broken[1], torch.zeros(100, 2).numpy(), 44_100)
    recipe = _recipe(num_valid=3, max_valid_songs=3, max_bad_fraction=0.4)
    out_dir = tmp_path / "out"
    with caplog.at_level(logging.WARNING, "mixprint.separation"):
        path = train_separator(data_dir, out_dir, recipe, device="cpu", extra_valid={"more": extra})
    for file in broken:
        told = [text for text in caplog.messages if str(file) in text]
        assert len(told) == 1, "at the first of two validations"
        assert told[0].startswith("left out a song to validate on")
    assert f"{extra}/song0/bass.wav" in caplog.text
    history = json.loads((out_dir / "history.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4]
    # What is left counts as it would without the broken ones.
    separator = load_separator(path)
    for name, songs in (
        ("held_out", [held_out[0], held_out[2]]),
        ("more", [extra / "song1", extra / "song2"]),
    ):
        expected = score_separator(separator, songs, max_duration_s=0.3)
        for measure, by_stem in expected.items():
            # The weights on disk are rounded to float16.
            found = {stem: history[-1][f"valid.{name}.{measure}.{stem}"] for stem in by_stem}
            assert found == pytest.approx(by_stem, abs=0.02)

    strict = _recipe(num_valid=3, max_valid_songs=3, max_bad_fraction=0.0)
    with pytest.raises(DataError, match=r"at most 0 of 3 songs .* found 1: .*other\.wav"):
        train_separator(data_dir, tmp_path / "strict", strict, device="cpu")


def test_a_loss_that_is_not_finite_stops_it(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training, "spectral_rmse", lambda a, b: spectral_rmse(a, b) * torch.tensor(torch.nan)
    )
    with pytest.raises(
        TrainingError, match=r"step 0: .*, found nan; example 0 \(\S+/song\d from \d\.\d\d s"
    ):
        train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")
    assert not list((tmp_path / "out").rglob("*.pt"))


def test_a_state_of_another_model_is_refused(tmp_path: Path, data_dir: Path) -> None:
    train_separator(data_dir, tmp_path / "out", _recipe(), device="cpu")
    with pytest.raises(CheckpointError, match="variant"):
        train_separator(data_dir, tmp_path / "out", _recipe("plain"), device="cpu")


def test_a_state_of_another_optimiser_is_refused(tmp_path: Path, data_dir: Path) -> None:
    train_separator(data_dir, tmp_path / "out", _recipe(max_steps=1), device="cpu")
    with pytest.raises(CheckpointError, match="of optimiser adamw, found muon"):
        train_separator(
            data_dir, tmp_path / "out", _recipe(max_steps=1, optimiser="adamw"), device="cpu"
        )


def test_spectral_rmse_of_known_errors() -> None:
    target = torch.zeros(1, 2, 1, 3, 4, dtype=torch.complex64)
    estimate = target.clone()
    estimate[:, 0] = 3 + 4j  # mean square over real and imaginary parts: 12.5
    expected = (12.5**0.5 + 1e-4) / 2
    assert spectral_rmse(estimate, target).mean().item() == pytest.approx(expected, rel=1e-5)


def test_silence_has_a_finite_gradient() -> None:
    estimate = torch.zeros(1, 1, 1, 3, 4, dtype=torch.complex64, requires_grad=True)
    spectral_rmse(estimate, torch.zeros_like(estimate)).mean().backward()
    assert estimate.grad is not None
    assert torch.view_as_real(estimate.grad).isfinite().all()


@pytest.mark.parametrize("name", ["step", "held_out", "my songs!", ""])
def test_validation_songs_cannot_have_every_name(tmp_path: Path, data_dir: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"found {name!r}"):
        train_separator(
            data_dir, tmp_path / "out", _recipe(), device="cpu", extra_valid={name: data_dir}
        )
