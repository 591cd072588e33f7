"""Tests of `mixprint.synthesis.style_benchmark`; those that play need the programs."""

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mixprint.collection.catalogue import SPLITS
from mixprint.collection.sources import find_songs
from mixprint.schema import read_record
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.style_benchmark import (
    DRY,
    DryLevel,
    SplitSize,
    StyleBenchmark,
    generate_benchmark,
    write_dry,
)
from mixprint.synthesis.training_songs import SongSource
from tests.synthesis.test_training_songs import needs_programs

FULL = StyleBenchmark()
NONE = SplitSize(num_songs=0, num_styles=1, styles_per_song=1)
SMALL = StyleBenchmark(
    seed=3,
    duration_s=2.0,
    train=NONE,
    valid=NONE,
    test=SplitSize(num_songs=1, num_styles=2, styles_per_song=2),
)


def styles_by_split(benchmark: StyleBenchmark) -> dict[str, Counter[str]]:
    """Count how many songs meet each style."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for split, number in benchmark.songs():
        counts[split].update(style.style for style in benchmark.styles(split, number))
    return counts


def test_each_style_meets_equally_many_songs() -> None:
    for split, counts in styles_by_split(FULL).items():
        size: SplitSize = getattr(FULL, split)
        mixes_of_a_style = size.num_songs * size.styles_per_song // size.num_styles
        assert len(counts) == size.num_styles
        assert set(counts.values()) == {mixes_of_a_style}


def test_the_last_round_may_be_short_of_songs_but_leaves_no_style_out() -> None:
    train = SplitSize(num_songs=36, num_styles=24, styles_per_song=4)
    counts = styles_by_split(replace(FULL, train=train))["train"]
    assert len(counts) == 24
    # A whole round of 24 songs deals each style 4 times; half a round can at most double that.
    assert set(counts.values()) <= set(range(4, 9))


def test_a_song_meets_a_style_once() -> None:
    for split, number in FULL.songs():
        names = [style.style for style in FULL.styles(split, number)]
        assert len(set(names)) == len(names) == getattr(FULL, split).styles_per_song


def test_the_splits_share_no_style() -> None:
    settings: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split, number in FULL.songs():
        for style in FULL.styles(split, number):
            values = style.to_values()
            del values["style"]
            settings[split].add(json.dumps(values, sort_keys=True))
    assert [len(settings[split]) for split in SPLITS] == [48, 6, 6]
    assert len(set.union(*settings.values())) == 60


def test_the_splits_share_no_song_and_test_plays_held_out_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[bool, int]] = []

    def play(source: SongSource, number: int) -> None:
        played.append((source.held_out, number))
        raise InterruptedError

    monkeypatch.setattr(SongSource, "play", play)
    for song in FULL.songs():
        with pytest.raises(InterruptedError):
            FULL.write(song, {})
    assert len(set(played)) == len(played) == len(FULL.songs())
    assert [held_out for held_out, _ in played] == [split == "test" for split, _ in FULL.songs()]


def test_dry_stems_that_are_too_loud_for_a_file_come_back(tmp_path: Path) -> None:
    dry_CT = {stem: np.full((2, 100), 0.5 + 0.5 * n) for n, stem in enumerate(STEMS)}
    write_dry(tmp_path / "one-dry", dry_CT, {"song": "one", "style": DRY, "split": "test"})
    settings = read_record(tmp_path / "one-dry" / "settings.json", DryLevel)
    # All four add up to 5, which is brought to -1 dBFS.
    assert settings.gain_db == pytest.approx(20 * np.log10(5) + 1)
    for stem, signal_CT in dry_CT.items():
        written_TC, _ = sf.read(tmp_path / "one-dry" / f"{stem}.wav")
        factor = 10 ** (settings.gain_db / 20)
        assert written_TC.T * factor == pytest.approx(signal_CT, rel=2e-4)


@needs_programs
def test_mixes_are_the_same_from_any_number_of_workers(tmp_path: Path) -> None:
    benchmark = replace(SMALL, duration_s=1.0, train=SMALL.test, has_dry=True)
    one, two = (
        generate_benchmark(tmp_path / str(workers), benchmark, workers) for workers in (1, 2)
    )
    assert [folder.name for folder in one] == [folder.name for folder in two]
    assert len(one) == 6  # two songs, in two styles and dry
    for a, b in zip(one, two, strict=True):
        names = sorted(path.name for path in a.iterdir())
        assert len(names) == 6
        assert names == sorted(path.name for path in b.iterdir())
        assert all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@needs_programs
def test_a_song_is_played_once_and_mixed_in_its_styles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = generate_benchmark(tmp_path, SMALL)
    assert [folder.name for folder in folders] == ["test-000-test00", "test-000-test01"]
    mixtures = []
    for folder in folders:
        audio = {n: sf.read(folder / f"{n}.wav", dtype="int16")[0] for n in ("mixture", *STEMS)}
        assert all(samples.shape == (2 * SAMPLE_RATE_HZ, 2) for samples in audio.values())
        assert np.array_equal(audio["mixture"], sum(audio[stem] for stem in STEMS))
        mixtures.append(audio["mixture"])
    assert not np.array_equal(*mixtures)
    found, refused = find_songs("synthetic", [tmp_path])
    assert not refused
    assert [(c.song, c.style, c.split) for c in found] == [
        ("test-000", style, "test") for style in ("test00", "test01")
    ]

    # What is there and right is kept; what other parameters have made is not.
    kept, lost = (folder / "mixture.wav" for folder in folders)
    made_ns = kept.stat().st_mtime_ns
    lost.unlink()
    generate_benchmark(tmp_path, SMALL)
    assert kept.stat().st_mtime_ns == made_ns
    assert np.array_equal(sf.read(lost, dtype="int16")[0], mixtures[1])
    with caplog.at_level(logging.INFO, "mixprint.synthesis"):
        generate_benchmark(tmp_path, replace(SMALL, duration_s=1.0))
    assert all(sf.info(folder / "mixture.wav").duration == 1.0 for folder in folders)
    assert "2 mixes are made anew" in caplog.text
