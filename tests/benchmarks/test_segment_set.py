"""The data set that the benchmarks read is one that a training can read."""

from pathlib import Path

import torch

from benchmarks.segment_set import NUM_VALID, SEGMENTS_PER_TRACK
from components.layout import CATALOGUE_FOLDER, FEATURES_FILES, FEATURES_FOLDER, STEMS_FOLDER
from mixprint.collection.catalogue import read_catalogue
from mixprint.collection.shards import read_index, read_segment
from mixprint.collection.tracks import tracks_of_split
from mixprint.features import extract
from mixprint.features.table import read_features
from mixprint.stems import SAMPLE_RATE_HZ
from tests.benchmarks.conftest import NUM_TRAIN, SEGMENT_S


def test_the_set_has_a_song_in_two_mixes_again_and_again(data: Path) -> None:
    references, tracks = read_index(data / STEMS_FOLDER), read_catalogue(data / CATALOGUE_FOLDER)
    assert len(references) == (NUM_TRAIN + NUM_VALID) * SEGMENTS_PER_TRACK
    training = tracks_of_split(references, tracks, "train")
    assert [track.song for track in training] == ["song0", "song0", "song1", "song1"]
    assert len(tracks_of_split(references, tracks, "valid")) == NUM_VALID
    first, second, third = (read_segment(track.references[1]) for track in training[:3])
    assert first.shape == (4, 2, round(SEGMENT_S * SAMPLE_RATE_HZ))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_the_features_are_those_of_the_segments(data: Path) -> None:
    table = read_features(data / FEATURES_FOLDER / FEATURES_FILES[0])
    references = read_index(data / STEMS_FOLDER)
    rows = list(zip(table.track_ids, table.segments, strict=True))
    assert rows == [(reference.track_id, reference.segment) for reference in references]
    measured_BD = extract(read_segment(references[3])[None], SAMPLE_RATE_HZ)
    # The shard keeps 16 bits.
    torch.testing.assert_close(table.features_BD[3:4], measured_BD, rtol=0.01, atol=0.05)
