from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mixprint.errors import DataError
from mixprint.features.schema import FEATURE_NAMES
from mixprint.features.table import read_features, write_features

TRACK_IDS = ["b", "b", "ä; 'x'"]
SEGMENTS = [0, 1, 0]


def some_features() -> torch.Tensor:
    return torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


def test_round_trip_is_exact_and_keeps_the_order(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    write_features(path, TRACK_IDS, SEGMENTS, some_features())
    table = read_features(path)
    assert list(table.track_ids) == TRACK_IDS
    assert list(table.segments) == SEGMENTS
    assert torch.equal(table.features_BD, some_features())
    assert [p.name for p in tmp_path.iterdir()] == ["features.parquet"]


def test_columns_are_the_design_s(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    write_features(path, TRACK_IDS, SEGMENTS, some_features())
    schema = pq.read_schema(path)
    assert schema.names == ["track_id", "segment", *FEATURE_NAMES]
    assert all(schema.field(name).type == pa.float32() for name in FEATURE_NAMES)


def test_an_empty_table_round_trips(tmp_path: Path) -> None:
    write_features(tmp_path / "features.parquet", [], [], torch.zeros(0, 64))
    assert read_features(tmp_path / "features.parquet").features_BD.shape == (0, 64)


def test_writing_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    with pytest.raises(DataError, match=r"expected features \(3, 64\)"):
        write_features(path, TRACK_IDS, SEGMENTS, some_features()[:, :56])
    with pytest.raises(DataError, match="again"):
        write_features(path, TRACK_IDS, [0, 0, 0], some_features())
    broken_BD = some_features()
    broken_BD[1, FEATURE_NAMES.index("bass_ild_db")] = float("inf")
    with pytest.raises(DataError, match=r"\('b', 1\).*bass_ild_db"):
        write_features(path, TRACK_IDS, SEGMENTS, broken_BD)
    assert not list(tmp_path.iterdir())


def test_reading_refuses_missing_broken_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    with pytest.raises(DataError, match=r"features\.parquet"):
        read_features(path)
    path.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="expected a readable Parquet table"):
        read_features(path)
    pq.write_table(pa.table({"track_id": ["a"]}), path)
    with pytest.raises(DataError, match="expected feature schema 1, found none"):
        read_features(path)
