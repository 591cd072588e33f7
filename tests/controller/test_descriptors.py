import math

import torch

from mixprint.controller.descriptors import NUM_DESCRIPTORS, NUM_MELS, describe_audio, shifted

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
