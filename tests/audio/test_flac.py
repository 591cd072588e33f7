import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.audio.inspection import InspectionRules, inspect_audio
from mixprint.errors import AudioError

RATE_HZ = 48_000
NUM_SAMPLES = 100_000
RULES = InspectionRules(
    min_duration_s=0.1,
    max_duration_s=60.0,
    min_level_dbfs=-60.0,
    max_channel_difference_db=60.0,
    max_clipped_fraction=1.0,
)


def encode(
    num_samples: int = NUM_SAMPLES,
    *,
    seed: int = 0,
    channels: int = 2,
    rate_hz: int = RATE_HZ,
    subtype: str = "PCM_16",
) -> bytes:
    audio_TC = np.random.default_rng(seed).uniform(-0.3, 0.3, (num_samples, channels))
    file = io.BytesIO()
    sf.write(file, audio_TC, rate_hz, format="FLAC", subtype=subtype)
    return file.getvalue()


def with_length(content: bytes, num_samples: int) -> bytes:
    """State another length in the 36 bits of STREAMINFO."""
    return (
        content[:21] + bytes([content[21] & 0xF0]) + num_samples.to_bytes(4, "big") + content[26:]
    )


def samples(path: Path, content: bytes) -> Tensor:
    path.write_bytes(content)
    return read_audio(path, sample_rate_hz=RATE_HZ)


def refused(path: Path, content: bytes) -> AudioError:
    path.write_bytes(content)
    with pytest.raises(AudioError, match=path.name) as caught:
        read_audio(path)
    return caught.value


@pytest.fixture(scope="module")
def content() -> bytes:
    return encode()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 16_000, 11_127])
def test_an_unknown_length_is_counted(
    tmp_path: Path, subtype: str, channels: int, rate_hz: int
) -> None:
    content = encode(channels=channels, rate_hz=rate_hz, subtype=subtype)
    (tmp_path / "known.flac").write_bytes(content)
    (tmp_path / "unknown.flac").write_bytes(with_length(content, 0))
    inspections = [inspect_audio(tmp_path / f"{name}.flac", RULES) for name in ("known", "unknown")]
    assert inspections[0] == inspections[1]
    assert inspections[1].info.num_frames == NUM_SAMPLES


def test_a_part_of_an_unknown_length_is_the_part_of_the_whole(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a.flac"
    whole_CT = samples(path, with_length(content, 0))
    assert whole_CT.shape == (2, NUM_SAMPLES)
    assert probe(path).num_frames == NUM_SAMPLES
    for first in (0, 1, 4_095, 50_000, 98_000):
        part_CT = read_audio(
            path, sample_rate_hz=RATE_HZ, start_s=first / RATE_HZ, duration_s=2_000 / RATE_HZ
        )
        assert torch.equal(part_CT, whole_CT[:, first : first + 2_000])


def test_a_length_that_is_too_small_cuts_nothing(tmp_path: Path, content: bytes) -> None:
    whole_CT = samples(tmp_path / "a.flac", content)
    assert torch.equal(samples(tmp_path / "b.flac", with_length(content, 50_000)), whole_CT)


@pytest.mark.parametrize("length", [0, NUM_SAMPLES])
def test_a_cut_file_is_truncated(tmp_path: Path, content: bytes, length: int) -> None:
    content = with_length(content, length)
    for part in (0.1, 0.5, 0.9):
        error = refused(tmp_path / "a.flac", content[: int(len(content) * part)])
        assert error.reason == "truncated"
    # Within the last frame, whose header is there.
    assert refused(tmp_path / "a.flac", content[:-9]).reason in {"truncated", "damaged"}


@pytest.mark.parametrize("length", [0, NUM_SAMPLES])
def test_no_flipped_bit_in_a_frame_goes_unseen(tmp_path: Path, content: bytes, length: int) -> None:
    generator = np.random.default_rng(0)
    whole = with_length(content, length)
    for position, bit in zip(
        generator.integers(9_000, len(whole), 40), generator.integers(8, size=40), strict=True
    ):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << bit
        error = refused(tmp_path / "a.flac", bytes(flipped))
        assert error.reason in {"damaged", "truncated"}


@pytest.mark.parametrize("length", [0, NUM_SAMPLES])
def test_a_lost_frame_is_told_with_its_time(tmp_path: Path, content: bytes, length: int) -> None:
    # Frames of 4,096 samples begin with the same three bytes; the fifth is their number.
    starts = [
        match.start()
        for number in (10, 12)
        for match in re.finditer(rb"\xff\xf8\xca." + bytes([number]), content, re.DOTALL)
    ]
    assert len(starts) == 2
    lacking = content[: starts[0]] + content[starts[1] :]
    error = refused(tmp_path / "a.flac", with_length(lacking, length))
    assert error.reason == "damaged"
    assert f"at {10 * 4_096 / RATE_HZ:.3f} s" in error.detail


def test_tags_around_the_stream_are_left_out(tmp_path: Path, content: bytes) -> None:
    whole_CT = samples(tmp_path / "a.flac", content)
    id3v2 = b"ID3\x04\x00\x00\x00\x00\x00\x64" + bytes(100)
    id3v1 = b"TAG" + bytes(125)
    for length in (0, NUM_SAMPLES):
        tagged = id3v2 + with_length(content, length) + id3v1
        assert torch.equal(samples(tmp_path / "b.flac", tagged), whole_CT)


@pytest.mark.parametrize("length", [0, NUM_SAMPLES])
def test_joined_files_are_read_one_after_the_other(
    tmp_path: Path, content: bytes, length: int
) -> None:
    parts = [content, encode(seed=1), encode(30_000, seed=2)]
    alone_CT = torch.cat([samples(tmp_path / "a.flac", part) for part in parts], dim=1)
    parts[0] = with_length(parts[0], length)
    path = tmp_path / "joined.flac"
    assert torch.equal(samples(path, b"".join(parts)), alone_CT)
    part_CT = read_audio(path, sample_rate_hz=RATE_HZ, start_s=2.0, duration_s=2.5)
    assert torch.equal(part_CT, alone_CT[:, 96_000:216_000])


def test_joined_files_of_different_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    error = refused(tmp_path / "a.flac", content + encode(rate_hz=44_100))
    assert error.reason == "joined"
    assert "48000 Hz" in error.detail
    assert "44100 Hz" in error.detail


def test_the_case_from_a_bug_report(shared_dir: Path) -> None:
    path = shared_dir / "cases" / "01_streamed_unknown_length.flac"
    assert probe(path).duration_s == 3.0
    assert read_audio(path, sample_rate_hz=16_000).shape == (2, 48_000)
    assert inspect_audio(path, RULES).info.num_frames == 48_000
