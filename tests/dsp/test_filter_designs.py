"""Filters have the gains at the corner, before and beyond it that define them."""

import math

import pytest
import torch
from scipy.signal import freqz_sos, iirfilter

from mixprint.dsp import filter_designs as designs
from mixprint.dsp.equaliser import Sections, response

RATE_HZ = 48_000
NUM_FFT = 4_800
CORNER_HZ = torch.tensor([1_000.0])
ONE = torch.ones(1)


def gains_db(sections: Sections, *frequencies_hz: float) -> list[float]:
    gain_F = response(sections, NUM_FFT)[0].abs().clamp_min(1e-12)
    return [20 * math.log10(gain_F[round(hz * NUM_FFT / RATE_HZ)]) for hz in frequencies_hz]


@pytest.mark.parametrize("high", [False, True])
def test_at_the_corner(high: bool) -> None:
    below, above = (20_000.0, 10.0) if high else (10.0, 20_000.0)
    for sections, corner_db in (
        (designs.one_pole(CORNER_HZ, RATE_HZ, high=high), -3.01),
        (designs.butterworth(CORNER_HZ, 2, RATE_HZ, high=high), -3.01),
        (designs.butterworth(CORNER_HZ, 8, RATE_HZ, high=high), -3.01),
        (designs.linkwitz_riley(CORNER_HZ, RATE_HZ, high=high), -6.02),
        (designs.resonant(CORNER_HZ, 4 * ONE, RATE_HZ, high=high), 12.04),
    ):
        passed_db, at_corner_db, stopped_db = gains_db(sections, below, 1_000.0, above)
        assert passed_db == pytest.approx(0, abs=0.02)
        assert at_corner_db == pytest.approx(corner_db, abs=0.01)
        assert stopped_db < -35


@pytest.mark.parametrize(("kind", "name"), [("low", "cheby1"), ("high", "cheby2")])
def test_chebyshev_filters_are_those_of_scipy(kind: str, name: str) -> None:
    is_high = kind == "high"
    if name == "cheby1":
        found = designs.chebyshev(CORNER_HZ, 6, 2 * ONE, RATE_HZ, high=is_high)
        expected = iirfilter(6, 1_000, rp=2, btype=kind, ftype=name, fs=RATE_HZ, output="sos")
    else:
        found = designs.inverse_chebyshev(CORNER_HZ, 6, 40 * ONE, RATE_HZ, high=is_high)
        expected = iirfilter(6, 1_000, rs=40, btype=kind, ftype=name, fs=RATE_HZ, output="sos")
    expected_F = torch.from_numpy(freqz_sos(expected, NUM_FFT // 2)[1])
    torch.testing.assert_close(response(found, NUM_FFT)[0, :-1], expected_F, rtol=0, atol=1e-6)


def test_linkwitz_riley_bands_add_up_to_an_all_pass() -> None:
    low_F, high_F = (
        response(designs.linkwitz_riley(CORNER_HZ, RATE_HZ, high=high), NUM_FFT)
        for high in (False, True)
    )
    torch.testing.assert_close((low_F + high_F).abs(), torch.ones_like(low_F.abs()))


def test_all_passes_turn_the_phase_alone() -> None:
    response_F = response(designs.all_pass(CORNER_HZ, 2 * ONE, RATE_HZ), NUM_FFT)[0]
    torch.testing.assert_close(response_F.abs(), torch.ones_like(response_F.abs()))
    assert complex(response_F[100]) == pytest.approx(-1, abs=1e-9)


def test_bands_notches_tilts_and_ladders() -> None:
    assert gains_db(designs.band_pass(CORNER_HZ, ONE, RATE_HZ), 1_000.0) == pytest.approx([0])
    assert gains_db(designs.notch(CORNER_HZ, ONE, RATE_HZ), 1_000.0)[0] < -200
    tilted = gains_db(designs.tilt(CORNER_HZ, 12 * ONE, RATE_HZ), 10.0, 1_000.0, 24_000.0)
    assert tilted == pytest.approx([-6, 0, 6], abs=0.01)
    # Without feedback four poles of -3 dB; with it lows fall by 1 + 4 times the resonance.
    assert gains_db(designs.ladder(CORNER_HZ, 0 * ONE, RATE_HZ), 10.0, 1_000.0) == pytest.approx(
        [0, -12.04], abs=0.01
    )
    low_db, peak_db = gains_db(designs.ladder(CORNER_HZ, 0.9 * ONE, RATE_HZ), 10.0, 1_000.0)
    assert low_db == pytest.approx(-20 * math.log10(4.6), abs=0.01)
    # (1 + j)^4 = -4: at the corner the loop is -4 + 3.6.
    assert peak_db == pytest.approx(-20 * math.log10(0.4), abs=0.01)


def test_orders_are_even() -> None:
    with pytest.raises(ValueError, match="even, got 3"):
        designs.butterworth(CORNER_HZ, 3, RATE_HZ)
