import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mixprint.transfer
from mixprint.audio.files import read_audio, write_audio
from mixprint.audio.inspection import content_sha256
from mixprint.collection.catalogue import Track, uri_of
from mixprint.collection.segments import segment_starts
from mixprint.collection.shards import (
    SeparatorFingerprint,
    StemShardWriter,
    shard_name,
    write_shard,
)
from mixprint.console.settings import Settings
from mixprint.errors import ConfigError, DataError
from mixprint.features import Standardisation
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json
from mixprint.transfer.excerpts import Segment
from mixprint.transfer.inputs import SongFinder
from mixprint.transfer.jobs import Done, Failure, Job, Models, Outcome, run_jobs
from mixprint.transfer.pairs import (
    Defaults,
    Pair,
    default_pairs,
    find_jobs,
    job_name,
    plan_pairs,
    read_pairs,
)
from mixprint.transfer.report.page import describe_settings
from mixprint.transfer.report.summary import write_summary
from mixprint.transfer.settings import Controls, Hyperparameters, parse_amounts
from tests.transfer.metrics_schema import problems
from tests.transfer.trials import settings as short_settings

RATE_HZ = 44_100
Make = Callable[..., Tensor]
SCHEMA = json.loads((Path(mixprint.transfer.__file__).parent / "metrics.schema.json").read_text())


def track(
    track_id: str, *, song: str = "", style: str = "", split: str = "test", uri: str = ""
) -> Track:
    return Track(
        track_id=track_id,
        title=f"<b>{track_id}</b>",
        uri=uri or f"file:///nowhere/{track_id}.wav",
        source="folder",
        duration_s=3.0,
        sample_rate_hz=RATE_HZ,
        channels=2,
        split=split,
        licence="",
        has_stems=False,
        song=song or track_id,
        style=style,
    )


def settings(**more: object) -> Hyperparameters:
    return short_settings(**({"num_steps": 2, "aim": "target"} | more))


def shard_in(folder: Path, fingerprint: str = "x") -> AbstractContextManager[StemShardWriter]:
    """Write a shard of a separator that never was."""
    return write_shard(
        folder / shard_name(0, 1),
        fingerprint=fingerprint,
        sample_rate_hz=RATE_HZ,
        separator=SeparatorFingerprint("test", "abc", "def"),
    )


@pytest.fixture
def stems_dir(tmp_path: Path, make_stems: Make) -> Path:
    folder = tmp_path / "stems"
    with shard_in(folder) as writer:
        for index, name in enumerate("abc"):
            stems_SCT = make_stems(seed=index, gain=1 - 0.3 * index)
            if name == "c":
                stems_SCT = stems_SCT[..., : RATE_HZ // 2]  # too short for a transfer
            writer.write(name, 0, 0.0, stems_SCT)
    return folder


def defaults(*wanted: Hyperparameters, **more: object) -> Defaults:
    return Defaults(settings=wanted or (settings(),), **more)  # type: ignore[arg-type]


def jobs_of(pairs: list[Pair], source: SongFinder, wanted: Defaults) -> list[Job]:
    plans, unknown = plan_pairs(pairs, wanted)
    jobs, missing = find_jobs(plans, source)
    assert unknown + missing == []
    return jobs


def test_stored_tracks(
    tmp_path: Path, stems_dir: Path, standardisation: Standardisation, short_reports: None
) -> None:
    source = SongFinder(tracks=[track(n) for n in "abc"], stems_dir=stems_dir)
    out_dir = tmp_path / "transfer"
    models = Models(standardisation=standardisation)

    def run(**more: object) -> dict:
        pairs = [Pair("a", "b"), Pair("a", "c")]
        jobs = jobs_of(pairs, source, defaults(settings(method="console", **more)))
        return write_summary(out_dir, run_jobs(jobs, out_dir, models))

    summary = run()
    assert summary == read_json(out_dir / "summary.json")
    assert (summary["num_transfers"], summary["num_failed"]) == (1, 1)
    assert summary["failed"][0]["reason"] == "too_short"
    assert summary["median_feature_distance_reduction"] > 0
    assert summary["median_embedding_distance_reduction"] is None
    with (out_dir / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["folder"] == summary["transfers"][0]["folder"]
    assert float(row["loudness_lufs"]) == summary["transfers"][0]["loudness_lufs"]

    folder = out_dir / row["folder"]
    folders = ("input_stems", "target_stems", "transferred_stems")
    wanted = {f"{part}/{stem}.wav" for part in folders for stem in STEMS}
    wanted |= {"input_original.wav", "target_original.wav", "output_transferred.wav"}
    wanted |= {"metrics.json", "settings.json", "report.html"}
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == wanted

    metrics = read_json(folder / "metrics.json")
    assert problems(metrics, SCHEMA) == []
    # Both songs' files are elsewhere, which is a note and no error.
    assert sum("is not here" in note for note in metrics["notes"]) == 2
    page = (out_dir / "report.html").read_text()
    assert page.count('class="comparison"') == 1
    assert "<b>" not in page
    # Titles tell songs apart; all files of a data set may have one name.
    assert row["pair"] == "<b>a</b> in the mix of <b>b</b>"
    assert "&lt;b&gt;a&lt;/b&gt; in the mix of &lt;b&gt;b&lt;/b&gt;" in page

    stamp = (folder / "metrics.json").stat().st_mtime_ns
    assert run() == summary
    assert (folder / "metrics.json").stat().st_mtime_ns == stamp
    run(num_steps=1)
    assert read_json(folder / "metrics.json")["hyperparameters"]["num_steps"] == 1


def test_the_identity_of_a_stored_song_follows_from_how_its_stems_were_made(
    tmp_path: Path, make_stems: Make, make_audio: Callable[..., Tensor]
) -> None:
    stems_SCT = make_stems(1.0)
    path = tmp_path / "a.wav"
    write_audio(path, make_audio(1.0), RATE_HZ)
    track_id = content_sha256(path)[:16]

    def identity(fingerprint: str, uri: str = "", start_s: float = 0.0) -> object:
        """The fingerprint of a shard is that of precision, window, overlap and separator."""
        with shard_in(tmp_path / "stems", fingerprint) as writer:
            writer.write(track_id, 0, start_s, stems_SCT)
        source = SongFinder(tracks=[track(track_id, uri=uri)], stems_dir=tmp_path / "stems")
        return source.find(track_id).identity(settings(), whole=False)

    found = [
        identity("float32, 4 s"),
        identity("bfloat16, 4 s"),
        identity("float32, 4 s", start_s=1.0),
        # Its mixture is read where it is, else the stems' sum stands for it.
        identity("float32, 4 s", uri=uri_of(path)),
    ]
    assert all(found[i] != found[j] for i in range(4) for j in range(i))
    assert identity("float32, 4 s") == found[0]
    # What lies there now is another song: the stems are not of it.
    write_audio(path, make_audio(1.0, seed=1), RATE_HZ)
    assert identity("float32, 4 s", uri=uri_of(path)) == found[0]


def test_a_summary_keeps_what_other_tables_have_made(
    tmp_path: Path, stems_dir: Path, standardisation: Standardisation, short_reports: None
) -> None:
    source = SongFinder(tracks=[track(n) for n in "abc"], stems_dir=stems_dir)
    models = Models(standardisation=standardisation)
    asked = defaults(settings(method="console", num_steps=0))

    def run(*pairs: Pair) -> list[dict]:
        jobs = jobs_of(list(pairs), source, asked)
        return write_summary(tmp_path / "out", run_jobs(jobs, tmp_path / "out", models))[
            "transfers"
        ]

    (first,) = run(Pair("a", "b"))
    second, other = run(Pair("b", "a"), Pair("a", "c"))
    assert first["is_asked_for"] is second["is_asked_for"] is True
    assert other == first | {"is_asked_for": False}
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["folder"] for row in csv.DictReader(file)] == [
            second["folder"],
            first["folder"],
        ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("from another call") > 0
    # Half a result is none, and a person's files are none.
    (tmp_path / "out" / first["folder"] / "metrics.json").unlink()
    (tmp_path / "out" / "mine").mkdir()
    (tmp_path / "out" / "mine" / "metrics.json").write_text("[]")
    assert run(Pair("b", "a")) == [second]


def test_a_job_does_not_write_over_what_another_call_has_made(
    tmp_path: Path, stems_dir: Path, standardisation: Standardisation, short_reports: None
) -> None:
    source = SongFinder(tracks=[track(n) for n in "ab"], stems_dir=stems_dir)
    models = Models(standardisation=standardisation)

    def run(num_steps: int, *, overwrite: bool) -> Outcome:
        asked = defaults(settings(method="console", num_steps=num_steps))
        jobs = jobs_of([Pair("a", "b")], source, asked)
        (outcome,) = run_jobs(jobs, tmp_path / "out", models, overwrite=overwrite)
        return outcome

    first = run(0, overwrite=False)
    assert isinstance(first, Done)
    before = (first.folder / "metrics.json").read_bytes()
    refused = run(1, overwrite=False)
    assert isinstance(refused, Failure)
    assert "--overwrite" in str(refused.error)
    assert (first.folder / "metrics.json").read_bytes() == before
    again = run(0, overwrite=False)
    assert isinstance(again, Done)
    assert again.was_there
    replaced = run(1, overwrite=True)
    assert isinstance(replaced, Done)
    assert replaced.metrics["hyperparameters"]["num_steps"] == 1


def test_whole_songs_from_stored_segments(tmp_path: Path, make_stems: Make) -> None:
    """Segments that follow each other, the last of which overlaps, are one song again."""
    song_SCT = make_stems(8.0)
    starts_s = segment_starts(8.0, 3.0)
    assert starts_s == [0.0, 3.0, 5.0]
    with shard_in(tmp_path / "stems") as writer:
        for index, start_s in enumerate(starts_s):
            start = round(start_s * RATE_HZ)
            writer.write("a", index, start_s, song_SCT[..., start : start + 3 * RATE_HZ])
    song = SongFinder(tracks=[track("a")], stems_dir=tmp_path / "stems").find("a")
    wanted = settings(segments=2, segment_offset=1.0)
    heard = song.load(wanted, None, tmp_path / "scratch", whole=True)
    assert heard.whole is not None
    mixtures, stems = zip(*heard.whole.blocks(), strict=True)
    whole_SCT = torch.cat(stems, dim=-1)
    torch.testing.assert_close(whole_SCT, song_SCT, atol=2**-15, rtol=0)
    torch.testing.assert_close(torch.cat(mixtures, dim=-1), whole_SCT.sum(0))
    assert heard.lengths == (3 * RATE_HZ,) * 2
    assert song.identity(wanted, whole=True) != song.identity(wanted, whole=False)
    single = song.load(wanted, None, tmp_path / "scratch", whole=False)
    torch.testing.assert_close(single.stems_SCT, song_SCT[..., : 3 * RATE_HZ], atol=2**-15, rtol=0)


def test_the_original_of_a_local_track_is_its_file_unless_that_has_changed(
    tmp_path: Path, make_stems: Make, make_audio: Callable[..., Tensor]
) -> None:
    path = tmp_path / "a song.wav"
    write_audio(path, make_audio(4.0), RATE_HZ)
    track_id, stems_SCT = content_sha256(path)[:16], make_stems(3.0)
    with shard_in(tmp_path / "stems") as writer:
        writer.write(track_id, 0, 0.0, stems_SCT)

    def load() -> Segment:
        tracks = [track(track_id, uri=uri_of(path))]
        song = SongFinder(tracks=tracks, stems_dir=tmp_path / "stems").find(track_id)
        return song.load(settings(), None, tmp_path / "scratch", whole=False)

    segment = load()
    torch.testing.assert_close(segment.audio_CT, read_audio(path, duration_s=3.0))
    assert segment.notes == ()
    for change in (lambda: write_audio(path, make_audio(4.0, seed=1), RATE_HZ), path.unlink):
        change()
        segment = load()
        torch.testing.assert_close(segment.audio_CT, stems_SCT.sum(0), atol=2**-13, rtol=0)
        (note,) = segment.notes
        assert ("has changed since it was ingested" in note) == path.exists()


def test_a_song_that_is_nowhere(stems_dir: Path, tmp_path: Path) -> None:
    source = SongFinder(tracks=[track("a")], stems_dir=stems_dir)
    with pytest.raises(DataError, match="nowhere"):
        source.find("nowhere")
    (tmp_path / "x.wav").write_bytes(b"")
    with pytest.raises(ConfigError, match="separator"):
        source.find(str(tmp_path / "x.wav"))


def test_default_pairs_are_different_songs_in_different_styles() -> None:
    tracks = [
        track("a", song="s1", style="dry"),
        track("b", song="s1", style="wet"),
        track("c", song="s2", style="dry"),
        track("d", song="s2", style="wet"),
        track("e", song="s3", style="dry", split="train"),
    ]
    pairs, split = default_pairs(tracks, 3)
    assert split == "test"
    assert pairs == [Pair("a", "d"), Pair("b", "c"), Pair("c", "b")]
    assert default_pairs(tracks[::-1], 3) == (pairs, split)
    few, split = default_pairs([tracks[0], tracks[4]], 3)
    assert (split, few) == ("all", [Pair("a", "e"), Pair("e", "a")])
    with pytest.raises(DataError, match="2 different songs"):
        default_pairs(tracks[:2], 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input,target\n", "at least one pair"),
        ("a,b\n1,2\n", "'a', 'b'"),
        ("input,target,colour\n1,2,red\n", "'colour'"),
        ("input,method\n1,tcn\n", "'input', 'method'"),
    ],
)
def test_bad_pair_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=rf"pairs\.csv.*{message}"):
        read_pairs(tmp_path / "pairs.csv")


def test_rows_ask_for_more_and_bad_ones_are_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(name.encode())
    (tmp_path / "pairs.csv").write_text(
        "input,target,method,optimize_target,amount,keep\n"
        "a.wav,b.wav,,,,\n"
        'a.wav,b.wav,"console, tcn",embeddings,drums=0.5,vocals\n'
        "a.wav,,,,,\n"
        "a.wav,b.wav,magic,,,\n"
        "a.wav,b.wav,,,,piano\n"
        "a.wav,c.wav,,,,\n"
        "a.wav,b.wav,,,,,more\n"
        "a.wav,b.wav,console,,,\n"
    )
    pairs, unreadable = read_pairs(tmp_path / "pairs.csv")
    wanted = defaults(
        settings(method="console"), settings(method="console", lr=0.01), keep=("bass",)
    )
    plans, unknown = plan_pairs(pairs, wanted)
    jobs, missing = find_jobs(plans, SongFinder(separator={"model": "x"}))
    failures = unreadable + unknown + missing
    lines = {failure.where.removeprefix("pairs.csv, line "): failure.reason for failure in failures}
    assert lines == {"4": "data", "8": "data", "5": "config", "6": "config", "7": "data"}
    assert "magic" in str(unknown[0].error)
    # The last row asks for what the first one has by default.
    assert len(jobs) == 2 + 4
    assert len({job.name for job in jobs}) == len(jobs)
    assert [job.settings.method for job in jobs[:2]] == ["console"] * 2
    assert jobs[0].controls.kept == ("bass",)
    assert {(j.settings.method, j.settings.lr) for j in jobs[2:]} == {
        (method, lr) for method in ("console", "tcn") for lr in (0.001, 0.01)
    }
    for job in jobs[2:]:
        assert job.settings.optimize_target == "embeddings"
        assert job.controls.amount == {"vocals": 0.0, "bass": 1.0, "drums": 0.5, "other": 1.0}


def test_names_are_safe_and_those_of_what_is_asked_for() -> None:
    controls = Controls()

    def name(pair: Pair, controls: Controls = controls, **more: object) -> str:
        return job_name(pair, "../Ärger: no.1", "", settings(**more), controls)

    first = name(Pair("1", "2"))
    assert first.startswith("rger-no-1-to-song-console-")
    others = [
        name(Pair("1", "3")),
        name(Pair("1", "2"), method="tcn"),
        name(Pair("1", "2"), lr=0.1),
        name(Pair("1", "2"), Controls(amount=parse_amounts(["bass=0"]))),
    ]
    assert len({first, *others}) == 5
    # What is the same for a whole batch may change: the folder is then made anew.
    assert name(Pair("1", "2"), num_steps=9) == first


def test_settings_are_said_in_words() -> None:
    settings = Settings.neutral(["vocals", "drums"]).edit({"drums.fader_db": -2.1})
    # As they are read from a metrics.json, whose keys are sorted, after a resume.
    values = json.loads(json.dumps(settings.to_values(), sort_keys=True))
    assert describe_settings(values) == [
        "vocals: nothing",
        "drums: fader at -2.1 dB",
        "master: nothing",
    ]
    assert describe_settings(None) == []


def test_other_segment_lengths_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        "mixprint.transfer.settings.log.warning", lambda text, *values: lines.append(text % values)
    )
    settings(segment_duration=10.0).warn_of_length()
    assert lines == []
    settings(segment_duration=5.0).warn_of_length()
    assert "trained on 10 s" in lines[0]
