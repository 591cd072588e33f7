"""Excerpts of songs in which all tracks sound."""

import torch

from mixprint.console.excerpts import FramePower, busiest_second, frame_power, part_of

RATE_HZ = 8_000


def test_the_busiest_part_has_all_tracks_and_not_only_the_loudest() -> None:
    power_NM = torch.full((2, 12), 1e-8)
    power_NM[0, 1:9] = 1.0
    power_NM[1, 6:9] = 0.01
    assert busiest_second(power_NM, 3) == 6
    assert busiest_second(power_NM, 12) == 0
    assert busiest_second(power_NM, 30) == 0


def test_power_is_watched_in_blocks_of_any_length() -> None:
    song_NCT = torch.randn(2, 2, 5 * RATE_HZ + 100, generator=torch.Generator().manual_seed(1))
    blocks = song_NCT.split([3_000, 20_000, 1, 17_099], dim=-1)
    watched = FramePower(RATE_HZ)
    passed_NCT = torch.cat(list(watched.watch(blocks)), dim=-1)
    assert torch.equal(passed_NCT, song_NCT)
    torch.testing.assert_close(watched.power(), frame_power(song_NCT, RATE_HZ))
    assert watched.power().shape == (2, 5)


def test_a_part_is_cut_out_of_blocks() -> None:
    song_NCT = torch.arange(24.0).view(1, 1, 24)
    assert torch.equal(part_of(song_NCT.split(5, dim=-1), 7, 18), song_NCT[..., 7:18])
    assert torch.equal(part_of(song_NCT.split(5, dim=-1), 20, 99), song_NCT[..., 20:])


def test_less_than_a_second_has_no_power() -> None:
    watched = FramePower(RATE_HZ)
    assert len(list(watched.watch([torch.ones(1, 2, 100)]))) == 1
    assert busiest_second(watched.power(), 4) == 0
