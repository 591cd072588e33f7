import torch

from mixprint.controller.descriptors import describe_audio, part_powers, remixed
from mixprint.features.descriptors import NUM_DESCRIPTORS, NUM_MELS, describe
from mixprint.features.schema import STEM_FEATURES

RATE_HZ = 44_100


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, 2, num_samples, generator=generator)


def test_short_audio_is_described_as_if_it_went_on() -> None:
    short_1CT = noise(RATE_HZ // 2)
    whole_1CT = short_1CT.repeat(1, 1, 6)
    found_1D = describe_audio(short_1CT, RATE_HZ)
    torch.testing.assert_close(found_1D, describe_audio(whole_1CT, RATE_HZ))
    assert torch.equal(describe_audio(whole_1CT, RATE_HZ), describe(whole_1CT))
    assert describe_audio(short_1CT[:0], RATE_HZ).shape == (0, NUM_DESCRIPTORS)


def test_one_channel_is_described_without_a_gradient() -> None:
    audio_1CT = noise(3 * RATE_HZ)[:, :1].requires_grad_()
    found_1D = describe_audio(audio_1CT, RATE_HZ)
    assert not found_1D.requires_grad
    assert torch.equal(found_1D, describe(audio_1CT.detach().expand(-1, 2, -1)))
    silent_ND = describe_audio(torch.zeros(2, 1, 3 * RATE_HZ), RATE_HZ)
    assert silent_ND.shape == (2, NUM_DESCRIPTORS)
    assert silent_ND.isfinite().all()


def test_powers_of_parts_are_those_of_mid_and_side_and_of_what_they_share() -> None:
    left_1T, right_1T = noise(RATE_HZ)[:, 0], noise(RATE_HZ, seed=1)[:, 0]
    audio_NCT = torch.stack(
        [
            torch.cat([left_1T, left_1T]),
            torch.cat([left_1T, -left_1T]),
            torch.cat([left_1T, 0 * left_1T]),
            torch.cat([left_1T, right_1T]),
        ]
    )
    power_N3 = (
        part_powers(audio_NCT)[..., 8:].mean(dim=-1) / part_powers(audio_NCT)[0, 0, 8:].mean()
    )
    expected_N3 = torch.tensor([[1, 0, 0], [0, 1, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(power_N3, expected_N3, atol=0.03, rtol=0)


def test_other_powers_are_described_as_what_has_them() -> None:
    """Louder on the left, with more lows on the right."""
    before_1CT = noise(3 * RATE_HZ)
    lows_1CT = (before_1CT + before_1CT.roll(1, dims=-1)) / 2
    after_1CT = torch.stack([2 * before_1CT[:, 0], lows_1CT[:, 1]], dim=1)
    before_1D, expected_1D = (describe_audio(x, RATE_HZ) for x in (before_1CT, after_1CT))
    found_1D = remixed(before_1D, part_powers(before_1CT), part_powers(after_1CT))
    mean_powers = slice(4 * NUM_MELS, 4 * NUM_MELS + 40)
    torch.testing.assert_close(
        found_1D[:, mean_powers], expected_1D[:, mean_powers], atol=0.1, rtol=0
    )
    error_F = (found_1D - expected_1D)[0, -len(STEM_FEATURES) :].abs()
    limits = {"correlation": 0.02, "spectral_flatness": 0.05}
    for name, error in zip(STEM_FEATURES, error_F.tolist(), strict=True):
        # How sounds change over time is not in their powers.
        if not name.startswith(("crest", "dynamic")):
            assert error < limits.get(name, 0.3), name
