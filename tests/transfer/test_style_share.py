from pathlib import Path

import pytest
import torch

from mixprint.errors import CheckpointError, DataError
from mixprint.features import FEATURE_NAMES
from mixprint.storage.atomic import read_json, write_json
from mixprint.transfer.style_share import (
    SHIPPED_STYLE_SHARE,
    Mixed,
    load_style_share,
    measure_style_share,
)


def test_what_follows_from_the_mix_has_share_one_and_what_follows_from_the_music_none() -> None:
    generator = torch.Generator().manual_seed(1)
    songs, styles = torch.randn(6, generator=generator), torch.randn(5, generator=generator)
    mixed = [Mixed(f"song{x}", 0, f"style{a}") for x in range(6) for a in range(5)]
    song_N, style_N = songs.repeat_interleave(5), styles.repeat(6)
    features_ND = torch.stack([style_N, song_N, torch.ones(30)], dim=1)
    assert measure_style_share(mixed, features_ND).tolist() == pytest.approx([1, 0, 0])


def test_music_and_mix_that_vary_alike_share_alike() -> None:
    # Own + way: style B - style A, plus song Y - song X; gone: style B - style A. With many
    # independent songs and styles of variance one each the slope is 2 / (2 + 2).
    generator = torch.Generator().manual_seed(2)
    songs = torch.randn(40, 50, generator=generator)
    styles = torch.randn(12, 50, generator=generator)
    mixed = [Mixed(f"song{x}", 0, f"style{a}") for x in range(40) for a in range(12)]
    features_ND = songs.repeat_interleave(12, dim=0) + styles.repeat(40, 1)
    share_D = measure_style_share(mixed, features_ND)
    assert float(share_D.mean()) == pytest.approx(0.5, abs=0.03)


def test_truth_is_the_same_segment() -> None:
    # Segment 1 is 100 higher in both styles; compared with segment 0 the share would not be 1.
    mixed = [Mixed(s, n, y) for s in ("x", "y") for n in (0, 1) for y in ("a", "b")]
    features_ND = torch.tensor([[0.0], [1.0], [100.0], [101.0]] * 2)
    assert 0 < float(measure_style_share(mixed, features_ND)) < 0.01
    assert float(measure_style_share(mixed[:2] + mixed[4:6], features_ND[[0, 1, 4, 5]])) == 1


def test_songs_without_a_second_style_are_refused() -> None:
    with pytest.raises(DataError, match="two styles"):
        measure_style_share([Mixed("x", 0, "a"), Mixed("y", 0, "b")], torch.zeros(2, 1))


def test_shipped_share() -> None:
    share = dict(zip(FEATURE_NAMES, load_style_share().tolist(), strict=True))
    assert all(0 <= value <= 1 for value in share.values())
    # Balance is set by the engineer, crest factors are the musician's.
    assert share["bass_ild_db"] > 0.5 > 0.25 > share["bass_crest_left_db"]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 0},
        {"format": "other"},
        {"share": {}},
        {"share": dict.fromkeys(FEATURE_NAMES, 1.5)},
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "share.json"
    write_json(path, {**read_json(SHIPPED_STYLE_SHARE), **change})
    with pytest.raises(CheckpointError, match=r"share\.json"):
        load_style_share(path)
