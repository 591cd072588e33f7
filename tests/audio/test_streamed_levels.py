import pytest
import torch

from mixprint.audio.levels import SILENT_PEAK_DB, loudness_lufs, peak_db, true_peak
from mixprint.audio.streamed_levels import peak_safe_gain_db, stream_levels

RATE_HZ = 44_100


def test_peaks_between_samples_are_found_in_any_blocks() -> None:
    # At a quarter of the rate, sampled at 45 degrees, a sine's peaks lie 3 dB above its samples.
    time_T = torch.arange(20_000)
    audio_CT = torch.sin(torch.pi / 2 * time_T.double() + torch.pi / 4).float().expand(2, -1)
    assert float(audio_CT.abs().max()) == pytest.approx(0.7071, abs=1e-3)
    peak = true_peak([audio_CT])
    assert peak == pytest.approx(1.0, abs=0.1)
    assert true_peak(audio_CT.split(777, dim=-1)) == pytest.approx(peak, abs=1e-6)
    levels = stream_levels(audio_CT.split(777, dim=-1))
    assert levels.true_peak_dbtp == pytest.approx(peak_db(peak), abs=1e-5)
    assert levels.peak_dbfs == pytest.approx(-3.01, abs=0.01)
    gain = 10 ** (peak_safe_gain_db(levels.true_peak_dbtp) / 20)
    assert true_peak([gain * audio_CT]) == pytest.approx(10 ** (-1 / 20), rel=1e-3)


def test_quiet_audio_is_not_turned_up() -> None:
    assert peak_safe_gain_db(-20.0) == 0
    silent = stream_levels([torch.zeros(2, RATE_HZ)])
    assert silent.true_peak_dbtp == silent.peak_dbfs == SILENT_PEAK_DB
    assert peak_safe_gain_db(silent.true_peak_dbtp) == 0


@pytest.mark.parametrize("block", [1000, 4410, 30_011, 1_000_000])
def test_loudness_in_blocks_is_that_of_the_whole(block: int) -> None:
    generator = torch.Generator().manual_seed(1)
    swell_T = torch.linspace(0, 0.3, 5 * RATE_HZ)
    audio_CT = swell_T * torch.randn(2, 5 * RATE_HZ, generator=generator)
    expected = loudness_lufs(audio_CT, RATE_HZ)
    assert -30 < expected < -5
    found = stream_levels(audio_CT.split(block, dim=-1)).loudness_lufs
    assert found == pytest.approx(expected, abs=1e-3)
