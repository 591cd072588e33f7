import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.audio.ogg import page_checksum
from mixprint.errors import AudioError
from tests.audio.decoders import by_ffmpeg
from tests.audio.test_flac import encode as encode_flac

RATE_HZ = 48_000


def encode(coding: str, *, seed: int = 0, channels: int = 2, rate_hz: int = RATE_HZ) -> bytes:
    """Encode three seconds of noise in bursts, for which blocks of both lengths are used."""
    audio_TC = np.random.default_rng(seed).uniform(-0.3, 0.3, (3 * rate_hz, channels))
    audio_TC *= (np.arange(3 * rate_hz) // 3_000 % 3 == 0)[:, None]
    file = io.BytesIO()
    sf.write(file, audio_TC, rate_hz, format="OGG", subtype=coding)
    return file.getvalue()


def pages(content: bytes) -> list[bytes]:
    return [b"OggS" + rest for rest in content.split(b"OggS")[1:]]


def page(serial: int, sequence: int, body: bytes, *, flags: int = 0, granule: int = 0) -> bytes:
    """Build a page of one packet."""
    lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = b"OggS\0" + bytes([flags]) + granule.to_bytes(8, "little", signed=True)
    head += serial.to_bytes(4, "little") + sequence.to_bytes(4, "little")
    tail = bytes([len(lacing)]) + lacing + body
    return head + page_checksum(head + bytes(4) + tail).to_bytes(4, "little") + tail


def samples(path: Path, content: bytes) -> Tensor:
    path.write_bytes(content)
    return read_audio(path, sample_rate_hz=RATE_HZ)


def refused(path: Path, content: bytes) -> AudioError:
    path.write_bytes(content)
    with pytest.raises(AudioError, match=path.name) as caught:
        read_audio(path)
    return caught.value


@pytest.fixture(scope="module", params=["VORBIS", "OPUS"])
def content(request: pytest.FixtureRequest) -> bytes:
    return encode(request.param)


def test_the_checksum_is_that_of_an_encoder(content: bytes) -> None:
    for each in pages(content):
        stated = int.from_bytes(each[22:26], "little")
        assert page_checksum(each[:22] + bytes(4) + each[26:]) == stated


def test_a_whole_file_is_left_to_the_decoder(tmp_path: Path, content: bytes) -> None:
    alone_TC, _ = sf.read(io.BytesIO(content), dtype="float32")
    assert torch.equal(samples(tmp_path / "a.ogg", content), torch.from_numpy(alone_TC.T))


def test_a_part_is_the_part_of_the_whole_to_the_end(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ogg"
    whole_CT = samples(path, content)
    assert whole_CT.shape == (2, 3 * RATE_HZ)
    for start_s in np.arange(0.0, 2.95, 0.09):
        first = round(start_s * RATE_HZ)
        part_CT = read_audio(path, sample_rate_hz=RATE_HZ, start_s=start_s, duration_s=0.05)
        assert torch.allclose(part_CT, whole_CT[:, first : first + 2_400], atol=1e-6)


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
def test_chained_streams_are_read_one_after_the_other(tmp_path: Path, coding: str) -> None:
    links = [encode(coding, seed=seed) for seed in (1, 2, 3)]
    alone_CT = torch.cat([samples(tmp_path / "a.ogg", link) for link in links], dim=1)
    path = tmp_path / "chain.ogg"
    assert torch.equal(samples(path, b"".join(links)), alone_CT)
    assert probe(path).duration_s == 9.0
    part_CT = read_audio(path, sample_rate_hz=RATE_HZ, start_s=2.5, duration_s=4.0)
    assert torch.allclose(part_CT, alone_CT[:, 120_000:312_000], atol=1e-5)


@pytest.mark.parametrize("other", [{"channels": 1}, {"rate_hz": 44_100}])
def test_chained_streams_of_different_kinds_are_refused(
    tmp_path: Path, other: dict[str, int]
) -> None:
    error = refused(tmp_path / "a.ogg", encode("VORBIS") + encode("VORBIS", seed=1, **other))
    assert error.reason == "joined"
    assert "2 joined streams" in error.detail


@pytest.mark.parametrize("fault", ["lost", "flipped", "doubled"])
def test_a_page_that_is_lost_or_broken_is_told_with_its_time(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    found = pages(content)
    middle = len(found) // 2
    broken = found[middle][:-9] + bytes([found[middle][-9] ^ 4]) + found[middle][-8:]
    changed = {"lost": [], "flipped": [broken], "doubled": [found[middle]] * 2}[fault]
    error = refused(tmp_path / "a.ogg", b"".join([*found[:middle], *changed, *found[middle + 1 :]]))
    assert error.reason == "damaged"
    assert f"page {middle + (fault == 'doubled')} missing or broken" in error.detail
    assert "ffmpeg -i" in error.detail


def test_a_file_without_its_last_page_is_truncated(tmp_path: Path, content: bytes) -> None:
    found = pages(content)
    half = b"".join(found[: len(found) // 2])
    for cut in (half, half + found[len(found) // 2][:500], content[:-1], content + content[:20]):
        assert refused(tmp_path / "a.ogg", cut).reason == "truncated"
    # Also of the first of two.
    assert refused(tmp_path / "b.ogg", half + encode("VORBIS", seed=1)).reason == "truncated"


def test_a_broken_last_page_is_damage(tmp_path: Path, content: bytes) -> None:
    broken = content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]
    assert refused(tmp_path / "a.ogg", broken).reason == "damaged"


def test_no_flipped_bit_goes_unseen(tmp_path: Path, content: bytes) -> None:
    generator = np.random.default_rng(0)
    for position, bit in zip(
        generator.integers(len(content), size=60), generator.integers(8, size=60), strict=True
    ):
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        assert refused(tmp_path / "a.ogg", bytes(flipped)).reason in {"damaged", "unreadable"}


def test_junk_around_and_between_pages_is_left_out(tmp_path: Path, content: bytes) -> None:
    whole_CT = samples(tmp_path / "a.ogg", content)
    found = pages(content)
    id3v2 = b"ID3\x04\x00\x00\x00\x00\x00\x64" + bytes(100)
    mixed = id3v2 + b"".join([*found[:4], b"junk" * 99, *found[4:], b"TAG" + bytes(125)])
    assert torch.equal(samples(tmp_path / "b.ogg", mixed), whole_CT)


def test_streams_that_are_no_audio_are_left_out(tmp_path: Path, content: bytes) -> None:
    whole_CT = samples(tmp_path / "a.ogg", content)
    found = pages(content)
    video = b"\x80theora" + bytes(40)
    mixed = [page(7, 0, video, flags=2), found[0], page(7, 1, bytes(900)), *found[1:]]
    mixed.insert(6, page(7, 2, bytes(300), flags=4))
    assert torch.equal(samples(tmp_path / "b.ogv", b"".join(mixed)), whole_CT)


def test_streams_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    for head, name in ((b"Speex   1.2", "Speex"), (b"\x80theora", "Theora"), (b"x", "unknown")):
        content = page(1, 0, head, flags=2) + page(1, 1, bytes(99), flags=4)
        error = refused(tmp_path / "a.ogg", content)
        assert error.reason == "unreadable"
        assert name in error.detail
        assert "ffmpeg -i" in error.detail
    first, second = pages(encode("VORBIS")), pages(encode("VORBIS", seed=1))
    error = refused(tmp_path / "a.ogg", b"".join([first[0], second[0], *first[1:], *second[1:]]))
    assert "found 2 at once" in error.detail


def test_flac_in_ogg_is_read(tmp_path: Path) -> None:
    flac = encode_flac(num_samples=30_000)
    whole_CT = samples(tmp_path / "a.flac", flac)
    mapping = b"\x7fFLAC\x01\x00" + (0).to_bytes(2, "big")
    # STREAMINFO in the first page, all else in pages that do not care where frames begin.
    rest = flac[42:]
    parts = [rest[i : i + 4_000] for i in range(0, len(rest), 4_000)]
    content = page(9, 0, mapping + flac[:42], flags=2)
    for index, part in enumerate(parts, start=1):
        is_last = index == len(parts)
        content += page(9, index, part, flags=4 if is_last else 0, granule=30_000 * is_last)
    path = tmp_path / "a.oga"
    assert torch.equal(samples(path, content), whole_CT)
    part_CT = read_audio(path, sample_rate_hz=RATE_HZ, start_s=0.25, duration_s=0.25)
    assert torch.equal(part_CT, whole_CT[:, 12_000:24_000])
    assert refused(path, content[:-9]).reason == "truncated"


def test_cases_from_bug_reports(shared_dir: Path) -> None:
    cases = shared_dir / "cases"
    assert read_audio(cases / "02_chained.ogg").shape == (2, 264_600)
    opus_CT = read_audio(cases / "02_chained.opus", sample_rate_hz=48_000)
    assert opus_CT.shape == (2, 288_000)
    assert torch.allclose(opus_CT, by_ffmpeg(cases / "02_chained.opus"), atol=0.01)
