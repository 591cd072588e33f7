from pathlib import Path

import pytest

from mixprint.collection.shards import read_index
from mixprint.collection.tracks import tracks_of_split
from mixprint.errors import TrainingError
from mixprint.zero_shot.renderings import Renderings
from tests.zero_shot.trials import Collection, make_collection


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("zero-shot"))


def renderings(data: Collection, num_chains: int, split: str = "train") -> Renderings:
    tracks = tracks_of_split(read_index(data.stems_dir), data.tracks, split)
    return Renderings(tracks, segments_per_track=2, num_chains=num_chains, seed=1)


def test_examples_are_one_music_twice_and_other_music_in_the_style_of_the_truth(
    data: Collection,
) -> None:
    found = renderings(data, 4)
    examples = [found.example("key", number) for number in range(100)]
    assert [found.example("key", number) for number in range(100)] == examples
    chained = 0
    for example in examples:
        given, truth, reference = (
            found.items[n] for n in (example.input, example.truth, example.reference)
        )
        assert given.music == truth.music
        assert (given.track, given.chain) != (truth.track, truth.chain)
        assert reference.track.style == truth.track.style
        assert reference.chain == truth.chain
        assert reference.music != truth.music
        if truth.chain < 0:
            assert reference.track.song != truth.track.song
        chained += truth.chain >= 0
    assert 0 < chained < 100
    items, renamed = found.subset(examples[:3])
    assert [str(items[e.truth]) for e in renamed] == [
        str(found.items[e.truth]) for e in examples[:3]
    ]


def test_songs_of_unknown_style_learn_from_chains_alone(tmp_path: Path) -> None:
    data = make_collection(tmp_path, styles=False)
    with pytest.raises(TrainingError, match="num_chains"):
        renderings(data, 0)
    found = renderings(data, 3)
    for number in range(20):
        example = found.example("key", number)
        truth, reference = found.items[example.truth], found.items[example.reference]
        assert truth.chain == reference.chain >= 0
        assert truth.track == reference.track
        assert truth.reference.segment != reference.reference.segment
