import math

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from mixprint.dsp import reverb

RATE_HZ = 16_000


def row(*values: float) -> Tensor:
    return torch.tensor(values)


def power_db(impulse_NCL: Tensor, start_s: float, length_s: float) -> Tensor:
    """Return the power of a part of each response, in dB."""
    start, length = round(start_s * RATE_HZ), round(length_s * RATE_HZ)
    return 10 * torch.log10(impulse_NCL[..., start : start + length].square().mean(dim=(1, 2)))


def test_wet_and_dry_share_the_power() -> None:
    audio_NCT = torch.zeros(2, 2, RATE_HZ)
    audio_NCT[..., 0] = 1.0
    impulse_NCL = reverb.room_impulse(row(0.3, 0.3), row(10.0, 10.0), row(1.0, 1.0), RATE_HZ)
    wet_NCT = reverb.wet_mixed(audio_NCT, impulse_NCL, row(0.25, 1.0))
    assert wet_NCT[0, :, 0].tolist() == pytest.approx([math.sqrt(0.75)] * 2)
    energy_NC = wet_NCT.square().sum(dim=-1)
    torch.testing.assert_close(energy_NC, torch.ones(2, 2), atol=1e-4, rtol=0)
    # Anti-phase channels send nothing to a reverb that is fed by their mean.
    audio_NCT[:, 1] *= -1
    nothing_NCT = reverb.wet_mixed(audio_NCT, impulse_NCL, row(1.0, 1.0), from_mono=True)
    assert nothing_NCT.abs().max() < 1e-6


def test_a_room_waits_and_falls_by_sixty_db_in_its_decay_the_highs_sooner() -> None:
    settings = (row(1.0, 0.5), row(50.0, 0.0), row(0.25, 1.0))
    impulse_NCL = reverb.room_impulse(*settings, RATE_HZ)
    assert impulse_NCL[0, :, : RATE_HZ // 20 - 1].abs().max() == 0
    for number, decay_s in ((0, 1.0), (1, 0.5)):
        # By when the highs have gone.
        fallen_db = power_db(impulse_NCL, 0.25, 0.05) - power_db(impulse_NCL, 0.4, 0.05)
        assert float(fallen_db[number]) == pytest.approx(60 * 0.15 / decay_s, abs=1.5)
    decay_s_N, predelay_ms_N, ratio_N = (each[1:] for each in settings)
    alone_NCL = reverb.room_impulse(decay_s_N, predelay_ms_N, ratio_N, RATE_HZ)
    assert torch.equal(alone_NCL[0], impulse_NCL[1, :, : alone_NCL.shape[-1]])
    spectrum_F = torch.fft.rfft(impulse_NCL[0, 0, RATE_HZ // 4 : RATE_HZ // 2]).abs()
    assert spectrum_F[-200:].mean() < 0.1 * spectrum_F[:200].mean()


def test_gated_and_reversed_rooms_end_where_they_shall() -> None:
    length_N = row(0.2, 0.2)
    gated_NCL = reverb.gated_impulse(length_N, row(0.0, 12.0), RATE_HZ)
    swelling_NCL = reverb.reversed_impulse(length_N, row(20.0, 40.0), RATE_HZ)
    for impulse_NCL, changes_db in ((gated_NCL, (0.0, -6.0)), (swelling_NCL, (10.0, 20.0))):
        assert impulse_NCL[..., RATE_HZ // 5 :].abs().max() == 0
        # In half of it.
        change_db_N = power_db(impulse_NCL, 0.15, 0.03) - power_db(impulse_NCL, 0.05, 0.03)
        assert change_db_N.tolist() == pytest.approx(changes_db, abs=1.5)


def test_reflections_fall_and_the_last_comes_at_the_size() -> None:
    impulse_NCL = reverb.reflection_impulse(row(80.0), row(20.0), RATE_HZ)
    last = round(0.08 * RATE_HZ)
    assert impulse_NCL.shape[-1] == last + 1
    assert impulse_NCL[0, :, -1].abs().tolist() == pytest.approx([0.1, 0.1])
    assert impulse_NCL.abs().amax() < 1.0
    assert ((impulse_NCL[0] != 0).sum(dim=-1) > 15).all()


def test_combs_are_those_of_the_recursion() -> None:
    decay_s, size, damping = 0.4, 0.8, 0.3
    impulse_NCL = reverb.comb_impulse(row(decay_s), row(size), row(damping), RATE_HZ)
    num_taps = RATE_HZ // 2
    impulse_T = np.zeros(num_taps)
    impulse_T[0] = 1.0
    expected_T = np.zeros(num_taps)
    for delay_ms in (29.7, 37.1, 41.1, 43.7):
        samples = round(delay_ms * size * RATE_HZ / 1_000)
        gain = 10 ** (-3 * delay_ms * size / 1_000 / decay_s)
        b, a = np.zeros(samples + 2), np.zeros(samples + 1)
        b[samples : samples + 2] = 1.0, -damping
        a[:2] = 1.0, -damping
        a[samples] -= gain * (1 - damping)
        expected_T += lfilter(b, a, impulse_T)
    for delay_ms in (5.0, 1.7):
        b = np.zeros(round(delay_ms * size * RATE_HZ / 1_000) + 1)
        b[0], b[-1] = -0.7, 1.0
        expected_T = lfilter(b, b[::-1], expected_T)
    found_T = impulse_NCL[0, 0, :num_taps].double()
    torch.testing.assert_close(found_T, torch.from_numpy(expected_T), atol=1e-4, rtol=0)


def test_a_spring_delays_highs_more_and_passes_none_above_its_limit() -> None:
    rate_hz = 32_000
    # So short a decay leaves the first chirp alone.
    impulse_NCL = reverb.spring_impulse(row(40.0), row(0.02), row(50.0), rate_hz)
    num_taps = impulse_NCL.shape[-1]
    spectrum_F = torch.fft.rfft(impulse_NCL[0, 0].double())
    step_hz = rate_hz / num_taps

    def group_delay_s(frequency_hz: float) -> float:
        bin_ = round(frequency_hz / step_hz)
        turned = torch.angle(spectrum_F[bin_ + 1] * spectrum_F[bin_ - 1].conj())
        # Less than half a turn lies between the bins.
        return float(-turned % (2 * math.pi)) / (4 * math.pi * step_hz)

    # Of 50 all-passes with coefficient 0.62: (1 - c) / (1 + c) of their delay at the bottom.
    stretch_s = 1 / (2 * 4_300)
    lowest_s = 50 * stretch_s * 0.38 / 1.62
    assert group_delay_s(50.0) == pytest.approx(0.04 + lowest_s, rel=0.01)
    assert group_delay_s(4_000.0) > 0.04 + 3 * lowest_s
    level_F = spectrum_F.abs()
    assert level_F[round(6_000 / step_hz) :].max() < 0.01 * level_F[round(1_000 / step_hz)]


def test_the_highs_of_a_plate_arrive_first_and_its_brightness_is_their_gain() -> None:
    rate_hz = 32_000
    impulse_NCL = reverb.plate_impulse(row(1.0, 1.0), row(0.0, 12.0), rate_hz)

    def lows_share(start_s: float) -> float:
        start = round(start_s * rate_hz)
        window_T = torch.hann_window(rate_hz // 50)
        power_CF = torch.fft.rfft(impulse_NCL[0, :, start:][:, : len(window_T)] * window_T)
        power_F = power_CF.abs().square().sum(dim=0)
        return float(power_F[:7].sum() / power_F.sum())  # up to 300 Hz

    assert lows_share(0.0) < 0.2 * lows_share(0.2)
    high_2F = torch.fft.rfft(impulse_NCL[:, 0]).abs()[:, -impulse_NCL.shape[-1] // 8 :]
    assert 20 * math.log10(float(high_2F[1].norm() / high_2F[0].norm())) == pytest.approx(
        12.0, abs=0.2
    )
