import math

import torch

from mixprint.controller.descriptors import (
    NUM_DESCRIPTORS,
    NUM_MELS,
    describe_audio,
    part_powers,
    remixed,
    shifted,
)
from mixprint.features.schema import STEM_FEATURES

RATE_HZ = 44_100
_FALLS = 4 * NUM_MELS + 40


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, 2, num_samples, generator=generator)


def test_levels_move_with_the_gain_and_nothing_else_does() -> None:
    audio_1CT = noise(3 * RATE_HZ)
    quiet_D, loud_D = describe_audio(torch.cat([audio_1CT, 2 * audio_1CT]), RATE_HZ)
    # What is louder need not be heard again.
    known_ND = shifted(quiet_D[None], torch.tensor([20 * math.log10(2)]))
    torch.testing.assert_close(known_ND[0], loud_D, atol=0.02, rtol=0)
    change_D = loud_D - quiet_D
    gain_db = 20 * math.log10(2)
    levels = [*range(NUM_MELS), *range(2 * NUM_MELS, 4 * NUM_MELS + 40)]
    torch.testing.assert_close(
        change_D[levels], torch.full((len(levels),), gain_db), atol=0.01, rtol=0
    )
    others = [*range(NUM_MELS, 2 * NUM_MELS), *range(_FALLS, _FALLS + 84 + 16 + 2)]
    assert change_D[others].abs().max() < 0.01


def test_silence_and_moments_are_described() -> None:
    silent_ND = describe_audio(torch.zeros(2, 1, 3 * RATE_HZ), RATE_HZ)
    assert silent_ND.shape == (2, NUM_DESCRIPTORS)
    assert silent_ND.isfinite().all()
    short_1CT = noise(RATE_HZ // 2)
    whole_1CT = short_1CT.repeat(1, 1, 6)
    torch.testing.assert_close(
        describe_audio(short_1CT, RATE_HZ), describe_audio(whole_1CT, RATE_HZ)
    )
    assert describe_audio(short_1CT[:0], RATE_HZ).shape == (0, NUM_DESCRIPTORS)


def test_a_room_is_heard_in_the_falls_and_a_beat_in_the_onsets() -> None:
    num_samples = 3 * RATE_HZ
    time_T = torch.arange(num_samples) % (RATE_HZ // 2) / RATE_HZ
    bursts = [noise(num_samples) * torch.exp(-rate * time_T) for rate in (60.0, 6.0)]
    dry_D, wet_D = describe_audio(torch.cat(bursts), RATE_HZ)
    # After 139 ms one has fallen by 8.7 x 60 x 0.139 dB, the other by a tenth of that.
    median = _FALLS + 6 * 4 + 6 * 2
    assert (dry_D[median : median + 6] < wet_D[median : median + 6] - 10).all()
    torch.testing.assert_close(
        wet_D[median : median + 6].mean(), torch.tensor(-8.686 * 6 * 0.139), atol=1.5, rtol=0
    )
    onsets = _FALLS + 84 + 16
    assert 1.5 < float(dry_D[onsets]) < 3.0


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
