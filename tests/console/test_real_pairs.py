"""Pairs of real and of broken recordings: used, or refused by a sentence that says why."""

from pathlib import Path

from mixprint.console.pairs import Pair, find_pairs, load_pair
from mixprint.console.tracks import find_tracks
from mixprint.errors import MixprintError

# Of each file as its own mix.
REFUSED = {
    "clipped_12s": "expected the same music",  # a tone: nothing in it moves
    "dc_only": "expected sound, found silence in the tracks",
    "empty": "expected audio, found 0 bytes",
    "mono_8k_12s": "expected the same music",
    "nan_float": "expected finite samples",
    "random_bytes": "expected audio, found bytes of no known format",
    "short_10ms": "expected at least 1 s of tracks and mix, found 0.010 s",
    "silence_12s": "expected sound, found silence in the tracks",
    "text_named": "expected audio, found text",
    "truncated": "expected 10.881 s of audio as declared, found 1.595 s",
}
USED = {"left_only", "surround_5p1"}


def test_broken_recordings_are_refused_with_their_reason(shared_dir: Path) -> None:
    folder = shared_dir / "audio" / "bad"
    pairs, unpaired = find_pairs(folder, folder)
    assert unpaired == []
    used, refused = set(), {}
    for pair in pairs:
        try:
            load_pair(pair)
            used.add(pair.name)
        except MixprintError as error:
            refused[pair.name] = str(error)
    assert used == USED
    assert refused.keys() == REFUSED.keys()
    assert [name for name in REFUSED if REFUSED[name] not in refused[name]] == []


def test_names_in_two_spellings_are_one(shared_dir: Path) -> None:
    folder = shared_dir / "cases" / "17_pairs"
    (pair,), unpaired = find_pairs(folder / "raw", folder / "mixed")
    assert (pair.name, unpaired) == ("Caf\u00e9", [])


def test_stems_belong_to_their_mastered_mix(shared_dir: Path) -> None:
    (song,) = (shared_dir / "audio" / "musdbhq").iterdir()
    stems = find_tracks([song / f"{stem}.wav" for stem in ("vocals", "bass", "drums", "other")])
    found = load_pair(Pair("song", stems, song / "mixture.wav")).alignment
    assert (round(44_100 * found.delay_s), found.polarity, found.drift_ppm) == (0, 1, 0.0)
    assert found.likeness > 0.95
