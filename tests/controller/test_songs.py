"""Songs of the controller's training: as tracks, and none of any other data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mixprint.controller.songs import SongConfig, TrackWriter, song_pool
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis.compose import compose
from mixprint.synthesis.dataset import DataConfig
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.instruments import render_tracks
from mixprint.synthesis.style_benchmark import StyleBenchmark
from mixprint.synthesis.training_songs import SongSource
from tests.arrows import REPOSITORY, imported

SECONDS = 1.0
CONFIG = SongConfig(
    pool_size=2,
    refresh_steps=1,
    new_songs=1,
    duration_s=SECONDS,
    seed=4,
    num_valid=1,
    num_generators=0,
)


def test_what_is_written_is_what_is_played(tmp_path: Path) -> None:
    pool = song_pool(tmp_path, CONFIG)
    song, played = pool.song(0, 1), TrackWriter(4, SECONDS).play(2)
    assert pool.numbers(0) == range(1, 3)
    assert song.names == tuple(track.name for track in played)
    assert song.roles == tuple(track.role for track in played)
    half = SAMPLE_RATE_HZ // 2
    for read_CT, track in zip(song.read(half, 1_000), played, strict=True):
        expected_CT = torch.from_numpy(track.signal_CT[:, half : half + 1_000]).float()
        peak = float(abs(track.signal_CT).max())
        torch.testing.assert_close(read_CT, expected_CT, rtol=0, atol=0.6 * peak / 32_767)


def test_songs_for_validation_are_never_drawn_in_training(tmp_path: Path) -> None:
    valid, train = song_pool(tmp_path, CONFIG, valid=True), song_pool(tmp_path, CONFIG)
    assert set(valid.numbers(0)) == set(valid.numbers(10**6)) == {0}
    assert min(train.numbers(0)) == 1


def test_one_microphone_that_was_panned_is_one_channel_again() -> None:
    tracks = {track.name: track.signal_CT for track in TrackWriter(4, SECONDS).play(2)}
    channels = {name: len(signal_CT) for name, signal_CT in tracks.items()}
    assert channels["lead vocals"] == channels["kick"] == channels["hat"] == 1
    assert channels["drum room"] == 2


# Names of songs by which all other generated data is drawn, whatever its seed: the data set, the
# separator's songs (and so the style benchmark's, which are those of the same source).
def _other_names(seed: int) -> set[str]:
    sources = [SongSource(seed=seed, held_out=held_out) for held_out in (False, True)]
    numbers = range(StyleBenchmark().train.num_songs + StyleBenchmark().valid.num_songs)
    config = DataConfig(num_songs=99, styles_per_song=1, duration_s=1.0, seed=seed)
    return {source._name(n) for source in sources for n in numbers} | {
        f"song{n:02d}" for n in range(config.num_songs)
    }


@pytest.mark.parametrize("seed", [StyleBenchmark().seed, 0, 7])
def test_no_song_instrument_or_voice_of_other_data_is_met(seed: int) -> None:
    """Not even with the same seed: each begins from a name of its own."""
    writer = TrackWriter(seed, SECONDS)
    own = {writer.name(number) for number in range(1_000)}
    others = _other_names(seed)
    assert not own & others
    # Whatever is drawn is drawn from these: first numbers tell two streams apart.
    for purpose in ("score", "drum sounds", "bass sound", "voice", "layers"):
        first = {name: Rng(seed, name, purpose).uniform() for name in own | others}
        assert len(set(first.values())) == len(first)


def test_sounds_of_the_same_notes_differ_from_those_of_the_benchmark() -> None:
    """The same composition, played by our instruments and by theirs."""
    seed = StyleBenchmark().seed
    theirs = compose(SongSource(seed=seed, held_out=True)._name(0), seed, SECONDS)
    ours = theirs.__class__(**{**vars(theirs), "name": TrackWriter(seed, SECONDS).name(0)})
    pairs = zip(render_tracks(ours, seed), render_tracks(theirs, seed), strict=False)
    for own, other in pairs:
        if own.name == other.name and own.signal_CT.shape == other.signal_CT.shape:
            both = torch.from_numpy(np.stack([own.signal_CT[0], other.signal_CT[0]]))
            assert torch.corrcoef(both)[0, 1].abs() < 0.99, own.name


def test_no_sampled_instrument_and_no_spoken_voice_plays() -> None:
    """Of those the benchmarks hold some out; nothing that plays them is in reach."""
    reached, waiting = set[str](), ["mixprint.controller.songs"]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        names = imported(REPOSITORY / f"{module.replace('.', '/')}.py")
        # `from module import name` is listed as `module.name`.
        found = {each for name in names for each in (name, name.rpartition(".")[0])}
        files = {name for name in found if (REPOSITORY / f"{name.replace('.', '/')}.py").is_file()}
        waiting += files - reached - set(waiting)
    assert "mixprint.synthesis.instruments" in reached
    assert not reached & {"mixprint.synthesis.soundbank", "mixprint.synthesis.singer"}
