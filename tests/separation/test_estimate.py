import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

from mixprint.audio.files import stream_audio
from mixprint.cli import app, exits
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.config import load_params
from mixprint.errors import DataError
from mixprint.separation import SCNetConfig, Separator, build_scnet, source
from mixprint.separation.estimate import (
    Measurement,
    SeparationPlan,
    SurveyedSong,
    count_windows,
    estimate_separation,
    measure_separation,
    survey,
)
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.sharding import ShardedSong
from mixprint.stems import STEMS
from tests.separation.networks import ToyNetwork

REPOSITORY = Path(__file__).resolve().parents[2]
PLAN = SeparationPlan(
    segment_s=1.0,
    window_s=0.5,
    overlap=0.25,
    batch_size=4,
    export="none",
    num_shards=4,
    jobs=1,
)
MEASURED = Measurement(
    seconds_per_window=0.5,
    once_s=1.0,
    segment_bytes=1_000,
    export_bytes_per_s=10.0,
    peak_bytes=7_000,
    gpu_peak_bytes=9_000,
)


def plan(**changes: object) -> SeparationPlan:
    return SeparationPlan(**(vars(PLAN) | changes))


class CountingSeparator:
    """Every stem is a quarter of the mix; counts what it is given."""

    device = torch.device("cpu")
    sample_rate_hz = 44_100
    window_s = 0.5
    stems = STEMS
    network = None
    normalised = False
    precision = "float32"
    compiled = False

    def __init__(self) -> None:
        self.num_songs = self.num_samples = 0

    def stream(
        self,
        blocks: Iterable[Tensor],
        *,
        window_s: float,
        overlap: float,
        batch_size: int,
        level: float | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.num_songs += 1
        for block_CT in blocks:
            self.num_samples += block_CT.shape[-1]
            yield block_CT, torch.stack([block_CT / 4] * 4)


@pytest.mark.parametrize(
    ("duration_s", "overlap", "expected"),
    [
        (3.0, 0.25, 1),
        (4.0, 0.25, 1),
        (4.1, 0.25, 2),
        (10.0, 0.25, 3),
        (11.5, 0.0, 3),
        (8.0, 0.5, 3),
    ],
)
def test_windows_are_counted_as_they_are_placed(
    duration_s: float, overlap: float, expected: int
) -> None:
    assert count_windows(duration_s, 4.0, overlap) == expected
    rate_hz, seen = 100, []

    class Noting(ToyNetwork):
        def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
            seen.extend(audio_BCT)
            return super().__call__(audio_BCT, starts_B)

    separator = Separator(Noting(window_s=4.0, sample_rate_hz=rate_hz))
    separator.separate(torch.ones(2, round(duration_s * rate_hz)), overlap=overlap)
    assert len(seen) == expected


def test_the_measurement_is_projected_by_windows_and_segments() -> None:
    # 2.0 s: windows at 0, 0.375 ... 1.5; segments at 0 and 1. 3.25 s: 9 windows, 3 segments.
    songs = [SurveyedSong(Path("a"), 2.0), SurveyedSong(Path("b"), 3.25)]
    found = estimate_separation(songs, 3, PLAN, MEASURED, start_s=2.0)
    windows = count_windows(2.0, 0.5, 0.25) + count_windows(3.25, 0.5, 0.25)
    assert windows == 5 + 9
    # 2 s to start, 1 s that comes once, and half a second a window.
    assert found.hours == pytest.approx((2 + 1 + 14 * 0.5) / 3600)
    assert found.real_time_factor == pytest.approx(10 / 5.25)
    assert found.audio_hours == pytest.approx(5.25 / 3600)
    assert (found.num_songs, found.num_left_out, found.num_segments) == (2, 3, 5)
    assert (found.shards_bytes, found.export_bytes) == (5_000, 52)
    assert (found.memory_bytes, found.gpu_memory_bytes) == (7_000, 9_000)


def test_workers_share_the_time_but_no_more_than_there_are_shards() -> None:
    songs = [SurveyedSong(Path("a"), 20.0)]
    measured = replace(MEASURED, once_s=0.0)
    alone = estimate_separation(songs, 0, PLAN, measured, start_s=0.0)
    three = estimate_separation(songs, 0, plan(jobs=3), measured, start_s=0.0)
    many = estimate_separation(songs, 0, plan(jobs=100), measured, start_s=0.0)
    assert three.hours == pytest.approx(alone.hours / 3)
    assert three.memory_bytes == 3 * alone.memory_bytes
    assert many.jobs == 4
    assert many.hours == pytest.approx(alone.hours / 4)
    assert many.shards_bytes == alone.shards_bytes


def test_survey_counts_what_ingest_would_take_by_its_length(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    for name, duration_s in (
        ("a.wav", 2.0),
        ("b.flac", 3.0),
        ("short.wav", 0.5),
        ("long.wav", 9.0),
    ):
        write_song(tmp_path / "sub" / name, duration_s)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "song.m4a").write_bytes(b"")
    songs, num_left_out = survey("folder", [tmp_path], min_duration_s=1.0, max_duration_s=5.0)
    assert [(song.path.name, song.duration_s) for song in songs] == [
        ("a.wav", 2.0),
        ("b.flac", 3.0),
    ]
    assert num_left_out == 4
    with pytest.raises(DataError, match=r"expected songs.*found 6"):
        survey("folder", [tmp_path], min_duration_s=20.0, max_duration_s=50.0)


def test_excerpts_come_from_the_middle_and_are_short(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    paths = [write_song(tmp_path / f"{i}.wav", 10.0, seed=i) for i in range(5)]
    separator = CountingSeparator()
    measured = measure_separation(separator, [SurveyedSong(p, 10.0) for p in paths], PLAN)  # type: ignore[arg-type]
    # 8 windows of 0.5 s, each 0.375 s after the last one; 3 songs and a warm-up.
    assert separator.num_songs == 4
    assert separator.num_samples == 4 * round((0.5 + 7 * 0.375) * 44_100)
    assert measured.seconds_per_window > 0
    assert measured.gpu_peak_bytes == 0
    assert measured.peak_bytes > 10_000_000


def test_storage_is_that_of_shards_truly_written(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    network = build_scnet(SCNetConfig(dims=(4, 8, 8, 8), num_dplayer=2, hop_size=2048), "plain")
    separator = Separator(TrainedSCNet(network, window_s=0.5))
    paths = [write_song(tmp_path / f"{i}.wav", 2.0 + i, seed=i) for i in range(3)]
    songs = [SurveyedSong(path, 2.0 + i) for i, path in enumerate(paths)]
    with write_shard(
        tmp_path / shard_name(0, 1),
        fingerprint="",
        sample_rate_hz=44_100,
        separator=SeparatorFingerprint("m", "c" * 64, "d" * 64),
    ) as writer:
        for song in songs:
            sharded = ShardedSong(writer, "t", segment_s=1.0, sample_rate_hz=44_100)
            pieces = separator.stream(
                stream_audio(song.path), window_s=0.5, overlap=0.25, batch_size=4
            )
            for mixture_CT, stems_SCT in pieces:
                sharded.add(mixture_CT, stems_SCT)
            sharded.finish()
    written = (tmp_path / shard_name(0, 1)).stat().st_size
    for export, bytes_per_s in (("none", 0.0), ("wav", 4 * 4 * 44_100)):
        wanted = plan(export=export)
        measured = measure_separation(separator, songs, wanted)
        found = estimate_separation(songs, 0, wanted, measured, start_s=0.0)
        assert writer.num_segments == found.num_segments
        assert found.shards_bytes == pytest.approx(written, rel=0.1)
        assert found.export_bytes == pytest.approx(9.0 * bytes_per_s, rel=0.01)


def test_command_line(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "setup_logging", lambda: None)
    separator = CountingSeparator()
    monkeypatch.setattr(source, "load_separator", lambda *_: separator)
    write_song(tmp_path / "songs" / "a.wav", 3.0)
    params = load_params(REPOSITORY / "params.yaml")
    params["ingest"] |= {"min_duration_s": 1.0}
    params["separate"] |= {"segment_s": 1.0, "device": "cpu", "compile": True}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    arguments = ["estimate", "--task", "separate", str(tmp_path / "songs")]
    arguments += ["--params", str(tmp_path / "params.yaml")]
    result = CliRunner().invoke(app, [*arguments, "--format", "json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["num_songs"], values["num_segments"]) == (1, 3)
    assert math.isfinite(values["hours"])
    assert separator.compiled is True
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "storage, shards" in result.stdout
    result = CliRunner().invoke(app, [*arguments, "--source", "tapes"])
    assert result.exit_code == 1
    assert "tapes" in result.output
