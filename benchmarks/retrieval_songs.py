"""Songs of the retrieval benchmark, as separated stems that are kept: generated ones, real ones.

Generated songs are those of the test split of `mixprint.synthesis.style_benchmark`: nothing shipped
has met their instruments, voices and styles. The real ones are recordings that lie beside the
project; see `real_mixes`.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.levels import loudness_lufs
from mixprint.collection.segments import segment_starts
from mixprint.errors import ConfigError
from mixprint.fingerprint import file_sha256, fingerprint
from mixprint.progress import progress
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.dataset import MIXTURE
from mixprint.synthesis.style_benchmark import SplitSize, StyleBenchmark, generate_benchmark
from mixprint.transfer.stem_store import Separate, separate_once

log = logging.getLogger("mixprint.benchmarks")

GENERATED, REAL = "generated", "real"
NUM_GENERATED = 12
AUDIO_SUFFIXES = frozenset({".flac", ".mp3", ".ogg", ".wav"})
# Quieter parts, such as an ending, are no music to put effects on.
MIN_LUFS = -40.0


@dataclass(frozen=True)
class Mix:
    """A song as it is separated.

    Attributes:
        song: its name.
        parts: files whose sum it is.
    """

    song: str
    parts: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """Tell its audio from others."""
        return fingerprint([file_sha256(path) for path in self.parts])

    def read(self) -> Tensor:
        """Return audio_CT."""
        audio = [read_audio(path) for path in self.parts]
        num_samples = min(part_CT.shape[-1] for part_CT in audio)
        return torch.stack([part_CT[:, :num_samples] for part_CT in audio]).sum(0)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Part of a separated song.

    Attributes:
        song: its name.
        digest: of the mix that was separated.
        folder: holds the stems.
        start_s: where it begins.
        duration_s: how long it is.
    """

    song: str
    digest: str
    folder: Path
    start_s: float
    duration_s: float

    def read(self) -> Tensor:
        """Return stems_SCT."""
        return torch.stack(
            [
                read_audio(
                    self.folder / f"{stem}.wav", start_s=self.start_s, duration_s=self.duration_s
                )
                for stem in STEMS
            ]
        )

    def identity(self) -> dict[str, object]:
        """Return what it is, wherever its files lie."""
        return {"mix": self.digest, "start_s": self.start_s, "duration_s": self.duration_s}


def generated_mixes(folder: Path, num_songs: int = NUM_GENERATED) -> list[Mix]:
    """Compose, play and mix the test songs, each in one style; what is there already stays."""
    none = SplitSize(num_songs=0, num_styles=1, styles_per_song=1)
    # As many styles as songs: no two songs are mixed alike before the chains.
    test = SplitSize(num_songs=num_songs, num_styles=num_songs, styles_per_song=1)
    made = generate_benchmark(
        folder, replace(StyleBenchmark(), train=none, valid=none, test=test), num_workers=2
    )
    return [Mix(path.name, (path / f"{MIXTURE}.wav",)) for path in made]


def real_mixes(folder: Path) -> list[Mix]:
    """List the recordings of a folder of test audio.

    Finished songs are taken from `mixtures/*`, mixtures that come with stems from
    `musdbhq/*/mixture.*` and `separated/*/mixture.*` (their own stems are not used), and
    `multitrack/*` are the tracks of one song, whose sum at equal gain stands for a mix of it.

    Raises:
        ConfigError: there are none.
    """

    def audio(pattern: str) -> list[Path]:
        return sorted(p for p in folder.glob(pattern) if p.suffix.lower() in AUDIO_SUFFIXES)

    mixes = [Mix(path.stem, (path,)) for path in audio("mixtures/*")]
    for pattern in ("musdbhq/*/mixture.*", "separated/*/mixture.*"):
        mixes += [Mix(path.parent.name, (path,)) for path in audio(pattern)]
    if tracks := audio("multitrack/*"):
        mixes.append(Mix("multitrack", tuple(tracks)))
    if not mixes:
        raise ConfigError(f"{folder}: expected recordings in mixtures/ and others, found none")
    return mixes


def cut_segments(
    mixes: Sequence[Mix],
    folder: Path,
    separate: Separate,
    separator_identity: Mapping[str, object],
    segment_s: float,
) -> list[Segment]:
    """Separate songs, once, and cut them; quiet parts and short songs are left out.

    Args:
        mixes: the songs.
        folder: keeps the stems.
        separate: the separator.
        separator_identity: its fingerprint.
        segment_s: length of the segments.
    """
    segments: list[Segment] = []
    for mix in progress(mixes, len(mixes), "separated", "songs", log):
        digest = mix.digest
        stems = folder / fingerprint({"mix": digest, "separator": dict(separator_identity)})
        audio_CT = mix.read()
        if audio_CT.shape[-1] < segment_s * SAMPLE_RATE_HZ:
            log.warning("left out %s: shorter than %g s", mix.song, segment_s)
            continue
        separate_once(stems, separate, audio_CT)
        segments += [
            Segment(
                song=mix.song, digest=digest, folder=stems, start_s=start_s, duration_s=segment_s
            )
            for start_s in _loud_starts(audio_CT, segment_s)
        ]
    return segments


def _loud_starts(audio_CT: Tensor, segment_s: float) -> Iterator[float]:
    length = round(segment_s * SAMPLE_RATE_HZ)
    for start_s in segment_starts(audio_CT.shape[-1] / SAMPLE_RATE_HZ, segment_s):
        start = min(round(start_s * SAMPLE_RATE_HZ), audio_CT.shape[-1] - length)
        if loudness_lufs(audio_CT[:, start : start + length], SAMPLE_RATE_HZ) > MIN_LUFS:
            yield start / SAMPLE_RATE_HZ
