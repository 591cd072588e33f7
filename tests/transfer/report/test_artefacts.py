import math

import pytest
import torch
from torch import Tensor

from mixprint.transfer.report.artefacts import (
    SILENCE_FRAME_SAMPLES,
    Silence,
    count_clipped,
    linear_null,
)

RATE_HZ = 44_100


def noise(num_samples: int = 2 * RATE_HZ) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    noise_SCT = 0.1 * torch.randn(4, 2, num_samples, generator=generator)
    # Sides that have much in common, as music has.
    return noise_SCT + noise_SCT.mean(1, keepdim=True)


def test_linear_phase_processing_nulls_and_what_else_is_done_does_not() -> None:
    stems_SCT = noise()
    # A gain, a balance, and a filter that is the same forward and backward.
    taps_N = torch.tensor([0.1, -0.3, 1.2, -0.3, 0.1])
    padded_SCT = torch.nn.functional.pad(stems_SCT, (2, 2))
    filtered_SCT = (padded_SCT.unfold(-1, 5, 1) * taps_N).sum(-1)
    output_SCT = stems_SCT.clone()
    output_SCT[0] = torch.tensor([[0.5], [0.7]]) * filtered_SCT[0]
    # A delay has no linear-phase filter without delay; noise has none at all: -20 dB stay.
    output_SCT[1] = stems_SCT[1].roll(1, -1)
    output_SCT[2] = stems_SCT[2] + 0.1 * stems_SCT[3]
    output_SCT[3] = 0
    found = linear_null(stems_SCT, output_SCT)
    assert found["vocals"] is not None
    assert found["vocals"] < -60
    assert found["bass"] is not None
    assert found["bass"] > -10
    assert found["drums"] == pytest.approx(-20, abs=1)
    assert found["other"] is None


def test_a_gain_nulls_in_mono_too() -> None:
    stems_SCT = noise()[:, :1].expand(-1, 2, -1)
    assert all(value < -90 for value in linear_null(stems_SCT, 0.5 * stems_SCT).values())  # type: ignore[operator]


def silence(*pairs: tuple[Tensor, Tensor]) -> dict[str, float | None]:
    found = Silence()
    for input_CT, output_CT in pairs:
        found.add(input_CT, output_CT)
    return found.values()


def test_noise_in_silence() -> None:
    num_samples = 8 * SILENCE_FRAME_SAMPLES
    input_CT = torch.zeros(2, num_samples)
    input_CT[:, : num_samples // 2] = 0.5
    output_CT = input_CT + 10 ** (-80 / 20)
    found = silence((input_CT, output_CT))
    assert found["share"] == 0.5
    assert found["input_dbfs"] == pytest.approx(-120)
    assert found["output_dbfs"] == pytest.approx(-80, abs=1e-3)
    assert found["rise_db"] == pytest.approx(40, abs=1e-3)
    blocks = torch.stack((input_CT, output_CT)).split(SILENCE_FRAME_SAMPLES, dim=-1)
    assert silence(*((block[0], block[1]) for block in blocks)) == pytest.approx(found)


def test_no_silence_has_no_noise_floor() -> None:
    loud_CT = torch.full((2, SILENCE_FRAME_SAMPLES), 0.1)
    assert silence((loud_CT, loud_CT)) == {
        "share": 0.0,
        "input_dbfs": None,
        "output_dbfs": None,
        "rise_db": None,
    }


def test_clipped_samples_are_counted() -> None:
    block_CT = torch.tensor([[0.0, 1.0, -1.2], [0.999, 0.5, -0.5]])
    assert count_clipped(block_CT) == 2


def test_the_null_is_in_decibels_of_the_output() -> None:
    stems_SCT = noise()
    disturbed_SCT = stems_SCT + 0.01 * stems_SCT.flip(0)
    found = linear_null(stems_SCT, disturbed_SCT)["vocals"]
    assert found == pytest.approx(20 * math.log10(0.01), abs=1)
    assert linear_null(stems_SCT, 7 * disturbed_SCT)["vocals"] == pytest.approx(found, abs=0.01)
