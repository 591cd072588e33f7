import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.encoder.blocks import BlockMaker
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import ConfigError
from tests.encoder.conftest import TinySet, descriptor_config, make_set
from tests.encoder.trials import quick_descriptions, run


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    splits = dict.fromkeys("abcd", "train") | dict.fromkeys("ef", "valid")
    return make_set(tmp_path_factory.mktemp("songs"), splits, sample_rate_hz=44_100)


def test_it_finds_chains_on_songs_that_it_has_not_met(songs: TinySet, tmp_path: Path) -> None:
    config = descriptor_config(
        num_blocks=6,
        block_chains=5,
        augmentation="chains",
        chain_lengths=(2, 2),
        valid_chains=6,
        steps_per_epoch=40,
        batch_size=24,
        learning_rate=3e-3,
        descriptor_hidden=32,
        embedding_dim=32,
    )
    outcome = run(config, songs, tmp_path)
    first, last = outcome.history[0], outcome.history[-1]
    # Cosines of a mix and any of twelve: by chance one in eleven is the partner.
    assert last["valid.chain_recall_at_1"] >= 0.75
    assert last["train.loss"] < 0.8 * first["train.loss"]
    encoder = load_checkpoint(tmp_path / "best_model")
    assert isinstance(encoder.model, DescriptorEncoder)
    assert encoder.metadata["effects"]
    assert encoder.metadata["train"]["num_blocks"] == 6
    assert "conv_channels" not in encoder.metadata["train"]


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": "chains", "contrast_weight": 0.0, "prediction_weight": 1.0},
        {"contrast_weight": 1.0, "prediction_weight": 1.0},
        {"negatives": ("songs",)},
        {"negatives": ("siblings",)},
        {"same_style": "positive"},
        {"same_style": "positive", "style_weight": 1.0},
        {"temperature": 0.5},
        {"descriptor_noise": 1.0},
        {"descriptor_dropout": 0.7},
        {"precision": "bfloat16"},
        {"augmentation": "fixed"},
        {"augmentation": "chains"},
    ],
    ids=str,
)
def test_every_choice_changes_the_loss(
    songs: TinySet, tmp_path: Path, changes: dict[str, Any]
) -> None:
    tracks = [replace(track, style=track.track_id[-1]) for track in songs.tracks]
    known = replace(songs, tracks=tracks)
    with quick_descriptions():
        plain, changed = (
            run(descriptor_config(epochs=1, **values), known, tmp_path / name).best["train.loss"]
            for name, values in (("plain", {}), ("changed", changes))
        )
    assert math.isfinite(changed)
    assert abs(changed - plain) > 1e-5


def test_views_are_measured_once_for_all_trainings_of_one_kind(
    songs: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    original = BlockMaker.made

    def noted(maker: BlockMaker, number: int, segments: Any) -> Any:
        numbers.append(number)
        return original(maker, number, segments)

    monkeypatch.setattr(BlockMaker, "made", noted)
    with quick_descriptions():
        run(descriptor_config(), songs, tmp_path)
        # Another objective needs no other views, and more of them only those.
        run(descriptor_config(temperature=0.5, descriptor_hidden=16), songs, tmp_path)
        assert numbers == [0, 1]
        run(descriptor_config(num_blocks=3), songs, tmp_path)
        assert numbers == [0, 1, 2]
        run(descriptor_config(chain_lengths=(1, 2)), songs, tmp_path)
        assert numbers == [0, 1, 2, 0, 1]


def test_a_loss_that_is_not_finite_names_the_segments(
    songs: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DescriptorEncoder.embed_described

    def broken(encoder: DescriptorEncoder, described_BSD: torch.Tensor) -> torch.Tensor:
        return original(encoder, described_BSD) * math.nan

    monkeypatch.setattr(DescriptorEncoder, "embed_described", broken)
    named = r"track [a-d][01] segment [01] at .* s \(block [01]\), "
    message = f"step 0: expected a finite loss, found nan; {named}"
    with quick_descriptions(), pytest.raises(Exception, match=message):
        run(descriptor_config(), songs, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_weight": 1.0}, "segment_weight must be 0"),
        ({"contrast_weight": 0.0, "prediction_weight": 1.0}, "contrast_weight must be above 0"),
        ({"compile": True}, "compile must be false"),
        ({"block_chains": 2}, "block_chains must be at least 3"),
        ({"block_songs": 1}, "block_songs must be >= 2"),
        ({"style_weight": 1.0}, "style_weight above 0 needs train.same_style: positive"),
        ({"num_blocks": 0}, "num_blocks must be >= 1"),
    ],
    ids=str,
)
def test_what_blocks_do_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        descriptor_config(**changes)


def test_each_backbone_follows_from_its_own_parameters() -> None:
    def same(config: TrainConfig, **changes: Any) -> bool:
        return config.identity() == replace(config, **changes).identity()

    config = descriptor_config()
    assert same(config, conv_channels=4)
    assert not same(config, num_blocks=5)
