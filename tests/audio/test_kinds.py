"""The table of kinds: what a collection may hold, and what must happen to it.

Each row makes a file and says how many frames are to be read, or for which reason it is refused;
ingest and the readers of later steps must agree on that. Rows from the shared material say what its
own table says.
"""

import io
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from mixprint.audio.files import probe, read_audio
from mixprint.audio.inspection import InspectionRules, inspect_audio
from mixprint.errors import AudioError

RATE_HZ = 8_000
NUM_FRAMES = 4_000
RULES = InspectionRules(
    min_duration_s=0.01,
    max_duration_s=3_600.0,
    min_level_dbfs=-150.0,
    max_channel_difference_db=500.0,
    max_clipped_fraction=1.0,
)
CONTAINERS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")

Outcome = int | str


def noise(num_channels: int = 2, num_frames: int = NUM_FRAMES) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    return (0.1 * random.standard_normal((num_frames, num_channels))).astype(np.float32)


def encoded(
    container: str = "WAV",
    subtype: str = "PCM_16",
    audio_TN: NDArray[np.float32] | None = None,
    endian: str = "FILE",
) -> bytes:
    file = io.BytesIO()
    audio_TN = noise() if audio_TN is None else audio_TN
    sf.write(file, audio_TN, RATE_HZ, format=container, subtype=subtype, endian=endian)
    return file.getvalue()


def outcome_of(path: Path) -> Outcome:
    """Read a file as the steps do, and see that all of them agree."""
    try:
        info = probe(path)
        audio_CT = read_audio(path, sample_rate_hz=info.sample_rate_hz)
        outcome: Outcome = audio_CT.shape[1]
    except AudioError as error:
        outcome = error.reason if path.name in error.detail else "no name"
    try:
        inspected: Outcome = inspect_audio(path, RULES).info.num_frames
    except AudioError as error:
        inspected = error.reason
    assert inspected == outcome, "ingest and the readers disagree"
    return outcome


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def after(content: bytes, name: bytes) -> int:
    """Where the bytes behind a chunk's name begin."""
    return content.index(name) + len(name)


def with_sizes(riff: int | None, data: int | None) -> bytes:
    content = encoded()
    if riff is not None:
        content = patched(content, 4, struct.pack("<I", riff))
    if data is not None:
        content = patched(content, after(content, b"data"), struct.pack("<I", data))
    return content


def rf64(*, data: int | None = None, magic: bytes = b"RF64") -> bytes:
    content = patched(encoded("RF64"), 0, magic)
    if data is not None:
        content = patched(content, after(content, b"ds64") + 12, struct.pack("<Q", data))
    return content


def w64(data: int) -> bytes:
    content = encoded("W64")
    return patched(content, after(content, b"data\xf3") + 11, struct.pack("<Q", data))


def aiff(frames: int | None, data: int | None) -> bytes:
    content = encoded("AIFF")
    if frames is not None:
        content = patched(content, after(content, b"COMM") + 6, struct.pack(">I", frames))
    if data is not None:
        content = patched(content, after(content, b"SSND"), struct.pack(">I", data))
    return content


def au(data: int) -> bytes:
    return patched(encoded("AU"), 8, struct.pack(">I", data))


def caf(data: int) -> bytes:
    content = encoded("CAF")
    return patched(content, after(content, b"data"), struct.pack(">q", data))


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def with_riff(*chunks: bytes) -> bytes:
    content = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def mp3(bitrate_mode: str) -> bytes:
    """22,050 frames, silent in their first half."""
    audio_TN = noise(1, 22_050)
    audio_TN[:11_025] = 0
    file = io.BytesIO()
    sf.write(file, audio_TN, 44_100, format="MP3", bitrate_mode=bitrate_mode)
    return file.getvalue()


def mp3_in_wav(num_frames: int, content: bytes) -> bytes:
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44_100, 16_000, 1, 0, 12, 1, 2, 418, 1, 1393)
    fact = chunk(b"fact", struct.pack("<I", num_frames))
    return with_riff(chunk(b"fmt ", fmt), fact, chunk(b"data", content), chunk(b"LIST", b"INFO"))


def without_first_frame(content: bytes) -> bytes:
    return content[content.index(content[:2], 4) :]


def half_of(content: bytes) -> bytes:
    return content[: len(content) // 2]


FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16))
FMT_8_BIT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ, 1, 8))
PCM = noise(1)[:, 0]
MONO = (PCM * 32_767).astype("<i2").tobytes()
ODD = (PCM[:999] * 100 + 128).astype(np.uint8).tobytes()
ID3V1 = b"TAG" + bytes(125)
JUNK = np.random.default_rng(1).bytes(500)
M4A = b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(500)

# fmt: off
TABLE: dict[str, tuple[str, bytes, Outcome]] = {
    # Lengths that a pipe or a recorder that crashed left open: read to the end.
    "WAV whose data size is 0": ("a.wav", with_sizes(None, 0), NUM_FRAMES),
    "WAV whose sizes are both 0": ("a.wav", with_sizes(0, 0), NUM_FRAMES),
    "WAV whose sizes are those of the empty file": ("a.wav", with_sizes(36, 0), NUM_FRAMES),
    "WAV whose RIFF size alone is 0": ("a.wav", with_sizes(0, None), NUM_FRAMES),
    "WAV streamed by ffmpeg": ("a.wav", with_sizes(2**32 - 1, 2**32 - 1), NUM_FRAMES),
    "WAV streamed by SoX": ("a.wav", with_sizes(0x7FFFF024, 0x7FFFF000), NUM_FRAMES),
    "WAV streamed with 0x7FFFFFFF": ("a.wav", with_sizes(None, 0x7FFFFFFF), NUM_FRAMES),
    "WAV streamed, size without header": ("a.wav", with_sizes(None, 2**32 - 1 - 44), NUM_FRAMES),
    "RF64 whose lengths are 0": ("a.wav", rf64(data=0), NUM_FRAMES),
    "RF64 whose length is -1": ("a.rf64", rf64(data=2**64 - 1), NUM_FRAMES),
    "W64 whose length is 0": ("a.w64", w64(0), NUM_FRAMES),
    "W64 whose length is the header's": ("a.w64", w64(24), NUM_FRAMES),
    "W64 whose length is -1": ("a.w64", w64(2**64 - 1), NUM_FRAMES),
    "W64 whose length is the greatest": ("a.w64", w64(2**63 - 1), NUM_FRAMES),
    "AIFF whose sizes are 0": ("a.aiff", aiff(0, 0), NUM_FRAMES),
    "AIFF whose data size is 0": ("a.aif", aiff(None, 0), NUM_FRAMES),
    "AIFF of a crashed recorder": ("a.aif", aiff(0, 8), NUM_FRAMES),
    "AIFF streamed by SoX": ("a.aiff", aiff(0x1FC00000, 0x7F000008), NUM_FRAMES),
    "AU whose size is -1": ("a.au", au(2**32 - 1), NUM_FRAMES),
    "AU whose size is 0": ("a.snd", au(0), NUM_FRAMES),
    "AU whose size is 0x7FFFFFFF": ("a.au", au(0x7FFFFFFF), NUM_FRAMES),
    "CAF whose size is -1": ("a.caf", caf(-1), NUM_FRAMES),
    "CAF whose size is 0": ("a.caf", caf(0), NUM_FRAMES),
    "CAF whose size is that of no audio": ("a.caf", caf(4), NUM_FRAMES),
    # Lengths that contradict the file.
    "WAV that lacks one frame": ("a.wav", with_sizes(None, 4 * NUM_FRAMES + 4), "truncated"),
    "WAV that lacks one byte": ("a.wav", with_sizes(None, 4 * NUM_FRAMES + 1), "truncated"),
    "WAV of 3 GB cut": ("a.wav", with_sizes(3_000_000_036, 3_000_000_000), "truncated"),
    "RF64 of 5 GB cut": ("a.wav", rf64(data=5_000_000_000), "truncated"),
    "WAV whose size is half": ("a.wav", with_sizes(None, 2 * NUM_FRAMES), "length_unknown"),
    "RF64 whose size is half": ("a.wav", rf64(data=2 * NUM_FRAMES), "length_unknown"),
    "W64 whose size is half": ("a.w64", w64(2 * NUM_FRAMES + 24), "length_unknown"),
    "AIFF whose size is half": ("a.aiff", aiff(None, 2 * NUM_FRAMES + 8), "length_unknown"),
    "AU whose size is half": ("a.au", au(2 * NUM_FRAMES), "length_unknown"),
    "CAF whose size is half": ("a.caf", caf(2 * NUM_FRAMES + 4), "length_unknown"),
    "MP3 in WAV that declares more frames": (
        "a.wav", mp3_in_wav(30_000, mp3("CONSTANT")), "truncated",
    ),
    "MP3 in WAV": ("a.wav", mp3_in_wav(22_050, mp3("CONSTANT")), 22_050),
    "MP3 of variable bitrate in WAV": ("a.wav", mp3_in_wav(22_050, mp3("VARIABLE")), 22_050),
    "MP3 in WAV without its header": (
        "a.wav", mp3_in_wav(22_050, without_first_frame(mp3("VARIABLE"))), 21 * 1_152,
    ),
    "AIFF whose frames alone are wrong": ("a.aiff", aiff(NUM_FRAMES // 2, None), NUM_FRAMES),
    # What may stand around the audio.
    "WAV without the last pad byte": ("a.wav", with_riff(FMT_8_BIT, chunk(b"data", ODD)), 999),
    "WAV with its last pad byte": ("a.wav", with_riff(FMT_8_BIT, chunk(b"data", ODD) + b"\0"), 999),
    "WAV with chunks before and behind": (
        "a.wav",
        with_riff(
            chunk(b"JUNK", bytes(28)), chunk(b"bext", bytes(602)), FMT, chunk(b"data", MONO),
            chunk(b"LIST", b"INFOISFT\x02\0\0\0x\0"), chunk(b"id3 ", bytes(10)),
        ),
        NUM_FRAMES,
    ),
    "WAV with a chunk behind an odd length, unpadded": (
        "a.wav",
        with_riff(FMT_8_BIT, chunk(b"data", ODD), chunk(b"LIST", b"INFOISFT\x02\0\0\0x\0")),
        999,
    ),
    "WAV whose last chunk is cut": (
        "a.wav",
        with_riff(FMT, chunk(b"data", MONO), chunk(b"LIST", b"INFOISFT\x02\0\0\0x\0"))[:-5],
        NUM_FRAMES,
    ),
    "WAV with a tag behind": ("a.wav", encoded() + ID3V1, NUM_FRAMES),
    "WAV with junk behind": ("a.wav", encoded() + JUNK, NUM_FRAMES),
    "WAV with zeros behind": ("a.wav", encoded() + bytes(100_000), NUM_FRAMES),
    "WAV with what may be audio behind": ("a.wav", encoded() + 200 * JUNK, "length_unknown"),
    "W64 with junk behind": ("a.w64", encoded("W64") + JUNK, NUM_FRAMES),
    "AU with junk behind": ("a.au", encoded("AU") + JUNK, NUM_FRAMES),
    "WAV without audio but with chunks behind": (
        "a.wav", with_riff(FMT, chunk(b"data", b""), chunk(b"LIST", b"INFO")), "empty",
    ),
    "WAV of a header alone": ("a.wav", with_riff(FMT, chunk(b"data", b"")), "empty"),
    "WAV cut in its header": ("a.wav", encoded()[:40], "truncated"),
    "WAV without a format": ("a.wav", with_riff(chunk(b"data", MONO)), "unreadable"),
    "RIFX": ("a.wav", encoded(endian="BIG"), NUM_FRAMES),
    "BW64": ("a.bw64", rf64(magic=b"BW64"), NUM_FRAMES),
    "WAV called .wave": ("a.wave", encoded(), NUM_FRAMES),
    "WAV called .bwf": ("a.bwf", encoded(), NUM_FRAMES),
    "WAV called .mp3": ("a.mp3", encoded(), NUM_FRAMES),
    "WAV called .raw": ("a.raw", encoded(), NUM_FRAMES),
    "FLAC called .au": ("a.au", encoded("FLAC"), NUM_FRAMES),
    "FLAC called .au, cut": (
        "a.au", half_of(encoded("FLAC", audio_TN=noise(2, 40_000))), "truncated",
    ),
    "Ogg called .gsm": ("a.gsm", encoded("OGG", "VORBIS"), NUM_FRAMES),
    "Ogg called .gsm, cut": ("a.gsm", half_of(encoded("OGG", "VORBIS")), "truncated"),
    "MP3 called .snd": ("a.snd", mp3("VARIABLE"), 22_050),
    "MP3 called .vox, cut": ("a.vox", half_of(mp3("VARIABLE")), "truncated"),
    # What is no audio, whatever it is called.
    "nothing": ("a.wav", b"", "empty"),
    "an HTML page": ("a.mp3", b"<!DOCTYPE html>\n<html><body>404</body></html>", "unreadable"),
    "an HTML page called .au": ("a.au", b"<!DOCTYPE html>" + b"x" * 9_000, "unreadable"),
    "zeros": ("a.mp3", bytes(20_000), "unreadable"),
    "zeros called .snd": ("a.snd", bytes(20_000), "unreadable"),
    "noise called .vox": ("a.vox", 40 * JUNK, "unreadable"),
    "noise called .gsm": ("a.gsm", 40 * JUNK, "unreadable"),
    "noise called .raw": ("a.raw", 40 * JUNK, "unreadable"),
    "JSON": ("a.flac", b'{"error": "no such song"}', "unreadable"),
    "a JPEG called .mp3": ("a.mp3", b"\xff\xd8\xff\xe0" + 40 * JUNK, "unreadable"),
    "a ZIP": ("a.wav", b"PK\x03\x04" + JUNK, "unreadable"),
    "a PDF": ("a.ogg", b"%PDF-1.7\n" + JUNK, "unreadable"),
    "M4A called .mp3": ("a.mp3", M4A, "unsupported_format"),
    "WMA called .wav": ("a.wav", bytes.fromhex("3026b2758e66cf11") + JUNK, "unsupported_format"),
    "AAC called .mp3": ("a.mp3", b"\xff\xf1" + JUNK, "unsupported_format"),
    "VOC, of which nobody sees the end": ("a.wav", encoded("VOC"), "unsupported_format"),
}
# fmt: on


@pytest.mark.parametrize("kind", TABLE)
def test_kind(tmp_path: Path, kind: str) -> None:
    name, content, expected = TABLE[kind]
    (tmp_path / name).write_bytes(content)
    assert outcome_of(tmp_path / name) == expected


SHARED_TABLE: dict[str, Outcome] = {
    "cases/07_truncated_half.wav": "truncated",
    "cases/09_FL_FR_FC_LFE.wav": 16_000,
    "cases/09_FL_FR_FC_BC.wav": 16_000,
    "cases/10_gsm.wav": 120_320,
    "cases/13_html_as.mp3": "unreadable",
    "audio/bad/empty.wav": "empty",
    "audio/bad/mono_8k_12s.wav": 96_000,
    "audio/bad/nan_float.wav": "not_finite",
    "audio/bad/random_bytes.flac": "unreadable",
    "audio/bad/surround_5p1.wav": 144_000,
    "audio/bad/text_named.wav": "unreadable",
    "audio/bad/truncated.mp3": "truncated",
}


@pytest.mark.parametrize("name", SHARED_TABLE)
def test_kind_of_shared_file(shared_dir: Path, name: str) -> None:
    assert outcome_of(shared_dir / name) == SHARED_TABLE[name]


# 12 bits of DWVW libsndfile cannot write, and MP3 in WAV neither.
CODECS = [
    (container, subtype)
    for container in CONTAINERS
    for subtype in sf.available_subtypes(container)
    if subtype not in ("DWVW_12", "MPEG_LAYER_III")
]


@pytest.mark.parametrize(("container", "subtype"), CODECS)
def test_any_codec_cut_short_is_truncated_and_each_part_is_the_part_of_the_whole(
    tmp_path: Path, container: str, subtype: str
) -> None:
    content = encoded(container, subtype, noise(1))
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    num_frames = outcome_of(path)
    # Codecs of blocks fill up the last one.
    assert isinstance(num_frames, int)
    assert 0 <= num_frames - NUM_FRAMES < 640
    whole_CT = read_audio(path, sample_rate_hz=RATE_HZ)
    for first in (0, 1, 2_345):
        part_CT = read_audio(
            path, sample_rate_hz=RATE_HZ, start_s=first / RATE_HZ, duration_s=1_000 / RATE_HZ
        )
        assert (part_CT == whole_CT[:, first : first + 1_000]).all()
    for num_cut in (2, 40, len(content) // 2):
        path.write_bytes(content[:-num_cut])
        assert outcome_of(path) == "truncated"


@pytest.mark.parametrize("container", CONTAINERS)
def test_joined_files_are_refused_by_name(tmp_path: Path, container: str) -> None:
    (tmp_path / "a.wav").write_bytes(2 * encoded(container))
    with pytest.raises(AudioError, match="another file joined to it") as told:
        read_audio(tmp_path / "a.wav")
    assert told.value.reason == "joined"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mp3", b"<!doctype html><p>not found", "found an HTML page"),
        ("b.mp3", bytes(9_999), "found zeros"),
        ("c.wav", b"no audio here\n", "found text"),
        ("d.mp3", M4A, "found an MP4 .* convert it, for example with: ffmpeg -i 'd.mp3' 'd.flac'"),
        ("e.wav", encoded()[:-8_000], r"found 8000 \(0.250 of 0.500 s\)"),
        ("f.flac", b"fLaC" + JUNK, "found nothing to decode"),
    ],
)
def test_a_message_says_what_a_file_looks_like(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=words) as told:
        read_audio(tmp_path / name)
    assert "does not exist" not in told.value.detail


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg, which is no part of this")
@pytest.mark.parametrize("container", ["wav", "aiff", "au", "w64", "caf", "rf64", "adpcm", "s24"])
def test_what_ffmpeg_writes_to_a_pipe_is_read_to_its_end(tmp_path: Path, container: str) -> None:
    (tmp_path / "whole.wav").write_bytes(encoded())
    options = {
        "rf64": ["-rf64", "always", "-f", "wav"],
        "adpcm": ["-c:a", "adpcm_ms", "-f", "wav"],
        "s24": ["-c:a", "pcm_s24le", "-f", "wav"],
    }.get(container, ["-f", container])
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "whole.wav"), *options, "pipe:1"]
    (tmp_path / "a.wav").write_bytes(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    num_frames = outcome_of(tmp_path / "a.wav")
    assert isinstance(num_frames, int)
    assert NUM_FRAMES <= num_frames < NUM_FRAMES + (640 if container == "adpcm" else 1)
    if container not in ("adpcm", "s24"):
        whole_CT = read_audio(tmp_path / "whole.wav")
        assert (read_audio(tmp_path / "a.wav") == whole_CT).all()
