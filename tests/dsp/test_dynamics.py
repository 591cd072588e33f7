import math

import pytest
import torch
from torch import Tensor

from mixprint.dsp import dynamics

RATE_HZ = 32_000
T = RATE_HZ  # a second


def row(*values: float) -> Tensor:
    return torch.tensor(values)


def two_levels(quiet_db: float) -> Tensor:
    """Return half a second at 0.5 and half a second that is quieter: its level is known exactly."""
    audio_NCT = torch.full((1, 2, T), 0.5)
    audio_NCT[..., T // 2 :] *= 10 ** (quiet_db / 20)
    audio_NCT[:, 1] *= 0.1  # the quieter channel decides nothing
    return audio_NCT


def gain_db(result_NCT: Tensor, audio_NCT: Tensor) -> Tensor:
    """Return the gain of each sample, the same in both channels."""
    ratio_NCT = result_NCT / audio_NCT
    torch.testing.assert_close(ratio_NCT[:, 0], ratio_NCT[:, 1])
    return 20 * torch.log10(ratio_NCT[:, 0])


# Half of the power of the loud half alone.
OWN_DB = -10 * math.log10(2)


def test_a_compressor_follows_its_curve_whatever_the_level() -> None:
    audio_NCT = two_levels(-40.0)
    both_NCT = torch.cat([audio_NCT, 0.001 * audio_NCT])
    settings = (row(-12.0, -12.0), row(4.0, 4.0), row(1.0, 1.0), row(20.0, 20.0))
    gain_db_NT = gain_db(dynamics.compressed(both_NCT, *settings, RATE_HZ), both_NCT)
    expected_db = -(1 - 1 / 4) * (12 - OWN_DB)
    assert gain_db_NT[:, T // 2 - 1].tolist() == pytest.approx([expected_db] * 2, abs=0.01)
    assert gain_db_NT[:, -1].abs().max() < 0.01


def test_a_limiter_lets_no_sample_through_and_returns() -> None:
    generator = torch.Generator().manual_seed(0)
    audio_NCT = 0.1 * torch.randn(2, 2, T, generator=generator)
    audio_NCT[:, :, T // 2 + 17] = 5.0
    result_NCT = dynamics.limited(audio_NCT, row(-6.0, 60.0), row(20.0, 20.0), RATE_HZ)
    level_NK = dynamics.side_chain_db(audio_NCT)
    limit_db = float(dynamics.own_level_db(level_NK)[0]) - 6.0
    peak_db = 20 * math.log10(float(result_NCT[0].abs().max()))
    assert limit_db - 0.5 < peak_db < limit_db + 1e-3
    assert torch.equal(result_NCT[1], audio_NCT[1])


def test_what_is_below_a_threshold_is_turned_down_up_or_shut_off() -> None:
    audio_NCT = two_levels(-40.0)
    threshold, times = row(0.0), (row(1.0), row(10.0), RATE_HZ)
    under_db = 40 + OWN_DB
    for result_NCT, expected_db in (
        (dynamics.expanded(audio_NCT, threshold, row(1.5), *times), -0.5 * under_db),
        (dynamics.expanded(audio_NCT, threshold, row(4.0), *times), -40.0),
        (dynamics.raised(audio_NCT, threshold, row(2.0), row(30.0), *times), 0.5 * under_db),
        (dynamics.raised(audio_NCT, threshold, row(2.0), row(10.0), *times), 10.0),
        (dynamics.gated(audio_NCT, threshold, row(25.0), *times), -25.0),
    ):
        gain_db_T = gain_db(result_NCT, audio_NCT)[0]
        assert float(gain_db_T[T // 2 - 1]) == pytest.approx(0.0, abs=0.2)
        assert float(gain_db_T[-1]) == pytest.approx(expected_db, abs=0.05)


def test_a_transient_shaper_changes_the_onset_and_what_rings_but_nothing_steady() -> None:
    audio_NCT = two_levels(-40.0)
    onset_NCT = audio_NCT.flip(-1)  # quiet, then loud
    up_NCT = dynamics.shaped(onset_NCT, row(6.0), row(0.0), RATE_HZ)
    gain_db_T = gain_db(up_NCT, onset_NCT)[0]
    assert float(gain_db_T[T // 2 : T // 2 + RATE_HZ // 50].max()) == pytest.approx(6.0, abs=0.01)
    assert gain_db_T[: T // 2 - 64].abs().max() < 1e-4
    assert gain_db_T[-1].abs() < 1e-3
    down_NCT = dynamics.shaped(audio_NCT, row(0.0), row(-9.0), RATE_HZ)
    gain_db_T = gain_db(down_NCT, audio_NCT)[0]
    assert float(gain_db_T[T // 2 :].min()) == pytest.approx(-9.0, abs=0.01)
    assert gain_db_T[: T // 2 - 64].abs().max() < 1e-4


def test_pumping_is_a_parabola_on_each_beat() -> None:
    audio_NCT = torch.ones(2, 2, T)
    # Two beats in a second, each back after half of it; the second signal begins on the way.
    settings = (row(120.0, 120.0), row(0.0, 0.5), row(12.0, 12.0), row(0.5, 0.5))
    gain_db_NT = gain_db(dynamics.pumped(audio_NCT, *settings, RATE_HZ), audio_NCT)
    gain_db_T = gain_db_NT[0]
    torch.testing.assert_close(
        gain_db_NT[1, 64 : -T // 4], gain_db_T[T // 4 + 64 :], atol=1e-3, rtol=0
    )
    eighth = T // 8
    expected = [-12.0, -3.0, 0.0, 0.0, -12.0, -3.0, 0.0]
    # A block's gain stands at its end.
    found = [float(gain_db_T[eighth * n + 64 if n else 0]) for n in range(7)]
    assert found == pytest.approx(expected, abs=0.3)


def test_bands_add_up_to_an_all_pass_and_cross_at_six_db() -> None:
    impulse_NCT = torch.zeros(1, 2, T)
    impulse_NCT[..., 0] = 1.0
    bands_NBCT = dynamics.split_bands(impulse_NCT, torch.tensor([[200.0, 4_000.0]]), RATE_HZ)
    together_CF = torch.fft.rfft(bands_NBCT.sum(dim=1)[0]).abs()
    torch.testing.assert_close(together_CF, torch.ones_like(together_CF), atol=1e-3, rtol=0)
    level_db_BF = 20 * torch.log10(torch.fft.rfft(bands_NBCT[0, :, 0]).abs())
    assert level_db_BF[:2, 200].tolist() == pytest.approx([-6.02] * 2, abs=0.05)
    assert level_db_BF[1:, 4_000].tolist() == pytest.approx([-6.02] * 2, abs=0.05)
    assert level_db_BF[1, 1_000] > -0.1


def test_a_de_esser_turns_down_loud_highs_alone() -> None:
    time_T = torch.arange(T) / RATE_HZ
    low_T, high_T = (torch.sin(2 * math.pi * hz * time_T) for hz in (300.0, 10_000.0))
    high_T = high_T * torch.where(time_T < 0.8, 0.05, 1.0)
    audio_NCT = (low_T + high_T).expand(1, 2, -1)
    result_NCT = dynamics.de_essed(audio_NCT, row(3_000.0), row(-6.0), row(8.0), RATE_HZ)

    def level(audio_T: Tensor, hz: int) -> float:
        return float(torch.fft.rfft(audio_T * torch.hann_window(len(audio_T))).abs()[hz // 10])

    loud, quiet = slice(-RATE_HZ // 10, None), slice(RATE_HZ // 10, RATE_HZ // 5)
    for part, hz, expected_db in ((loud, 10_000, -8.0), (loud, 300, 0.0), (quiet, 10_000, 0.0)):
        change_db = 20 * math.log10(
            level(result_NCT[0, 0, part], hz) / level(audio_NCT[0, 0, part], hz)
        )
        assert change_db == pytest.approx(expected_db, abs=0.2)
