"""A data set as the steps before the training leave it, made in seconds from nothing.

Songs of `mixprint.synthesis`, so that the shards compress about as music does (to 0.73 of their
PCM; separated songs to 0.6 to 0.95). A few songs serve for all tracks, each row with bytes of its
own on the disk: what is learned from them means nothing, how fast they are read does.

Shape suffixes: B segment, S stem, C channel, T sample.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

from components.layout import CATALOGUE_FOLDER, FEATURES_FILES, FEATURES_FOLDER, STEMS_FOLDER
from mixprint.collection.catalogue import Track, write_catalogue
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.features import Standardisation, extract
from mixprint.features.table import write_features
from mixprint.machine.processes import end_with_parent
from mixprint.stems import SAMPLE_RATE_HZ, pack
from mixprint.synthesis.compose import compose
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.instruments import render
from mixprint.synthesis.mixing import STYLE_NAMES, draw_settings, mix

SEED = 46
SEGMENTS_PER_TRACK = 2
MIXES_PER_SONG = 2
NUM_VALID = 2  # fewer, and the training validates on its own tracks


def write_apart(root: Path, *, num_train: int, num_songs: int, segment_s: float) -> None:
    """Write a set in a process of its own: what a process starts inherits its peak of memory.

    The arguments are those of `write_set`.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        sizes = {"num_train": num_train, "num_songs": num_songs, "segment_s": segment_s}
        pool.submit(write_set, root, **sizes).result()


def write_set(root: Path, *, num_train: int, num_songs: int, segment_s: float) -> None:
    """Write catalogue, stems and features in the folders of `components.layout`.

    Args:
        root: an empty folder.
        num_train: tracks of the training split; `NUM_VALID` more are for validation.
        num_songs: songs that are played; the tracks take turns in their mixes.
        segment_s: length of a segment; a track has `SEGMENTS_PER_TRACK`.
    """
    mixes = [
        stems_BSCT for n in range(num_songs) for stems_BSCT in _mixes(f"song{n:02d}", segment_s)
    ]
    measured = [extract(stems_BSCT, SAMPLE_RATE_HZ) for stems_BSCT in mixes]
    tracks = [_track(number, num_train, segment_s) for number in range(num_train + NUM_VALID)]
    write_catalogue(root / CATALOGUE_FOLDER, tracks, [])
    _write_stems(root / STEMS_FOLDER, tracks, mixes, segment_s)
    features_BD = torch.cat([part for _, part in zip(tracks, cycle(measured), strict=False)])
    table, standardisation = (root / FEATURES_FOLDER / name for name in FEATURES_FILES)
    write_features(
        table,
        [track.track_id for track in tracks for _ in range(SEGMENTS_PER_TRACK)],
        [segment for _ in tracks for segment in range(SEGMENTS_PER_TRACK)],
        features_BD,
    )
    Standardisation.fit(features_BD).save(standardisation)


def _mixes(song: str, segment_s: float) -> list[Tensor]:
    """Compose and play a song; give stems_BSCT of it in several styles, the segments as B."""
    dry = render(compose(song, SEED, SEGMENTS_PER_TRACK * segment_s), SEED)
    found = []
    for style in STYLE_NAMES[:MIXES_PER_SONG]:
        stems_CT = mix(dry, draw_settings(style, Rng(SEED, song, style)))
        stems_SCT = pack({name: torch.from_numpy(x_CT).float() for name, x_CT in stems_CT.items()})
        parts = stems_SCT.split(round(segment_s * SAMPLE_RATE_HZ), dim=-1)
        found.append(torch.stack(parts[:SEGMENTS_PER_TRACK]))
    return found


def _track(number: int, num_train: int, segment_s: float) -> Track:
    return Track(
        track_id=f"{number:016x}",
        title=f"track {number}",
        uri=f"track{number}.wav",
        source="synthetic",
        duration_s=SEGMENTS_PER_TRACK * segment_s,
        sample_rate_hz=SAMPLE_RATE_HZ,
        channels=2,
        split="train" if number < num_train else "valid",
        licence="CC0 1.0",
        has_stems=True,
        song=f"song{number // MIXES_PER_SONG}",
        style="",
    )


def _write_stems(
    folder: Path, tracks: Sequence[Track], mixes: Sequence[Tensor], segment_s: float
) -> None:
    with write_shard(
        folder / shard_name(0, 1),
        fingerprint="benchmark",
        sample_rate_hz=SAMPLE_RATE_HZ,
        separator=SeparatorFingerprint("true_stems", "", ""),
    ) as writer:
        for track, stems_BSCT in zip(tracks, cycle(mixes), strict=False):
            for segment, stems_SCT in enumerate(stems_BSCT):
                writer.write(track.track_id, segment, segment * segment_s, stems_SCT)
