"""Settings: checked, changed, scaled, locked, averaged, written and read."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, VERSION, Field
from mixprint.console.settings import Settings
from mixprint.errors import ConfigError, DataError

NAMES = ("vocals", "Schlagzeug – links")
EVERY_FIELD = [*TRACK_FIELDS, *MASTER_FIELDS]


def mixed() -> Settings:
    return Settings.neutral(NAMES).edit(
        {
            "vocals.eq.high.gain_db": 4.0,
            "vocals.eq.high.freq_hz": 8_000.0,
            "vocals.comp.slope": 0.5,
            "vocals.room.send_db": -20.0,
            "vocals.width": 1.5,
            "vocals.pan": -0.4,
            "vocals.fader_db": -6.0,
            "vocals.eq.highpass_hz": 80.0,
            "master.output_db": 1.5,
        }
    )


@pytest.mark.parametrize("wanted", EVERY_FIELD, ids=lambda f: f.name)
def test_a_field_is_consistent(wanted: Field) -> None:
    assert wanted.low <= wanted.neutral <= wanted.high
    for value in (wanted.low, wanted.neutral, wanted.high):
        assert wanted.off_scale(wanted.on_scale(value)) == pytest.approx(value, rel=1e-12)
        assert wanted.scaled(value, 1.0) == value
    assert wanted.scaled(wanted.high, 0.0) in (wanted.neutral, wanted.high)
    table = TRACK_FIELDS if wanted in TRACK_FIELDS else MASTER_FIELDS
    assert not wanted.weighed_by or wanted.weighed_by in {f.name for f in table}


def test_the_table_is_frozen() -> None:
    """Another table is another version, and files of this one must not be read by it."""
    assert VERSION == 1
    assert len(TRACK_FIELDS) == 30
    assert len(MASTER_FIELDS) == 16
    assert [f.name for f in TRACK_FIELDS if not f.is_fitted] == [
        "trim_db",
        "room.low_ratio",
        "room.high_ratio",
    ]


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    settings = mixed()
    settings.save(tmp_path / "settings.json")
    assert Settings.load(tmp_path / "settings.json") == settings
    written = json.loads((tmp_path / "settings.json").read_text())
    assert written["tracks"][0]["eq"]["high"] == {"freq_hz": 8_000.0, "gain_db": 4.0}
    assert [track["name"] for track in written["tracks"]] == list(NAMES)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 2, "expected version 1, found 2"),
        (["format"], "another", "expected the format 'mixprint console'"),
        (["rooms"], "halls", "rooms: expected inserts or sends, found 'halls'"),
        (["sample_rate_hz"], 1, "sample_rate_hz: expected 8000 to 384000, found 1"),
        (["tracks"], [], "tracks: expected 1 to 32, found 0"),
        (["tracks", 1, "name"], "vocals", "tracks: expected different names, found 'vocals'"),
        (["tracks", 0, "name"], "master", "found 'master'"),
        (["tracks", 0, "eq", "low", "gain_db"], 15.1, "vocals.eq.low.gain_db: expected -15 to 15"),
        (["tracks", 0, "eq", "low", "gain_db"], True, "vocals.eq.low.gain_db: expected a number"),
        (["tracks", 0, "eq", "loudness"], 1.0, "vocals: expected one of trim_db, .*eq.loudness"),
        (["master", "comp"], "soft", "master.comp: expected a number, found 'soft'"),
        (["colour"], "red", "found 'colour'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, path: list[Any], value: Any, message: str
) -> None:
    values = mixed().to_values()
    inner: Any = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "s.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=rf"s\.json: .*{message}"):
        Settings.load(tmp_path / "s.json")


def test_what_a_file_leaves_out_is_neutral() -> None:
    values = {"format": "mixprint console", "version": 1, "tracks": [{"name": "a", "pan": 0.5}]}
    assert Settings.from_values(values, "x") == Settings.neutral(["a"]).edit({"a.pan": 0.5})


def test_edits() -> None:
    settings = mixed().edit(
        {"vocals.fader_db": "+=2", "vocals.pan": "-=0.1", "master.output_db": -3}
    )
    assert settings["vocals.fader_db"] == -4.0
    assert settings["vocals.pan"] == pytest.approx(-0.5)
    assert settings["master.output_db"] == -3.0
    assert settings.edit({"vocals.fader_db": "-3"})["vocals.fader_db"] == -3.0
    for path, value, message in (
        ("drums.pan", 0.0, "drums.pan: expected one of vocals, .*master, found 'drums'"),
        ("vocals.bass_db", 0.0, "vocals: expected one of trim_db"),
        ("vocals.pan", "left", "vocals.pan: expected a number, found 'left'"),
        ("vocals.pan", math.nan, "vocals.pan: expected a number, found nan"),
        ("vocals.pan", "+=1.6", r"vocals.pan: expected -1 to 1, found 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings.edit({path: value})


def test_amounts() -> None:
    settings = mixed()
    assert settings.scaled(1.0) == settings
    assert settings.scaled(0.0)["vocals.eq.high.gain_db"] == 0.0
    half = settings.scaled(0.5)
    assert half["vocals.eq.high.gain_db"] == pytest.approx(2.0)
    assert half["vocals.eq.high.freq_hz"] == 8_000.0
    assert half["vocals.fader_db"] == pytest.approx(-3.0)
    assert half["vocals.width"] == pytest.approx(1.25)
    assert half["vocals.eq.highpass_hz"] == pytest.approx(math.sqrt(80.0 * 10.0))
    assert half["vocals.room.send_db"] == pytest.approx(-20.0 - 6.0206, abs=1e-4)
    # Beyond its range a setting stays at the end.
    assert settings.scaled(2.0)["vocals.width"] == 2.0
    assert settings.edit({"vocals.width": 2.5}).scaled(2.0)["vocals.width"] == 2.5
    # Trim and fader are one level.
    brought = settings.edit({"vocals.trim_db": 9.0, "vocals.fader_db": -15.0})
    assert brought.scaled(0.0).tracks["vocals"] == Settings.neutral(["vocals"]).tracks["vocals"]
    half = brought.scaled(0.5)
    assert half["vocals.trim_db"] == 9.0
    assert half["vocals.fader_db"] == pytest.approx(-12.0)
    only = settings.scaled({"master": 0.0})
    assert only.tracks == settings.tracks
    assert only["master.output_db"] == 0.0
    for amount, message in (({"drums": 1.0}, "drums"), (2.5, "expected 0 to 2, found 2.5")):
        with pytest.raises(ConfigError, match=message):
            settings.scaled(amount)


def test_locks() -> None:
    found, kept = Settings.neutral(NAMES), mixed()
    assert found.lock(kept, ["vocals", "master"]) == kept
    eq = found.lock(kept, ["*.eq"])
    assert eq["vocals.eq.high.gain_db"] == 4.0
    assert eq["vocals.fader_db"] == 0.0
    assert found.lock(kept, ["vocals.fader_db"])["vocals.fader_db"] == -6.0
    with pytest.raises(ConfigError, match="found 'drums'"):
        found.lock(kept, ["drums"])
    odd = Settings.neutral(["guitar [left]"])
    changed = odd.edit({"guitar [left].pan": -1.0})
    assert odd.lock(changed, ["guitar [left]"]) == changed


def test_means() -> None:
    settings, neutral = mixed(), Settings.neutral(NAMES)
    assert Settings.mean([settings]) == settings
    mean = Settings.mean([settings, neutral])
    assert mean["vocals.eq.high.gain_db"] == pytest.approx(2.0)
    # A shelf that does nothing has no say in where the other one is.
    assert mean["vocals.eq.high.freq_hz"] == pytest.approx(8_000.0)
    assert mean["vocals.eq.highpass_hz"] == pytest.approx(math.sqrt(80.0 * 10.0))
    assert Settings.mean([settings, neutral], [1.0, 0.0]) == settings
    for weights in ([0.0, 0.0], [1.0], [-1.0, 2.0]):
        with pytest.raises(ConfigError, match="mean: expected"):
            Settings.mean([settings, neutral], weights)
    with pytest.raises(ConfigError, match="in both settings"):
        Settings.mean([settings, Settings.neutral(["a"])])


def test_sums() -> None:
    settings, neutral = mixed(), Settings.neutral(NAMES)
    assert settings.added(neutral) == settings
    assert neutral.added(settings) == settings
    more = settings.added(neutral.edit({"vocals.fader_db": 2.0, "vocals.eq.high.gain_db": -1.0}))
    assert more["vocals.fader_db"] == -4.0
    assert more["vocals.eq.high.gain_db"] == 3.0
    with pytest.raises(ConfigError, match=r"vocals\.fader_db: expected -60 to 24 dB, found 26"):
        settings.edit({"vocals.fader_db": 20.0}).added(neutral.edit({"vocals.fader_db": 6.0}))


def test_names_and_numbers_of_tracks() -> None:
    assert len(Settings.neutral([str(n) for n in range(32)]).tracks) == 32
    for names, message in (
        ([], "found 0"),
        ([str(n) for n in range(33)], "found 33"),
        (["a.b"], "without dots"),
        (["a", "a"], "different names"),
        (["master"], "not 'master'"),
    ):
        with pytest.raises(ConfigError, match=message):
            Settings.neutral(names)


def test_rooms_that_are_fed_otherwise_are_not_mixed() -> None:
    inserts = Settings.neutral(["a"])
    sends = replace(inserts, rooms="sends")
    for mixed in (lambda: Settings.mean([inserts, sends]), lambda: inserts.added(sends)):
        with pytest.raises(ConfigError, match="rooms: expected inserts in both settings, found se"):
            mixed()
