import numpy as np
import pytest
from scipy.signal import freqz, lfilter

from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis import exact


def test_sine_agrees_with_numpy() -> None:
    turns = np.linspace(-3.0, 3.0, 10_001)
    np.testing.assert_allclose(exact.sine(turns), np.sin(2 * np.pi * turns), atol=1e-7)


def test_buzz_is_the_sum_of_its_harmonics() -> None:
    turns, brightness = np.linspace(0.0, 1.0, 500), 0.6
    series = sum(brightness**k * np.sin(2 * np.pi * k * turns) for k in range(1, 80)) / brightness
    scale = np.sqrt(2.0 * (1.0 - brightness**2))
    np.testing.assert_allclose(exact.buzz(turns, brightness), scale * series, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 255, 256, 257, 5000])
def test_block_filter_agrees_with_the_plain_recursion(num_samples: int) -> None:
    x = exact.Rng("x").noise(2 * num_samples).reshape(2, -1)
    sections = (exact.low_pass(300.0), exact.peak(60.0, 9.0), exact.shelf(5e3, -6.0, high=True))
    expected = x
    for b0, b1, b2, a1, a2 in sections:
        expected = lfilter([b0, b1, b2], [1.0, a1, a2], expected)
    np.testing.assert_allclose(exact.filtered(x, *sections), expected, atol=1e-11)


@pytest.mark.parametrize(("high", "low_db", "high_db"), [(False, 6.0, 0.0), (True, 0.0, 6.0)])
def test_shelf_reaches_its_gain_on_its_side_only(high: bool, low_db: float, high_db: float) -> None:
    b0, b1, b2, a1, a2 = exact.shelf(1000.0, 6.0, high=high)
    _, response = freqz([b0, b1, b2], [1.0, a1, a2], worN=[10.0, 20e3], fs=SAMPLE_RATE_HZ)
    np.testing.assert_allclose(20 * np.log10(np.abs(response)), [low_db, high_db], atol=0.01)


def test_decay_falls_by_60_db_in_its_time() -> None:
    assert exact.decay(exact.samples(0.5), 0.5)[-1] == pytest.approx(1e-3, rel=1e-6)


def test_pluck_rings_at_its_pitch() -> None:
    sound = exact.pluck(exact.Rng("string").noise(100), 100, 0.996, SAMPLE_RATE_HZ)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))  # 1 Hz a bin
    assert 200 + np.argmax(spectrum[200:600]) == pytest.approx(SAMPLE_RATE_HZ / 100.5, abs=1.0)


def test_reverb_dies_by_60_db_in_its_time() -> None:
    click = np.zeros(2 * SAMPLE_RATE_HZ)
    click[0] = 1.0
    power = (exact.reverb(click, 1.0, 20_000.0) ** 2).sum(axis=0)
    at_s = {t: power[int(t * SAMPLE_RATE_HZ) :][:4410].mean() for t in (0.3, 1.3)}
    assert 10 * np.log10(at_s[1.3] / at_s[0.3]) == pytest.approx(-60.0, abs=3.0)


def test_compressor_settles_at_its_ratio() -> None:
    # 12 dB above the threshold at 4:1 leave 3 dB: the gain is -9 dB.
    level = np.full(SAMPLE_RATE_HZ, exact.gain(-8.0))
    curve = exact.compression_gain(level, -20.0, 4.0, 0.01, 0.1)
    assert 20 * np.log10(curve[-1]) == pytest.approx(-9.0, abs=0.01)
    assert curve[0] == 1.0


def test_random_parts_are_independent_and_repeatable() -> None:
    assert exact.Rng(1, "a").uniform() == exact.Rng(1, "a").uniform()
    assert exact.Rng(1, "a").uniform() != exact.Rng(1, "b").uniform()
