import hashlib
import io
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mixprint.audio.files import read_audio
from mixprint.audio.inspection import InspectionRules, inspect_audio
from mixprint.audio.layouts import (
    apple_layout,
    default_layout,
    downmix_gains,
    mask_layout,
    stream_layout,
)
from mixprint.errors import AudioError

FL, FR, FC, LFE, BL, BR, FLC, FRC, BC, SL, SR, TC = (1 << bit for bit in range(12))
HALF_POWER = math.sqrt(0.5)
LEFT, RIGHT, CENTRE, NOTHING = (1.0, 0.0), (0.0, 1.0), (HALF_POWER, HALF_POWER), (0.0, 0.0)
SURROUND_LEFT, SURROUND_RIGHT, SURROUND = (HALF_POWER, 0.0), (0.0, HALF_POWER), (0.5, 0.5)
RULES = InspectionRules(
    min_duration_s=0.0,
    max_duration_s=60.0,
    min_level_dbfs=-150.0,
    max_channel_difference_db=500.0,
    max_clipped_fraction=1.0,
)


def clicks(num_channels: int, container: str) -> bytes:
    """A click in each channel in turn, so that each sample is the gains of one channel."""
    file = io.BytesIO()
    one_by_one_TN = np.eye(num_channels, dtype=np.float32)
    sf.write(file, one_by_one_TN, 44_100, format=container, subtype="FLOAT")
    return file.getvalue()


def with_mask(mask: int, num_channels: int, container: str = "WAVEX") -> bytes:
    """WAVE, RF64 and W64 keep the mask 20 bytes behind the beginning of the extensible format."""
    content = clicks(num_channels, container)
    if container == "W64":
        # libsndfile writes the plain format: put in the extensible one.
        at = content.index(b"fmt ")
        plain = content[at + 24 : at + 40]
        guid = bytes.fromhex("0300000000001000800000aa00389b71")
        extensible = b"\xfe\xff" + plain[2:] + struct.pack("<HHI", 22, 32, mask) + guid
        size = struct.unpack("<Q", content[at + 16 : at + 24])[0]
        rest = content[at + -(-size // 8) * 8 :]
        return content[: at + 16] + struct.pack("<Q", 64) + extensible + rest
    at = content.index(b"\xfe\xff") + 20
    return content[:at] + struct.pack("<I", mask) + content[at + 4 :]


def gains_of(path: Path, content: bytes) -> list[tuple[float, float]]:
    path.write_bytes(content)
    return [tuple(gains) for gains in read_audio(path).T.tolist()]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (FL | FR | FC | LFE, [LEFT, RIGHT, CENTRE, NOTHING]),
        (FL | FR | FC | BC, [LEFT, RIGHT, CENTRE, SURROUND]),
        (FL | FR | BL | BR, [LEFT, RIGHT, SURROUND_LEFT, SURROUND_RIGHT]),
        (FL | FR | SL | SR, [LEFT, RIGHT, SURROUND_LEFT, SURROUND_RIGHT]),
        (FL | FR | LFE, [LEFT, RIGHT, NOTHING]),
        (FL | FR | BC, [LEFT, RIGHT, SURROUND]),
        (FL | FR | LFE | BL | BR, [LEFT, RIGHT, NOTHING, SURROUND_LEFT, SURROUND_RIGHT]),
        (FL | FC, [LEFT, CENTRE]),
        (FC | LFE, [CENTRE, NOTHING]),
        (FL | FR, [LEFT, RIGHT]),
        (FL, [(1.0, 1.0)]),  # one channel goes to both sides, whatever its speaker
        # No speakers are named: the usual order.
        (0, [LEFT, RIGHT, CENTRE, NOTHING, SURROUND_LEFT, SURROUND_RIGHT]),
    ],
)
@pytest.mark.parametrize("container", ["WAVEX", "RF64", "W64"])
def test_the_mask_says_which_channel_is_which_speaker(
    tmp_path: Path, mask: int, expected: list[tuple[float, float]], container: str
) -> None:
    found = gains_of(tmp_path / "a.wav", with_mask(mask, len(expected), container))
    assert np.allclose(found, expected)


def test_bits_beyond_the_channels_mean_nothing(tmp_path: Path) -> None:
    assert gains_of(tmp_path / "a.wav", with_mask(FL | FR | FC | LFE, 2)) == [LEFT, RIGHT]


@pytest.mark.parametrize(
    ("mask", "num_channels", "words"),
    [
        (FL | FR | TC, 3, "found Ts"),
        (FL | FR | FLC | FRC, 4, "found Lc, Rc"),
        (FL | FR | 1 << 31, 3, "found bit 31"),
        (FL | FR | FC, 4, "a speaker for each of 4 channels, found L R C"),
    ],
)
def test_speakers_without_a_place_in_stereo_are_refused(
    tmp_path: Path, mask: int, num_channels: int, words: str
) -> None:
    (tmp_path / "a.wav").write_bytes(with_mask(mask, num_channels))
    with pytest.raises(AudioError, match=words) as told:
        read_audio(tmp_path / "a.wav")
    assert told.value.reason == "channel_layout"


def test_ambisonics_are_no_speakers(tmp_path: Path) -> None:
    content = with_mask(0, 4)
    at = content.index(bytes.fromhex("00001000800000aa00389b71"))
    guid = bytes.fromhex("00002107d3118644c8c1ca000000")
    (tmp_path / "a.wav").write_bytes(content[: at - 2] + guid + content[at + 12 :])
    with pytest.raises(AudioError, match="found W, X, Y, Z"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("tag", "mask", "labels", "expected"),
    [
        (121 << 16 | 6, 0, (), "L R C LFE Ls Rs"),
        (124 << 16 | 6, 0, (), "C L R Ls Rs LFE"),
        (115 << 16 | 4, 0, (), "L R C Cs"),
        (104 << 16 | 2, 0, (), "M S"),
        (1 << 16, FL | FR | FC | LFE, (), "L R C LFE"),
        (0, 0, (3, 1, 2, 4), "C L R LFE"),
        (147 << 16 | 4, 0, (), None),
        (0, 0, (), None),
    ],
)
def test_layouts_of_caf_and_aiff(
    tag: int, mask: int, labels: tuple[int, ...], expected: str | None
) -> None:
    chunk = struct.pack(">III", tag, mask, len(labels))
    chunk += b"".join(struct.pack(">II3f", label, 0, 0, 0, 0) for label in labels)
    found = apple_layout(chunk, 6)
    assert found == (None if expected is None else tuple(expected.split()))


@pytest.mark.parametrize(("container", "name"), [("CAF", b"chan"), ("AIFF", b"CHAN")])
def test_a_chunk_of_caf_or_aiff_says_which_channel_is_which_speaker(
    tmp_path: Path, container: str, name: bytes
) -> None:
    content = clicks(3, container)
    chan = struct.pack(">III", 114 << 16 | 3, 0, 0)  # C L R
    size = struct.pack(">q" if container == "CAF" else ">I", len(chan))
    at = content.index(b"desc") + 44 if container == "CAF" else 12
    content = content[:at] + name + size + chan + content[at:]
    assert np.allclose(gains_of(tmp_path / "a.wav", content), [CENTRE, LEFT, RIGHT])


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x05title"])
def test_a_comment_of_flac_holds_the_mask(tmp_path: Path, tag: bytes) -> None:
    file = io.BytesIO()
    audio_TN = np.zeros((1_000, 4), np.float32)
    audio_TN[500, 2] = 0.5
    sf.write(file, audio_TN, 44_100, format="FLAC")
    content = file.getvalue()
    comment = f"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x{FL | FR | FC | LFE:04X}".encode()
    block = struct.pack("<II", 0, 1) + struct.pack("<I", len(comment)) + comment
    # Behind the first block (STREAMINFO), which has 38 bytes with its header.
    comments = b"\x04" + struct.pack(">I", len(block))[1:] + block
    (tmp_path / "a.flac").write_bytes(tag + content[:42] + comments + content[42:])
    read_CT = read_audio(tmp_path / "a.flac")
    assert read_CT[:, 500].tolist() == pytest.approx([0.5 * HALF_POWER] * 2, abs=1e-4)
    (tmp_path / "b.flac").write_bytes(content)
    assert read_audio(tmp_path / "b.flac")[:, 500].tolist() == pytest.approx(
        [0.5 * HALF_POWER, 0], abs=1e-4
    )


@pytest.mark.parametrize(("family", "is_known"), [(0, True), (1, True), (2, False), (255, False)])
def test_opus_without_speakers_is_told_by_its_mapping(family: int, is_known: bool) -> None:
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 4, 312, 48_000, 0, family)
    page = b"OggS" + bytes(24) + head + bytes(6)
    layout = stream_layout(io.BytesIO(page), 4)
    assert (layout is None) == is_known


@pytest.mark.parametrize("num_channels", range(1, 9))
def test_usual_layouts_have_a_speaker_for_each_channel(num_channels: int) -> None:
    for is_ogg in (False, True):
        layout = default_layout(num_channels, is_ogg=is_ogg)
        assert downmix_gains(layout).shape == (2, num_channels)
    assert mask_layout(0, num_channels) is None


def test_files_of_different_layouts_are_no_duplicates(tmp_path: Path) -> None:
    hashes = {}
    for name, mask in (("quad", FL | FR | BL | BR), ("3.1", FL | FR | FC | LFE), ("none", 0)):
        (tmp_path / name).write_bytes(with_mask(mask, 4))
        hashes[name] = inspect_audio(tmp_path / name, RULES).content_sha256
    assert hashes["quad"] == hashes["none"] != hashes["3.1"]
    # Rate, channels and samples, as long as the layout is the usual one.
    plain = b"samples 44100 Hz 4\n" + np.eye(4, dtype="<f4").tobytes()
    assert hashes["quad"] == hashlib.sha256(plain).hexdigest()


def test_shared_files_have_their_centre_on_both_sides(shared_dir: Path) -> None:
    for name in ("09_FL_FR_FC_LFE.wav", "09_FL_FR_FC_BC.wav"):
        path = shared_dir / "cases" / name
        audio_TN, rate_hz = sf.read(path, dtype="float32")
        read_CT = read_audio(path, sample_rate_hz=rate_hz)
        rear_T = 0.5 * audio_TN[:, 3] if name.endswith("BC.wav") else 0
        for side in (0, 1):
            expected_T = audio_TN[:, side] + HALF_POWER * audio_TN[:, 2] + rear_T
            assert torch.allclose(read_CT[side], torch.from_numpy(expected_T), atol=1e-6)
