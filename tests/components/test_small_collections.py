"""Collections too small to train or to evaluate on: a sentence, or results all the same."""

from dataclasses import replace

import pytest

from components.ingest.main import MIN_TEST_SONGS, _check_size
from components.promote.main import Evaluated, PromoteConfig, judge
from mixprint.collection.building import deal_splits
from mixprint.collection.catalogue import Track
from mixprint.errors import DataError
from mixprint.evaluation.evaluate import MIN_SONGS
from tests.conftest import REPOSITORY


def _tracks(num_songs: int) -> list[Track]:
    track = Track(
        track_id="",
        title="",
        uri="",
        source="folder",
        duration_s=12.0,
        sample_rate_hz=44_100,
        channels=2,
        split="",
        licence="",
        has_stems=False,
        song="",
        style="",
    )
    songs = [f"{i:016x}" for i in range(num_songs)]
    splits = deal_splits(songs, 0.2, 0.3)
    return [replace(track, track_id=song, song=song, split=splits[song]) for song in songs]


@pytest.mark.parametrize("num_songs", [1, 2, 3])
def test_too_few_songs_to_train_on_are_told_at_ingest(num_songs: int) -> None:
    with pytest.raises(DataError, match=rf"at least 2 songs to train on, found 1 of {num_songs}"):
        _check_size(_tracks(num_songs))


def test_songs_of_one_split_are_trained_on_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _check_size([replace(track, split="train") for track in _tracks(8)])
    assert "songs held out for a test: 0; at least 3 are needed" in caplog.text
    caplog.clear()
    _check_size(_tracks(30))
    assert caplog.text == ""


def test_the_number_of_songs_is_that_of_the_evaluation() -> None:
    assert MIN_TEST_SONGS == MIN_SONGS


def test_an_encoder_that_could_not_be_evaluated_is_refused_in_words() -> None:
    metrics = {
        "chain_retrieval": {"absent": "1 song; 2 are needed"},
        "style_retrieval": {"absent": "styles are unknown"},
    }
    config = PromoteConfig.load(REPOSITORY / "params.yaml")
    assert judge(Evaluated(metrics=metrics, details={}), None, config) == (
        False,
        (
            "there is no figure to judge the encoder by: style retrieval: styles are unknown, "
            "chain retrieval: 1 song, 2 are needed",
        ),
    )
