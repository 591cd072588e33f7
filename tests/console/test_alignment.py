"""Alignment: what was done to a mix is found, undone, and what does not belong is refused."""

import pytest
import torch
from torch import Tensor

from mixprint.audio.resampling import resample
from mixprint.console.alignment import Alignment, align, aligned
from mixprint.errors import DataError

RATE_HZ = 44_100


def music(seed: int, seconds: float = 20.0) -> Tensor:
    """Bursts of coloured noise: another one each tenth of a second or so, in two channels."""
    generator = torch.Generator().manual_seed(seed)
    num_samples = round(seconds * RATE_HZ)
    noise_CT = torch.randn(2, num_samples, generator=generator)
    steps_M = torch.rand(round(seconds * 7) + 1, generator=generator) ** 3
    level_T = torch.nn.functional.interpolate(steps_M[None, None], num_samples)[0, 0]
    return 0.2 * level_T * (noise_CT + 0.9 * noise_CT.roll(1, -1))


def mixed(dry_CT: Tensor) -> Tensor:
    """Something of an equaliser and a room."""
    echo_CT = 0.3 * dry_CT.roll(1_700, -1) + 0.2 * dry_CT.roll(4_001, -1)
    return 0.5 * (dry_CT - 0.6 * dry_CT.roll(1, -1)) + echo_CT


@pytest.mark.parametrize("delay", [1_234, -1_234, 0])
@pytest.mark.parametrize("polarity", [1, -1])
def test_delay_and_polarity_are_found(delay: int, polarity: int) -> None:
    dry_CT = music(1)
    mix_CT = polarity * mixed(dry_CT).roll(delay, -1)
    found = align(dry_CT, mix_CT, RATE_HZ, "song")
    assert round(found.delay_s * RATE_HZ) == delay
    assert (found.polarity, found.drift_ppm) == (polarity, 0.0)
    assert found.likeness > 0.7
    back_CT = aligned(mix_CT, found, RATE_HZ, dry_CT.shape[-1])
    middle = slice(10_000, -10_000)
    torch.testing.assert_close(back_CT[:, middle], mixed(dry_CT)[:, middle])


def test_lengths_may_differ() -> None:
    dry_CT = music(2)
    mix_CT = mixed(dry_CT)[:, : -5 * RATE_HZ]
    found = align(dry_CT, mix_CT, RATE_HZ, "song")
    back_CT = aligned(mix_CT, found, RATE_HZ, dry_CT.shape[-1])
    assert back_CT.shape == dry_CT.shape
    assert float(back_CT[:, -4 * RATE_HZ :].abs().max()) == 0.0


def test_of_a_loop_the_nearest_place_is_meant() -> None:
    loop_CT = music(6, 2.0).repeat(1, 6)
    found = align(loop_CT, 0.5 * loop_CT.roll(300, -1), RATE_HZ, "loop")
    assert round(found.delay_s * RATE_HZ) == 300


def test_sound_in_a_small_part_of_a_long_song_is_enough() -> None:
    dry_CT = torch.zeros(2, 160 * RATE_HZ)
    dry_CT[:, 47 * RATE_HZ : 50 * RATE_HZ] = music(7, 3.0)
    found = align(dry_CT, -dry_CT.roll(441, -1), RATE_HZ, "song")
    assert (round(found.delay_s, 6), found.polarity) == (0.01, -1)


def test_drift_is_found_and_undone() -> None:
    dry_CT = music(3, 12.0)
    # 44,100 samples become 44,108: the mix runs 181 ppm slower.
    slow_CT = resample(dry_CT, 44_100, 44_108)
    found = align(dry_CT, slow_CT, RATE_HZ, "song")
    assert found.drift_ppm == pytest.approx(8 / 44_100 * 1e6, abs=2)
    back_CT = aligned(slow_CT, found, RATE_HZ, dry_CT.shape[-1])
    exact = Alignment(0.0, 1, 8 / 44_100 * 1e6, 1.0)
    error_CT = (aligned(slow_CT, exact, RATE_HZ, dry_CT.shape[-1]) - dry_CT)[:, 1_000:-1_000]
    # What the resampler cuts off above 20 kHz is not there to come back.
    assert float(error_CT.square().mean()) < 0.01 * float(dry_CT.square().mean())
    assert align(dry_CT, back_CT, RATE_HZ, "song").drift_ppm == pytest.approx(0.0, abs=2)


@pytest.mark.parametrize(
    ("mix_CT", "message"),
    [
        (music(5), "expected the same music at the same speed"),
        (torch.full((2, 60_000), 0.5), "expected sound, found silence in the mix"),
        (music(4, 0.5), "expected at least 1 s of tracks and mix, found 0.500 s of the mix"),
        (torch.nn.functional.pad(music(5, 1.0), (25 * RATE_HZ, 0)), "at most 4 s apart, found it"),
        (resample(music(4), 44_100, 48_000), "a wrong sample rate does that"),
    ],
    ids=["another song", "a constant", "short", "elsewhere", "another speed"],
)
def test_what_does_not_belong_together_is_refused(mix_CT: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=rf"^song: .*({message})"):
        align(music(4), mix_CT, RATE_HZ, "song")
