from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, stream_audio, write_audio
from mixprint.errors import AudioError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.transfer.excerpts import (
    choose_segments,
    load_segment,
    load_whole,
    measurable,
    segment_bounds,
)
from tests.transfer.trials import settings

RATE_HZ = SAMPLE_RATE_HZ
LOUD, SILENT = 1e-2, 0.0
Make = Callable[..., Tensor]


class SplitSeparator:
    """Stands for a separator: the vocals are the left side, the bass the right, drums a half."""

    fingerprint = {"model": "split"}  # noqa: RUF012 (read only)

    def separate(self, audio_CT: Tensor) -> Tensor:
        stems_SCT = torch.zeros(len(STEMS), *audio_CT.shape)
        stems_SCT[0, 0], stems_SCT[1, 1] = audio_CT[0], audio_CT[1]
        stems_SCT[2] = audio_CT / 2
        return stems_SCT

    def stream_file(self, path: Path) -> Iterator[tuple[Tensor, Tensor]]:
        for block_CT in stream_audio(path):
            for part_CT in block_CT.split(100_003, dim=-1):
                yield part_CT, self.separate(part_CT)


def powers(*stems: str) -> Tensor:
    """A stem per text, a second per letter: x is loud, a space is silent."""
    return torch.tensor([[LOUD if c == "x" else SILENT for c in stem] for stem in stems])


def test_segments_are_chosen_by_what_sounds() -> None:
    #                  0123456789
    vocals, bass, drums, other = "      xxxx", "xxxxxxxxxx", "xxx       ", "          "
    power_SN = powers(vocals, bass, drums, other)
    assert choose_segments(power_SN, 3, 1) == [0]
    # Both together hold every stem that sounds in the song.
    assert choose_segments(power_SN, 3, 2) == [0, 6]
    # One that is long enough holds the end of the drums and the start of the vocals.
    assert choose_segments(power_SN, 5, 1) == [2]


def test_energy_decides_between_equals_and_all_have_room() -> None:
    power_SN = powers("xxxxxxxxx", "xxxxxxxxx", "xxxxxxxxx", "xxxxxxxxx")
    power_SN[:, 4] *= 2
    assert choose_segments(power_SN, 3, 1) == [2]
    # Three segments fill the song; the loudest must not stand in the way.
    assert choose_segments(power_SN, 3, 3) == [0, 3, 6]
    assert choose_segments(power_SN, 3, 9) == [0, 3, 6]
    assert choose_segments(power_SN, 20, 2) == [0]


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 3.0), (2.9, 3.0), (3.0, 3.0), (4.0, 4.0)])
def test_short_audio_is_repeated_and_not_padded(seconds: float, expected: float) -> None:
    num_samples = round(seconds * RATE_HZ)
    audio_CT = torch.rand(2, num_samples) + 0.1
    heard_CT = measurable(audio_CT, "here")
    assert heard_CT.shape[-1] == round(expected * RATE_HZ)
    assert torch.equal(heard_CT[:, :num_samples], audio_CT)
    assert heard_CT.abs().min() > 0
    if heard_CT.shape[-1] > num_samples:
        assert torch.equal(heard_CT[:, num_samples], audio_CT[:, 0])


def test_under_a_second_is_an_error() -> None:
    with pytest.raises(AudioError, match=r"here: expected at least 1\.0 s, found 0\.50 s"):
        measurable(torch.zeros(2, RATE_HZ // 2), "here")
    with pytest.raises(AudioError, match=r"at least 1\.0 s from 9\.5 s on"):
        segment_bounds("here", 10.0, settings(segment_offset=9.5))
    assert segment_bounds("here", 10.0, settings(segment_offset=9.0)) == (9.0, 1.0)


def test_a_short_song_is_heard_repeated_and_written_as_it_is(
    tmp_path: Path, make_audio: Make
) -> None:
    write_audio(tmp_path / "a.wav", make_audio(1.5), RATE_HZ)
    separator = SplitSeparator()
    segment = load_segment(
        tmp_path / "a.wav",
        settings(segment_duration=10.0),
        separator.separate,
        separator.fingerprint,
    )
    assert segment.stems_SCT.shape[-1] == round(1.5 * RATE_HZ)
    assert segment.heard()[0].shape[-1] == 3 * RATE_HZ
    assert "repeated to 3 s" in segment.notes[0]


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_whole_songs_are_separated_into_files(
    tmp_path: Path, make_audio: Make, rate_hz: int
) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, make_audio(9.3, sample_rate_hz=rate_hz), rate_hz, subtype="FLOAT")
    song_CT = read_audio(path)
    wanted = settings(segment_offset=1.5)
    segment = load_whole(path, wanted, SplitSeparator(), tmp_path / "s")  # type: ignore[arg-type]
    assert segment.whole is not None
    assert segment.whole.num_samples == song_CT.shape[-1]
    mixtures, stems = zip(*segment.whole.blocks(), strict=True)
    assert torch.equal(torch.cat(mixtures, dim=-1), song_CT)
    whole_SCT = torch.cat(stems, dim=-1)
    assert torch.equal(whole_SCT, SplitSeparator().separate(song_CT))
    start = round(1.5 * RATE_HZ)
    assert torch.equal(segment.stems_SCT, whole_SCT[..., start : start + 3 * RATE_HZ])
    assert torch.equal(segment.audio_CT, song_CT[:, start : start + 3 * RATE_HZ])


def test_several_segments_of_a_song(tmp_path: Path, make_audio: Make) -> None:
    audio_CT = make_audio(12.0)
    audio_CT[0, : 8 * RATE_HZ] = 0  # the vocals enter late
    audio_CT[:, : 2 * RATE_HZ] = 0
    audio_CT[1, 8 * RATE_HZ :] = 0  # the bass ends there
    path = tmp_path / "a.wav"
    write_audio(path, audio_CT, RATE_HZ, subtype="FLOAT")
    wanted = settings(segments=2, segment_offset=5.0)
    segment = load_whole(path, wanted, SplitSeparator(), tmp_path / "s")  # type: ignore[arg-type]
    assert segment.lengths == (3 * RATE_HZ,) * 2
    pieces = segment.pieces()
    assert len(segment.heard()) == len(pieces) == 2
    sounding = [stems_SCT.square().mean((1, 2)) > 1e-6 for _, stems_SCT in pieces]
    assert torch.stack(sounding).any(0).tolist() == [True, True, True, False]
    assert "heard from" in segment.notes[-1]
