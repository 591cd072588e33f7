"""Second-order sections: their response, and two forms of filtering that are one."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import sosfilt, sosfreqz
from torch import Tensor

from mixprint.dsp.equaliser import (
    Sections,
    StreamedEqualiser,
    bell,
    convolved,
    cut,
    impulse_response,
    power_response,
    response,
    shelf,
)
from mixprint.synthesis import exact

RATE_HZ = 44_100


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def chain() -> Sections:
    """Six sections on two tracks, one of them narrow and low."""
    return Sections.joined(
        [
            cut(of(30.0, 80.0), RATE_HZ, high=True),
            cut(of(18_000.0, 9_000.0), RATE_HZ, high=False),
            shelf(of(100.0, 200.0), of(6.0, -12.0), RATE_HZ, high=False),
            bell(of(250.0, 60.0), of(-4.0, 12.0), of(1.0, 5.0), RATE_HZ),
            bell(of(3_000.0, 900.0), of(3.0, 9.0), of(0.7, 8.0), RATE_HZ),
            shelf(of(8_000.0, 4_000.0), of(-6.0, 10.0), RATE_HZ, high=True),
        ]
    )


def sos(sections: Sections, track: int) -> np.ndarray:
    return torch.cat([sections.b_BK3, sections.a_BK3], dim=-1)[track].numpy()


def test_designs_are_the_generators() -> None:
    for found, expected in (
        (shelf(of(150.0), of(5.0), RATE_HZ, high=False), exact.shelf(150.0, 5.0, high=False)),
        (shelf(of(5_000.0), of(-7.0), RATE_HZ, high=True), exact.shelf(5_000.0, -7.0, high=True)),
        (bell(of(700.0), of(4.0), of(0.8), RATE_HZ), exact.peak(700.0, 4.0)),
        (cut(of(60.0), RATE_HZ, high=True), exact.high_pass(60.0)),
        (cut(of(6_000.0), RATE_HZ, high=False), exact.low_pass(6_000.0)),
    ):
        coefficients = [*found.b_BK3.flatten().tolist(), *found.a_BK3.flatten().tolist()[1:]]
        # The generator's shelves have a Q of 0.7071.
        assert coefficients == pytest.approx(list(expected), abs=2e-5)


def test_response_is_that_of_scipy() -> None:
    sections = chain()
    found_BF = response(sections, 4096).numpy()
    for track in (0, 1):
        _, expected_F = sosfreqz(sos(sections, track), 2 * math.pi * np.arange(2049) / 4096)
        np.testing.assert_allclose(found_BF[track], expected_F, atol=1e-9, rtol=1e-9)


def test_power_response_is_the_square_of_the_response() -> None:
    sections = chain()
    hz_F = torch.arange(1, 2049) * RATE_HZ / 4096
    expected_BF = response(sections, 4096)[:, 1:].abs().square()
    found_BF = power_response(sections, hz_F, RATE_HZ)
    torch.testing.assert_close(found_BF, expected_BF, atol=1e-5, rtol=1e-5)


def test_gains_are_where_they_are_said() -> None:
    for sections, freq_hz, expected_db in (
        (bell(of(1_000.0), of(6.0), of(2.0), RATE_HZ), 1_000.0, 6.0),
        (shelf(of(200.0), of(-9.0), RATE_HZ, high=False), 200.0, -4.5),
        (shelf(of(200.0), of(-9.0), RATE_HZ, high=False), 1.0, -9.0),
        (shelf(of(4_000.0), of(8.0), RATE_HZ, high=True), 22_000.0, 8.0),
        (cut(of(500.0), RATE_HZ, high=True), 500.0, 20 * math.log10(math.sqrt(0.5))),
    ):
        found_F = response(sections, RATE_HZ)[0].abs()
        assert 20 * math.log10(float(found_F[round(freq_hz)])) == pytest.approx(
            expected_db, abs=0.02
        )


def test_both_forms_are_one() -> None:
    generator = torch.Generator().manual_seed(1)
    audio_BCT = torch.randn(2, 2, 3 * RATE_HZ, generator=generator, dtype=torch.float64)
    sections = chain()
    found_BCT = convolved(audio_BCT, impulse_response(sections, RATE_HZ))
    streamed = StreamedEqualiser(sections, 2)
    blocks = [streamed.add(block.numpy()) for block in audio_BCT.split(12_345, dim=-1)]
    exact_BCT = torch.from_numpy(np.concatenate(blocks, axis=-1))
    for track in (0, 1):
        whole_CT = sosfilt(sos(sections, track), audio_BCT[track].numpy(), axis=-1)
        np.testing.assert_array_equal(exact_BCT[track].numpy(), whole_CT)
    error_db = 10 * torch.log10((found_BCT - exact_BCT).square().mean() / exact_BCT.square().mean())
    assert error_db < -100


def test_sections_that_are_off_change_nothing() -> None:
    sections = chain().where(torch.tensor([True, False]))
    audio_BCT = torch.randn(2, 2, 1000, dtype=torch.float64)
    streamed_BCT = StreamedEqualiser(sections, 2).add(audio_BCT.numpy())
    assert np.array_equal(streamed_BCT[1], audio_BCT[1].numpy())
    assert not np.allclose(streamed_BCT[0], audio_BCT[0].numpy())


def test_gradients_are_those_of_differences() -> None:
    def filtered(freq_hz_B: Tensor, gain_db_B: Tensor, q_B: Tensor) -> Tensor:
        sections = Sections.joined(
            [
                bell(freq_hz_B, gain_db_B, q_B, RATE_HZ),
                shelf(freq_hz_B, gain_db_B, RATE_HZ, high=True),
                cut(freq_hz_B, RATE_HZ, high=True),
            ]
        )
        return response(sections, 64).abs()

    inputs = [of(*pair).requires_grad_() for pair in ((900.0, 3_000.0), (3.0, -5.0), (0.7, 4.0))]
    assert torch.autograd.gradcheck(filtered, inputs)
