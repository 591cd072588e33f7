import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixprint.collection.shards import SegmentRef
from mixprint.collection.tracks import TrackSegments
from mixprint.encoder import validation
from mixprint.encoder.validation import (
    chain_retrieval_metrics,
    pairs_to_chain,
    retrieval_metrics,
    style_retrieval_metrics,
)


def segments(track: str, *starts_s: float) -> TrackSegments:
    references = [SegmentRef(Path("none"), 0, track, i, s) for i, s in enumerate(starts_s)]
    return TrackSegments(track, track, tuple(references))


def test_retrieval_by_hand() -> None:
    tracks = [segments("a", 0, 10), segments("b", 0, 10)]
    eye = torch.eye(2)
    scale = torch.tensor(3.0)
    right = retrieval_metrics(eye[[0, 0, 1, 1]], tracks, 10.0, scale)
    assert right["recall_at_1"] == 1
    assert right["mrr"] == 1
    assert right["loss"] == pytest.approx(math.log(1 + math.exp(-3)))
    # One segment of the other track is nearer, the other just as near: rank 3.
    wrong = retrieval_metrics(eye[[0, 1, 0, 1]], tracks, 10.0, scale)
    assert wrong["recall_at_1"] == 0
    assert wrong["mrr"] == pytest.approx(1 / 3)
    # Equal embeddings find nothing.
    assert retrieval_metrics(eye[[0, 0, 0, 0]], tracks, 10.0, scale)["recall_at_1"] == 0


def test_a_segment_that_shares_audio_is_no_find() -> None:
    # The second and third segments of track a overlap and agree; only the first one would count.
    tracks = [segments("a", 0, 10, 14), segments("b", 0, 10)]
    embedding = torch.eye(4)[[0, 1, 1, 2, 2]]
    metrics = retrieval_metrics(embedding, tracks, 10.0, torch.tensor(1.0))
    assert metrics["recall_at_1"] == pytest.approx(2 / 5)
    # Where all of a track's segments overlap, they are compared after all.
    tracks = [segments("a", 0, 4), segments("b", 0, 4)]
    metrics = retrieval_metrics(torch.eye(2)[[0, 0, 1, 1]], tracks, 10.0, torch.tensor(1.0))
    assert metrics["recall_at_1"] == 1


def mixes(*names: str) -> list[TrackSegments]:
    """Tracks of one segment each, named by song and style."""
    return [replace(segments(name, 0), song=name[0], style=name[1:]) for name in names]


def test_style_retrieval_by_hand() -> None:
    tracks = mixes("a1", "a2", "b1", "b2")
    eye = torch.eye(2)
    by_style = style_retrieval_metrics(eye[[0, 1, 0, 1]], tracks)
    assert by_style == {"style_recall_at_1": 1.0, "style_mrr": 1.0}
    # The own song in the other style is nearest, the right mix as near as the wrong one: rank 3.
    by_song = style_retrieval_metrics(eye[[0, 0, 1, 1]], tracks)
    assert by_song["style_recall_at_1"] == 0
    assert by_song["style_mrr"] == pytest.approx(1 / 3)


def test_styles_that_no_other_song_has_are_not_looked_for() -> None:
    eye = torch.eye(3)
    tracks = mixes("a1", "b1", "c2")
    found = style_retrieval_metrics(eye[[0, 0, 1]], tracks)
    assert found["style_recall_at_1"] == 1
    assert style_retrieval_metrics(eye, mixes("a1", "a2", "b3")) == {}
    # Two songs of unknown style are not of one style.
    assert style_retrieval_metrics(eye, mixes("a", "b", "c1")) == {}


def test_parts_of_the_queries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = [segments(name, 0, 10, 14) for name in "abcd"]
    generator = torch.Generator().manual_seed(0)
    embedding = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=-1)
    whole = retrieval_metrics(embedding, tracks, 10.0, torch.tensor(2.0))
    monkeypatch.setattr(validation, "_QUERIES_AT_ONCE", 5)
    assert retrieval_metrics(embedding, tracks, 10.0, torch.tensor(2.0)) == whole


def test_chain_retrieval_by_hand() -> None:
    eye = torch.eye(3)
    by_chain = chain_retrieval_metrics(eye[[0, 1, 2, 0, 1, 2]])
    assert by_chain == {"chain_recall_at_1": 1.0, "chain_mrr": 1.0}
    # The first finds its partner, those of the others are as near as the three that are wrong.
    by_song = chain_retrieval_metrics(eye[[0, 1, 1, 0, 2, 2]])
    assert by_song["chain_recall_at_1"] == pytest.approx(2 / 6)
    assert chain_retrieval_metrics(torch.empty(0, 3)) == {}


def test_partners_behind_a_chain_are_of_two_songs() -> None:
    tracks = [replace(segments(name, 0, 10), song=name[0]) for name in ("a1", "a2", "b1", "c1")]
    pairs = pairs_to_chain(tracks, 12)
    assert len(pairs) == 12
    assert all(first.track_id[0] != second.track_id[0] for first, second in pairs)
    # The three rounds differ.
    assert len(set(pairs)) == 12
    assert pairs_to_chain(tracks[:2], 12) == []
