"""A song as tracks is the song as stems, taken apart."""

from dataclasses import replace

import numpy as np

from mixprint.stems import STEMS
from mixprint.synthesis.compose import Score, compose
from mixprint.synthesis.instruments import MAX_TRACKS, TRACK_ROLES, render, render_tracks

SEED = 3
# Together they have shared distortions, a second voice, distorted guitars and both hi-hats.
SONGS = ("x4", "x8")


def _song(name: str) -> Score:
    return compose(name, SEED, 2.0)


def test_tracks_of_a_stem_add_up_to_it() -> None:
    names = set()
    for song in SONGS:
        stems, tracks = render(_song(song), SEED), render_tracks(_song(song), SEED)
        assert 4 <= len(tracks) <= MAX_TRACKS
        assert len({track.name for track in tracks}) == len(tracks)
        for stem in STEMS:
            total_CT = sum(track.signal_CT for track in tracks if track.stem == stem)
            np.testing.assert_allclose(total_CT + np.zeros((2, 1)), stems[stem], rtol=0, atol=1e-12)
        names |= {track.name for track in tracks}
    assert names >= {"backing vocals", "distorted left", "distorted right", "drum room", "hat"}


def test_what_is_recorded_with_one_microphone_has_one_channel() -> None:
    (bass,) = (t for t in render_tracks(_song("x4"), SEED) if t.name == "bass")
    (room,) = (t for t in render_tracks(_song("x4"), SEED) if t.name == "drum room")
    assert (len(bass.signal_CT), len(room.signal_CT)) == (1, 2)


def test_a_song_without_drums_and_voice_has_the_other_tracks() -> None:
    tracks = render_tracks(replace(_song("x4"), drums=(), vocals=()), SEED)
    heard = {track.stem for track in tracks if np.abs(track.signal_CT).max() > 0}
    assert heard == {"bass", "other"}


def test_every_instrument_that_is_composed_for_has_a_role() -> None:
    composed = {name for number in range(60) for name, _ in _song(f"r{number}").layers}
    assert composed - {"distorted"} <= TRACK_ROLES.keys()
