import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mixprint.separation.nulltest import FLOOR_DB, Leakage, NullTest, StemLevels


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pieces(audio: Tensor, lengths: tuple[int, ...] = (1, 100_000, 30_000)) -> Iterator[Tensor]:
    """Cut into pieces of these lengths, and the rest."""
    yield from audio.split([*lengths, audio.shape[-1] - sum(lengths)], dim=-1)


def leakage_db(stems_SCT: Tensor) -> list[list[float | None]]:
    leakage = Leakage(stems_SCT.shape[0])
    for piece_SCT in pieces(stems_SCT):
        leakage.add(piece_SCT)
    return leakage.shares_db()


def test_null_depth_over_pieces() -> None:
    stems_SCT = noise(4, 2, 200_000)
    mixture_CT = stems_SCT.double().sum(dim=0).float()
    test = NullTest()
    for stems, mixture in zip(pieces(0.99 * stems_SCT), pieces(mixture_CT), strict=True):
        test.add(stems, mixture)
    assert test.depth_db == pytest.approx(-40, abs=1e-3)


def test_null_depth_at_the_edges() -> None:
    test = NullTest()
    test.add(torch.zeros(4, 2, 9), torch.zeros(2, 9))
    assert test.depth_db == FLOOR_DB
    test.add(torch.ones(4, 2, 9), torch.zeros(2, 9))
    assert test.depth_db == 0.0
    only = NullTest()
    only.add(torch.zeros(4, 2, 9), torch.ones(2, 9))
    assert only.depth_db == 0.0


def test_levels() -> None:
    levels = StemLevels()
    levels.add(torch.full((2, 10), 0.5))
    levels.add(torch.full((2, 10), -0.5))
    assert levels.level_dbfs == pytest.approx(-6.0206, abs=1e-4)
    levels.add(torch.tensor([[-2.0, 1.0], [1.001, 0.0]]))
    assert levels.peak == 2.0
    assert levels.peak_dbfs == pytest.approx(6.0206, abs=1e-4)
    assert levels.num_clipped == 2  # exactly full scale is not beyond it
    silent = StemLevels()
    silent.add(torch.zeros(2, 5))
    assert silent.level_dbfs == silent.peak_dbfs == FLOOR_DB


def test_a_constructed_leak_is_measured() -> None:
    stems_SCT = noise(3, 2, 400_000)
    stems_SCT[0] += 0.1 * stems_SCT[1]
    shares = leakage_db(stems_SCT)
    # 0.01 of 1.01 of its energy, and as much the other way round, for the levels are equal.
    expected = 10 * math.log10(0.01 / 1.01)
    assert shares[0][1] == pytest.approx(expected, abs=0.5)
    assert shares[1][0] == pytest.approx(expected, abs=0.5)
    for a, b in ((0, 2), (2, 0), (1, 2), (2, 1)):
        assert shares[a][b] < -35
    assert [shares[a][a] for a in range(3)] == [None] * 3


def test_a_copy_in_an_otherwise_empty_stem() -> None:
    stems_SCT = noise(2, 2, 200_000)
    stems_SCT[0] = 0.01 * stems_SCT[1]
    shares = leakage_db(stems_SCT)
    assert shares[0][1] == pytest.approx(0, abs=1e-3)  # nothing but leakage
    assert shares[1][0] == pytest.approx(-40, abs=1e-3)  # all that the quiet one can have given


def test_a_coloured_leak_that_turns_polarity_is_seen_whole() -> None:
    stems_SCT = noise(2, 2, 400_000)
    lowpassed_CT = torch.nn.functional.avg_pool1d(stems_SCT[1], 9, stride=1, padding=4)
    stems_SCT[0, 0] -= 0.3 * lowpassed_CT[0]
    leak = (0.3 * lowpassed_CT[0]).square().sum()
    expected = 10 * math.log10(leak / stems_SCT[0].square().sum())
    assert leakage_db(stems_SCT)[0][1] == pytest.approx(expected, abs=1.5)


def test_neither_gain_nor_pieces_change_it() -> None:
    stems_SCT = noise(2, 2, 300_000)
    stems_SCT[0] += 0.3 * stems_SCT[1]
    whole = Leakage(2)
    whole.add(4 * stems_SCT)
    assert whole.shares_db()[0][1] == pytest.approx(leakage_db(stems_SCT)[0][1], abs=1e-4)


@pytest.mark.parametrize("num_samples", [100, 4096, 5000])
def test_short_and_silent_stems(num_samples: int) -> None:
    stems_SCT = noise(3, 2, num_samples)
    stems_SCT[2] = 0
    leakage = Leakage(3)
    leakage.add(stems_SCT)
    shares = leakage.shares_db()
    assert shares[2] == [None] * 3
    assert shares[0][2] == FLOOR_DB
    assert math.isfinite(shares[0][1])


def test_no_audio_at_all() -> None:
    assert Leakage(2).shares_db() == [[None, None], [None, None]]
