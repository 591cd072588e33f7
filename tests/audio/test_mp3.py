import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.audio.inspection import InspectionRules, inspect_audio
from mixprint.audio.mp3 import audio_range
from mixprint.errors import AudioError
from tests.audio.decoders import by_ffmpeg

NUM_SAMPLES = 5 * 44_100
FRAME = 1_152
# LAME's delay, with which an MP3 begins: 576 samples, and 529 of the decoder's own.
DELAY = 576 + 529
RULES = InspectionRules(
    min_duration_s=0.1,
    max_duration_s=60.0,
    min_level_dbfs=-60.0,
    max_channel_difference_db=60.0,
    max_clipped_fraction=1.0,
)


def encode(
    bitrate_mode: str = "CONSTANT", sample_rate_hz: int = 44_100, channels: int = 2, seed: int = 0
) -> bytes:
    """Encode silence, then noise: a variable bitrate goes from its lowest to its highest."""
    audio_TC = np.random.default_rng(seed).uniform(-0.5, 0.5, (NUM_SAMPLES, channels))
    audio_TC[: NUM_SAMPLES // 2] = 0
    file = io.BytesIO()
    sf.write(
        file, audio_TC, sample_rate_hz, format="MP3", bitrate_mode=bitrate_mode,
        compression_level=0.3,
    )  # fmt: skip
    return file.getvalue()


@pytest.fixture(scope="module")
def constant() -> bytes:
    return encode("CONSTANT")


@pytest.fixture(scope="module")
def variable() -> bytes:
    return encode("VARIABLE")


def without_header(content: bytes) -> bytes:
    """Cut the first frame, which holds the length; the next one begins as it does."""
    return content[content.index(content[:2], 4) :]


def id3v2(num_bytes: int) -> bytes:
    """A tag whose art looks like frames, but one at a time."""
    size = bytes(num_bytes >> 7 * shift & 0x7F for shift in (3, 2, 1, 0))
    return b"ID3\x04\x00\x00" + size + (b"\xff\xfb\x90\x00art" * num_bytes)[:num_bytes]


def apev2(*, with_header: bool) -> bytes:
    item = b"\x05\x00\x00\x00\x00\x00\x00\x00Title\x00Hello"

    def edge(flags: int) -> bytes:
        numbers = (2_000, len(item) + 32, 1, flags)
        return b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in numbers) + bytes(8)

    return (edge(0xA0000000) + item + edge(0x80000000)) if with_header else item + edge(0)


ID3V1 = b"TAG" + b"x" * 125
LYRICS3 = b"LYRICSBEGINLYR00003abc000022LYRICS200"


def samples(path: Path, content: bytes) -> Tensor:
    path.write_bytes(content)
    return read_audio(path)


def refused(path: Path, content: bytes) -> AudioError:
    path.write_bytes(content)
    with pytest.raises(AudioError, match=path.name) as caught:
        read_audio(path)
    assert path.name in caught.value.detail
    return caught.value


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_files_that_state_their_length_are_left_to_the_decoder(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.mp3"
    audio_CT = samples(path, encode(mode))
    assert audio_CT.shape == (2, NUM_SAMPLES)
    alone_TC, _ = sf.read(path, dtype="float32")
    assert torch.equal(audio_CT, torch.from_numpy(alone_TC.T))


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate_hz", [48_000, 44_100, 22_050, 11_025])
def test_without_a_xing_header_every_frame_is_read(
    tmp_path: Path, mode: str, channels: int, sample_rate_hz: int
) -> None:
    content = encode(mode, sample_rate_hz, channels)
    (tmp_path / "whole.mp3").write_bytes(content)
    (tmp_path / "bare.mp3").write_bytes(without_header(content))
    whole_CT = read_audio(tmp_path / "whole.mp3", sample_rate_hz=sample_rate_hz)
    bare_CT = read_audio(tmp_path / "bare.mp3", sample_rate_hz=sample_rate_hz)
    # Nothing says what the encoder added: the same samples, behind its delay.
    assert bare_CT.shape[1] % (FRAME if sample_rate_hz > 24_000 else FRAME // 2) == 0
    assert torch.allclose(bare_CT[:, DELAY : DELAY + NUM_SAMPLES], whole_CT, atol=1e-6)


def test_a_xing_header_with_zero_frames_is_no_count(tmp_path: Path, variable: bytes) -> None:
    position = variable.index(b"Xing") + 8
    zeroed = variable[:position] + bytes(4) + variable[position + 4 :]
    audio_CT = samples(tmp_path / "a.mp3", zeroed)
    assert torch.equal(audio_CT[:, :NUM_SAMPLES], samples(tmp_path / "b.mp3", variable))
    assert 0 <= audio_CT.shape[1] - NUM_SAMPLES < 2 * FRAME


@pytest.mark.parametrize("between", [b"", ID3V1 + id3v2(3_000), apev2(with_header=True) + ID3V1])
def test_joined_files_are_read_to_the_end(
    tmp_path: Path, constant: bytes, variable: bytes, between: bytes
) -> None:
    first_CT = samples(tmp_path / "1.mp3", constant)
    second_CT = samples(tmp_path / "2.mp3", variable)
    audio_CT = samples(tmp_path / "joined.mp3", constant + between + variable)
    # The second header is decoded as a silent frame, and its delay is not trimmed.
    assert torch.equal(audio_CT[:, :NUM_SAMPLES], first_CT)
    start = (DELAY + NUM_SAMPLES) // FRAME * FRAME + FRAME
    assert audio_CT.shape[1] > 2 * NUM_SAMPLES
    second_start = audio_CT.shape[1] - (-(-(DELAY + NUM_SAMPLES) // FRAME) * FRAME - DELAY)
    assert start <= second_start
    found_CT = audio_CT[:, second_start + 1_000 : second_start + NUM_SAMPLES]
    assert torch.allclose(found_CT, second_CT[:, 1_000:NUM_SAMPLES], atol=1e-5)


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (id3v2(300) + id3v2(50_000), b""),
        (apev2(with_header=True), b""),
        (b"", apev2(with_header=True) + ID3V1),
        (b"", apev2(with_header=False)),
        (b"", LYRICS3 + ID3V1),
        (b"", id3v2(500)),
        (id3v2(300), bytes(500)),
        (b"ID3\x04\x00\x00\x00\x00\x0f\x00", b""),
        (b"junk" * 100, b""),
    ],
    ids=[
        "two ID3v2", "APE first", "APE and ID3v1", "APE without header", "Lyrics3", "ID3v2 last",
        "zeros last", "ID3v2 that claims to cover frames", "junk first",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("with_header", [True, False])
def test_tags_and_a_little_junk_cost_no_frame(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    before: bytes,
    behind: bytes,
    mode: str,
    with_header: bool,
) -> None:
    content = request.getfixturevalue(mode.lower())
    content = content if with_header else without_header(content)
    whole_CT = samples(tmp_path / "a.mp3", content)
    assert torch.equal(samples(tmp_path / "b.mp3", before + content + behind), whole_CT)


def test_tags_do_not_change_the_hash_of_the_content(tmp_path: Path, constant: bytes) -> None:
    hashes = set()
    for index, content in enumerate(
        (
            constant,
            id3v2(100) + constant + ID3V1,
            id3v2(100) + id3v2(9_000) + constant,
            apev2(with_header=True) + constant + LYRICS3 + ID3V1,
        )
    ):
        path = tmp_path / f"{index}.mp3"
        path.write_bytes(content)
        hashes.add(inspect_audio(path, RULES).content_sha256)
    assert len(hashes) == 1


def test_junk_between_frames_is_left_out_if_all_frames_are_there(
    tmp_path: Path, constant: bytes
) -> None:
    whole_CT = samples(tmp_path / "a.mp3", constant)
    position = constant.index(constant[:2], len(constant) // 2)
    junk = bytes(range(250)) * 6
    content = constant[:position] + junk + constant[position:]
    assert torch.equal(samples(tmp_path / "b.mp3", content), whole_CT)
    # Without a header nothing says that it was no audio.
    bare = without_header(constant)
    position = bare.index(constant[:2], len(bare) // 2)
    error = refused(tmp_path / "c.mp3", bare[:position] + junk + bare[position:])
    assert error.reason == "damaged"
    assert "1500 bytes" in error.detail
    assert "ffmpeg -i" in error.detail


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("with_header", [True, False])
def test_a_damaged_frame_is_told_with_its_time(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str, with_header: bool
) -> None:
    content = request.getfixturevalue(mode.lower())
    content = content if with_header else without_header(content)
    position = content.index(content[:2], content.index(content[:2], len(content) * 9 // 10) + 50)
    broken = content[:position] + bytes((content[position] ^ 1,)) + content[position + 1 :]
    error = refused(tmp_path / "a.mp3", broken)
    assert error.reason == "damaged"
    assert " at 4." in error.detail or " at 3." in error.detail


def test_lost_bytes_are_told(tmp_path: Path, constant: bytes) -> None:
    middle = len(constant) // 2
    error = refused(tmp_path / "a.mp3", constant[:middle] + constant[middle + 3_000 :])
    assert error.reason == "damaged"
    error = refused(
        tmp_path / "b.mp3", constant[:middle] + bytes(3_000) + constant[middle + 3_000 :]
    )
    assert error.reason == "damaged"


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("with_header", [True, False])
def test_a_cut_file_is_truncated(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str, with_header: bool
) -> None:
    content = request.getfixturevalue(mode.lower())
    content = content if with_header else without_header(content)
    for part in (0.3, 0.7, 0.999):
        error = refused(tmp_path / "a.mp3", content[: int(len(content) * part)])
        assert error.reason == "truncated", part
    # Also of joined ones, and with a tag behind what is left.
    error = refused(tmp_path / "b.mp3", content + content[: len(content) * 2 // 3] + ID3V1)
    assert error.reason == "truncated"


def test_a_cut_file_says_how_much_was_declared(tmp_path: Path, constant: bytes) -> None:
    error = refused(tmp_path / "a.mp3", constant[: len(constant) // 2])
    assert "expected 5.000 s of audio as declared, found 2." in error.detail


def test_joined_files_of_different_kinds_are_refused(tmp_path: Path, constant: bytes) -> None:
    for other in (encode(sample_rate_hz=48_000), encode(channels=1)):
        error = refused(tmp_path / "a.mp3", constant + other)
        assert error.reason == "joined"
        assert "5." in error.detail


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_a_part_is_the_part_of_the_whole_though_frames_need_many_before_them(
    tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "a.mp3"
    for content in (encode(mode, 22_050), without_header(encode(mode, 22_050))):
        path.write_bytes(content)
        whole_CT = read_audio(path, sample_rate_hz=22_050)
        for start_s in np.arange(3.0, 9.5, 0.37):
            part_CT = read_audio(path, sample_rate_hz=22_050, start_s=start_s, duration_s=0.25)
            first = round(start_s * 22_050)
            expected_CT = whole_CT[:, first : first + part_CT.shape[1]]
            assert torch.allclose(part_CT, expected_CT, atol=1e-6)


def test_blocks_of_an_mp3_have_no_seams(
    tmp_path: Path, variable: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_CT = samples(tmp_path / "a.mp3", variable)
    monkeypatch.setattr("mixprint.audio.files.BLOCK_FRAMES", 1_000)
    assert torch.equal(read_audio(tmp_path / "a.mp3"), whole_CT)


def test_a_walk_is_remembered_until_the_file_changes(
    tmp_path: Path, constant: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp3"
    samples(path, without_header(constant))
    with monkeypatch.context() as patch:
        patch.setattr("mixprint.audio.mp3.find_streams", None)
        read_audio(path, start_s=1.0, duration_s=1.0)
    assert samples(path, constant).shape == (2, NUM_SAMPLES)


@pytest.mark.parametrize("suffix", ["mp3", "bin"])
def test_what_ffmpeg_decodes_is_what_is_read(
    tmp_path: Path, constant: bytes, variable: bytes, suffix: str
) -> None:
    for index, content in enumerate(
        (constant, without_header(variable), id3v2(9_000) + id3v2(100) + without_header(constant))
    ):
        path = tmp_path / f"{index}.{suffix}"
        assert torch.allclose(samples(path, content), by_ffmpeg(path), atol=1e-5)


@pytest.mark.parametrize("layer", ["I", "II"])
def test_other_layers_are_counted(tmp_path: Path, layer: str) -> None:
    # 128 kbit/s at 48 kHz: frames of 128 and 384 bytes; without an allocation they are silent.
    header, size, frame = {
        "I": (b"\xff\xff\x44\x00", 128, 384),
        "II": (b"\xff\xfd\x84\x00", 384, 1_152),
    }[layer]
    path = tmp_path / "a.mp3"
    path.write_bytes((header + bytes(size - 4)) * 100)
    assert probe(path).num_frames == 100 * frame
    assert read_audio(path, sample_rate_hz=48_000).shape == (2, 100 * frame)
    # Two bitrates: libsndfile takes all for the first one's, and there is no header for it.
    shorter = {"I": b"\xff\xff\x14\x00" + bytes(28), "II": b"\xff\xfd\x14\x00" + bytes(92)}[layer]
    error = refused(path, (header + bytes(size - 4)) * 50 + shorter * 500)
    assert error.reason == "length_unknown"
    assert "ffmpeg -i" in error.detail


def test_tags_are_found() -> None:
    audio = b"a" * 500
    for head in (b"", id3v2(130)):
        for tail in (b"", apev2(with_header=True), ID3V1, apev2(with_header=False) + ID3V1):
            start, end = audio_range(head + audio + tail)
            assert (start, end) == (len(head), len(head) + 500)


def test_senseless_tags_leave_the_whole_file() -> None:
    content = b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + b"x" * 100
    assert audio_range(content) == (0, len(content))


def test_junk_is_no_audio(tmp_path: Path) -> None:
    for content in (os.urandom(200_000), bytes(200_000), b"<html>" * 500):
        assert refused(tmp_path / "a.mp3", content).reason == "unreadable"


def test_cases_from_bug_reports(shared_dir: Path) -> None:
    cases = shared_dir / "cases"
    for name, num_samples in (
        ("03_joined_xing", 267_311),
        ("04_xing_zero_frames", 221_231),
        ("05_vbr_notag_two_id3", 222_336),
        ("12_vbr_notag_silent_start", 222_336),
    ):
        path = cases / f"{name}.mp3"
        assert read_audio(path).shape == (2, num_samples)
        assert torch.allclose(read_audio(path), by_ffmpeg(path), atol=1e-5)


def test_a_silent_start_does_not_shorten_what_ingest_measures(
    tmp_path: Path, variable: bytes, write_song: Callable[..., Path]
) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(without_header(variable))
    info = inspect_audio(path, RULES).info
    assert info.num_frames == read_audio(path).shape[1]
    assert info.num_frames == probe(path).num_frames
