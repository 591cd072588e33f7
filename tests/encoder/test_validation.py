import math
from pathlib import Path

import pytest
import torch

from mixprint.encoder import validation
from mixprint.encoder.data import TrackSegments
from mixprint.encoder.validation import retrieval_metrics
from mixprint.shards import SegmentRef


def segments(track: str, *starts_s: float) -> TrackSegments:
    references = [SegmentRef(Path("none"), 0, track, i, s) for i, s in enumerate(starts_s)]
    return TrackSegments(track, track, tuple(references))


def test_retrieval_by_hand() -> None:
    tracks = [segments("a", 0, 10), segments("b", 0, 10)]
    eye = torch.eye(2)
    scale = torch.tensor(3.0)
    right = retrieval_metrics(eye[[0, 0, 1, 1]], tracks, 10.0, scale)
    assert right["valid_recall_at_1"] == 1
    assert right["valid_mrr"] == 1
    assert right["valid_loss"] == pytest.approx(math.log(1 + math.exp(-3)))
    # One segment of the other track is nearer, the other just as near: rank 3.
    wrong = retrieval_metrics(eye[[0, 1, 0, 1]], tracks, 10.0, scale)
    assert wrong["valid_recall_at_1"] == 0
    assert wrong["valid_mrr"] == pytest.approx(1 / 3)
    # Equal embeddings find nothing.
    assert retrieval_metrics(eye[[0, 0, 0, 0]], tracks, 10.0, scale)["valid_recall_at_1"] == 0


def test_a_segment_that_shares_audio_is_no_find() -> None:
    # The second and third segments of track a overlap and agree; only the first one would count.
    tracks = [segments("a", 0, 10, 14), segments("b", 0, 10)]
    embedding = torch.eye(4)[[0, 1, 1, 2, 2]]
    metrics = retrieval_metrics(embedding, tracks, 10.0, torch.tensor(1.0))
    assert metrics["valid_recall_at_1"] == pytest.approx(2 / 5)
    # Where all of a track's segments overlap, they are compared after all.
    tracks = [segments("a", 0, 4), segments("b", 0, 4)]
    metrics = retrieval_metrics(torch.eye(2)[[0, 0, 1, 1]], tracks, 10.0, torch.tensor(1.0))
    assert metrics["valid_recall_at_1"] == 1


def test_parts_of_the_queries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = [segments(name, 0, 10, 14) for name in "abcd"]
    generator = torch.Generator().manual_seed(0)
    embedding = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=-1)
    whole = retrieval_metrics(embedding, tracks, 10.0, torch.tensor(2.0))
    monkeypatch.setattr(validation, "_QUERIES_AT_ONCE", 5)
    assert retrieval_metrics(embedding, tracks, 10.0, torch.tensor(2.0)) == whole
