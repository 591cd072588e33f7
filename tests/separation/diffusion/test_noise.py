"""Noise by its place: Gaussian, and the same however it is asked for."""

import pytest
import torch

from mixprint.separation.diffusion.noise import _mixed, _mixed_tensor, _signed, gaussian_noise

SHAPE = (2, 257, 40)


def test_it_is_gaussian_and_white() -> None:
    noise_BCFN = gaussian_noise(1, 2, 3, torch.tensor([0, 1000]), SHAPE)
    values = torch.view_as_real(noise_BCFN).flatten()
    num = len(values)
    assert values.mean().item() == pytest.approx(0, abs=4 / num**0.5)
    assert values.square().mean().item() == pytest.approx(1, abs=4 * (2 / num) ** 0.5)
    assert (values**4).mean().item() == pytest.approx(3, abs=4 * (96 / num) ** 0.5)
    for x, y in (
        (noise_BCFN.real, noise_BCFN.imag),
        (noise_BCFN[0], noise_BCFN[1]),
        (noise_BCFN[:, 0], noise_BCFN[:, 1]),
        (noise_BCFN[:, :, 1:], noise_BCFN[:, :, :-1]),
        (noise_BCFN[..., 1:], noise_BCFN[..., :-1]),
    ):
        assert abs((x * y.conj()).mean().item()) < 4 * (2 / x.numel()) ** 0.5 * 2


def test_neither_batch_nor_window_changes_it() -> None:
    whole_BCFN = gaussian_noise(5, 0, 0, torch.tensor([0]), SHAPE)
    parts_BCFN = gaussian_noise(5, 0, 0, torch.tensor([7, 0, 30]), (2, 257, 10))
    for part_CFN, first in zip(parts_BCFN, (7, 0, 30), strict=True):
        assert torch.equal(part_CFN, whole_BCFN[0, ..., first : first + 10])


@pytest.mark.parametrize("other", [(6, 0, 0, 0), (5, 1, 0, 0), (5, 0, 1, 0), (5, 0, 0, 1)])
def test_each_number_counts(other: tuple[int, int, int, int]) -> None:
    def draw(seed: int, sample: int, step: int, frame: int) -> torch.Tensor:
        return gaussian_noise(seed, sample, step, torch.tensor([frame]), (2, 257, 1))

    known, found = draw(5, 0, 0, 0), draw(*other)
    assert not (found == known).any()


def test_the_numbers_of_seed_sample_and_step_are_no_sum() -> None:
    first_B = torch.tensor([0])
    drawn = {
        gaussian_noise(*numbers, first_B, (1, 1, 1)).item()
        for numbers in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 1, 0), (1, 2, 0))
    }
    assert len(drawn) == 5


def test_integers_mix_as_the_generator_does() -> None:
    # SplitMix64's first outputs of the seed 1234567, as published with it.
    known = (6457827717110365317, 3203168211198807973)
    step = 0x9E3779B97F4A7C15
    assert _mixed(1234567) == known[0]
    assert _mixed((1234567 + step) & ((1 << 64) - 1)) == known[1]
    state = torch.tensor([_signed((1234567 + step * n) & ((1 << 64) - 1)) for n in (1, 2)])
    assert _mixed_tensor(state).tolist() == [_signed(number) for number in known]


@pytest.mark.gpu
def test_a_gpu_draws_the_same() -> None:
    first_B = torch.tensor([3])
    there = gaussian_noise(1, 0, 0, first_B.cuda(), SHAPE).cpu()
    torch.testing.assert_close(there, gaussian_noise(1, 0, 0, first_B, SHAPE), rtol=0, atol=1e-6)
