"""Measure a whole file without holding it in memory: what ingest decides upon.

Shape suffixes: C channel (stereo), N channels as in the file, T sample.
"""

import hashlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixprint.audio.decoding import AudioFile
from mixprint.audio.files import AudioInfo, OpenedAudio, check_finite, check_length, open_audio
from mixprint.audio.layouts import default_layout, downmix_gains
from mixprint.audio.mp3 import audio_range
from mixprint.audio.resampling import BLOCK_FRAMES
from mixprint.errors import AudioError
from mixprint.stems import NUM_CHANNELS
from mixprint.text import shown

# Level given to digital silence: below the noise of 24 bits, and finite.
FLOOR_DBFS = -200.0
# The highest step of 16 bits reads 0.99997; limiters stop at 0.1 dB below full scale (0.9886).
CLIPPED = 0.999
INT32_SCALE = 2.0**-31


@dataclass(frozen=True)
class Inspection:
    """Findings about the audio that a file really holds.

    Attributes:
        info: rate and channels of the file, and its length as decoded.
        content_sha256: see `inspect_audio`.
        level_dbfs: RMS level of the stereo signal without its DC part.
        dc_dbfs: level of the DC part alone.
        channel_difference_db: level of the louder side over the other one.
        clipped_fraction: part of all samples at or beyond full scale.
    """

    info: AudioInfo
    content_sha256: str
    level_dbfs: float
    dc_dbfs: float
    channel_difference_db: float
    clipped_fraction: float


@dataclass(frozen=True, kw_only=True)
class InspectionRules:
    """When a file is refused; every limit is a parameter of the step.

    Attributes:
        min_duration_s: shorter is ``too_short``.
        max_duration_s: longer is ``too_long``.
        min_level_dbfs: lower is ``silent``, or ``dc_only`` if the DC part is above it.
        max_channel_difference_db: more is ``one_channel``.
        max_clipped_fraction: more is ``clipped``.
    """

    min_duration_s: float
    max_duration_s: float
    min_level_dbfs: float
    max_channel_difference_db: float
    max_clipped_fraction: float


def inspect_audio(path: Path, rules: InspectionRules) -> Inspection:
    """Decode a file once, by parts, and hold it against the rules.

    The content's SHA-256 covers the audio and nothing else, so renaming, tagging or, where no
    samples change, converting a file gives no new song. For lossless formats it is taken over
    rate, channel count, speakers where they are not the usual ones, and the decoded samples: WAV
    and FLAC of one recording agree. For lossy
    formats it is taken over the encoded bytes, less the ID3 and APE tags of MP3, because
    decoders differ in the last bit from machine to machine.

    Returns:
        the measurements of a file that meets the rules.

    Raises:
        AudioError: the file is unusable (see `mixprint.audio.files`) or against a rule.
    """
    with open_audio(path) as audio:
        file = audio.file
        _check_duration(path, file.frames / file.samplerate, rules)
        digest = hashlib.sha256()
        is_lossless = _is_lossless(file)
        if is_lossless:
            digest.update(f"samples {file.samplerate} Hz {file.channels}{_named(audio)}\n".encode())
        else:
            _hash_encoded(path, digest)
        num_frames, num_clipped = 0, 0
        sum_C, square_sum_C = np.zeros(NUM_CHANNELS), np.zeros(NUM_CHANNELS)
        gains_CN = downmix_gains(audio.layout).astype(np.float64)
        for samples_TN in _sample_blocks(file):
            if is_lossless:
                little_TN = samples_TN.astype(samples_TN.dtype.newbyteorder("<"), copy=False)
                digest.update(little_TN.data)
            block_TN = _as_float(samples_TN)
            check_finite(block_TN, path, num_frames)
            num_frames += len(block_TN)
            num_clipped += int(np.count_nonzero(np.abs(block_TN) >= CLIPPED))
            block_CT = gains_CN @ block_TN.T
            sum_C += block_CT.sum(axis=1)
            square_sum_C += np.square(block_CT).sum(axis=1)
        check_length(audio, file.frames, num_frames)
        duration_s = num_frames / file.samplerate
        info = AudioInfo(file.samplerate, file.channels, duration_s, num_frames)
    mean_C = sum_C / num_frames
    power_C = np.maximum(square_sum_C / num_frames - np.square(mean_C), 0.0)
    levels_db = [_power_db(float(power)) for power in power_C]
    inspection = Inspection(
        info=info,
        content_sha256=digest.hexdigest(),
        level_dbfs=_power_db(float(power_C.mean())),
        dc_dbfs=_power_db(float(np.square(mean_C).mean())),
        channel_difference_db=max(levels_db) - min(levels_db),
        clipped_fraction=num_clipped / (num_frames * info.channels),
    )
    _check_content(path, inspection, rules)
    return inspection


def content_sha256(path: Path) -> str:
    """Hash the audio of a file, whatever it is like; see `inspect_audio`.

    Raises:
        AudioError: the file is unusable.
    """
    none = InspectionRules(
        min_duration_s=0.0,
        max_duration_s=math.inf,
        min_level_dbfs=-math.inf,
        max_channel_difference_db=math.inf,
        max_clipped_fraction=1.0,
    )
    return inspect_audio(path, none).content_sha256


def _check_duration(path: Path, duration_s: float, rules: InspectionRules) -> None:
    """Refuse by the declared length, before the file is decoded."""
    if duration_s < rules.min_duration_s:
        raise AudioError(
            "too_short",
            f"{shown(path)}: expected at least {rules.min_duration_s} s, found {duration_s:.3f} s",
        )
    if duration_s > rules.max_duration_s:
        raise AudioError(
            "too_long",
            f"{shown(path)}: expected at most {rules.max_duration_s} s, found {duration_s:.3f} s",
        )


def _check_content(path: Path, inspection: Inspection, rules: InspectionRules) -> None:
    """Refuse by what was decoded."""
    # An MP3 may lose a few frames against its header, and with them the last bit of the minimum.
    _check_duration(path, inspection.info.duration_s, rules)
    if inspection.level_dbfs < rules.min_level_dbfs:
        reason = "dc_only" if inspection.dc_dbfs >= rules.min_level_dbfs else "silent"
        raise AudioError(
            reason,
            f"{shown(path)}: expected at least {rules.min_level_dbfs} dBFS without DC, found "
            f"{inspection.level_dbfs:.1f} dBFS (DC {inspection.dc_dbfs:.1f} dBFS)",
        )
    if inspection.channel_difference_db > rules.max_channel_difference_db:
        raise AudioError(
            "one_channel",
            f"{shown(path)}: expected sides within {rules.max_channel_difference_db} dB, found "
            f"{inspection.channel_difference_db:.1f} dB",
        )
    if inspection.clipped_fraction > rules.max_clipped_fraction:
        raise AudioError(
            "clipped",
            f"{shown(path)}: expected at most {rules.max_clipped_fraction:.1%} of the samples at "
            f"full scale, found {inspection.clipped_fraction:.1%}",
        )


def _is_lossless(file: AudioFile) -> bool:
    return file.subtype.startswith(("PCM_", "ALAC_")) or file.subtype in ("FLOAT", "DOUBLE")


def _named(audio: OpenedAudio) -> str:
    """Name the speakers where they are not those that the number of channels means by itself."""
    is_usual = audio.layout == default_layout(audio.file.channels)
    return "" if is_usual else f" {' '.join(audio.layout)}"


def _sample_blocks(file: AudioFile) -> Iterator[NDArray]:
    """Read to the end in a type that holds the file's samples exactly (lossy ones as float32)."""
    is_integer = file.subtype.startswith(("PCM_", "ALAC_"))
    dtype = "int32" if is_integer else "float64" if file.subtype == "DOUBLE" else "float32"
    while len(block_TN := file.read(BLOCK_FRAMES, dtype, always_2d=True)):
        yield block_TN


def _as_float(samples_TN: NDArray) -> NDArray[np.float64]:
    scale = INT32_SCALE if samples_TN.dtype.kind == "i" else 1.0
    # Casting a NaN of some kinds warns; `check_finite` says it better.
    with np.errstate(invalid="ignore"):
        return samples_TN.astype(np.float64) * scale


def _power_db(power: float) -> float:
    return max(10 * math.log10(power), FLOOR_DBFS) if power > 0 else FLOOR_DBFS


def _hash_encoded(path: Path, digest: "hashlib._Hash") -> None:
    """Hash a lossy file's bytes between the tags that MP3 carries at both ends."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start, end = audio_range(content)
        with memoryview(content) as view, view[start:end] as audio:
            digest.update(audio)
