import math

import pytest
import torch
from torch import Tensor

from mixprint.dsp import stereo

RATE_HZ = 32_000
T = RATE_HZ // 2


def row(*values: float) -> Tensor:
    return torch.tensor(values)


def impulses(left: float, right: float) -> Tensor:
    audio_NCT = torch.zeros(1, 2, T)
    audio_NCT[0, :, 0] = row(left, right)
    return audio_NCT


def noise(num_signals: int) -> Tensor:
    return torch.randn(num_signals, 2, 500, generator=torch.Generator().manual_seed(0))


def levels_db(audio_CT: Tensor, *frequencies_hz: int) -> list[float]:
    """Return the levels of both channels' spectra, at each frequency in turn."""
    spectrum_CF = 20 * torch.log10(torch.fft.rfft(audio_CT).abs().clamp_min(1e-9))
    bins = [hz * audio_CT.shape[-1] // RATE_HZ for hz in frequencies_hz]
    return spectrum_CF[:, bins].mT.flatten().tolist()


def test_matrices_by_hand() -> None:
    audio_NCT = noise(1)
    left_T, right_T = audio_NCT[0]
    mid_T, side_T = (left_T + right_T) / 2, (left_T - right_T) / 2
    half = math.sqrt(0.5)
    for found_NCT, expected in (
        (stereo.panned(audio_NCT, row(0.0)), (left_T, right_T)),
        (stereo.panned(audio_NCT, row(-1.0)), (math.sqrt(2) * left_T, 0 * right_T)),
        (
            stereo.panned(audio_NCT, row(0.5)),
            (
                math.sqrt(2) * math.cos(3 * math.pi / 8) * left_T,
                math.sqrt(2) * math.sin(3 * math.pi / 8) * right_T,
            ),
        ),
        (stereo.widened(audio_NCT, row(1.0)), (left_T, right_T)),
        (stereo.widened(audio_NCT, row(0.0)), (mid_T, mid_T)),
        (stereo.widened(audio_NCT, row(2.0)), (mid_T + 2 * side_T, mid_T - 2 * side_T)),
        (
            stereo.balanced(audio_NCT, row(20.0), row(-20.0)),
            (10 * mid_T + 0.1 * side_T, 10 * mid_T - 0.1 * side_T),
        ),
        (
            stereo.rotated(audio_NCT, row(45.0)),
            (half * (left_T - right_T), half * (left_T + right_T)),
        ),
        (stereo.swapped(audio_NCT), (right_T, left_T)),
        (stereo.inverted(audio_NCT), (left_T, -right_T)),
    ):
        torch.testing.assert_close(found_NCT[0], torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_combed_channels_differ_by_the_delayed_middle_alone() -> None:
    audio_NCT = noise(2)
    delay_ms_N = 1_000 * row(10.0, 0.0) / RATE_HZ
    combed_NCT = stereo.combed(audio_NCT, delay_ms_N, row(0.5, 0.5), RATE_HZ)
    torch.testing.assert_close(combed_NCT.mean(dim=1), audio_NCT.mean(dim=1))
    added_NT = combed_NCT[:, 0] - audio_NCT[:, 0]
    mid_NT = audio_NCT.mean(dim=1)
    torch.testing.assert_close(added_NT[0, 10:], 0.5 * mid_NT[0, :-10], atol=1e-6, rtol=0)
    assert added_NT[0, :10].abs().max() < 1e-6
    torch.testing.assert_close(added_NT[1], 0.5 * mid_NT[1], atol=1e-6, rtol=0)


def test_tilts_of_middle_and_side_meet_at_the_pivot() -> None:
    frequencies_hz = (0, 1_000, RATE_HZ // 2)
    settings = (row(6.0), row(-12.0), RATE_HZ)
    mid_CT = stereo.tilted(impulses(1.0, 1.0), *settings)[0]
    side_CT = stereo.tilted(impulses(1.0, -1.0), *settings)[0]
    torch.testing.assert_close(mid_CT[0], mid_CT[1])
    assert levels_db(mid_CT, *frequencies_hz)[::2] == pytest.approx([-3, 0, 3], abs=0.01)
    assert levels_db(side_CT, *frequencies_hz)[::2] == pytest.approx([6, 0, -6], abs=0.01)


def test_bass_to_mono_cuts_the_side_alone() -> None:
    side_CT = stereo.bass_to_mono(impulses(1.0, -1.0), row(400.0), RATE_HZ)[0]
    assert levels_db(side_CT, 100, 400, 8_000)[::2] == pytest.approx([-24.1, -3.0, 0.0], abs=0.1)
    mid_NCT = impulses(1.0, 1.0)
    assert torch.equal(stereo.bass_to_mono(mid_NCT, row(400.0), RATE_HZ), mid_NCT)


def test_decorrelation_keeps_each_spectrum_and_parts_the_channels() -> None:
    audio_NCT = impulses(1.0, 1.0)
    parted_NCT = stereo.decorrelated(audio_NCT, row(0.5), row(1.0), RATE_HZ)
    level_CF = torch.fft.rfft(parted_NCT[0]).abs()
    torch.testing.assert_close(level_CF, torch.ones_like(level_CF), atol=1e-3, rtol=0)
    assert (parted_NCT[0, 0] @ parted_NCT[0, 1]).abs() < 0.5
