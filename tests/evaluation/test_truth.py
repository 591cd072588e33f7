import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixprint.collection.catalogue import Track
from mixprint.errors import DataError
from mixprint.evaluation.truth import read_settings
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.mixing import draw_settings


def mix(root: Path, name: str, settings: object) -> Track:
    folder = root / name
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"song": name, "mix": settings}))
    return Track(
        track_id=name,
        title=name,
        uri=(folder / "mixture.wav").as_uri(),
        source="synthetic",
        duration_s=20.0,
        sample_rate_hz=44_100,
        channels=2,
        split="test",
        licence="",
        has_stems=True,
        song=name,
        style="",
    )


def test_settings_of_the_generated_data(tmp_path: Path) -> None:
    drawn = [draw_settings(style, Rng(1, style)) for style in ("arena", "vinyl")]
    tracks = [mix(tmp_path, f"mix{i}", d.to_values()) for i, d in enumerate(drawn)]
    found = read_settings(tracks)
    values = dict(zip(found.names, found.values_NV.T.tolist(), strict=True))
    assert values["vocals.gain_db"] == [d.stems["vocals"].gain_db for d in drawn]
    assert values["master.ratio"] == [d.master.ratio for d in drawn]
    assert len(found.names) == 4 * 13 + 4
    families = dict(zip(found.names, found.families, strict=True))
    assert families["bass.pan"] == "pan"
    assert families["drums.high_shelf_db"] == families["master.low_shelf_db"] == "EQ"
    assert families["other.attack_s"] == "compression"
    assert set(found.families) == {"gain", "pan", "width", "EQ", "compression", "reverb"}


def test_only_what_all_have_and_differ_in(tmp_path: Path) -> None:
    first = mix(tmp_path, "a", {"stems": {"bass": {"pan": 1, "same": 2, "on": True}}, "drive": 3})
    second = mix(tmp_path, "b", {"stems": {"bass": {"pan": 0, "same": 2, "on": False}}})
    found = read_settings([first, second])
    assert found.names == ("bass.pan",)
    assert np.array_equal(found.values_NV, [[1], [0]])
    with pytest.raises(DataError, match="differ in none"):
        read_settings([first, first])


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    track = mix(tmp_path, "a", "loud")
    with pytest.raises(DataError, match="'loud'"):
        read_settings([track])
    with pytest.raises(DataError, match="generated mixes only"):
        read_settings([replace(track, source="folder")])
    with pytest.raises(DataError, match="gone"):
        read_settings([replace(track, uri=(tmp_path / "gone" / "mixture.wav").as_uri())])
