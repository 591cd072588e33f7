"""Names of songs in legends and tables: what a person knows them by."""

from collections import Counter
from collections.abc import Sequence

from mixprint.collection.catalogue import Track
from mixprint.text import printable

MAX_LENGTH = 30


def song_titles(tracks: Sequence[Track]) -> dict[str, str]:
    """Name songs: by the title where a song is one track, else by what its mixes have in common.

    Args:
        tracks: mixes; those of one composition share `song`.

    Returns:
        `Track.song` -> a name, no two alike, of at most `MAX_LENGTH` characters: of a longer one
        the middle is left out.
    """
    num_tracks = Counter(track.song for track in tracks)
    names = {
        track.song: track.title if track.title and num_tracks[track.song] == 1 else track.song
        for track in tracks
    }
    titles: dict[str, str] = {}
    used: set[str] = set()
    for song, name in names.items():
        number, title = 1, _short(printable(name), MAX_LENGTH)
        while title in used:
            number += 1
            mark = f" ({number})"
            title = _short(printable(name), MAX_LENGTH - len(mark)) + mark
        used.add(title)
        titles[song] = title
    return titles


def _short(text: str, length: int) -> str:
    """Cut a text in the middle: its ends tell songs of one folder apart."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[-(length - 1 - head) :]}"
