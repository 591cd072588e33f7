import math

import pytest
import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.transfer.console import (
    BROADBAND_UNIT_DB,
    DYNAMICS_UNIT,
    EQ_UNIT_DB,
    MAX_BALANCE_DB,
    MAX_DYNAMICS,
    MAX_EQ_DB,
    MAX_GAIN_DB,
    MAX_WIDTH_DB,
    NUM_BANDS,
    Console,
)

RATE_HZ = 44_100
# Away from both ends, where the filter sees the silence before and after.
INNER = slice(6_000, -6_000)


def sines(frequency_hz: float, num_samples: int = 40_000) -> Tensor:
    time_T = torch.arange(num_samples, dtype=torch.float64) / RATE_HZ
    return (0.1 * torch.sin(2 * math.pi * frequency_hz * time_T)).float().expand(4, 2, -1).clone()


def set_decibels(parameter: Tensor, value_db: float, limit_db: float) -> None:
    with torch.no_grad():
        parameter.fill_(limit_db * math.atanh(value_db / limit_db))


def test_identity_to_the_bit_at_the_start() -> None:
    stems_SCT = torch.randn(4, 2, 20_000, generator=torch.Generator().manual_seed(1))
    console = Console(RATE_HZ, [stems_SCT])
    assert torch.equal(console(console.prepare(stems_SCT)), stems_SCT)


def test_every_control_has_a_gradient_at_the_identity() -> None:
    generator = torch.Generator().manual_seed(2)
    stems_SCT = torch.randn(4, 2, 60_000, generator=generator)
    stems_SCT = stems_SCT * torch.linspace(0.01, 1, 60_000)
    console = Console(RATE_HZ, [stems_SCT])
    out_SCT = console(console.prepare(stems_SCT))
    (out_SCT[:, 0].square().sum() + out_SCT.abs().pow(3).sum()).backward()
    for name, parameter in console.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).all(), name


def test_silence_has_finite_gradients_and_stays_silent() -> None:
    stems_SCT = torch.zeros(4, 2, 20_000)
    console = Console(RATE_HZ, [stems_SCT])
    for parameter in console.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    out_SCT = console(console.prepare(stems_SCT))
    assert not out_SCT.any()
    out_SCT.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in console.parameters())


def test_gain_moves_the_level_and_keeps_the_phase() -> None:
    stems_SCT = sines(1000.0)
    console = Console(RATE_HZ, [stems_SCT])
    set_decibels(console.gain_S, 6.0, 24.0)
    out_SCT = console(console.prepare(stems_SCT))
    torch.testing.assert_close(
        out_SCT[..., INNER], 10 ** (6 / 20) * stems_SCT[..., INNER], atol=1e-4, rtol=0
    )


def test_a_flat_equaliser_is_a_gain() -> None:
    stems_SCT = sines(3000.0)
    console = Console(RATE_HZ, [stems_SCT])
    set_decibels(console.eq_SK, -6.0, 15.0)
    out_SCT = console(console.prepare(stems_SCT))
    torch.testing.assert_close(
        out_SCT[..., INNER], 10 ** (-6 / 20) * stems_SCT[..., INNER], atol=1e-4, rtol=0
    )
    assert console.roughness().item() == pytest.approx(0, abs=1e-10)


def test_a_band_acts_where_it_is() -> None:
    console = Console(RATE_HZ, [sines(100.0)])
    with torch.no_grad():
        console.eq_SK[:, NUM_BANDS // 2 :] = -15 * math.atanh(10 / 15)
    for frequency_hz, expected_db in ((100.0, 0.0), (8000.0, -10.0)):
        stems_SCT = sines(frequency_hz)
        out_SCT = console(console.prepare(stems_SCT))
        ratio = out_SCT[..., INNER].square().mean() / stems_SCT[..., INNER].square().mean()
        assert 10 * math.log10(ratio.item()) == pytest.approx(expected_db, abs=0.1)


def test_width_scales_the_side_alone() -> None:
    stems_SCT = torch.randn(4, 2, 8_000, generator=torch.Generator().manual_seed(3))
    console = Console(RATE_HZ, [stems_SCT])
    set_decibels(console.width_S, 6.0, 18.0)
    out_SCT = console(console.prepare(stems_SCT))
    torch.testing.assert_close(out_SCT.sum(1), stems_SCT.sum(1), atol=1e-5, rtol=0)
    side_ST = stems_SCT[:, 0] - stems_SCT[:, 1]
    torch.testing.assert_close(
        out_SCT[:, 0] - out_SCT[:, 1], 10 ** (6 / 20) * side_ST, atol=1e-5, rtol=1e-5
    )


def test_balance_is_left_over_right() -> None:
    stems_SCT = sines(500.0)
    console = Console(RATE_HZ, [stems_SCT])
    set_decibels(console.balance_S, 4.0, 12.0)
    out_SCT = console(console.prepare(stems_SCT))
    ratio = out_SCT[:, 0].square().mean() / out_SCT[:, 1].square().mean()
    assert 10 * math.log10(ratio.item()) == pytest.approx(4.0, abs=0.01)


def test_dynamics_bring_levels_together() -> None:
    # One second at -26 dBFS peak, one 10 dB above: a slope of 0.5 halves the step to 5 dB.
    quiet_SCT = sines(1000.0, RATE_HZ)
    stems_SCT = torch.cat((quiet_SCT, 10 ** (10 / 20) * quiet_SCT), dim=-1)
    console = Console(RATE_HZ, [stems_SCT])
    with torch.no_grad():
        console.dynamics_SW[:, 1] = 0.9 * math.atanh(0.5 / 0.9)
    out_SCT = console(console.prepare(stems_SCT))
    loud, quiet = out_SCT[..., 60_000:80_000], out_SCT[..., 10_000:30_000]
    step_db = 10 * math.log10((loud.square().mean() / quiet.square().mean()).item())
    assert step_db == pytest.approx(5.0, abs=0.05)


def test_settings_name_what_was_set() -> None:
    console = Console(RATE_HZ, [sines(100.0)])
    set_decibels(console.gain_S, -3.0, 24.0)
    set_decibels(console.width_S, 2.0, 18.0)
    settings = console.settings()
    assert list(settings) == ["vocals", "bass", "drums", "other"]
    assert settings["drums"]["gain_db"] == pytest.approx(-3.0, abs=1e-4)
    assert settings["drums"]["width_db"] == pytest.approx(2.0, abs=1e-4)
    assert settings["drums"]["eq_mid_db"] == 0


def test_low_rates_are_refused() -> None:
    with pytest.raises(ConfigError, match="22050"):
        Console(22_050, [sines(100.0)])


def test_departure_is_square_near_the_identity_and_straight_further_out() -> None:
    console = Console(RATE_HZ, [sines(3000.0)])
    assert console.departure().item() == 0
    for num_units, expected in (
        (0.01, 5e-4),
        (1.0, 10 * (2**0.5 - 1)),
        (1.5, 10 * (3.25**0.5 - 1)),
    ):
        for name, unit, limit in (
            ("gain_S", BROADBAND_UNIT_DB, MAX_GAIN_DB),
            ("balance_S", BROADBAND_UNIT_DB, MAX_BALANCE_DB),
            ("width_S", BROADBAND_UNIT_DB, MAX_WIDTH_DB),
            ("eq_SK", EQ_UNIT_DB, MAX_EQ_DB),
            ("dynamics_SW", DYNAMICS_UNIT, MAX_DYNAMICS),
        ):
            set_decibels(getattr(console, name), num_units * unit, limit)
        assert console.departure().item() == pytest.approx(expected, rel=1e-2)
