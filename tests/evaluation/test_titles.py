from dataclasses import replace

from mixprint.evaluation.titles import MAX_LENGTH, song_titles
from tests.evaluation.test_evaluate import track

HASH = "9f86d081884c7d65"


def test_a_song_goes_by_its_title_and_not_by_its_hash() -> None:
    own = replace(track(HASH, HASH, ""), title="Tidal Wave")
    assert song_titles([own]) == {HASH: "Tidal Wave"}
    # Mixes of one composition have titles of their own: what they share is the song.
    assert song_titles([track("a", "song1", "dry"), track("b", "song1", "wet")]) == {
        "song1": "song1"
    }


def test_no_two_songs_share_a_name() -> None:
    long = "The Same Artist - The Same Album - "
    titles = ("Intro", "Intro", f"{long}01", f"{long}02", f"{long}02", "")
    names = [f"{number:016x}" for number in range(len(titles))]
    found = song_titles(
        [
            replace(track(name, name, ""), title=title)
            for name, title in zip(names, titles, strict=True)
        ]
    )
    assert len(set(found.values())) == len(titles)
    assert found[names[1]] == "Intro (2)"
    assert found[names[2]].startswith("The Same")
    assert found[names[2]].endswith("01")
    assert found[names[5]] == names[5]
    assert max(map(len, found.values())) <= MAX_LENGTH
