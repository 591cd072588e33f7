import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio import probe, read_audio
from mixprint.errors import AudioError
from mixprint.mp3 import audio_range, least_length

NUM_SAMPLES = 10 * 44_100


def encode(bitrate_mode: str, sample_rate_hz: int = 44_100) -> bytes:
    """Encode silence, then noise: a variable bitrate goes from its lowest to its highest."""
    audio_TC = np.random.default_rng(0).uniform(-0.5, 0.5, (NUM_SAMPLES, 2))
    audio_TC[: NUM_SAMPLES // 2] = 0
    file = io.BytesIO()
    sf.write(
        file, audio_TC, sample_rate_hz, format="MP3", bitrate_mode=bitrate_mode,
        compression_level=0.3,
    )  # fmt: skip
    return file.getvalue()


def without_header(content: bytes) -> bytes:
    """Cut the first frame, which holds the length; the next one begins as it does."""
    return content[content.index(content[:2], 4) :]


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_files_that_state_their_length_are_taken(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encode(mode))
    assert least_length(path) == 0
    assert read_audio(path).shape == (2, NUM_SAMPLES)


@pytest.mark.parametrize("sample_rate_hz", [44_100, 22_050, 11_025])
def test_frames_are_counted(tmp_path: Path, sample_rate_hz: int) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(without_header(encode("CONSTANT", sample_rate_hz)))
    frame = 1_152 if sample_rate_hz > 24_000 else 576
    # An encoder adds up to three frames: its delay and the rest of the last one.
    assert 0 <= least_length(path) - NUM_SAMPLES <= 3 * frame
    assert abs(probe(path).num_frames - least_length(path)) <= 3 * frame


def test_variable_bitrate_without_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(without_header(encode("VARIABLE")))
    assert 0 <= least_length(path) - NUM_SAMPLES <= 3 * 1_152
    with sf.SoundFile(path) as file:
        assert abs(file.frames - NUM_SAMPLES) > 44_100  # what libsndfile believes
    with pytest.raises(AudioError, match=r"a\.mp3") as caught:
        read_audio(path)
    assert caught.value.reason in {"length_unknown", "truncated"}


def test_tags_are_found() -> None:
    id3v2 = b"ID3\x04\x00\x00\x00\x00\x01\x02" + b"x" * 130
    ape = b"APETAGEX" + (2_000).to_bytes(4, "little") + (40).to_bytes(4, "little")
    ape = b"y" * 8 + ape + bytes(16)
    id3v1 = b"TAG" + b"z" * 125
    audio = b"a" * 500
    for head in (b"", id3v2):
        for tail in (b"", ape, id3v1, ape + id3v1):
            start, end = audio_range(head + audio + tail)
            assert (start, end) == (len(head), len(head) + 500)


def test_senseless_tags_leave_the_whole_file() -> None:
    content = b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + b"x" * 100
    assert audio_range(content) == (0, len(content))


def test_junk_has_no_length(tmp_path: Path, make_audio: Callable[..., Tensor]) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(bytes(torch.randint(0, 256, (200_000,), dtype=torch.uint8).tolist()))
    assert least_length(path) == 0
