"""Parquet tables: any damage is noticed, wherever in the file it is."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mixprint.collection.catalogue import (
    Reject,
    Track,
    read_catalogue,
    read_rejects,
    write_catalogue,
)
from mixprint.errors import DataError
from mixprint.features.schema import FEATURE_NAMES
from mixprint.features.table import read_features, write_features
from mixprint.storage.tables import read_table, write_table

NUM_FLIPS = 150


def _catalogue(folder: Path) -> None:
    tracks = [
        Track(
            track_id=f"{i:016x}",
            title=f"Song {i} \u00e9",
            uri=f"songs/{i}.wav",
            source="folder",
            duration_s=30.0 + i,
            sample_rate_hz=44_100,
            channels=2,
            split="train",
            licence="unknown",
            has_stems=False,
            song=f"{i:016x}",
            style="",
        )
        for i in range(12)
    ]
    rejects = [Reject(f"songs/r{i}.wav", "silent", "songs: nothing sounds") for i in range(5)]
    write_catalogue(folder, tracks, rejects, locations=["songs"])


def _features(folder: Path) -> None:
    values_BD = torch.randn(9, len(FEATURE_NAMES), generator=torch.Generator().manual_seed(1))
    ids = [f"{i // 3:016x}" for i in range(9)]
    write_features(folder / "features.parquet", ids, [i % 3 for i in range(9)], values_BD)


def _read_features(folder: Path) -> Any:
    table = read_features(folder / "features.parquet")
    return table.track_ids, table.segments, table.features_BD.tolist()


@pytest.mark.parametrize(
    ("write", "name", "read"),
    [
        (_catalogue, "catalogue.parquet", read_catalogue),
        (_catalogue, "rejects.parquet", read_rejects),
        (_features, "features.parquet", _read_features),
    ],
    ids=["catalogue", "rejects", "features"],
)
def test_a_flipped_bit_changes_nothing_unseen(
    tmp_path: Path, write: Callable[[Path], None], name: str, read: Callable[[Path], Any]
) -> None:
    write(tmp_path)
    path = tmp_path / name
    whole, expected = path.read_bytes(), read(tmp_path)
    rng = random.Random(name)
    num_told = 0
    for _ in range(NUM_FLIPS):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read(tmp_path)
        except DataError as error:
            num_told += name in str(error)
        else:
            assert found == expected, "what is not told must be harmless"
    assert num_told > NUM_FLIPS / 2


@pytest.mark.parametrize("end", [0, 4, -1, -100])
def test_a_table_cut_short_is_named(tmp_path: Path, end: int) -> None:
    _features(tmp_path)
    path = tmp_path / "features.parquet"
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match=r"features\.parquet: expected a readable Parquet table"):
        read_features(path)


def test_another_codec_of_a_column_is_noticed_by_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"a": [True, False, True]}))
    stated = read_table(path).schema.metadata
    table = pa.table({"a": [True, True, True]}).replace_schema_metadata(stated)
    pq.write_table(table, path)
    with pytest.raises(DataError, match="damaged"):
        read_table(path)


def test_a_table_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"a": ["x", "y"], "b": [1.0, 2.0]})
    pq.write_table(table, path)
    assert read_table(path).equals(table)


def test_equal_tables_give_equal_bytes_however_they_are_cut(tmp_path: Path) -> None:
    table = pa.table({"a": ["x", "", "yz"], "b": [1, 2, 3], "c": [True, False, True]})
    write_table(tmp_path / "a", table)
    assert read_table(tmp_path / "a").to_pylist() == table.to_pylist()
    write_table(tmp_path / "b", pa.concat_tables([table.slice(0, 1), table.slice(1)]))
    assert read_table(tmp_path / "b").to_pylist() == table.to_pylist()
    write_table(tmp_path / "c", read_table(tmp_path / "a"))
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()
