import csv
import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.inspection import InspectionRules
from mixprint.collection.building import (
    build_catalogue,
    check_reject_fraction,
    deal_splits,
    split_of,
)
from mixprint.collection.catalogue import (
    Reject,
    Track,
    path_from_uri,
    read_catalogue,
    read_rejects,
    uri_of,
    write_catalogue,
)
from mixprint.collection.shards import shard_of
from mixprint.errors import DataError
from mixprint.stems import STEMS

WriteSong = Callable[..., Path]
RULES = InspectionRules(
    min_duration_s=1.0,
    max_duration_s=20.0,
    min_level_dbfs=-60.0,
    max_channel_difference_db=60.0,
    max_clipped_fraction=0.05,
)
STRANGE_NAMES = (
    b"with space.wav",
    b'it\'s "quoted"; really.wav',
    b"line\nbreak\r\n.wav",
    "Größe – 音楽 🎵.wav".encode(),
    b"undecodable \xff\xfe\x80.wav",
    b"100% #1?&=.wav",
    b"-rf.wav",
    b"colon:name.wav",
    "e\u0301 \u202e right-to-left.wav".encode(),
)


def build(
    source: str, *locations: Path, follow_links: bool = False, num_workers: int = 1
) -> tuple[list[Track], list[Reject]]:
    return build_catalogue(
        source,
        list(locations),
        RULES,
        valid_fraction=0.2,
        test_fraction=0.3,
        follow_links=follow_links,
        num_workers=num_workers,
    )


def reasons(rejects: list[Reject]) -> dict[str, str]:
    return {path_from_uri(reject.uri).name: reject.reason for reject in rejects}


def write_stems(folder: Path, write_song: WriteSong, seed: int = 0) -> Path:
    for index, name in enumerate(("mixture", *STEMS)):
        write_song(folder / f"{name}.wav", seed=10 * seed + index)
    return folder


def test_plain_folder(tmp_path: Path, write_song: WriteSong) -> None:
    write_song(tmp_path / "b" / "two.FLAC", 1.5, seed=1, sample_rate_hz=48_000)
    write_song(tmp_path / "one.wav", seed=2)
    write_song(tmp_path / "three.mp3", seed=3)
    write_song(tmp_path / ".hidden" / "a.wav", seed=4)
    write_song(tmp_path / ".hidden.wav", seed=5)
    (tmp_path / "cover.jpg").write_bytes(b"x")
    (tmp_path / "song.m4a").write_bytes(b"x")
    tracks, rejects = build("folder", tmp_path)
    by_title = {track.title: track for track in tracks}
    assert by_title.keys() == {"one", "two", "three"}
    two = by_title["two"]
    assert (two.duration_s, two.sample_rate_hz, two.channels) == (1.5, 48_000, 2)
    assert (two.source, two.song, two.style, two.has_stems) == ("folder", two.track_id, "", False)
    assert path_from_uri(two.uri) == tmp_path / "b" / "two.FLAC"
    assert reasons(rejects) == {"song.m4a": "unsupported_format"}
    assert [track.track_id for track in tracks] == sorted(track.track_id for track in tracks)


def test_strange_names_come_back_from_the_table(tmp_path: Path, write_song: WriteSong) -> None:
    songs = tmp_path / "songs"
    for seed, name in enumerate(STRANGE_NAMES):
        write_song(songs / os.fsdecode(name), seed=seed)
        (songs / os.fsdecode(b"bad " + name)).write_bytes(b"text")
    tracks, rejects = build("folder", songs)
    write_catalogue(tmp_path / "out", tracks, rejects, locations=[uri_of(songs)])
    tracks, rejects = read_catalogue(tmp_path / "out"), read_rejects(tmp_path / "out")
    assert len(tracks) == len(rejects) == len(STRANGE_NAMES)
    assert {os.fsencode(path_from_uri(t.uri).name) for t in tracks} == set(STRANGE_NAMES)
    for track in tracks:
        assert track.uri.isascii()
        assert "\n" not in track.title
        assert read_audio(path_from_uri(track.uri)).shape == (2, 88_200)
    for reject in rejects:
        assert reject.reason == "unreadable"
        assert path_from_uri(reject.uri).is_file()
        assert reject.detail.isprintable()


def test_relative_location_gives_the_same_table_everywhere(
    tmp_path: Path, write_song: WriteSong, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for clone in ("one", "two"):
        write_song(tmp_path / clone / "data" / "a:b.wav")
        monkeypatch.chdir(tmp_path / clone)
        tracks, rejects = build("folder", Path("data"))
        assert tracks[0].uri == "data/a%3Ab.wav"
        assert path_from_uri(tracks[0].uri).is_file()
        write_catalogue(Path("out"), tracks, rejects, locations=["data"])
        contents.append(Path("out/catalogue.parquet").read_bytes())
    assert contents[0] == contents[1]


def test_uri_round_trip() -> None:
    for path in (Path("/a b/\u00fc%20.wav"), Path("x:y/z"), Path(os.fsdecode(b"/\xff"))):
        assert path_from_uri(uri_of(path)) == path
    with pytest.raises(DataError, match="gs://"):
        path_from_uri("gs://bucket/a.wav")


def test_same_audio_has_the_same_id(tmp_path: Path, write_song: WriteSong) -> None:
    one = write_song(tmp_path / "1" / "a.wav", seed=1)
    write_song(tmp_path / "2" / "other name.flac", seed=1)
    samples_TC, rate_hz = sf.read(one, dtype="int16")
    (tmp_path / "3").mkdir()
    sf.write(tmp_path / "3" / "24 bit.wav", samples_TC.astype(np.int32) << 16, rate_hz, "PCM_24")
    write_song(tmp_path / "4" / "a.wav", seed=2)
    ids = [build("folder", tmp_path / str(n))[0][0].track_id for n in (1, 2, 3, 4)]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_mp3_tags_are_no_part_of_the_song(tmp_path: Path, write_song: WriteSong) -> None:
    content = write_song(tmp_path / "1" / "a.mp3").read_bytes()
    id3v2 = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 0]) + b"\0" * 128  # size 1 * 128 + 0
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + b"\0" * 16
    tagged = {
        "2": id3v2 + content,
        "3": content + b"TAG" + b"x" * 125,
        "4": id3v2 + content + ape + b"TAG" + b"y" * 125,
    }
    for name, tagged_content in tagged.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp3").write_bytes(tagged_content)
    ids = [build("folder", tmp_path / name)[0][0].track_id for name in ("1", *tagged)]
    assert len(set(ids)) == 1


def test_duplicates_are_refused_and_the_first_one_wins(
    tmp_path: Path, write_song: WriteSong
) -> None:
    write_song(tmp_path / "b.wav", seed=1)
    write_song(tmp_path / "a.flac", seed=1)
    tracks, rejects = build("folder", tmp_path)
    assert [track.title for track in tracks] == ["a"]
    assert reasons(rejects) == {"b.wav": "duplicate"}
    assert "a.flac" in rejects[0].detail


def test_each_rule_has_its_reason(tmp_path: Path, make_audio: Callable[..., Tensor]) -> None:
    audio_CT = make_audio(2.0)
    silent_C1 = torch.tensor([[1.0], [0.0]])
    signals = {
        "good.wav": audio_CT,
        "quiet but there.wav": audio_CT * 0.01,
        "too short.wav": audio_CT[:, :44_000],
        "too long.wav": torch.zeros(2, 21 * 44_100),
        "silent.wav": audio_CT * 1e-3,
        "digital silence.wav": audio_CT * 0,
        "dc.wav": torch.full((2, 88_200), 0.5),
        "left.wav": audio_CT * silent_C1,
        "right.wav": audio_CT * silent_C1.flip(0),
        "clipped.wav": (audio_CT * 20).clamp(-1, 1),
        "nan.wav": audio_CT.index_fill(1, torch.tensor([99]), float("nan")),
    }
    for name, signal_CT in signals.items():
        sf.write(tmp_path / name, signal_CT.numpy().T, 44_100, subtype="FLOAT")
    sf.write(tmp_path / "mono.wav", audio_CT[0].numpy() * 0.5, 8_000)
    sf.write(tmp_path / "nine channels.wav", np.ones((99_999, 9)), 44_100)
    (tmp_path / "empty.ogg").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "dangling.wav").symlink_to("nowhere")
    tracks, rejects = build("folder", tmp_path)
    assert {track.title for track in tracks} == {"good", "quiet but there", "mono"}
    assert reasons(rejects) == {
        "too short.wav": "too_short",
        "too long.wav": "too_long",
        "silent.wav": "silent",
        "digital silence.wav": "silent",
        "dc.wav": "dc_only",
        "left.wav": "one_channel",
        "right.wav": "one_channel",
        "clipped.wav": "clipped",
        "nan.wav": "not_finite",
        "nine channels.wav": "channel_layout",
        "empty.ogg": "empty",
        "pipe.wav": "unreadable",
        "dangling.wav": "unreadable",
    }


def test_loops_of_links_end(tmp_path: Path, write_song: WriteSong) -> None:
    write_song(tmp_path / "a" / "a.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(build("folder", tmp_path)[0]) == 1


def test_links_that_lead_out_are_refused_unless_they_are_followed(
    tmp_path: Path, write_song: WriteSong
) -> None:
    write_song(tmp_path / "elsewhere" / "private.wav", seed=1)
    songs = tmp_path / "songs"
    write_song(songs / "a" / "own.wav", seed=2)
    (songs / "absolute.wav").symlink_to(tmp_path / "elsewhere" / "private.wav")
    (songs / "a" / "relative.wav").symlink_to("../../elsewhere/private.wav")
    (songs / "cover.jpg").symlink_to("/etc/passwd")
    (songs / "within.flac").symlink_to("a/own.wav")
    (songs / "loop.wav").symlink_to("loop.wav")
    # A location may be a link itself: somebody has named it.
    (tmp_path / "named").symlink_to("songs")
    for location in (songs, tmp_path / "named"):
        tracks, rejects = build("folder", location)
        assert [track.title for track in tracks] == ["own"]
        assert reasons(rejects) == {
            "absolute.wav": "outside",
            "relative.wav": "outside",
            "within.flac": "duplicate",
            "loop.wav": "unreadable",
        }
    tracks, rejects = build("folder", songs, follow_links=True)
    assert sorted(track.title for track in tracks) == ["own", "relative"], "one twice"
    assert "outside" not in reasons(rejects).values()


@pytest.mark.parametrize("part", ["mixture.wav", "drums.wav", "settings.json"])
def test_no_part_of_a_song_with_stems_may_lead_out(
    tmp_path: Path, write_song: WriteSong, part: str
) -> None:
    song = tmp_path / "songs" / "a"
    for number, name in enumerate(("mixture", *STEMS)):
        write_song(song / f"{name}.wav", seed=number)
    (song / "settings.json").write_text('{"song": "a", "style": "dry"}')
    assert len(build("synthetic", tmp_path / "songs")[0]) == 1
    (song / part).rename(tmp_path / part)
    (song / part).symlink_to(tmp_path / part)
    tracks, rejects = build("synthetic", tmp_path / "songs")
    assert tracks == []
    assert reasons(rejects) == {part: "outside"}
    assert len(build("synthetic", tmp_path / "songs", follow_links=True)[0]) == 1


def one_track(write_song: WriteSong, folder: Path) -> Track:
    write_song(folder / "a.wav")
    return build("folder", folder)[0][0]


@pytest.mark.parametrize(
    ("location", "uri", "is_inside"),
    [
        ("songs", "songs/a.wav", True),
        ("songs", "songs/deeper/a%3Ab.wav", True),
        ("songs", "songs/../../private.wav", False),
        ("songs", "songs/%2E%2E/private.wav", False),
        ("songs", "songs/..%2Fprivate.wav", False),
        ("songs", "songs2/a.wav", False),
        ("songs", "songs", False),
        ("songs", "../songs/a.wav", False),
        ("songs", "/songs/a.wav", False),
        ("songs", "file:///etc/private.wav", False),
        ("songs", "gs://bucket/songs/a.wav", False),
        ("../songs", "../songs/a.wav", True),
        ("../songs", "../a.wav", False),
        (".", "a%3Ab.wav", True),
        (".", "../a.wav", False),
        (".", "%2Fetc%2Fprivate.wav", False),
        (".", "/etc/private.wav", False),
        (".", "file:///etc/private.wav", False),
        ("file:///data/a%20b", "file:///data/a%20b/c.wav", True),
        ("file:///data/a%20b", "file:///data/a%20b/../c.wav", False),
        ("file:///data/a%20b", "file:///data/c.wav", False),
        ("file:///data/a%20b", "data/a%20b/c.wav", False),
        ("file:///", "file:///c.wav", True),
        ("gs://bucket/songs/", "gs://bucket/songs/a b.wav", True),
        ("gs://bucket/songs/", "gs://bucket/songs/../a.wav", False),
        ("gs://bucket/songs", "gs://other/songs/a.wav", False),
    ],
)
def test_songs_lie_where_the_collection_is(
    tmp_path: Path, write_song: WriteSong, location: str, uri: str, is_inside: bool
) -> None:
    track = replace(one_track(write_song, tmp_path / "songs"), uri=uri)
    write_catalogue(tmp_path, [track], [], locations=[location])
    if is_inside:
        assert read_catalogue(tmp_path) == [track]
        return
    with pytest.raises(
        DataError, match=r"catalogue\.parquet: expected songs in .*, found "
    ) as told:
        read_catalogue(tmp_path)
    assert str(told.value).endswith(uri)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a/", "x\0y"])
def test_ids_are_plain_names(tmp_path: Path, write_song: WriteSong, name: str) -> None:
    track = one_track(write_song, tmp_path / "songs")
    write_catalogue(tmp_path, [replace(track, track_id=name)], [], locations=[uri_of(tmp_path)])
    with pytest.raises(DataError, match="expected plain names as ids"):
        read_catalogue(tmp_path)


def test_a_table_must_say_where_its_songs_lie(tmp_path: Path, write_song: WriteSong) -> None:
    track = one_track(write_song, tmp_path / "songs")
    write_catalogue(tmp_path, [track], [], locations=[uri_of(tmp_path)])
    path = tmp_path / "catalogue.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(DataError, match="expected the locations of its songs, found none"):
        read_catalogue(tmp_path)


def test_workers_change_nothing(tmp_path: Path, write_song: WriteSong) -> None:
    for seed in range(12):
        write_song(tmp_path / f"{seed}.wav", seed=seed % 10)
        (tmp_path / f"{seed}.flac").write_bytes(b"no audio")
    assert build("folder", tmp_path) == build("folder", tmp_path, num_workers=3)


def test_fma_layout(tmp_path: Path, write_song: WriteSong) -> None:
    songs = tmp_path / "fma_small"
    write_song(songs / "000" / "000002.mp3", seed=1)
    write_song(songs / "099" / "099134.mp3", seed=2)
    write_song(songs / "108" / "108925.mp3", 0.5, seed=3)
    (songs / "133").mkdir()
    (songs / "133" / "133297.mp3").touch()
    write_song(songs / "stray.mp3", seed=4)
    (tmp_path / "fma_metadata").mkdir()
    with (tmp_path / "fma_metadata" / "tracks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["", "album", "artist", "artist", "track", "track"],
                ["", "title", "bio", "name", "license", "title"],
                ["track_id", "", "", "", "", ""],
                ["2", "AWOL", "long; " * 50_000, "AWOL", "CC BY-NC", 'Food, "live"\n2'],
                ["99134", "x", "", "", "", ""],
            ]
        )
    for location in (tmp_path, songs):
        tracks, rejects = build("fma", location)
        found = {path_from_uri(track.uri).name: track for track in tracks}
        assert found.keys() == {"000002.mp3", "099134.mp3"}
        assert found["000002.mp3"].title == 'AWOL - Food, "live" 2'
        assert found["000002.mp3"].licence == "CC BY-NC"
        assert (found["099134.mp3"].title, found["099134.mp3"].licence) == ("099134", "unknown")
        assert reasons(rejects) == {
            "108925.mp3": "too_short",
            "133297.mp3": "empty",
            "stray.mp3": "layout",
        }


def test_fma_without_and_with_broken_metadata(tmp_path: Path, write_song: WriteSong) -> None:
    write_song(tmp_path / "000" / "000002.mp3")
    assert [track.title for track in build("fma", tmp_path)[0]] == ["000002"]
    (tmp_path / "tracks.csv").write_text("track_id,title\n2,Food\n")
    with pytest.raises(DataError, match=r"tracks\.csv"):
        build("fma", tmp_path)


def test_musdbhq_layout(tmp_path: Path, write_song: WriteSong) -> None:
    write_stems(tmp_path / "train" / "A - one", write_song, 1)
    write_stems(tmp_path / "test" / "B - two", write_song, 2)
    write_stems(tmp_path / "C - no drums", write_song, 3).joinpath("drums.wav").unlink()
    write_song(write_stems(tmp_path / "D - short bass", write_song, 4) / "bass.wav", 1.0)
    write_stems(tmp_path / "E - text", write_song, 5).joinpath("other.wav").write_text("text")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("text")
    tracks, rejects = build("musdbhq", tmp_path)
    by_title = {track.title: track for track in tracks}
    assert by_title.keys() == {"A - one", "B - two"}
    assert all(track.has_stems for track in tracks)
    found = {path_from_uri(reject.uri).parent.name: reject.reason for reject in rejects}
    assert found == {
        "C - no drums": "missing_stems",
        "D - short bass": "stems_mismatch",
        "E - text": "unreadable",
    }


def test_generated_set(tmp_path: Path, write_song: WriteSong) -> None:
    for seed, (song, style) in enumerate((("s1", "warm"), ("s1", "loud"), ("s2", "warm"))):
        folder = write_stems(tmp_path / f"{song}-{style}", write_song, seed)
        (folder / "settings.json").write_text(json.dumps({"song": song, "style": style, "mix": {}}))
    broken = write_stems(tmp_path / "s3-warm", write_song, 3)
    (broken / "settings.json").write_text('{"song": "s3", "style": 7}')
    write_stems(tmp_path / "s4-warm", write_song, 4)
    tracks, rejects = build("synthetic", tmp_path)
    assert {(track.title, track.song, track.style) for track in tracks} == {
        ("s1-warm", "s1", "warm"),
        ("s1-loud", "s1", "loud"),
        ("s2-warm", "s2", "warm"),
    }
    assert {track.licence for track in tracks} == {"CC0-1.0"}
    # All mixes of a composition are on one side of the split.
    assert len({track.split for track in tracks if track.song == "s1"}) == 1
    assert [reject.reason for reject in rejects] == ["settings", "settings"]


def test_a_generated_set_may_name_its_splits(tmp_path: Path, write_song: WriteSong) -> None:
    def write(name: str, seed: int, **truth: str) -> None:
        folder = write_stems(tmp_path / name, write_song, seed)
        (folder / "settings.json").write_text(json.dumps({"style": "warm", **truth}))

    for number, split in enumerate(("train", "valid", "test", "test")):
        write(f"s{number}", number, song=f"s{number}", split=split)
    write("s9", 9, song="s9")
    write("odd", 10, song="odd", split="exam")
    tracks, rejects = build("synthetic", tmp_path)
    found = {track.song: track.split for track in tracks}
    assert found.pop("s9") in {"train", "valid", "test"}
    assert found == {"s0": "train", "s1": "valid", "s2": "test", "s3": "test"}
    assert [reject.reason for reject in rejects] == ["settings"]
    assert "found 'exam'" in rejects[0].detail
    write("s0-other", 11, song="s0", split="test")
    with pytest.raises(DataError, match="expected song s0 in one split, found train and test"):
        build("synthetic", tmp_path)


def test_pairs(tmp_path: Path, write_song: WriteSong) -> None:
    raw, mixed = tmp_path / "raw", tmp_path / "mixed"
    for seed, name in enumerate(("a.wav", "sub/b.wav")):
        write_song(raw / name, seed=2 * seed)
        write_song(mixed / name, seed=2 * seed + 1)
    write_song(raw / "only raw.wav", seed=8)
    write_song(raw / "short.wav", seed=9)
    write_song(mixed / "short.wav", 0.5)
    tracks, rejects = build("pairs", raw, mixed)
    assert {(track.title, track.style) for track in tracks} == {
        (title, style) for title in "ab" for style in ("raw", "mixed")
    }
    for title in "ab":
        sides = {track.style: track for track in tracks if track.title == title}
        assert sides["raw"].song == sides["mixed"].song == sides["mixed"].track_id
        assert sides["raw"].split == sides["mixed"].split
    found = {
        (path_from_uri(r.uri).parent.name, path_from_uri(r.uri).name): r.reason for r in rejects
    }
    assert found == {
        ("raw", "only raw.wav"): "unpaired",
        ("mixed", "short.wav"): "too_short",
        ("raw", "short.wav"): "unpaired",
    }


@pytest.mark.parametrize(
    ("source", "count", "message"),
    [("nothing", 1, "nothing"), ("pairs", 1, "2 folder"), ("folder", 2, "1 folder")],
)
def test_wrong_arguments(tmp_path: Path, source: str, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(source, *[tmp_path] * count)
    with pytest.raises(DataError, match="missing"):
        build("folder", tmp_path / "missing")


def test_splits_are_stable_and_have_their_fractions() -> None:
    songs = [f"{index:016x}" for index in range(10_000)]
    few, many = (deal_splits(part, 0.2, 0.3) for part in (songs[:1_000], songs))
    assert all(many[song] == split for song, split in few.items())
    shares = {split: count / len(songs) for split, count in Counter(many.values()).items()}
    assert shares == pytest.approx({"train": 0.5, "valid": 0.2, "test": 0.3}, abs=0.02)
    for song in songs[:1_000]:
        if split_of(song, 0.1, 0.3) == "test":
            assert split_of(song, 0.3, 0.3) == "test"
    with pytest.raises(ValueError, match="fractions"):
        split_of("a", 0.5, 0.5)


@pytest.mark.parametrize("num_songs", [3, 4, 5, 6])
def test_a_handful_of_songs_leaves_no_split_empty(
    num_songs: int, caplog: pytest.LogCaptureFixture
) -> None:
    num_warned = 0
    for start in range(30):
        caplog.clear()
        splits = deal_splits([f"{start}-{index}" for index in range(num_songs)], 0.2, 0.3)
        assert set(splits.values()) == {"train", "valid", "test"}
        num_moved = sum(split_of(song, 0.2, 0.3) != split for song, split in splits.items())
        assert len(caplog.records) == num_moved
        num_warned += bool(num_moved)
    assert num_warned > 0


def test_splits_that_are_not_wanted_stay_empty() -> None:
    splits = deal_splits([f"{index}" for index in range(4)], 0.0, 0.0)
    assert set(splits.values()) == {"train"}
    assert deal_splits([], 0.2, 0.3) == {}
    assert len(deal_splits(["a"], 0.2, 0.3)) == 1


def test_shards_are_even() -> None:
    counts = Counter(shard_of(f"{index:016x}", 8) for index in range(8_000))
    assert counts.keys() == set(range(8))
    assert max(counts.values()) < 1_150
    with pytest.raises(ValueError, match="num_shards"):
        shard_of("a", 0)


def test_reject_fraction_names_the_reasons(tmp_path: Path, write_song: WriteSong) -> None:
    write_song(tmp_path / "a.wav")
    for index in range(3):
        (tmp_path / f"{index}.wav").write_bytes(b"text")
    (tmp_path / "empty.wav").touch()
    tracks, rejects = build("folder", tmp_path)
    check_reject_fraction(tracks, rejects, 0.8, "table")
    with pytest.raises(DataError, match="4 of 5: 3 unreadable, 1 empty; table names each"):
        check_reject_fraction(tracks, rejects, 0.79, "table")
    with pytest.raises(DataError, match="at least one usable"):
        check_reject_fraction([], rejects, 1.0, "table")
    with pytest.raises(DataError, match="no audio file"):
        check_reject_fraction([], [], 1.0, "table")


def test_broken_tables_are_named(tmp_path: Path) -> None:
    write_catalogue(tmp_path, [], [])
    assert read_catalogue(tmp_path) == []
    (tmp_path / "rejects.parquet").write_bytes((tmp_path / "catalogue.parquet").read_bytes())
    with pytest.raises(DataError, match=r"rejects\.parquet"):
        read_rejects(tmp_path)
    (tmp_path / "catalogue.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"catalogue\.parquet"):
        read_catalogue(tmp_path)


def test_progress_and_summary_are_logged(
    tmp_path: Path, write_song: WriteSong, caplog: pytest.LogCaptureFixture
) -> None:
    write_song(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    with caplog.at_level(logging.INFO, "mixprint.ingest"):
        build("folder", tmp_path)
    assert any(message.startswith("ingested 2/2 songs") for message in caplog.messages)
    assert any("refused 1" in message for message in caplog.messages)
    assert "refused as empty: 1" in caplog.messages


def test_real_collections(shared_dir: Path) -> None:
    audio = shared_dir / "audio"
    rules = InspectionRules(
        min_duration_s=10.0,
        max_duration_s=1_200.0,
        min_level_dbfs=-60.0,
        max_channel_difference_db=60.0,
        max_clipped_fraction=0.05,
    )
    splits = {"valid_fraction": 0.2, "test_fraction": 0.3}
    tracks, rejects = build_catalogue("folder", [audio / "bad"], rules, **splits)
    assert [track.title for track in tracks] == ["mono_8k_12s"]
    assert reasons(rejects) == {
        "clipped_12s.wav": "clipped",
        "dc_only.flac": "dc_only",
        "empty.wav": "empty",
        "left_only.flac": "one_channel",
        "nan_float.wav": "not_finite",
        "random_bytes.flac": "unreadable",
        "short_10ms.wav": "too_short",
        "silence_12s.wav": "silent",
        "surround_5p1.wav": "too_short",
        "text_named.wav": "unreadable",
        "truncated.mp3": "truncated",
    }
    tracks, rejects = build_catalogue(
        "folder", [audio / "mixtures"], rules, **splits, num_workers=2
    )
    assert (len(tracks), rejects) == (7, [])
    tracks, rejects = build_catalogue("musdbhq", [audio / "separated"], rules, **splits)
    assert [track.has_stems for track in tracks] == [True, True]


@pytest.mark.parametrize("source", ["folder", "fma", "musdbhq", "pairs"])
def test_names_that_begin_with_several_dots_are_titles_in_every_layout(
    tmp_path: Path, write_song: WriteSong, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    caplog.set_level(logging.INFO)
    locations = [tmp_path / "songs"]
    if source == "folder":
        for seed, name in enumerate(("...And Justice/01.wav", "...Baby.wav", "..2.wav", "x.wav")):
            write_song(locations[0] / name, seed=seed)
        expected = {"01", "...Baby", "..2", "x"}
    elif source == "fma":
        write_song(locations[0] / "...And Justice" / "000" / "000002.wav")
        expected = {"000002"}
    elif source == "musdbhq":
        for seed, name in enumerate(("...And Justice", "x")):
            write_stems(locations[0] / name, write_song, seed)
        expected = {"...And Justice", "x"}
    else:
        locations = [tmp_path / "raw", tmp_path / "mixed"]
        for seed, folder in enumerate(locations):
            write_song(folder / "...And Justice" / "01.wav", seed=seed)
        expected = {"01"}
    for seed, hidden in enumerate((".hidden/01.wav", "._...And Justice.wav", ".mixture.wav")):
        write_song(locations[0] / hidden, seed=100 + seed)
    tracks, rejects = build(source, *locations)
    assert {track.title for track in tracks} == expected
    assert rejects == []
    assert "hidden files and folders (one leading dot) left out: 3" in caplog.text


def test_names_in_two_spellings_of_unicode_are_pairs(tmp_path: Path, write_song: WriteSong) -> None:
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    assert composed != decomposed
    raw, mixed = tmp_path / "raw", tmp_path / "mixed"
    # In the file's name, in the folder's name, and as it always was.
    write_song(raw / f"{composed}.wav", seed=1)
    write_song(mixed / f"{decomposed}.wav", seed=2)
    write_song(raw / decomposed / "a.wav", seed=3)
    write_song(mixed / composed / "a.wav", seed=4)
    write_song(raw / "plain.wav", seed=5)
    write_song(mixed / "plain.wav", seed=6)
    tracks, rejects = build("pairs", raw, mixed)
    assert rejects == []
    assert len(tracks) == 6
    assert sorted(Counter(track.song for track in tracks).values()) == [2, 2, 2]


def test_both_spellings_on_one_side_are_two_songs(tmp_path: Path, write_song: WriteSong) -> None:
    composed, decomposed = "Caf\u00e9.wav", "Cafe\u0301.wav"
    raw, mixed = tmp_path / "raw", tmp_path / "mixed"
    write_song(raw / composed, seed=1)
    write_song(raw / decomposed, seed=2)
    write_song(mixed / decomposed, seed=3)
    tracks, rejects = build("pairs", raw, mixed)
    assert {path_from_uri(track.uri).name for track in tracks} == {decomposed}
    assert reasons(rejects) == {composed: "unpaired"}


@pytest.mark.parametrize("suffix", [".wave", ".BWF", ".snd", ".aifc", ".oga", ".mpga"])
def test_less_known_suffixes_are_audio(
    tmp_path: Path, make_audio: Callable[..., Tensor], suffix: str
) -> None:
    container = {".snd": "AU", ".aifc": "AIFF", ".oga": "OGG", ".mpga": "MP3"}.get(suffix, "WAV")
    with (tmp_path / f"a{suffix}").open("wb") as file:
        sf.write(file, make_audio(2.0).numpy().T, 44_100, format=container)
    assert [track.title for track in build("folder", tmp_path)[0]] == ["a"]


@pytest.mark.parametrize("suffix", [".m4a", ".wma", ".aac", ".ape", ".wv", ".voc"])
def test_what_is_not_read_is_refused_with_a_way_out(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"my song{suffix}").write_bytes(b"x")
    rejects = build("folder", tmp_path)[1]
    assert [reject.reason for reject in rejects] == ["unsupported_format"]
    assert f"ffmpeg -i 'my song{suffix}' 'my song.flac'" in rejects[0].detail


def test_a_cut_copy_of_a_song_is_refused(tmp_path: Path, write_song: WriteSong) -> None:
    whole = write_song(tmp_path / "whole.wav", 3.0).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    tracks, rejects = build("folder", tmp_path)
    assert [track.title for track in tracks] == ["whole"]
    assert reasons(rejects) == {"cut.wav": "truncated"}


def test_shared_cases_of_names(shared_dir: Path) -> None:
    rules = replace(RULES, min_duration_s=0.1)
    for source, folders, expected in (
        ("folder", ["16_dots"], {"01", "...Baby One More Time", "normal"}),
        ("pairs", ["17_pairs/raw", "17_pairs/mixed"], {"Caf\u00e9"}),
    ):
        locations = [shared_dir / "cases" / folder for folder in folders]
        tracks, rejects = build_catalogue(
            source, locations, rules, valid_fraction=0.2, test_fraction=0.3
        )
        assert rejects == []
        assert {unicodedata.normalize("NFC", track.title) for track in tracks} == expected
