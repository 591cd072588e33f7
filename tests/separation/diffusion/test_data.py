"""Examples: their levels, what is left out of some, and what is drawn for them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.separation.diffusion.data import (
    Examples,
    drawn_noise,
    spread_draws,
    uniform_draws,
)
from mixprint.separation.material.pool import FixedPool
from mixprint.separation.material.remix import Remixer
from mixprint.separation.material.songs import find_songs
from mixprint.separation.separator import song_level
from tests.separation.trials import diffusion_config, make_songs

SIZE = 20


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_songs(tmp_path_factory.mktemp("data"), 2)


def examples(data_dir: Path, rows: range = range(SIZE), **changes: Any) -> Examples:
    config = diffusion_config(
        {
            "training": {"batch_size": SIZE, **changes},
            "remix": {"dropout_probability": 0.0},
        }
    )
    remixer = Remixer(FixedPool(find_songs(data_dir)), config.remix, num_samples=4410, seed=1)
    return Examples(remixer, rows, 129, -22.0, config.training)


def test_some_have_no_vocals_and_some_nothing_else(data_dir: Path) -> None:
    stems_BSCT, _ = examples(data_dir, no_vocal_fraction=0.2, vocal_only_fraction=0.1)[3]
    sounds_BS = stems_BSCT.abs().amax(dim=(2, 3)) > 0
    kinds = [tuple(sounds_S) for sounds_S in sounds_BS.tolist()]
    whole = (True, True, True, True)
    counts = {whole: 14, (False, True, True, True): 4, (True, False, False, False): 2}
    assert {kind: kinds.count(kind) for kind in kinds} == counts


def test_mixtures_are_about_as_loud_as_songs_are_made(data_dir: Path) -> None:
    def levels(range_db: float) -> torch.Tensor:
        stems_BSCT, _ = examples(data_dir, level_range_db=range_db)[0]
        level_B = [song_level([mixture_CT]) for mixture_CT in stems_BSCT.sum(dim=1)]
        return 20 * torch.tensor(level_B).log10()

    torch.testing.assert_close(levels(0.0), torch.full((SIZE,), -22.0))
    away_B = (levels(6.0) + 22).abs()
    assert away_B.max() <= 6.0
    assert away_B.max() > 3.0


def test_ranks_have_the_rows_of_the_whole_batch(data_dir: Path) -> None:
    whole = examples(data_dir)[5]
    part = examples(data_dir, range(8, 12))[5]
    for of_whole, of_part in zip(whole, part, strict=True):
        assert torch.equal(of_whole[8:12], of_part)


def test_spread_draws_have_one_number_in_each_part() -> None:
    for step in range(50):
        drawn_B = spread_draws(8, 1, "time", step)
        assert drawn_B.min() > 0
        assert drawn_B.max() <= 1
        assert sorted((drawn_B * 8).ceil().tolist()) == list(range(1, 9))
    assert not torch.equal(spread_draws(8, 1, "time", 3), spread_draws(8, 1, "kind", 3))


def test_draws_follow_from_their_key_alone() -> None:
    cpu = torch.device("cpu")
    noise = drawn_noise((2, 100, 100), cpu, 1, "noise", 4)
    assert torch.equal(noise, drawn_noise((2, 100, 100), cpu, 1, "noise", 4))
    assert not torch.equal(noise, drawn_noise((2, 100, 100), cpu, 1, "noise", 5))
    assert torch.view_as_real(noise).std(dim=(0, 1, 2)).tolist() == pytest.approx([1, 1], abs=0.02)
    assert torch.equal(uniform_draws(3, "a"), uniform_draws(3, "a"))
