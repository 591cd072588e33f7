"""The gain curve of a compressor: exact, differentiable, and the same as the generator's."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mixprint.dsp import compressor
from mixprint.dsp.compressor import (
    BLOCK_SAMPLES,
    Compressors,
    StreamedCompressors,
    linear_recurrence,
    smoothed,
)
from mixprint.synthesis import exact

RATE_HZ = 44_100


def bursts(seed: int, num_samples: int, num_rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise_BT = torch.randn(num_rows, num_samples, generator=generator, dtype=torch.float64)
    time_T = torch.arange(num_samples) / RATE_HZ
    return 0.3 * noise_BT * (torch.sin(2 * math.pi * (3 + seed) * time_T) > 0.2)


def by_loop(target_BN: Tensor, attack_B: Tensor, release_B: Tensor) -> Tensor:
    rows = []
    for target_N, attack, release in zip(target_BN, attack_B, release_B, strict=True):
        value, values = 0.0, []
        for target in target_N.tolist():
            pole = float(attack if target > value else release)
            value = target + pole * (value - target)
            values.append(value)
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


def values(num_rows: int, **changes: float) -> dict[str, Tensor]:
    wanted = {
        "threshold_db_B": -20.0,
        "slope_B": 0.7,
        "attack_s_B": 0.01,
        "release_s_B": 0.15,
        "knee_db_B": 6.0,
    }
    return {
        name: torch.full((num_rows,), value, dtype=torch.float64)
        for name, value in (wanted | changes).items()
    }


@pytest.mark.parametrize(
    ("threshold_db", "ratio", "attack_s", "release_s"),
    [(-18.0, 3.0, 0.012, 0.15), (-40.0, 20.0, 0.0005, 2.0), (-6.0, 1.2, 0.2, 0.01)],
)
def test_it_is_the_one_of_the_generator(
    threshold_db: float, ratio: float, attack_s: float, release_s: float
) -> None:
    level_BT = bursts(1, 100_003)
    expected_T = exact.compression_gain(
        level_BT[0].numpy(), threshold_db, ratio, attack_s, release_s
    )
    changes = {
        "threshold_db_B": threshold_db,
        "slope_B": 1 - 1 / ratio,
        "attack_s_B": attack_s,
        "release_s_B": release_s,
        "knee_db_B": 0.0,
    }
    found_BT = Compressors(**values(1, **changes)).gain(level_BT, RATE_HZ)
    np.testing.assert_allclose(found_BT[0].numpy(), expected_T, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("attack", "release"), [(0.3, 0.99), (0.99, 0.3), (0.9, 0.9)])
def test_policy_iteration_is_the_loop(attack: float, release: float) -> None:
    generator = torch.Generator().manual_seed(2)
    target_BN = 20 * torch.rand(4, 3000, generator=generator, dtype=torch.float64)
    target_BN[1] = 7.0  # where rise and fall cannot be told apart
    target_BN[2] = target_BN[2].sort().values
    target_BN[3, 100:] = 0.0
    poles = (torch.full((4,), attack).double(), torch.full((4,), release).double())
    torch.testing.assert_close(
        smoothed(target_BN, *poles), by_loop(target_BN, *poles), atol=1e-9, rtol=0
    )


def test_a_signal_in_two_parts_is_one_signal() -> None:
    generator = torch.Generator().manual_seed(3)
    target_BN = torch.rand(2, 777, generator=generator, dtype=torch.float64)
    poles = torch.tensor([0.5, 0.2]).double(), torch.tensor([0.95, 0.8]).double()
    whole_BN = smoothed(target_BN, *poles)
    first_BN = smoothed(target_BN[:, :300], *poles)
    second_BN = smoothed(target_BN[:, 300:], *poles, before_B=first_BN[:, -1])
    torch.testing.assert_close(torch.cat([first_BN, second_BN], dim=1), whole_BN)


def test_gradients_are_those_of_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    pole_BN = torch.rand(2, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    input_BN = torch.randn(2, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    before_B = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_recurrence, (pole_BN, input_BN, before_B))

    level_BT = bursts(5, 300, 2)
    names = list(values(2))

    def gain(*each: Tensor) -> Tensor:
        settings = dict(zip(names, each, strict=True))
        return Compressors(**settings).gain(level_BT, RATE_HZ)

    inputs = [value.requires_grad_() for value in values(2).values()]
    assert torch.autograd.gradcheck(gain, inputs)


def test_attack_and_release_do_63_percent_of_a_step_in_their_time() -> None:
    time_T = torch.arange(2 * RATE_HZ) / RATE_HZ
    level_BT = torch.where((time_T >= 0.5) & (time_T < 1.2), 1.0, 0.001).double()[None]
    settings = values(1, knee_db_B=0.0, attack_s_B=0.05, release_s_B=0.2)
    gain_T = Compressors(**settings).gain(level_BT, RATE_HZ)[0]
    reduction_T = -20 * torch.log10(gain_T)
    whole_db = 0.7 * 20.0
    attacked = float(reduction_T[round(0.55 * RATE_HZ)])
    released = float(reduction_T[round(1.4 * RATE_HZ)])
    assert attacked == pytest.approx((1 - math.exp(-1)) * whole_db, rel=0.02)
    assert released == pytest.approx(math.exp(-1) * whole_db, rel=0.02)


@pytest.mark.parametrize(
    ("level", "changes", "expected_db"),
    [
        (1.0, {}, 0.7 * 20.0),
        (0.1, {}, 0.7 * 3.0**2 / 12.0),  # in the middle of the knee
        (0.01, {}, 0.0),
        (1.0, {"slope_B": -1.0}, -20.0),
    ],
)
def test_points_of_the_static_curve(
    level: float, changes: dict[str, float], expected_db: float
) -> None:
    level_BT = torch.full((1, 3 * RATE_HZ), level, dtype=torch.float64)
    gain_BT = Compressors(**values(1, **changes)).gain(level_BT, RATE_HZ)
    assert -20 * math.log10(float(gain_BT[0, -1])) == pytest.approx(expected_db, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 1e-9, 0.1, 100.0])
@pytest.mark.parametrize(
    "changes", [{}, {"knee_db_B": 0.0}, {"threshold_db_B": -60.0}, {"threshold_db_B": 0.0}]
)
def test_gradients_are_finite_at_the_ends(level: float, changes: dict[str, float]) -> None:
    level_BT = torch.full((1, 1000), level, dtype=torch.float64, requires_grad=True)
    settings = {name: v.requires_grad_() for name, v in values(1, **changes).items()}
    Compressors(**settings).gain(level_BT, RATE_HZ).square().sum().backward()
    for tensor in (level_BT, *settings.values()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_a_slope_of_0_is_no_compressor() -> None:
    gain_BT = Compressors(**values(1, slope_B=0.0)).gain(bursts(6, 5000), RATE_HZ)
    assert torch.equal(gain_BT, torch.ones_like(gain_BT))


def test_rounds_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    solved = compressor._solved
    monkeypatch.setattr(compressor, "_solved", lambda *a: (calls.append(0), solved(*a))[1])
    Compressors(**values(4)).gain(bursts(7, 10 * RATE_HZ, 4), RATE_HZ)
    assert len(calls) <= 20


def test_blocks_give_what_one_pass_gives() -> None:
    level_BT = bursts(8, 20_000, 2)
    compressors = Compressors(**values(2))
    stream = StreamedCompressors(compressors, RATE_HZ)
    sizes = [BLOCK_SAMPLES, 100 * BLOCK_SAMPLES, 7 * BLOCK_SAMPLES]
    blocks = level_BT.split([*sizes, 20_000 - sum(sizes)], dim=1)
    found_BT = torch.cat([stream.add(block_BT) for block_BT in blocks], dim=1)
    expected_BT = compressors.gain(level_BT, RATE_HZ)
    torch.testing.assert_close(found_BT, expected_BT, rtol=0, atol=1e-10)
