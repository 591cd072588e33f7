"""Rooms: the generator's own, how they die away, and the same in blocks."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfilt
from torch import Tensor

from mixprint.dsp.room import HIGH_HZ, LOW_HZ, Rooms, StreamedRooms, answered
from mixprint.synthesis import exact

RATE_HZ = 44_100


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def level_db(audio: Tensor | np.ndarray) -> float:
    return 10 * math.log10(float((audio**2).mean()))


@pytest.mark.parametrize("time_s", [0.3, 1.7, 3.5])
def test_it_is_the_generators_room(time_s: float) -> None:
    generator = torch.Generator().manual_seed(1)
    sent_BT = torch.randn(1, RATE_HZ, generator=generator, dtype=torch.float64)
    impulse_BCN = Rooms(of(-6.0), of(time_s)).impulse_response(RATE_HZ, 2 * RATE_HZ)
    expected_CT = exact.reverb(exact.gain(-6.0) * sent_BT[0].numpy(), time_s, 5000.0)
    found_BCT = answered(sent_BT, impulse_BCN)
    assert level_db(found_BCT[0].numpy() - expected_CT) < level_db(expected_CT) - 120


def decay_s(impulse_N: np.ndarray) -> float:
    """Time to fall by 60 dB: a line through -5 to -45 dB of what is to come (Schroeder 1965)."""
    left_db = 10 * np.log10(np.cumsum(impulse_N[::-1] ** 2)[::-1])
    left_db -= left_db[0]
    used = np.flatnonzero((left_db < -5) & (left_db > -45))
    slope, _ = np.polyfit(used / RATE_HZ, left_db[used], 1)
    return -60.0 / float(slope)


@pytest.mark.parametrize("time_s", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_it_dies_away_in_its_time(time_s: float, rate_hz: int) -> None:
    impulse_BCN = Rooms(of(0.0), of(time_s)).impulse_response(
        rate_hz, round(1.5 * time_s * rate_hz)
    )
    for channel in (0, 1):
        found_s = decay_s(impulse_BCN[0, channel].numpy()) * RATE_HZ / rate_hz
        assert found_s == pytest.approx(time_s, rel=0.02)


def test_bands_die_away_in_times_of_their_own() -> None:
    rooms = Rooms(of(0.0), of(1.0), of(2.0), of(0.4))
    impulse_N = rooms.impulse_response(RATE_HZ, 3 * RATE_HZ)[0, 0].numpy()
    for kind, freq_hz, expected_s in (
        ("lowpass", LOW_HZ / 3, 2.0),
        ("bandpass", (3 * LOW_HZ, HIGH_HZ / 3), 1.0),
        ("highpass", 3 * HIGH_HZ, 0.4),
    ):
        band_N = sosfilt(butter(4, freq_hz, kind, fs=RATE_HZ, output="sos"), impulse_N)
        assert decay_s(band_N) == pytest.approx(expected_s, rel=0.1)
    same = Rooms(of(0.0), of(1.0), of(1.0), of(1.0)).impulse_response(RATE_HZ, 3 * RATE_HZ)
    plain = Rooms(of(0.0), of(1.0)).impulse_response(RATE_HZ, 3 * RATE_HZ)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-12)


def test_blocks_give_what_one_pass_gives() -> None:
    generator = torch.Generator().manual_seed(2)
    sent_BT = torch.randn(2, 30_000, generator=generator, dtype=torch.float64)
    rooms = Rooms(of(-3.0, -20.0), of(0.3, 0.2))
    stream = StreamedRooms(rooms, RATE_HZ)
    blocks = [stream.add(block_BT) for block_BT in sent_BT.split([1, 9_000, 64, 20_935], dim=-1)]
    impulse_BCN = rooms.impulse_response(RATE_HZ, rooms.longest_taps(RATE_HZ))
    expected_BCT = answered(sent_BT, impulse_BCN)
    torch.testing.assert_close(torch.cat(blocks, dim=-1), expected_BCT, rtol=0, atol=1e-10)


def test_gradients() -> None:
    sent_BT = torch.randn(2, 3_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def level(*values: Tensor) -> Tensor:
        impulse_BCN = Rooms(*values).impulse_response(RATE_HZ, 8_000)
        return answered(sent_BT, impulse_BCN).square().sum(dim=(1, 2)).log()

    inputs = [of(-3.0, -60.0), of(0.15, 2.5), of(0.5, 2.0), of(0.3, 1.0)]
    assert torch.autograd.gradcheck(level, [x.requires_grad_() for x in inputs], atol=1e-6)
