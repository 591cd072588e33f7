import pytest
import torch
from torch import Tensor

from mixprint.cascade.distances import frechet_distance, kernel_distance

DISTANCES = (kernel_distance, frechet_distance)


def pieces(num: int, *, mean: float = 0.0, seed: int = 0) -> Tensor:
    return mean + torch.randn(num, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_is_farther_away_is_farther(distance: object) -> None:
    assert callable(distance)
    near, far = (distance(pieces(60, mean=mean, seed=1), pieces(60)) for mean in (0.5, 1.5))
    same = distance(pieces(60, seed=1), pieces(60))
    assert same < near < far


def test_the_estimate_has_no_bias() -> None:
    found = [kernel_distance(pieces(30, seed=2 * n), pieces(30, seed=2 * n + 1)) for n in range(50)]
    assert min(found) < 0 < max(found)
    assert abs(sum(found) / len(found)) < 2


def test_the_distance_of_gaussians_by_hand() -> None:
    scaled_PE = 2 * pieces(20_000)[:, :1] + 3
    found = frechet_distance(scaled_PE, pieces(20_000, seed=1)[:, :1])
    assert found == pytest.approx(3**2 + (2 - 1) ** 2, rel=0.03)


def test_one_piece_is_no_set() -> None:
    for distance in DISTANCES:
        with pytest.raises(ValueError, match="got 1 and 5"):
            distance(pieces(1), pieces(5))
