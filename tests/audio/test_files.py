import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.decoding import DecodedFile
from mixprint.audio.files import probe, read_audio, stream_audio, write_audio
from mixprint.errors import AudioError
from mixprint.text import shown

MakeAudio = Callable[..., Tensor]
HALF_POWER = math.sqrt(0.5)


def sine(frequency_hz: float, sample_rate_hz: int, num_samples: int) -> Tensor:
    time_T = torch.arange(num_samples, dtype=torch.float64) / sample_rate_hz
    return (0.5 * torch.sin(2 * math.pi * frequency_hz * time_T)).float().expand(2, -1)


def reason_of(path: Path, **arguments: float) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, **arguments)
    assert path.name in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_bit_round_trip_is_within_half_a_step(
    tmp_path: Path, make_audio: MakeAudio, name: str
) -> None:
    audio_CT = make_audio(0.5)
    write_audio(tmp_path / name, audio_CT, 44_100)
    read_CT = read_audio(tmp_path / name)
    assert read_CT.dtype == torch.float32
    assert read_CT.shape == audio_CT.shape
    assert (read_CT - audio_CT).abs().max() <= 1.01 / 32768  # libsndfile scales by 32767
    info = probe(tmp_path / name)
    assert (info.sample_rate_hz, info.channels, info.duration_s) == (44_100, 2, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_float_round_trip_keeps_what_exceeds_full_scale(tmp_path: Path) -> None:
    audio_CT = torch.tensor([[0.1, -1.5, 2.0], [0.0, 1e-7, -1.0]])
    write_audio(tmp_path / "a.wav", audio_CT, 44_100, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "a.wav"), audio_CT)


def test_write_refuses(tmp_path: Path) -> None:
    audio_CT = torch.zeros(2, 10)
    with pytest.raises(ValueError, match="MP3"):
        write_audio(tmp_path / "a.mp3", audio_CT, 44_100)
    with pytest.raises(ValueError, match="FLOAT"):
        write_audio(tmp_path / "a.flac", audio_CT, 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"\(C, T\)"):
        write_audio(tmp_path / "a.wav", audio_CT[0], 44_100)
    with pytest.raises(AudioError, match="finite"):
        write_audio(tmp_path / "a.wav", audio_CT / 0, 44_100)
    assert list(tmp_path.iterdir()) == []


def test_mono_goes_to_both_sides(tmp_path: Path) -> None:
    mono_T = np.array([0.5, -0.25], np.float32)
    sf.write(tmp_path / "a.wav", mono_T, 44_100, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "a.wav"), torch.tensor(mono_T).expand(2, -1))


@pytest.mark.parametrize(
    ("num_channels", "gains_CN"),
    [
        (3, [[1, 0, HALF_POWER], [0, 1, HALF_POWER]]),
        (6, [[1, 0, HALF_POWER, 0, HALF_POWER, 0], [0, 1, HALF_POWER, 0, 0, HALF_POWER]]),
    ],
)
def test_surround_is_mixed_down_by_bs775(
    tmp_path: Path, num_channels: int, gains_CN: list[list[float]]
) -> None:
    one_by_one_TN = np.eye(num_channels, dtype=np.float32)  # a click in each speaker in turn
    sf.write(tmp_path / "a.wav", one_by_one_TN, 44_100, subtype="FLOAT")
    assert torch.allclose(read_audio(tmp_path / "a.wav"), torch.tensor(gains_CN).float())


def test_vorbis_has_an_order_of_its_own(tmp_path: Path) -> None:
    """The second of six Vorbis channels is the centre, the last one the LFE."""
    tone_T = sine(440, 44_100, 44_100)[0].numpy()
    for channel, expected in ((1, (HALF_POWER, HALF_POWER)), (2, (0, 1)), (5, (0, 0))):
        audio_TN = np.zeros((44_100, 6), np.float32)
        audio_TN[:, channel] = tone_T
        with (tmp_path / "a.ogg").open("wb") as file:
            sf.write(file, audio_TN, 44_100, format="OGG", subtype="VORBIS")
        levels_C = read_audio(tmp_path / "a.ogg").square().mean(dim=1).sqrt() / (0.5 * HALF_POWER)
        assert levels_C.tolist() == pytest.approx(expected, abs=0.02)


def test_too_many_channels(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((10, 9), np.float32), 44_100)
    assert reason_of(tmp_path / "a.wav") == "channel_layout"


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("sample_rate_hz", [44_100, 48_000])
def test_a_part_is_the_part_of_the_whole(
    tmp_path: Path, write_song: Callable[..., Path], name: str, sample_rate_hz: int
) -> None:
    path = write_song(tmp_path / name, 3.0, sample_rate_hz=sample_rate_hz)
    whole_CT = read_audio(path)
    assert whole_CT.shape == (2, 132_300)
    for start_s, duration_s in ((0.0, 0.5), (1.2345, 1.0), (2.0, 1.0)):
        part_CT = read_audio(path, start_s=start_s, duration_s=duration_s)
        first = round(start_s * 44_100)
        expected_CT = whole_CT[:, first : first + round(duration_s * 44_100)]
        assert part_CT.shape == expected_CT.shape
        assert torch.allclose(part_CT, expected_CT, atol=1e-5)


def test_blocks_leave_no_seam(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_song(tmp_path / "a.wav", 1.0, sample_rate_hz=48_000)
    whole_CT = read_audio(path)
    monkeypatch.setattr("mixprint.audio.files.BLOCK_FRAMES", 777)
    assert torch.allclose(read_audio(path), whole_CT, atol=1e-6)


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
@pytest.mark.parametrize("sample_rate_hz", [44_100, 48_000])
@pytest.mark.parametrize("part", [{}, {"start_s": 0.5, "duration_s": 1.0}, {"start_s": 1.2345}])
def test_blocks_are_the_samples_of_the_whole(
    tmp_path: Path,
    write_song: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sample_rate_hz: int,
    part: dict[str, float],
) -> None:
    path = write_song(tmp_path / name, 2.0, sample_rate_hz=sample_rate_hz)
    monkeypatch.setattr("mixprint.audio.files.BLOCK_FRAMES", 10_000)
    blocks = list(stream_audio(path, **part))
    assert all(0 < block_CT.shape[1] <= 10_000 for block_CT in blocks)
    assert torch.equal(torch.cat(blocks, dim=1), read_audio(path, **part))


def test_a_stream_reads_no_further_than_asked_and_closes_its_file(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_song(tmp_path / "a.wav", 1.0)
    monkeypatch.setattr("mixprint.audio.files.BLOCK_FRAMES", 1_000)
    files: list[DecodedFile] = []

    def open_file(name: bytes) -> DecodedFile:
        files.append(DecodedFile(name))
        return files[-1]

    monkeypatch.setattr("mixprint.audio.decoding.DecodedFile", open_file)
    blocks = stream_audio(path)
    assert not files
    next(blocks)
    next(blocks)
    assert files[0].tell() == 2_000
    blocks.close()
    assert files[0].closed
    list(stream_audio(path))
    assert files[1].closed


def test_what_is_wrong_comes_with_the_block_that_holds_it(tmp_path: Path) -> None:
    audio_TC = np.zeros((600_000, 2), np.float32)
    audio_TC[500_000, 1] = np.nan
    sf.write(tmp_path / "a.wav", audio_TC, 44_100, subtype="FLOAT")
    blocks = stream_audio(tmp_path / "a.wav")
    assert next(blocks).shape == (2, 262_144)
    with pytest.raises(AudioError, match="frame 500000"):
        next(blocks)
    with pytest.raises(AudioError, match="no_such"):
        next(stream_audio(tmp_path / "no_such.wav"))
    with pytest.raises(ValueError, match="start_s"):
        next(stream_audio(tmp_path / "a.wav", start_s=-1.0))


def test_beyond_the_end_is_refused_and_not_padded(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    path = write_song(tmp_path / "a.wav", 1.0)
    assert reason_of(path, start_s=0.5, duration_s=0.6) == "too_short"
    assert reason_of(path, start_s=2.0) == "too_short"
    with pytest.raises(ValueError, match="start_s"):
        read_audio(path, start_s=-1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_sample_is_found(tmp_path: Path, value: float) -> None:
    audio_TC = np.zeros((50_000, 2), np.float32)
    audio_TC[40_000, 1] = value
    sf.write(tmp_path / "a.wav", audio_TC, 44_100, subtype="FLOAT")
    with pytest.raises(AudioError, match="frame 40000") as caught:
        read_audio(tmp_path / "a.wav")
    assert caught.value.reason == "not_finite"


def test_files_that_are_no_audio(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()
    for name, content, reason in (
        ("empty.wav", b"", "empty"),
        ("text.wav", b"no audio here\n", "unreadable"),
        ("text.mp3", b"no audio here\n" * 1_000, "unreadable"),
        ("noise.flac", noise, "unreadable"),
        ("noise.ogg", noise, "unreadable"),
    ):
        (tmp_path / name).write_bytes(content)
        assert reason_of(tmp_path / name) == reason
    assert reason_of(tmp_path / "missing.wav") == "unreadable"
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason_of(tmp_path / "pipe.wav") == "unreadable"
    (tmp_path / "folder.wav").mkdir()
    assert reason_of(tmp_path / "folder.wav") == "unreadable"


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_a_file_cut_in_the_middle_is_refused(
    tmp_path: Path, write_song: Callable[..., Path], name: str
) -> None:
    path = write_song(tmp_path / name, 10.0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert reason_of(path) in {"truncated", "unreadable"}


def test_senseless_rate_is_refused_before_resampling(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((1_000, 2)), 10)
    assert reason_of(tmp_path / "a.wav") == "sample_rate"


def test_any_name_can_be_read(tmp_path: Path, write_song: Callable[..., Path]) -> None:
    for name in (b"a b.wav", b"a'\";b.wav", b"a\nb.wav", "áß音.wav".encode(), b"\xff\xfe.wav"):
        path = write_song(tmp_path / os.fsdecode(name), 0.1)
        assert read_audio(path).shape == (2, 4_410)
        assert shown(path).isprintable()


def test_real_files(shared_dir: Path) -> None:
    audio = shared_dir / "audio"
    assert read_audio(audio / "bad" / "surround_5p1.wav").shape == (2, 132_300)
    assert read_audio(audio / "bad" / "mono_8k_12s.wav").shape == (2, 529_200)
    assert reason_of(audio / "bad" / "truncated.mp3") == "truncated"
    assert reason_of(audio / "bad" / "nan_float.wav") == "not_finite"
    assert reason_of(audio / "bad" / "random_bytes.flac") == "unreadable"
