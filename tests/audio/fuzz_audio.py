"""Mutated audio files, and what must hold for each.

`make fuzz` runs it: `python -m tests.audio.fuzz_audio`.

Files of half a second in every format are cut, bits are flipped, blocks removed, swapped and so on.
Of each mutated file must hold:

* it is read, or refused with an `AudioError`, within 20 s and 2 GiB;
* ingest and the readers of later steps agree;
* what is read is not shorter than the file before it was mutated. Where the header was mutated
  nobody can ask that: then it must not be shorter than what ffmpeg decodes, if ffmpeg is there.

A file that breaks a rule is kept, and its seed is printed. The same seed, format and number make
the same file again.
"""

import argparse
import faulthandler
import io
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from mixprint.audio.files import read_audio
from mixprint.audio.inspection import InspectionRules, inspect_audio
from mixprint.errors import AudioError

RATE_HZ = 16_000
DURATION_S = 0.5
EXACT_S = 0.002
TOLERANCE_S = 0.11  # a part of a frame more than LENGTH_TOLERANCE_S
TIME_LIMIT_S = 20
MEMORY_LIMIT_BYTES = 2 << 30
EXTREMES = (0, 1, 2, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFF000, 0x7FFFFFFF, 2**32 - 36, 2**32 - 1)
RULES = InspectionRules(
    min_duration_s=0.0,
    max_duration_s=36_000.0,
    min_level_dbfs=-300.0,
    max_channel_difference_db=1_000.0,
    max_clipped_fraction=1.0,
)


@dataclass(frozen=True)
class Format:
    """A format that is mutated.

    Attributes:
        suffix: of its files.
        container: libsndfile's name.
        subtype: libsndfile's name.
        head_bytes: where a mutation may change what the rest means.
        options: of the encoder.
        tolerance_s: how much of the audio may be missing. AU and CAF state nothing that a length
            which became a little smaller would contradict.
    """

    suffix: str
    container: str
    subtype: str
    head_bytes: int = 128
    options: tuple[tuple[str, object], ...] = ()
    tolerance_s: float = EXACT_S


PCM_FORMATS = {
    "wav": Format(".wav", "WAV", "PCM_16"),
    "wav-float": Format(".wav", "WAV", "FLOAT"),
    "wav-ima": Format(".wav", "WAV", "IMA_ADPCM"),
    "wav-ms": Format(".wav", "WAV", "MS_ADPCM"),
    "wavex": Format(".wav", "WAVEX", "PCM_24"),
    "rf64": Format(".rf64", "RF64", "PCM_16"),
    "w64": Format(".w64", "W64", "PCM_16"),
    "aiff": Format(".aiff", "AIFF", "PCM_16"),
    "au": Format(".au", "AU", "PCM_16", tolerance_s=TOLERANCE_S),
    "caf": Format(".caf", "CAF", "PCM_16", 4_200, tolerance_s=TOLERANCE_S),
}
VARIABLE = (("bitrate_mode", "VARIABLE"), ("compression_level", 0.5))
STREAM_FORMATS = {
    "flac": Format(".flac", "FLAC", "PCM_16", 8_400, tolerance_s=TOLERANCE_S),
    "vorbis": Format(".ogg", "OGG", "VORBIS", 4_600, tolerance_s=TOLERANCE_S),
    "opus": Format(".opus", "OGG", "OPUS", 1_000, tolerance_s=TOLERANCE_S),
    "mp3": Format(".mp3", "MP3", "MPEG_LAYER_III", 420, tolerance_s=TOLERANCE_S),
    "mp3-vbr": Format(".mp3", "MP3", "MPEG_LAYER_III", 420, VARIABLE, TOLERANCE_S),
}
FORMATS = {**PCM_FORMATS, **STREAM_FORMATS}


@dataclass(frozen=True)
class Mutation:
    """A mutated file.

    Attributes:
        content: its bytes.
        first: the first byte that was touched.
        what: how, for messages.
    """

    content: bytes
    first: int
    what: str


class BrokenRuleError(Exception):
    """What a file did that it must not."""


def source(format_: Format) -> bytes:
    """Write a file to be mutated, the same each time."""
    rate_hz = 48_000 if format_.subtype == "OPUS" else RATE_HZ
    num_frames = round(DURATION_S * rate_hz)
    time_T = np.arange(num_frames) / rate_hz
    noise_TN = np.random.default_rng(0).standard_normal((num_frames, 2))
    audio_TN = 0.3 * np.sin(2 * np.pi * 440 * time_T)[:, None] + 0.1 * noise_TN
    file = io.BytesIO()
    sf.write(
        file, audio_TN, rate_hz, format=format_.container, subtype=format_.subtype,
        **dict(format_.options),
    )  # fmt: skip
    content = file.getvalue()
    return same_serial(content) if content[:4] == b"OggS" else content


def same_serial(content: bytes) -> bytes:
    """Return the stream of an Ogg file number 1 in place of a random one."""
    pages = [b"OggS" + page for page in content.split(b"OggS")[1:]]
    found = []
    for page in pages:
        page = page[:14] + b"\1\0\0\0" + page[18:22] + bytes(4) + page[26:]
        found.append(page[:22] + ogg_crc(page).to_bytes(4, "little") + page[26:])
    return b"".join(found)


def ogg_crc(page: bytes) -> int:
    """The checksum of a page whose own checksum is 0 (RFC 3533, section 6)."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x104C11DB7 if crc & 0x80000000 else 0)
    return crc


def mutate(content: bytes, head_bytes: int, dice: random.Random) -> Mutation:
    """Mutate a file in one way."""
    size = len(content)
    start = dice.randrange(size)
    length = min(dice.choice((1, 2, 4, 100, 1_000, 4_000)), size - start)
    end = start + length
    block = content[start:end]

    def cut() -> Mutation:
        keep = dice.randrange(1, size)
        return Mutation(content[:keep], keep, f"cut to {keep} of {size} bytes")

    def cut_a_little() -> Mutation:
        keep = size - dice.randrange(1, 64)
        return Mutation(content[:keep], keep, f"cut to {keep} of {size} bytes")

    def behead() -> Mutation:
        return Mutation(content[start:], 0, f"first {start} bytes lost")

    def flip() -> Mutation:
        changed = bytearray(content)
        places = sorted(dice.randrange(size) for _ in range(dice.choice((1, 1, 3, 20))))
        for place in places:
            changed[place] ^= 1 << dice.randrange(8)
        return Mutation(bytes(changed), places[0], f"bits flipped in bytes {places}")

    def flip_head() -> Mutation:
        place = dice.randrange(min(head_bytes, size))
        changed = bytes([content[place] ^ 1 << dice.randrange(8)])
        return Mutation(
            content[:place] + changed + content[place + 1 :], place, f"a bit flipped in {place}"
        )

    def field() -> Mutation:
        place = dice.randrange(min(head_bytes, size - 8))
        width = dice.choice((1, 2, 4))
        value = dice.choice(EXTREMES) & (1 << 8 * width) - 1
        changed = value.to_bytes(width, dice.choice(("little", "big")))
        return Mutation(
            content[:place] + changed + content[place + width :], place, f"{value} at {place}"
        )

    def insert() -> Mutation:
        junk = dice.randbytes(length)
        return Mutation(content[:start] + junk + content[start:], start, f"{length} put in {start}")

    def remove() -> Mutation:
        return Mutation(content[:start] + content[end:], start, f"{start} to {end} removed")

    def double() -> Mutation:
        return Mutation(content[:end] + block + content[end:], start, f"{start} to {end} doubled")

    def blank() -> Mutation:
        return Mutation(
            content[:start] + bytes(length) + content[end:], start, f"{start} to {end} zeroed"
        )

    def swap() -> Mutation:
        other = dice.randrange(size)
        low, high = sorted((start, other))
        length = min(1_000, high - low, size - high)
        changed = (
            content[:low] + content[high : high + length] + content[low + length : high]
            + content[low : low + length] + content[high + length :]
        )  # fmt: skip
        return Mutation(changed, low, f"{length} bytes at {low} and {high} swapped")

    def append() -> Mutation:
        junk = dice.randbytes(length)
        return Mutation(content + junk, size, f"{length} bytes of junk behind")

    ways: tuple[Callable[[], Mutation], ...] = (
        *(cut, cut_a_little, behead, flip, flip_head, field, field),
        *(insert, remove, double, blank, swap, append),
    )
    return dice.choice(ways)()


def check(path: Path, mutation: Mutation, format_: Format) -> str:
    """Read a mutated file.

    Returns:
        ``read``, or the reason of its refusal.

    Raises:
        BrokenRuleError: it broke one.
    """
    rate_hz = RATE_HZ
    try:
        info = inspect_audio(path, RULES).info
        rate_hz = info.sample_rate_hz
        inspected: float | str = info.duration_s
    except AudioError as error:
        inspected = error.reason
    try:
        found: float | str = read_audio(path, sample_rate_hz=rate_hz).shape[1] / rate_hz
    except AudioError as error:
        found = error.reason
    if inspected != found:
        raise BrokenRuleError(f"ingest says {inspected}, and a reader {found}")
    if isinstance(found, str):
        return found
    if found < DURATION_S - format_.tolerance_s:
        if mutation.first >= format_.head_bytes:
            raise BrokenRuleError(f"{found:.3f} of {DURATION_S} s were read, without a word")
        if (independent := decoded_by_ffmpeg(path)) > found + TOLERANCE_S:
            raise BrokenRuleError(f"{found:.3f} s were read, and ffmpeg finds {independent:.3f} s")
    return "read"


def decoded_by_ffmpeg(path: Path) -> float:
    """How many seconds ffmpeg decodes of a file, at the file's own rate; 0 without ffmpeg."""
    if shutil.which("ffmpeg") is None:
        return 0.0
    command = ["ffmpeg", "-v", "error", "-nostdin", "-t", "60", "-i", str(path), "-map", "0:a:0"]
    command += ["-ac", "1", "-ar", "8000", "-f", "s16le", "pipe:1"]
    decoded = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return len(decoded.stdout) / 2 / 8_000


def one(name: str, seed: int, number: int, folder: Path) -> str:
    """Make a mutated file and check it; it is removed again if it breaks no rule.

    Raises:
        BrokenRuleError: it broke one; the message says how to make it again.
    """
    format_ = FORMATS[name]
    mutation = mutate(
        SOURCES.setdefault(name, source(format_)),
        format_.head_bytes,
        random.Random(f"{seed} {name} {number}"),
    )
    path = folder / f"{name}-{seed}-{number}{format_.suffix}"
    path.write_bytes(mutation.content)
    # If reading does not end, or ends the process, the file is there still, and this tells where.
    faulthandler.dump_traceback_later(TIME_LIMIT_S, exit=True)
    try:
        outcome = check(path, mutation, format_)
    except BrokenRuleError as error:
        raise BrokenRuleError(
            f"{path.name} (format {name}, seed {seed}, number {number}; {mutation.what}): {error}"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    path.unlink()
    return outcome


SOURCES: dict[str, bytes] = {}


def limit_memory() -> None:
    """Let the process have as much memory more as reading a file may take."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--format", action="append", choices=FORMATS, help="default: all")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, help="files of each format; default: until the time")
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so long")
    parser.add_argument("--keep", type=Path, help="folder for files that break a rule")
    args = parser.parse_args()
    seed = random.randrange(10**9) if args.seed is None else args.seed
    names = args.format or list(FORMATS)
    folder = args.keep or Path(tempfile.mkdtemp(prefix="mixprint-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}; files that break a rule are kept in {folder}", flush=True)
    if shutil.which("ffmpeg") is None:
        print("no ffmpeg: lengths behind mutated headers are not compared", flush=True)
    limit_memory()
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    broken = []
    end = time.monotonic() + 60 * args.minutes
    number = args.first
    while time.monotonic() < end and (args.count is None or number < args.first + args.count):
        for name in names:
            try:
                outcomes[name][one(name, seed, number, folder)] += 1
            except BrokenRuleError as error:
                outcomes[name]["BROKEN"] += 1
                broken.append(str(error))
                print(f"BROKEN {error}", flush=True)
        number += 1
    for name, counts in outcomes.items():
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        print(f"{name}: {told}")
    print(f"{sum(map(Counter.total, outcomes.values()))} files, {len(broken)} broke a rule")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
