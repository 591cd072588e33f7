import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.encoder import augmentation, task
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import ConfigError, TrainingError
from mixprint.training.recorder import TIMES
from tests.encoder.conftest import make_set
from tests.encoder.trials import run
from tests.processes import start_ranks
from tests.training.trials import as_rank


def test_training_writes_a_usable_encoder_and_its_history(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    seen: list[dict[str, float]] = []
    best = run(
        make_config(),
        tiny_set,
        tmp_path,
        on_metrics=lambda _, values: seen.append(dict(values)),
    ).best
    history = json.loads((tmp_path / "history.json").read_text())
    told = [{k: v for k, v in entry.items() if k[:6] != "train."} for entry in history]
    assert told == [values for values in seen if "epoch" in values]
    assert best == max(history, key=lambda row: (row["valid.recall_at_1"], -row["valid.loss"]))
    encoder = load_checkpoint(tmp_path)
    assert encoder.metadata["data_fingerprint"] == "tiny"
    # Times stay out of the checkpoint, so that equal trainings write equal files.
    measured = {name: value for name, value in best.items() if name not in ("epoch", "step")}
    assert measured.keys() >= TIMES
    assert encoder.metadata["metrics"] == {k: v for k, v in measured.items() if k not in TIMES}
    assert encoder.metadata["epoch"] == best["epoch"]
    assert encoder.metadata["train"]["embedding_dim"] == 16


def test_where_styles_attract_their_retrieval_chooses_the_best_epoch(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    splits = {"a": "train", "b": "train", "c": "valid", "d": "valid"}
    songs = make_set(tmp_path / "songs", splits)
    tracks = [replace(track, style=track.track_id[-1]) for track in songs.tracks]
    known = replace(songs, tracks=tracks)
    outcome = run(make_config(same_style="positive"), known, tmp_path)
    assert outcome.best == max(
        outcome.history, key=lambda r: (r["valid.style_mrr"], r["valid.style_recall_at_1"])
    )
    # Nobody looks at styles unasked.
    assert "valid.style_mrr" not in run(make_config(epochs=1), known, tmp_path / "unasked").best


def test_the_loss_falls(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    # Without augmentations, whose random strengths make the losses of so small a set jump.
    config = make_config(
        epochs=8,
        learning_rate=3e-3,
        negatives=("songs", "siblings"),
        shared_chain_weight=0.0,
    )
    losses = [row["train.loss"] for row in run(config, tiny_set, tmp_path).history]
    assert losses[-1] < 0.5 * losses[0]


def test_what_does_not_change_the_result_starts_no_training_anew(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    epochs: list[float] = []

    def train(**changes: Any) -> None:
        run(
            make_config(epochs=1, **changes),
            tiny_set,
            tmp_path,
            on_metrics=lambda _, values: epochs.extend(
                v for k, v in values.items() if k == "epoch"
            ),
        )

    train()
    train(num_workers=1, save_steps=7)
    assert epochs == [1]
    train(temperature=0.2)
    assert epochs == [1, 1]


def test_a_loss_that_is_not_finite_stops_before_the_optimiser_moves(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: steps.append(1))
    original = augmentation.apply_chains

    def broken(stems_BSCT: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = original(stems_BSCT, *rest)
        out[0] = math.nan
        return out

    monkeypatch.setattr(augmentation, "apply_chains", broken)
    named = r"track [ab][01] segment ([01]) at (0\.0|3\.0) s \(augmented\)"
    message = rf"^step 0: expected a finite loss, found nan; {named}$"
    with pytest.raises(TrainingError, match=message) as caught:
        run(make_config(), tiny_set, tmp_path)
    found = re.search(named, str(caught.value))
    assert found is not None
    assert float(found[2]) == 3.0 * int(found[1])
    assert steps == []
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_gradient_that_is_not_finite_names_all_that_it_can_come_from(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: steps.append(1))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    with pytest.raises(TrainingError, match=r"step 0: expected a finite gradient norm") as caught:
        run(make_config(segment_s=3.0), tiny_set, tmp_path)
    for view in ("anchor", "positive", "augmented"):
        assert str(caught.value).count(f"({view})") == 4
    assert steps == []


def test_an_embedding_that_is_not_finite_is_named_by_the_validation(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = MixEncoder.forward

    def broken(encoder: MixEncoder, *inputs: torch.Tensor) -> torch.Tensor:
        out = original(encoder, *inputs).clone()
        if not encoder.training:
            out[1] = math.nan
        return out

    monkeypatch.setattr(MixEncoder, "forward", broken)
    message = r"^step 1: expected finite embeddings .*; track c0 segment 1 at 3\.0 s$"
    for _ in range(2):  # nothing was saved that would stop the next start in another way
        with pytest.raises(TrainingError, match=message):
            run(make_config(), tiny_set, tmp_path)
    assert not (tmp_path / "best_model").exists()


@pytest.mark.parametrize(
    ("objective", "songs"),
    [
        # One mix of each song has no sibling; two mixes of one song have no other song beside them.
        ({"negatives": ("siblings",), "shared_chain_weight": 0.0}, ("a0", "b0")),
        ({"negatives": ("songs",), "shared_chain_weight": 0.0}, ("a0", "a1")),
        ({"segment_weight": 0.0}, ("a0", "a1")),
    ],
)
def test_an_objective_in_which_nothing_repels_is_refused(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
    objective: dict[str, Any],
    songs: tuple[str, ...],
) -> None:
    tracks = [track for track in tiny_set.tracks if track.track_id in songs or track.song == "c"]
    with pytest.raises(TrainingError, match="expected a batch in which something repels"):
        run(make_config(epochs=2, **objective), tiny_set, tmp_path, tracks=tracks)
    # With what it needs, it is trained; the augmented anchor needs nothing.
    run(make_config(epochs=1, **objective), tiny_set, tmp_path)
    augmented = make_config(epochs=1, negatives=("augmented",), shared_chain_weight=0.0)
    run(augmented, tiny_set, tmp_path, tracks=tracks)


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
        {"conditioning": "prepend"},
        {"dropped_families": ("level",)},
        {"conditioning": "none"},
        {"negatives": ("siblings", "augmented")},
        {"negatives": (), "segment_weight": 0.0},
    ],
)
def test_every_choice_changes_the_loss(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain, changed = (
        run(make_config(epochs=1, **values), tiny_set, tmp_path / name).best["train.loss"]
        for name, values in (("plain", {}), ("changed", changes))
    )
    assert math.isfinite(changed)
    assert abs(changed - plain) > 1e-5


def train_rounding_rank(rank: int, folder: str, config: TrainConfig, tiny_set: Any) -> None:
    """Train where the processor of the second rank finds each epoch worse than the one before."""
    with as_rank(rank, folder):
        losses = itertools.count(0, 1) if rank == 1 else itertools.count(0, -1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                task,
                "retrieval_metrics",
                lambda *_: {"recall_at_1": 1.0, "mrr": 1.0, "loss": next(losses)},
            )
            best = run(config, tiny_set, Path(folder) / "ranks").best
        (Path(folder) / f"rank{rank}.json").write_text(json.dumps(best["epoch"]))


def test_ranks_that_round_in_different_ways_choose_the_same_epoch(
    make_config: Callable[..., TrainConfig],
    tiny_set: Any,
    tmp_path: Path,
) -> None:
    config = make_config(epochs=2, negatives=("songs",), shared_chain_weight=0.0)
    start_ranks(train_rounding_rank, str(tmp_path), config, tiny_set)
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert found == [2, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 3},
        {"precision": "float16"},
        {"temperature": 0.0},
        {"segment_s": 2.0},
        {"warmup_fraction": 1.0},
        {"negatives": ("strangers",)},
        {"negatives": ()},
        {"same_style": "maybe"},
        {"segment_weight": 0.0, "shared_chain_weight": 0.0},
        {"siblings_per_batch": 0},
        {"log_steps": 0},
        {"augmentation": "some"},
        {"chain_lengths": (0, 0)},
        {"chain_lengths": (3, 9)},
        {"contrast_weight": 0.0},
        {"prediction_weight": 1.0},
    ],
)
def test_parameters_out_of_range_are_named(
    make_config: Callable[..., TrainConfig], changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        make_config(**changes)
