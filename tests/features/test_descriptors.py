import math

import pytest
import torch
from torch import Tensor

from mixprint.features.descriptors import (
    NUM_DESCRIPTORS,
    NUM_MELS,
    PLACES,
    describe,
    describe_spectra,
    mid_side_spectra,
    shifted,
)

RATE_HZ = 44_100
NUM_SAMPLES = 3 * RATE_HZ
DB_PER_NEPER = 20 / math.log(10)


def noise(num_items: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(num_items, 2, NUM_SAMPLES, generator=generator)


def is_level() -> Tensor:
    """1 for what rises by 1 dB with the audio, else 0."""
    return shifted(torch.zeros(1, NUM_DESCRIPTORS), torch.ones(1))[0]


def test_levels_move_with_the_gain_and_nothing_else_does() -> None:
    audio_12T = noise()
    quiet_D, loud_D = describe(torch.cat([audio_12T, 2 * audio_12T]))
    gain_db = 20 * math.log10(2)
    # What is louder need not be heard again.
    known_ND = shifted(quiet_D[None], torch.tensor([gain_db]))
    torch.testing.assert_close(known_ND[0], loud_D, atol=0.02, rtol=0)
    change_D = loud_D - quiet_D
    levels = [*range(NUM_MELS), *range(2 * NUM_MELS, 4 * NUM_MELS + 40)]
    torch.testing.assert_close(
        change_D[levels], torch.full((len(levels),), gain_db), atol=0.01, rtol=0
    )
    others = [*range(NUM_MELS, 2 * NUM_MELS), *range(PLACES["falls"].start, PLACES["crest"].stop)]
    assert change_D[others].abs().max() < 0.01


def test_what_follows_the_descriptor_is_not_shifted() -> None:
    numbers_ND = noise()[0, :, : NUM_DESCRIPTORS + 7]
    found_ND = shifted(numbers_ND, torch.tensor([3.0, -1.0]))
    assert torch.equal(found_ND[:, NUM_DESCRIPTORS:], numbers_ND[:, NUM_DESCRIPTORS:])
    assert torch.equal(
        found_ND[:, :NUM_DESCRIPTORS],
        shifted(numbers_ND[:, :NUM_DESCRIPTORS], torch.tensor([3.0, -1.0])),
    )


def test_a_room_is_heard_in_the_falls_and_a_beat_in_the_onsets() -> None:
    time_T = torch.arange(NUM_SAMPLES) % (RATE_HZ // 2) / RATE_HZ
    dry_D, wet_D = describe(
        torch.cat([noise() * torch.exp(-rate * time_T) for rate in (60.0, 6.0)])
    )
    # After 139 ms one has fallen by 8.7 x 60 x 0.139 dB, the other by a tenth of that.
    dry_K, wet_K = (x_D[PLACES["falls"]].view(3, 4, 6)[1, 2] for x_D in (dry_D, wet_D))
    assert (dry_K < wet_K - 10).all()
    torch.testing.assert_close(wet_K.mean(), torch.tensor(-8.686 * 6 * 0.139), atol=1.5, rtol=0)
    assert 1.5 < float(dry_D[PLACES["onsets"]]) < 3.0


def test_a_batch_is_described_as_its_items_are() -> None:
    """On a GPU a batch is measured at once, on a CPU one by one."""
    audio_N2T = torch.cat([noise(), 0.1 * noise(seed=1), torch.zeros(1, 2, NUM_SAMPLES)])
    found_ND = describe(audio_N2T)
    assert found_ND.shape == (3, NUM_DESCRIPTORS)
    torch.testing.assert_close(
        describe_spectra(mid_side_spectra(audio_N2T)), found_ND, atol=1e-3, rtol=1e-4
    )
    assert describe(audio_N2T[:0]).shape == (0, NUM_DESCRIPTORS)


def test_the_gradient_along_the_gain_is_that_of_levels() -> None:
    audio_12T = noise().requires_grad_()
    found_D = describe(audio_12T)[0]
    level_D = is_level() / is_level().sum()
    for weight_D, expected in ((level_D, DB_PER_NEPER), (1 - is_level(), 0.0)):
        (grad_12T,) = torch.autograd.grad(found_D @ weight_D, audio_12T, retain_graph=True)
        # Of the many numbers of the second sum each is a rest of rounding.
        assert float((grad_12T * audio_12T.detach()).sum()) == pytest.approx(expected, abs=0.02)


def test_silence_reads_its_floors_and_has_finite_gradients() -> None:
    silent_12T = torch.zeros(1, 2, NUM_SAMPLES, requires_grad=True)
    found_D = describe(silent_12T)[0]
    means = [*range(NUM_MELS), *range(4 * NUM_MELS, 4 * NUM_MELS + 40)]
    torch.testing.assert_close(found_D[means], torch.full((len(means),), -120.0))
    assert found_D[PLACES["falls"].start : PLACES["rises"].stop].abs().max() == 0
    assert found_D.isfinite().all()
    found_D.sum().backward()
    assert silent_12T.grad is not None
    assert silent_12T.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, NUM_SAMPLES), (2, NUM_SAMPLES), (1, 2, NUM_SAMPLES - 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="audio_N2T"):
        describe(torch.zeros(shape))
