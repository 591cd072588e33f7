"""Distances of a transfer to what it aims at."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.features import Standardisation
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.style import Style
from tests.transfer import trials
from tests.transfer.test_fit import RATE_HZ, LevelEncoder


@pytest.mark.parametrize("target", ["features", "embeddings"])
def test_a_stem_that_is_exchanged_measures_as_the_whole(
    make_stems: Callable[..., Tensor], standardisation: Standardisation, target: str
) -> None:
    a_SCT, b_SCT, other_SCT = (make_stems(seed=seed) for seed in (1, 2, 3))
    encoder = LevelEncoder()
    style = Style.of("b", [b_SCT], RATE_HZ, encoder=encoder)  # type: ignore[arg-type]
    distances = Distances(
        [a_SCT, b_SCT],
        style,
        RATE_HZ,
        trials.settings(optimize_target=target),
        standardisation=standardisation,
        encoder=encoder,  # type: ignore[arg-type]
        left_alone=("bass",),
    )
    exchanged = distances.exchanging([a_SCT, b_SCT])
    made_SCT = [a_SCT.clone(), b_SCT.clone()]
    for stems_SCT in made_SCT:
        stems_SCT[2] = other_SCT[2]
    found_R = exchanged(2, [other_SCT[2:3], other_SCT[2:3]])
    torch.testing.assert_close(found_R, distances.residuals(made_SCT))
