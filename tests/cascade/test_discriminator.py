import pytest
import torch
from torch import Tensor, nn

from mixprint.cascade.discriminator import (
    Discriminator,
    Judgement,
    accuracy,
    feature_distance,
    hinge_of_discriminator,
    hinge_of_generator,
)
from mixprint.cascade.settings import DiscriminatorShape
from mixprint.errors import ConfigError

DIM, FRAMES = 6, 33
SHAPE = DiscriminatorShape(channels=(8, 8), kernels=(3, 5), strides=(2, 1), num_scales=3)


def noise(seed: int, level: float = 1.0) -> Tensor:
    return level * torch.randn(4, DIM, FRAMES, generator=torch.Generator().manual_seed(seed))


def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(DIM, SHAPE)


def judged(network: Discriminator) -> tuple[Judgement, Judgement]:
    """Judge loud and soft mixes of the same songs."""
    return network(noise(0), noise(1), noise(2)), network(noise(3, 0.3), noise(1), noise(2))


def test_it_judges_places_at_several_scales() -> None:
    judged = discriminator()(noise(0), noise(1), noise(2))
    assert [tuple(logit_BP.shape) for logit_BP in judged.logits] == [(4, 17), (4, 9), (4, 5)]


def test_the_songs_change_the_judgement() -> None:
    network = discriminator()
    here, there = network(noise(0), noise(1), noise(2)), network(noise(0), noise(2), noise(1))
    assert not torch.allclose(here.logits[0], there.logits[0])


def test_it_learns_to_tell_mixes_apart() -> None:
    network = discriminator()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)

    for _ in range(60):
        optimizer.zero_grad()
        hinge_of_discriminator(*judged(network)).mean().backward()
        optimizer.step()
    true, made = judged(network.eval().requires_grad_(False))
    assert accuracy(true, made) > 0.9
    assert float(hinge_of_discriminator(true, made).mean()) < 1.0
    # What is taken for true is what the cascade is to come to.
    assert float(hinge_of_generator(true).mean()) < float(hinge_of_generator(made).mean())


def test_features_of_the_same_mix_are_the_same() -> None:
    network = discriminator().eval()
    network.requires_grad_(False)
    true, other = (network(noise(seed), noise(1), noise(2)) for seed in (0, 3))
    assert float(feature_distance(true, true).sum()) == 0
    assert float(feature_distance(true, other).min()) > 0.1


def test_layers_have_a_norm_of_one() -> None:
    network = discriminator()
    weights = [
        part.weight
        for part in network.modules()
        if isinstance(part, nn.Conv1d | nn.Linear) and isinstance(part.weight, Tensor)
    ]
    assert len(weights) == 3 * 4
    for weight in weights:
        norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1.0, abs=0.05)


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="as many kernels and strides as channels"):
        DiscriminatorShape(channels=(8,), kernels=(3, 5), strides=(1,), num_scales=1)
    with pytest.raises(ConfigError, match="expected odd ones"):
        DiscriminatorShape(channels=(8,), kernels=(4,), strides=(1,), num_scales=1)
