import math

import pytest
import torch
from torch import Tensor

from mixprint.transfer.methods.least_squares import LeastSquares

MATRIX_RP = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
AIM_R = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def search(jacobian_RP: Tensor = MATRIX_RP, longest: float = 10.0) -> LeastSquares:
    start_P = torch.zeros(2, dtype=torch.float64)
    return LeastSquares(start_P, linear(start_P), jacobian_RP, longest)


def linear(position_P: Tensor) -> Tensor:
    return MATRIX_RP @ position_P - AIM_R


def test_a_linear_problem_is_solved_with_its_prior() -> None:
    found = search()
    for _ in range(4):
        found.step(linear)
    gram_PP = MATRIX_RP.mT @ MATRIX_RP + torch.eye(2, dtype=torch.float64)
    expected_P = torch.linalg.solve(gram_PP, MATRIX_RP.mT @ AIM_R)
    torch.testing.assert_close(found.position_P, expected_P, atol=1e-6, rtol=0)
    assert found.objective == pytest.approx(
        float(linear(expected_P).square().sum() + expected_P.square().sum())
    )


def test_wrong_derivatives_are_corrected_on_the_way() -> None:
    found = search(MATRIX_RP + 0.4)
    objectives = [found.objective]
    for _ in range(30):
        found.step(linear)
        objectives.append(found.objective)
    exact = search()
    for _ in range(4):
        exact.step(linear)
    assert objectives == sorted(objectives, reverse=True)
    assert found.objective == pytest.approx(exact.objective, rel=1e-3)


def test_a_step_that_fails_leaves_the_point_and_is_shortened() -> None:
    found = search(-MATRIX_RP)  # away from the least
    before = found.objective
    assert not found.step(linear)
    assert found.objective == before
    assert not found.position_P.any()
    assert found.damping > 0.05


def test_a_step_is_no_longer_than_asked() -> None:
    found = search(longest=0.01)
    found.step(linear)
    assert float(found.position_P.abs().max()) == pytest.approx(0.01)


def test_what_is_not_finite_is_told_and_changes_nothing() -> None:
    found = search()
    with pytest.raises(FloatingPointError, match="found nan"):
        found.step(lambda position_P: linear(position_P) * math.nan)
    assert not found.position_P.any()
