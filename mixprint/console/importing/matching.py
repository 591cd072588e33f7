"""Settings for the audio files at hand: tracks of a file, matched with files by their names."""

from collections.abc import Sequence
from dataclasses import replace

from mixprint.console.importing.imported import Imported
from mixprint.console.schema import TRACK_FIELDS
from mixprint.console.settings import Strip
from mixprint.console.tracks import file_stems
from mixprint.errors import ConfigError
from mixprint.text import first_of


def for_tracks(imported: Imported, names: Sequence[str]) -> Imported:
    """Return settings of exactly these tracks.

    A track is found by its name, or by the name that its file has in an export, without regard to
    letter case. Tracks that are not found are neutral, and the others are left out.

    Args:
        imported: settings of other tracks, or more, or fewer.
        names: of the tracks at hand.

    Raises:
        ConfigError: none of them is found.
    """
    strips = imported.settings.tracks
    stems = {name: stem.casefold() for name, stem in file_stems(strips).items()}
    found = {name: name for name in names if name in strips}
    for name in names:
        if name not in found:
            free = [each for each in strips if each not in found.values()]
            same = [each for each in free if stems[each] == name.casefold()]
            if same:
                found[name] = same[0]
    if not found:
        raise ConfigError(
            f"tracks: expected one of {first_of(list(strips), ', ')}, found "
            f"{first_of(list(names), ', ')}"
        )
    neutral = Strip.neutral(TRACK_FIELDS)
    tracks = {name: strips[found[name]] if name in found else neutral for name in names}
    notes = [f"{name}: nothing was found for it" for name in names if name not in found]
    notes += [
        f"{name}: left out, for no audio file has this name"
        for name in strips
        if name not in found.values()
    ]
    settings = replace(imported.settings, tracks=tracks)
    return Imported(settings, (*imported.notes, *notes))
