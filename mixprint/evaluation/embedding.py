"""Segments as vectors: an encoder's embeddings and its baselines, how they are compared.

Shape suffixes: N segment, E embedding, D feature, B batch, S stem, C channel, T sample.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mixprint.collection.shards import SegmentRef, read_segment
from mixprint.errors import DataError
from mixprint.evaluation.retrieval import FloatArray
from mixprint.features import Standardisation
from mixprint.features.table import read_features
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ

log = logging.getLogger("mixprint.evaluation")

BATCH_SIZE = 4
ENCODER, FEATURES, LOG_MEL, UNTRAINED = "encoder", "features", "log_mel", "untrained"
# How vectors are compared: embeddings by their direction, measured quantities by their values.
DISTANCE_OF = {ENCODER: "direction", FEATURES: "rms", LOG_MEL: "rms", UNTRAINED: "direction"}


class Embedder(Protocol):
    """An embedder to be evaluated: `mixprint.encoder.checkpoint.Encoder` is one."""

    fingerprint: str

    def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        """Return embedding_BE of segments."""


def embed_segments(
    embedders: Mapping[str, Callable[[Tensor, int], Tensor]],
    references: Sequence[SegmentRef],
    device: torch.device | str,
    *,
    change: Callable[[int, Tensor], Tensor] | None = None,
) -> tuple[dict[str, FloatArray], float]:
    """Turn segments into vectors in several ways, reading each segment once.

    Args:
        embedders: name -> function of stems_BSCT on `device` and the sample rate in Hz.
        references: the segments; one may be listed several times.
        device: where to compute.
        change: gets the place in `references` and stems_SCT, and gives what is heard instead.

    Returns:
        name -> vector_NE, and the length of the longest segment in seconds.

    Raises:
        DataError: a shard is broken, or a vector is not finite.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in embedders}
    num_samples = 0
    with (
        torch.inference_mode(),
        Progress(log, "embedded", total=len(references), unit="segments") as progress,
    ):
        for stems_BSCT in _batches(references, change):
            num_samples = max(num_samples, stems_BSCT.shape[-1])
            stems_BSCT = stems_BSCT.to(device)
            for name, embed in embedders.items():
                parts[name].append(embed(stems_BSCT, SAMPLE_RATE_HZ).float().cpu())
            progress.advance(len(stems_BSCT))
    vectors = {name: torch.cat(rows).double().numpy() for name, rows in parts.items()}
    for name, vector_NE in vectors.items():
        finite_N = np.isfinite(vector_NE).all(axis=1)
        if not finite_N.all():
            bad = references[int(np.argmin(finite_N))]
            raise DataError(
                f"track {bad.track_id}, segment {bad.segment}: expected finite values of "
                f"{name}, found others"
            )
    return vectors, num_samples / SAMPLE_RATE_HZ


def _batches(
    references: Sequence[SegmentRef], change: Callable[[int, Tensor], Tensor] | None
) -> Iterator[Tensor]:
    """Read segments in batches of equal length."""
    batch: list[Tensor] = []
    for row, reference in enumerate(references):
        stems_SCT = read_segment(reference)
        if change is not None:
            stems_SCT = change(row, stems_SCT)
        if batch and (len(batch) == BATCH_SIZE or batch[0].shape != stems_SCT.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(stems_SCT)
    if batch:
        yield torch.stack(batch)


def standardised_features(features_dir: Path, references: Sequence[SegmentRef]) -> FloatArray:
    """Find the standardised features of segments, in their order.

    Raises:
        DataError: a file is missing or broken, or has no features of a segment.
    """
    path = features_dir / "features.parquet"
    table = read_features(path)
    rows = {key: i for i, key in enumerate(zip(table.track_ids, table.segments, strict=True))}
    missing = [(r.track_id, r.segment) for r in references if (r.track_id, r.segment) not in rows]
    if missing:
        raise DataError(f"{path}: expected features of every segment, found none of {missing[:3]}")
    standardisation = Standardisation.load(features_dir / "standardisation.json")
    chosen = torch.tensor([rows[r.track_id, r.segment] for r in references])
    features_ND = standardisation.apply(table.features_BD[chosen])
    return features_ND.double().numpy()
