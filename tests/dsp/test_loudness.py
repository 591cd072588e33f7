import math
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch

from mixprint.dsp import loudness

RATE_HZ = 44_100


def stereo_sine(
    level_dbfs: float, duration_s: float, frequency_hz: float = 1_000.0
) -> torch.Tensor:
    """Sine of a peak level in both channels, as EBU Tech 3341 states its levels."""
    t_T = torch.arange(round(duration_s * RATE_HZ), dtype=torch.float64) / RATE_HZ
    sine_T = 10 ** (level_dbfs / 20) * torch.sin(2 * math.pi * frequency_hz * t_T)
    return sine_T.expand(1, 2, -1)


def test_filters_at_48_khz_are_the_tables_of_the_recommendation() -> None:
    for derived, table in zip(
        loudness.k_weighting_filters(48_000), loudness._REFERENCE_FILTERS, strict=True
    ):
        assert derived == pytest.approx(table, abs=1e-12)


def test_full_scale_997_hz_in_one_channel_reads_minus_3_01() -> None:
    for rate_hz in (44_100, 48_000):
        t_T = torch.arange(5 * rate_hz, dtype=torch.float64) / rate_hz
        sine_BCT = torch.sin(2 * math.pi * 997 * t_T).view(1, 1, -1)
        loud = loudness.integrated_loudness(sine_BCT, rate_hz)
        assert loud.item() == pytest.approx(-3.01, abs=0.01)


def test_stereo_tone_of_tech_3341_reads_its_level() -> None:
    loud = loudness.integrated_loudness(stereo_sine(-23.0, 20), RATE_HZ)
    assert loud.item() == pytest.approx(-23.0, abs=0.05)


def test_filter_is_the_recursion_of_the_same_coefficients() -> None:
    from scipy.signal import lfilter

    noise_T = torch.randn(50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = noise_T.numpy()
    for b0, b1, b2, a1, a2 in loudness.k_weighting_filters(RATE_HZ):
        expected = lfilter([b0, b1, b2], [1.0, a1, a2], expected)
    np.testing.assert_allclose(
        loudness.k_weight(noise_T, RATE_HZ).numpy(), expected, atol=1e-7, rtol=0
    )


def test_relative_gate_leaves_out_the_quiet_half() -> None:
    # Loud blocks: those that start in 0.0 .. 3.6 s whole (37), then three that hold 75, 50 and
    # 25 % of the tone and pass too; the gate is 10 LU under the mean of all, about -33 LUFS.
    audio_BCT = torch.cat([stereo_sine(-20, 4), stereo_sine(-60, 4)], dim=-1)
    expected = loudness.integrated_loudness(stereo_sine(-20, 4), RATE_HZ).item()
    expected += 10 * math.log10((37 + 0.75 + 0.5 + 0.25) / 40)
    loud = loudness.integrated_loudness(audio_BCT, RATE_HZ).item()
    assert loud == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("level_dbfs", [-75.0, -200.0])
def test_what_is_under_the_absolute_gate_reads_as_silence(level_dbfs: float) -> None:
    audio_BCT = stereo_sine(level_dbfs, 1).clone().requires_grad_()
    loud = loudness.integrated_loudness(audio_BCT, RATE_HZ)
    loud.sum().backward()
    assert loud.item() == pytest.approx(loudness.SILENCE_LUFS)
    assert torch.equal(audio_BCT.grad, torch.zeros_like(audio_BCT))


def test_dynamic_range_of_two_levels_is_their_difference() -> None:
    # Of 71 windows the first 21 hear the loud half alone and the last 21 the quiet half alone, and
    # the quartiles, at 17.5 windows from either end, fall there.
    audio_BCT = torch.cat([stereo_sine(-20, 5), stereo_sine(-30, 5)], dim=-1)
    energy_BK = loudness.hop_energy(loudness.k_weight(audio_BCT, RATE_HZ), RATE_HZ)
    assert loudness.dynamic_range_from_energy(energy_BK).item() == pytest.approx(10.0, abs=0.02)


def test_dynamic_range_ignores_what_the_gates_shut_out() -> None:
    energy_BK = torch.full((1, 90), 1e-2)
    energy_BK[:, 45:] = 0.0
    # Windows that start in the first 1.5 s hold sound alone; from 4.5 s on they hold none.
    sliding_BK = energy_BK.unfold(-1, 30, 1).mean(-1)
    heard = 10 * np.log10(sliding_BK[sliding_BK > 1e-4].numpy())
    expected = np.quantile(heard, 0.75) - np.quantile(heard, 0.25)
    assert loudness.dynamic_range_from_energy(energy_BK).item() == pytest.approx(expected, abs=1e-4)


def test_dynamic_range_of_silence_is_zero_with_finite_gradient() -> None:
    energy_BK = torch.zeros(2, 100, requires_grad=True)
    range_B = loudness.dynamic_range_from_energy(energy_BK)
    range_B.sum().backward()
    assert range_B.tolist() == [0.0, 0.0]
    assert energy_BK.grad.isfinite().all()


def test_short_term_loudness_of_a_tone_is_its_level_in_every_window() -> None:
    loud_BK = loudness.short_term_loudness(stereo_sine(-23, 5), RATE_HZ)
    assert loud_BK.shape == (1, 21)
    # The first window holds the filter's onset.
    assert loud_BK.sub(-23).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(2, 44_100), (1, 3, 44_100), (1, 2, 17_000)])
def test_unfit_audio_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        loudness.integrated_loudness(torch.zeros(shape), RATE_HZ)


def test_a_rate_too_low_for_the_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="4000"):
        loudness.k_weighting_filters(4_000)


def test_agrees_with_pyloudnorm_on_real_songs(shared_dir: Path) -> None:
    audio_dir = shared_dir / "audio"
    paths = sorted(
        path
        for pattern in ("mixtures/*", "musdbhq/*/*.wav", "separated/*/*.flac")
        for path in audio_dir.glob(pattern)
    )
    assert len(paths) >= 15
    for path in paths:
        # 40 s of each are enough for gates and keep the test short.
        audio_TC, rate_hz = soundfile.read(
            path, frames=40 * 48_000, dtype="float32", always_2d=True
        )
        expected = pyloudnorm.Meter(rate_hz).integrated_loudness(audio_TC.astype(np.float64))
        audio_BCT = torch.from_numpy(np.ascontiguousarray(audio_TC.T)).unsqueeze(0)
        measured = loudness.integrated_loudness(audio_BCT, rate_hz).item()
        if expected < loudness.SILENCE_LUFS:  # pyloudnorm gives silence minus infinity
            assert measured == loudness.SILENCE_LUFS, path
        else:
            assert measured == pytest.approx(expected, abs=0.1), path
