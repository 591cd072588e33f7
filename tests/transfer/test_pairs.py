import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mixprint.transfer
from mixprint.atomic import read_json
from mixprint.audio import read_audio, write_audio
from mixprint.catalogue import Track, uri_of
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.features import Standardisation
from mixprint.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.stems import STEMS
from mixprint.transfer.pairs import (
    Pair,
    SongSource,
    default_pairs,
    pair_id,
    read_pairs,
    summarise,
    transfer_pairs,
)
from mixprint.transfer.report import describe_settings
from mixprint.transfer.settings import Hyperparameters
from tests.transfer.metrics_schema import problems

RATE_HZ = 44_100
Make = Callable[..., Tensor]
SCHEMA = json.loads((Path(mixprint.transfer.__file__).parent / "metrics.schema.json").read_text())


def track(
    track_id: str, *, song: str = "", style: str = "", split: str = "test", uri: str = ""
) -> Track:
    return Track(
        track_id=track_id,
        title=f"<b>{track_id}</b>",
        uri=uri or f"gs://nowhere/{track_id}.wav",
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
    values: dict[str, object] = {
        "optimize_target": "features",
        "num_steps": 2,
        "lr": 1e-3,
        "receptive_field": 0.01,
        "segment_duration": 3.0,
        "segment_offset": 0.0,
        "seed": 1,
    }
    return Hyperparameters(**(values | more))


@pytest.fixture
def stems_dir(tmp_path: Path, make_stems: Make) -> Path:
    folder = tmp_path / "stems"
    separator = SeparatorFingerprint("test", "abc", "def")
    with write_shard(
        folder / shard_name(0, 1), fingerprint="x", sample_rate_hz=RATE_HZ, separator=separator
    ) as writer:
        for index, name in enumerate("abc"):
            stems_SCT = make_stems(seed=index, gain=1 - 0.3 * index)
            if name == "c":
                stems_SCT = stems_SCT[..., : RATE_HZ // 2]  # too short for a transfer
            writer.write(name, 0, 0.0, stems_SCT)
    return folder


def test_layout_metrics_and_resume(
    tmp_path: Path,
    stems_dir: Path,
    standardisation: Standardisation,
) -> None:
    source = SongSource(settings(), tracks=[track(n) for n in "abc"], stems_dir=stems_dir)
    pairs = [Pair("a", "b"), Pair("a", "c")]
    out_dir = tmp_path / "transfer"

    def run(using: SongSource, settings: Hyperparameters) -> dict:
        return transfer_pairs(
            pairs,
            using,
            out_dir,
            settings,
            standardisation=standardisation,
            encoder=None,
            device="cpu",
        )

    summary = run(source, settings())
    assert summary == read_json(out_dir / "summary.json")
    assert (summary["num_pairs"], summary["num_rejected"]) == (1, 1)
    assert summary["rejected"][0]["reason"] == "too_short"
    assert summary["median_feature_distance_reduction"] > 0
    assert summary["median_embedding_distance_reduction"] is None

    folder = out_dir / summary["pairs"][0]["pair"]
    folders = ("input_stems", "target_stems", "transferred_stems")
    wanted = {f"{part}/{stem}.wav" for part in folders for stem in STEMS}
    wanted |= {"input_original.wav", "target_original.wav", "output_transferred.wav"}
    wanted |= {"metrics.json", "report.html"}
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == wanted

    metrics = read_json(folder / "metrics.json")
    assert problems(metrics, SCHEMA) == []
    # Both songs' files are elsewhere, which is a note and no error.
    assert sum("is not here" in note for note in metrics["notes"]) == 2
    output_CT = read_audio(folder / "output_transferred.wav")
    stems_SCT = [read_audio(folder / "transferred_stems" / f"{stem}.wav") for stem in STEMS]
    torch.testing.assert_close(torch.stack(stems_SCT).sum(0), output_CT, atol=1e-6, rtol=0)
    page = (out_dir / "report.html").read_text()
    assert page.count('class="comparison"') == 1
    assert "<b>" not in page

    stamp = (folder / "metrics.json").stat().st_mtime_ns
    assert run(source, settings()) == summary
    assert (folder / "metrics.json").stat().st_mtime_ns == stamp
    other = settings(num_steps=1)
    run(SongSource(other, tracks=[track(n) for n in "abc"], stems_dir=stems_dir), other)
    assert read_json(folder / "metrics.json")["hyperparameters"]["num_steps"] == 1


def test_songs_by_path_are_separated_and_keep_their_original(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    for name in "ab":
        write_audio(tmp_path / f"{name}.wav", make_stems(4.0, seed=ord(name)).sum(0), RATE_HZ)
    (tmp_path / "pairs.csv").write_text("input,target\na.wav,b.wav\n")
    seen = []

    def separate(audio_CT: Tensor) -> Tensor:
        seen.append(audio_CT.shape[-1])
        return torch.stack([audio_CT / 4] * 4)

    source = SongSource(
        settings(segment_duration=10.0, segment_offset=0.5),
        separate=separate,
        separator={"model": "x"},
    )
    summary = transfer_pairs(
        read_pairs(tmp_path / "pairs.csv"),
        source,
        tmp_path / "out",
        settings(segment_duration=10.0, segment_offset=0.5),
        standardisation=standardisation,
        encoder=None,
        device="cpu",
    )
    assert seen == [round(3.5 * RATE_HZ)] * 2
    folder = tmp_path / "out" / summary["pairs"][0]["pair"]
    whole_CT = read_audio(tmp_path / "a.wav")
    part_CT = read_audio(folder / "input_original.wav")
    torch.testing.assert_close(part_CT, whole_CT[:, round(0.5 * RATE_HZ) :], atol=1e-6, rtol=0)
    metrics = read_json(folder / "metrics.json")
    assert problems(metrics, SCHEMA) == []
    assert any("shortened to 3.50 s" in note for note in metrics["notes"])
    assert metrics["checkpoints"]["separator"] == {"model": "x"}


def test_the_original_of_a_local_track_is_read_from_its_file(
    tmp_path: Path, stems_dir: Path, make_audio: Callable[..., Tensor]
) -> None:
    path = tmp_path / "a song.wav"
    write_audio(path, make_audio(4.0), RATE_HZ)
    source = SongSource(settings(), tracks=[track("a", uri=uri_of(path))], stems_dir=stems_dir)
    segment = source.find("a").load()
    torch.testing.assert_close(segment.audio_CT, read_audio(path, duration_s=3.0))
    assert segment.notes == ()


def test_a_song_that_is_nowhere(stems_dir: Path, tmp_path: Path) -> None:
    source = SongSource(settings(), tracks=[track("a")], stems_dir=stems_dir)
    with pytest.raises(DataError, match="nowhere"):
        source.find("nowhere")
    (tmp_path / "x.wav").write_bytes(b"")
    with pytest.raises(ConfigError, match="separator"):
        source.find(str(tmp_path / "x.wav"))


def test_all_pairs_rejected_is_an_error(
    tmp_path: Path, stems_dir: Path, standardisation: Standardisation
) -> None:
    source = SongSource(settings(), tracks=[track("a"), track("c")], stems_dir=stems_dir)
    with pytest.raises(AudioError, match="at least"):
        transfer_pairs(
            [Pair("a", "c")],
            source,
            tmp_path / "out",
            settings(),
            standardisation=standardisation,
            encoder=None,
            device="cpu",
        )


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


@pytest.mark.parametrize("text", ["input,target\n", "a,b\n1,2\n", "input,target\nx,\n"])
def test_bad_pair_tables(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=r"pairs\.csv"):
        read_pairs(tmp_path / "pairs.csv")


def test_pair_ids_are_safe_and_different() -> None:
    first = pair_id(Pair("1", "2"), "../Ärger: no.1", "")
    assert first.startswith("rger-no-1-to-song-")
    assert first != pair_id(Pair("1", "3"), "../Ärger: no.1", "")


def test_changes_in_words() -> None:
    values = dict.fromkeys(
        ("gain_db", "eq_low_db", "eq_mid_db", "eq_high_db", "balance_db", "width_db"), 0.0
    ) | {"dynamics_fast": 0.0, "dynamics_slow": 0.0}
    words = describe_settings(
        {
            "vocals": values,
            "drums": values | {"gain_db": -2.1, "width_db": 3.0, "dynamics_slow": 0.25},
        }
    )
    assert words == [
        "vocals: hardly changed",
        "drums: 2.1 dB quieter, 3.0 dB wider, compressed over phrases by 25%",
    ]


def test_summary_medians() -> None:
    base = {
        "input_audio": "a",
        "target_audio": "b",
        "optimize_target": "features",
        "method": "optimise",
        "converged": True,
        "num_steps_run": 1,
        "initial_embedding_distance": None,
        "final_embedding_distance": None,
        "initial_feature_distance": 2.0,
        "timings": {"total_s": 1.0},
    }
    finished = [
        (Path(n), base | {"final_feature_distance": v}) for n, v in (("x", 1.0), ("y", 0.5))
    ]
    summary = summarise(finished, [])
    assert summary["median_feature_distance_reduction"] == pytest.approx(0.625)


def test_other_segment_lengths_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        "mixprint.transfer.settings.log.warning", lambda text, *values: lines.append(text % values)
    )
    settings(segment_duration=10.0).warn_of_length()
    assert lines == []
    settings(segment_duration=5.0).warn_of_length()
    assert "trained on 10 s" in lines[0]
