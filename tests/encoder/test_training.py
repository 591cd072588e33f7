import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from mixprint.encoder import training
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.data import TrackSegments
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import retrieval_metrics, train
from mixprint.errors import ConfigError, TrainingError
from mixprint.shards import SegmentRef


class KilledError(Exception):
    """Stands for a kill: nothing of the library catches it."""


def run(config: TrainConfig, tiny_set: Any, out_dir: Path, **changes: Any) -> dict[str, float]:
    arguments = {
        "tracks": tiny_set.tracks,
        "stems_dir": tiny_set.stems_dir,
        "features_dir": tiny_set.features_dir,
        "out_dir": out_dir,
        "data_fingerprint": "tiny",
    }
    return train(config, **(arguments | changes))


def test_training_writes_a_usable_encoder_and_its_history(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    before = torch.random.get_rng_state()
    metrics = run(
        make_config(),
        tiny_set,
        tmp_path,
        on_epoch=lambda epoch, values: seen.append((epoch, values)),
    )
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's randomness is its own
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    history = json.loads((tmp_path / "history.json").read_text())
    assert history == [{"epoch": epoch, **values} for epoch, values in seen]
    best = max(history, key=lambda row: (row["valid_recall_at_1"], -row["valid_loss"]))
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["valid_loss"] == best["valid_loss"]
    encoder = load_checkpoint(tmp_path)
    assert encoder.metadata["data_fingerprint"] == "tiny"
    # Times stay out of the checkpoint, so that equal trainings write equal files.
    times = {"epoch_s", "train_segments_per_s"}
    assert times <= metrics.keys()
    assert encoder.metadata["metrics"] == {k: v for k, v in metrics.items() if k not in times}
    assert encoder.metadata["train"]["embedding_dim"] == 16


def test_the_loss_falls(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    # Without augmentations, whose random strengths make the losses of so small a set jump.
    config = make_config(
        epochs=8, learning_rate=3e-3, augmented_negatives=False, shared_chain_weight=0.0
    )
    run(config, tiny_set, tmp_path)
    losses = [row["train_loss"] for row in json.loads((tmp_path / "history.json").read_text())]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("where", ["between epochs", "inside an epoch", "while saving"])
def test_a_killed_run_resumes_to_identical_weights(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    config = make_config(epochs=3, film_dropout=0.3)
    run(config, tiny_set, tmp_path / "whole")
    epochs: list[int] = []

    def kill_after_second(epoch: int, _: dict[str, float]) -> None:
        epochs.append(epoch)
        if epoch == 2 and where == "between epochs":
            raise KilledError

    calls = {"count": 0}

    def killing(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls["count"] += 1
            if calls["count"] == 2:
                raise KilledError
            return original(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        if where == "inside an epoch":
            patch.setattr(training, "apply_chains", killing(training.apply_chains))
        elif where == "while saving":
            patch.setattr(torch, "save", killing(torch.save))
        with pytest.raises(KilledError):
            run(config, tiny_set, tmp_path / "killed", on_epoch=kill_after_second)
    run(config, tiny_set, tmp_path / "killed", on_epoch=kill_after_second)
    assert epochs == [1, 2, 3]  # no epoch is reported twice
    whole, killed = (
        torch.load(tmp_path / name / "state" / "state.pt", weights_only=True)
        for name in ("whole", "killed")
    )
    for name, weight in whole["model"].items():
        assert torch.equal(weight, killed["model"][name]), name
    best = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_state_of_other_parameters_is_not_resumed(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    epochs: list[int] = []
    run(make_config(epochs=1), tiny_set, tmp_path)
    run(
        make_config(epochs=1, temperature=0.2),
        tiny_set,
        tmp_path,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert epochs == [1]
    run(
        make_config(epochs=1, temperature=0.2, num_workers=1),
        tiny_set,
        tmp_path,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert epochs == [1]  # the number of workers changes nothing, so there is nothing to do


def test_a_loss_that_is_not_finite_stops_before_the_optimiser_moves(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: steps.append(1))
    original = training.apply_chains

    def broken(stems_BSCT: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = original(stems_BSCT, *rest)
        out[0] = math.nan
        return out

    monkeypatch.setattr(training, "apply_chains", broken)
    with pytest.raises(TrainingError, match=r"step 0: loss is nan.*tracks \['[ab][01]'\]"):
        run(make_config(), tiny_set, tmp_path)
    assert steps == []
    assert not (tmp_path / "weights.safetensors").exists()


def test_patience_ends_a_run(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flat = {"valid_recall_at_1": 0.5, "valid_mrr": 0.5, "valid_loss": 1.0}
    monkeypatch.setattr(training, "retrieval_metrics", lambda *_: flat)
    metrics = run(make_config(epochs=9, patience=2), tiny_set, tmp_path)
    assert (metrics["best_epoch"], metrics["num_epochs"]) == (1, 3)


def test_too_few_tracks_are_an_error_and_no_validation_is_a_warning(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(TrainingError, match="at least 2 tracks of two segments"):
        run(make_config(), tiny_set, tmp_path, tracks=tiny_set.tracks[:1])
    with caplog.at_level("WARNING", "mixprint.encoder"):
        run(make_config(epochs=1), tiny_set, tmp_path, tracks=tiny_set.tracks[:4])
    assert "the train split chooses the best epoch" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"conditioning": "prepend", "dropped_families": ("level",)},
        {"conditioning": "none", "augmented_negatives": False, "shared_chain_weight": 0.0},
        {"num_workers": 1},
    ],
)
def test_every_choice_trains(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    metrics = run(make_config(epochs=1, **changes), tiny_set, tmp_path)
    assert math.isfinite(metrics["train_loss"])


def train_rank(rank: int, folder: str, config: TrainConfig, tiny_set: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    run(config, tiny_set, Path(folder) / "ranks")
    distributed.destroy_process_group()


def test_loss_and_gradients_of_two_processes_equal_those_of_one(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    start_ranks: Callable[..., None],
) -> None:
    # Without dropout, whose masks are each process's own; one step, because Adam turns rounding
    # in tiny gradients into steps of full size.
    config = make_config(epochs=1, film_dropout=0.0, learn_temperature=True)
    start_ranks(train_rank, str(tmp_path), config, tiny_set)
    run(config, tiny_set, tmp_path / "one")
    ranks, one = (
        json.loads((tmp_path / name / "history.json").read_text())[0] for name in ("ranks", "one")
    )
    for key in ("train_loss", "gradient_norm", "valid_loss", "temperature"):
        assert ranks[key] == pytest.approx(one[key], abs=1e-5), key
    ranks, one = (
        torch.load(tmp_path / name / "state" / "state.pt", weights_only=True)["optimizer"]["state"]
        for name in ("ranks", "one")
    )
    for index, moments in one.items():
        # After one step the first moment is a tenth of the clipped gradient.
        gradients = [10 * state["exp_avg"] for state in (ranks[index], moments)]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def segments(track: str, *starts_s: float) -> TrackSegments:
    references = [SegmentRef(Path("none"), 0, track, i, s) for i, s in enumerate(starts_s)]
    return TrackSegments(track, track, tuple(references))


def test_retrieval_by_hand() -> None:
    tracks = [segments("a", 0, 10), segments("b", 0, 10)]
    eye = torch.eye(2)
    scale = torch.tensor(3.0)
    right = retrieval_metrics(eye[[0, 0, 1, 1]], tracks, 10.0, scale)
    assert right["valid_recall_at_1"] == 1
    assert right["valid_mrr"] == 1
    assert right["valid_loss"] == pytest.approx(math.log(1 + math.exp(-3)))
    # One segment of the other track is nearer, the other just as near: rank 3.
    wrong = retrieval_metrics(eye[[0, 1, 0, 1]], tracks, 10.0, scale)
    assert wrong["valid_recall_at_1"] == 0
    assert wrong["valid_mrr"] == pytest.approx(1 / 3)
    # Equal embeddings find nothing.
    assert retrieval_metrics(eye[[0, 0, 0, 0]], tracks, 10.0, scale)["valid_recall_at_1"] == 0


def test_a_segment_that_shares_audio_is_no_find() -> None:
    # The second and third segments of track a overlap and agree; only the first one would count.
    tracks = [segments("a", 0, 10, 14), segments("b", 0, 10)]
    embedding = torch.eye(4)[[0, 1, 1, 2, 2]]
    metrics = retrieval_metrics(embedding, tracks, 10.0, torch.tensor(1.0))
    assert metrics["valid_recall_at_1"] == pytest.approx(2 / 5)
    # Where all of a track's segments overlap, they are compared after all.
    tracks = [segments("a", 0, 4), segments("b", 0, 4)]
    metrics = retrieval_metrics(torch.eye(2)[[0, 0, 1, 1]], tracks, 10.0, torch.tensor(1.0))
    assert metrics["valid_recall_at_1"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 3},
        {"precision": "float16"},
        {"temperature": 0.0},
        {"segment_s": 2.0},
        {"warmup_fraction": 1.0},
        {"augmented_negatives": False},
    ],
)
def test_parameters_out_of_range_are_named(
    make_config: Callable[..., TrainConfig], changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        make_config(**changes)
