"""MUSDB18 as its authors publish it: files of five streams, a split, and an archive of WAVs.

Shape suffixes: C channel, T sample.
"""

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixprint.audio.signatures import is_hidden
from mixprint.audio.writing import StereoFile, common_gain
from mixprint.collection.sources import MIXTURE, stem_files
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.stems import NUM_CHANNELS
from mixprint.storage.archives import Archive
from mixprint.storage.atomic import write_errors_named
from mixprint.storage.download import cache_dir
from mixprint.storage.folders import whole_folder
from mixprint.storage.locks import locked
from mixprint.text import shown

log = logging.getLogger("mixprint.separation.songs")

# https://doi.org/10.5281/zenodo.3338373, open for research. The record publishes an MD5; torchaudio
# (datasets/musdb_hq.py) pins the same file by this SHA-256.
MUSDB18_HQ = Archive(
    source="https://zenodo.org/records/3338373/files/musdb18hq.zip"
    "#sha256=baac80d0483c61d74b2e5f3be75fa557eec52898339e6aa45c1fa48833c5d21d",
    max_bytes=25_000_000_000,
    unpacked_bytes=33_000_000_000,
)
STEM_FILE_SUFFIX = ".stem.mp4"
# Order of the audio streams (sigsep/sigsep-mus-db, configs/mus.yaml).
STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")
DECODER = "stempeg"
PROGRAMS = ("ffmpeg", "ffprobe")
# Decoders and containers count the last frame of AAC in different ways.
LENGTH_TOLERANCE_S = 0.1
BIT_DEPTH = "16"  # of the decoded streams, as in MUSDB18-HQ
_FOLDER, _LOCK = "musdb18", "lock"
# What the authors set aside for validation (same file).
MUSDB_VALIDATION = frozenset(
    {
        "ANiMAL - Rockshow",
        "Actions - One Minute Smile",
        "Alexander Ross - Goodbye Bolero",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Fergessen - Nos Palpitants",
        "James May - On The Line",
        "Johnny Lokke - Promises & Lies",
        "Leaf - Summerghost",
        "Meaxic - Take A Step",
        "Patrick Talbot - A Reason To Leave",
        "Skelpolu - Human Mistakes",
        "Traffic Experiment - Sirens",
        "Triviul - Angelsaint",
        "Young Griffo - Pennies",
    }
)


def is_stem_file(path: Path) -> bool:
    """Tell a song in one file, `<artist> - <title>.stem.mp4`."""
    is_named_so = path.name.casefold().endswith(STEM_FILE_SUFFIX) and not is_hidden(path.name)
    return is_named_so and path.is_file()


def title(path: Path) -> str:
    """Return artist and title of a song: the name of its folder, or of its file."""
    return path.name[: -len(STEM_FILE_SUFFIX)] if is_stem_file(path) else path.name


def decoded_files(path: Path) -> dict[str, Path]:
    """Decode the streams of a song to FLAC in the cache, unless they are there.

    Excerpts cannot be read from the file itself: each would take a process of its own, and begin
    a little off. One gain keeps all streams of a song below full scale.

    Args:
        path: see `is_stem_file`.

    Returns:
        the files, by `mixture` and the names of the stems.

    Raises:
        ConfigError: the decoder is not installed; the message says how to get it.
        DataError: the file is no such song or ends early, or the cache cannot be written.
    """
    status = path.stat()
    known = [str(path.resolve()), status.st_size, status.st_mtime_ns]
    folder = cache_dir() / _FOLDER / fingerprint(known)
    if not folder.is_dir():
        with write_errors_named(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # The ranks of a training all want the same songs.
            with locked(folder.parent / _LOCK):
                if not folder.is_dir():
                    _decode(path.resolve(), folder)
    return stem_files(folder)


def _decode(path: Path, folder: Path) -> None:
    with whole_folder(folder) as temporary, ExitStack() as stack:
        files, peaks = [], []
        for name, audio_CT, sample_rate_hz in _streams(path):
            file = StereoFile(
                temporary / f"{name}.flac",
                bit_depth=BIT_DEPTH,
                sample_rate_hz=sample_rate_hz,
                num_declared=audio_CT.shape[-1],
            )
            files.append(stack.enter_context(file))
            file.add(audio_CT)
            peaks.append(float(audio_CT.abs().max()))
        gain = common_gain(BIT_DEPTH, iter(peaks))
        for file in files:
            file.finish(gain)
    log.info("decoded %s", shown(path))


def _streams(path: Path) -> Iterator[tuple[str, Tensor, int]]:
    """Decode one stream after the other: name, audio_CT and sampling rate."""
    decoder, ffmpeg = _installed()
    try:
        info = decoder.Info(str(path))
        indices = info.audio_stream_idx()
        if len(indices) != len(STREAMS):
            raise DataError(
                f"{shown(path)}: expected {len(STREAMS)} audio streams ({', '.join(STREAMS)}), "
                f"found {len(indices)}"
            )
        for number, (name, index) in enumerate(zip(STREAMS, indices, strict=True)):
            audio_1TC, sample_rate_hz = decoder.read_stems(
                str(path), stem_id=index, dtype=np.float32, info=info, always_3d=True
            )
            found_s = audio_1TC.shape[1] / sample_rate_hz
            # A broken end of the file is no error to ffmpeg.
            if abs(found_s - info.duration(number)) > LENGTH_TOLERANCE_S or not found_s:
                raise DataError(
                    f"{shown(path)}: expected {info.duration(number):.2f} s of {name}, found "
                    f"{found_s:.2f} s"
                )
            audio_CT = torch.from_numpy(audio_1TC[0]).T.expand(NUM_CHANNELS, -1)
            yield name, audio_CT, int(sample_rate_hz)
    # What stempeg raises: it has no errors of its own.
    except (ffmpeg.Error, Warning, RuntimeError, ValueError, KeyError, OSError) as error:
        told = getattr(error, "stderr", None) or str(error).encode()
        reason = told.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DataError(
            f"{shown(path)}: expected a song in the form of MUSDB18, found: {reason}"
        ) from error


def missing_decoders() -> list[str]:
    """Name what is not installed and would be needed to decode, with the commands to install it."""
    missing = []
    if not find_spec(DECODER):
        missing.append(
            f"the Python package {DECODER} (`{sys.executable} -m pip install {DECODER}`)"
        )
    if programs := [name for name in PROGRAMS if not shutil.which(name)]:
        missing.append(f"{' and '.join(programs)} (Debian: `apt-get install -y ffmpeg`)")
    return missing


def _installed() -> tuple[Any, Any]:
    """Import what decodes: stempeg, and the ffmpeg-python that it brings.

    Raises:
        ConfigError: they, or the programs that they start, are not installed.
    """
    if missing := missing_decoders():
        raise ConfigError(
            f"songs in *{STEM_FILE_SUFFIX}: expected {DECODER} and ffmpeg to decode them, did not "
            f"find {', nor '.join(missing)}; MUSDB18-HQ, in WAV, needs neither"
        )
    return import_module(DECODER), import_module("ffmpeg")
