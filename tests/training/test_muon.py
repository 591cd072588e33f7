"""Muon: what its steps look like, and what it is given to train."""

import pytest
import torch
from torch import Tensor, nn

from mixprint.training.muon import Muon, orthogonalised, split_parameters


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 24), (2, 24, 64)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrix_BMN = _random(*shape)
    before = torch.linalg.svdvals(matrix_BMN)
    result_BMN = orthogonalised(matrix_BMN)
    # Of a square random matrix the least ones are too small to grow that far in five rounds.
    grown = torch.linalg.svdvals(result_BMN)[before > 0.05 * before.amax()]
    assert grown.min() > 0.6
    assert grown.max() < 1.3


def test_singular_vectors_stay() -> None:
    left, _, right = torch.linalg.svd(_random(12, 12))
    values = torch.linspace(1.0, 0.2, 12)
    result = orthogonalised((left * values) @ right)
    rotated = left.T @ result @ right.T
    assert torch.allclose(rotated, torch.diag(rotated.diagonal()), atol=1e-4)


def test_a_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    steps = []
    for scale in (1.0, 1e-2):
        weight = nn.Parameter(torch.zeros(16, 8))
        optimiser = Muon([{"params": [weight]}], lr=0.1)
        weight.grad = scale * _random(16, 8)
        optimiser.step()
        steps.append(weight.detach().clone())
    assert torch.allclose(*steps, atol=1e-3)
    # Twice as high as wide: singular values near lr * sqrt(2).
    assert torch.linalg.svdvals(steps[0]).mean() == pytest.approx(0.1414, rel=0.2)


def test_stacked_matrices_are_stepped_as_if_each_were_alone() -> None:
    gradient = _random(32, 8)
    together = nn.Parameter(torch.zeros(32, 8))
    together.grad = gradient
    Muon([{"params": [together], "stacked": 4}], lr=0.1).step()
    for part, expected in zip(gradient.chunk(4), together.detach().chunk(4), strict=True):
        alone = nn.Parameter(torch.zeros(8, 8))
        alone.grad = part
        Muon([{"params": [alone]}], lr=0.1).step()
        assert torch.allclose(alone, expected, atol=1e-6)


def test_weights_decay() -> None:
    weight = nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.zeros(8, 8)
    Muon([{"params": [weight]}], lr=0.5, weight_decay=0.1).step()
    assert torch.allclose(weight, torch.full((8, 8), 0.95))


def test_directions_that_are_hardly_asked_for_are_learned_too() -> None:
    """Least squares with a condition of 10,000: 300 plain steps come no nearer than 2.4."""
    inputs = _random(64, 16) * torch.logspace(0, -2, 16)
    wanted = _random(16, 16)
    weight = nn.Parameter(torch.zeros(16, 16))
    optimiser = Muon([{"params": [weight]}], lr=0.3)
    for step in range(300):
        optimiser.zero_grad()
        (inputs @ (weight - wanted)).square().sum().backward()
        optimiser.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        optimiser.step()
    assert (weight - wanted).abs().max() < 0.2


def test_matrices_kernels_and_gates_are_told_from_the_rest() -> None:
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(16, 8, 3),
            "thin": nn.Conv2d(16, 4, 3),
            "lstm": nn.LSTM(16, 16),
            "norm": nn.GroupNorm(1, 16),
        }
    )
    groups, others = split_parameters(model)
    plain, stacked = groups
    assert plain["params"] == [model["conv"].weight]
    assert stacked["stacked"] == 4
    assert stacked["params"] == [model["lstm"].weight_ih_l0, model["lstm"].weight_hh_l0]
    assert len(others) == len(list(model.parameters())) - 3
