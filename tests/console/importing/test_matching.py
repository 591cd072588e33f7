"""Tracks of a file and audio files at hand, matched by name."""

import pytest

from mixprint.console.importing.imported import Imported
from mixprint.console.importing.matching import for_tracks
from mixprint.console.settings import Settings
from mixprint.errors import ConfigError

IMPORTED = Imported(
    Settings.neutral(["Vox", "vox", "a/b", "gone"]).edit(
        {"Vox.pan": 0.1, "vox.pan": 0.2, "a/b.pan": 0.3, "master.output_db": -1.0}
    ),
    ("a note",),
)


def test_tracks_are_found_by_name_or_by_the_name_of_their_file() -> None:
    found = for_tracks(IMPORTED, ["vox", "A_B", "Vox", "new"])
    assert [found.settings[f"{name}.pan"] for name in ("vox", "A_B", "Vox", "new")] == [
        *(0.2, 0.3, 0.1, 0.0)
    ]
    assert found.settings["master.output_db"] == -1.0
    assert found.notes == (
        "a note",
        "new: nothing was found for it",
        "gone: left out, for no audio file has this name",
    )


def test_the_number_of_a_file_names_its_track() -> None:
    found = for_tracks(IMPORTED, ["Vox", "vox (2)"])
    assert found.settings["vox (2).pan"] == 0.2


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of Vox, vox, a/b, gone, found x"):
        for_tracks(IMPORTED, ["x"])
