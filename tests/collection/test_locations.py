import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from mixprint.audio.inspection import InspectionRules
from mixprint.collection.building import build_catalogue
from mixprint.collection.catalogue import Reject, Track, uri_of
from mixprint.collection.locations import collection, fetched_song, local_song, read_beside
from mixprint.collection.sources import MIXTURE
from mixprint.errors import ConfigError, DataError
from mixprint.stems import STEMS
from mixprint.storage.atomic import write_json
from mixprint.storage.bucket import open_bucket
from tests.bucket import Bucket

RULES = InspectionRules(
    min_duration_s=0.5,
    max_duration_s=10.0,
    min_level_dbfs=-60.0,
    max_channel_difference_db=60.0,
    max_clipped_fraction=0.5,
)


def catalogue(source: str, *locations: Path | str) -> tuple[list[Track], list[Reject]]:
    with collection([str(location) for location in locations], source) as songs:
        return build_catalogue(
            source,
            songs.folders(),
            RULES,
            valid_fraction=0.0,
            test_fraction=0.0,
            num_workers=2,
            origin=songs,
        )


def uploaded(folder: Path, uri: str) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    open_bucket(uri).upload_all({path.relative_to(folder).as_posix(): path for path in files})
    return uri


def moved(text: str, places: dict[Path, str]) -> str:
    """Say of a local file where it lies in the bucket."""
    for folder, uri in places.items():
        text = text.replace(uri_of(folder), uri).replace(str(folder), uri)
    return unquote(text)


def same(source: str, places: dict[Path, str]) -> tuple[list[Track], list[Reject]]:
    """Check that a collection gives the same catalogue in the bucket, but for its place."""
    tracks, rejects = catalogue(source, *places)
    there = catalogue(source, *[uploaded(folder, uri) for folder, uri in places.items()])
    assert there[0] == [replace(track, uri=moved(track.uri, places)) for track in tracks]
    assert there[1] == [
        Reject(moved(r.uri, places), r.reason, moved(r.detail, places)) for r in rejects
    ]
    return there


def test_a_folder_with_songs_and_others(
    tmp_path: Path, bucket: Bucket, write_song: Callable[..., Path]
) -> None:
    folder = tmp_path / "songs"
    write_song(folder / "a & b" / "one.wav", seed=1)
    write_song(folder / "two.flac", seed=2)
    shutil.copy(folder / "two.flac", folder / "z again.flac")
    (folder / "broken.wav").write_bytes(b"RIFF, but no more")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "notes.txt").write_text("no audio")
    (folder / "video.mp4").write_bytes(b"x")
    tracks, rejects = same("folder", {folder: "gs://bucket/songs"})
    assert sorted(track.uri for track in tracks) == [
        "gs://bucket/songs/a & b/one.wav",
        "gs://bucket/songs/two.flac",
    ]
    assert {reject.reason for reject in rejects} == {
        "duplicate",
        "empty",
        "unreadable",
        "unsupported_format",
    }
    assert all("scratch" not in reject.detail for reject in rejects)
    assert list((tmp_path / "scratch").glob("work-*")) == []


def test_a_generated_set_with_its_settings(
    tmp_path: Path, bucket: Bucket, write_song: Callable[..., Path]
) -> None:
    folder = tmp_path / "set"
    for number, name in enumerate(("first", "second", "third")):
        for stem in (MIXTURE, *STEMS):
            longer_s = 1.0 if (name, stem) == ("third", "bass") else 0.0
            suffix = "flac" if stem == "vocals" else "wav"
            write_song(folder / name / f"{stem}.{suffix}", 2.0 + longer_s, seed=number)
        write_json(folder / name / "settings.json", {"song": name, "style": "dry", "mix": {"a": 1}})
    (folder / "second" / "drums.wav").unlink()
    tracks, rejects = same("synthetic", {folder: "gs://bucket/set"})
    assert [(track.song, track.style) for track in tracks] == [("first", "dry")]
    assert {reject.reason for reject in rejects} == {"missing_stems", "stems_mismatch"}
    where, settings = read_beside(tracks[0].uri, "settings.json")
    assert (where, settings["mix"]) == ("gs://bucket/set/first/settings.json", {"a": 1})
    bucket.put("set/first/settings.json", b"{")
    with pytest.raises(DataError, match=r"gs://bucket/set/first/settings.json: expected a read"):
        read_beside(tracks[0].uri, "settings.json")


def test_pairs_in_two_places(
    tmp_path: Path, bucket: Bucket, write_song: Callable[..., Path]
) -> None:
    raw, mixed = tmp_path / "raw", tmp_path / "mixed"
    write_song(raw / "song.wav", seed=1)
    write_song(mixed / "song.wav", seed=2)
    write_song(mixed / "alone.wav", seed=3)
    tracks, rejects = same("pairs", {raw: "gs://bucket/raw", mixed: "gs://bucket/mixed"})
    assert len(tracks) == 2
    assert [reject.reason for reject in rejects] == ["unpaired"]


def test_an_edit_changes_the_listing(
    tmp_path: Path, bucket: Bucket, write_song: Callable[..., Path]
) -> None:
    write_song(tmp_path / "songs" / "a.wav")
    uri = uploaded(tmp_path / "songs", "gs://bucket/songs")

    def listing() -> object:
        with collection([uri], "folder") as songs:
            return songs.listing()

    before = listing()
    uploaded(tmp_path / "songs", "gs://bucket/songs")
    assert listing() == before, "the same content once more"
    bucket.put("songs/a.wav", b"x" * (tmp_path / "songs" / "a.wav").stat().st_size)
    assert listing() != before


def test_a_song_is_here_as_long_as_it_is_worked_on(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("songs/a b.wav", bytes(5000))
    with local_song("gs://bucket/songs/a b.wav") as path:
        assert path.read_bytes() == bytes(5000)
        assert path.suffix == ".wav"
    assert not path.exists()
    with local_song("some/song%20x.wav") as path:
        assert path == Path("some/song x.wav")
    with (
        pytest.raises(DataError, match=r"gs://bucket/songs/none.wav: expected a song"),
        local_song("gs://bucket/songs/none.wav"),
    ):
        pytest.fail("there is no such song")
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "4K")
    with (
        pytest.raises(DataError, match=r"gs://bucket/songs/a b.wav: .*MIXPRINT_SCRATCH_LIMIT"),
        local_song("gs://bucket/songs/a b.wav"),
    ):
        pytest.fail("it is too large")


def test_a_song_is_fetched_once(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put("songs/a.wav", b"x")
    path = fetched_song("gs://bucket/songs/a.wav", tmp_path)
    del bucket.objects["songs/a.wav"]
    assert fetched_song("gs://bucket/songs/a.wav", tmp_path) == path
    assert fetched_song("gs://bucket/songs/b.wav", tmp_path) is None


def test_places_that_do_not_fit(tmp_path: Path, bucket: Bucket) -> None:
    with pytest.raises(DataError, match="gs://bucket/none: expected a folder of songs"):
        catalogue("folder", "gs://bucket/none")
    with pytest.raises(ConfigError, match="all of them in buckets, or none"):
        catalogue("pairs", "gs://bucket/raw", tmp_path)
