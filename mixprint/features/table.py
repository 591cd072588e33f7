"""The feature table: one Parquet row per segment.

Columns: `track_id`, `segment`, then one float32 column per feature, named as in the schema. The
schema's version stands in the file's metadata.

Shape suffixes: B row, D feature.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mixprint.errors import DataError
from mixprint.features.schema import FEATURE_NAMES, SCHEMA_VERSION
from mixprint.storage.tables import read_table, write_table

_VERSION_KEY = b"mixprint_feature_schema_version"


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features with the segments that they belong to; row i of each attribute is one segment.

    Attributes:
        track_ids: the track of each row.
        segments: number of the segment in its track.
        features_BD: float32, in the order of `FEATURE_NAMES`.
    """

    track_ids: tuple[str, ...]
    segments: tuple[int, ...]
    features_BD: Tensor


def write_features(
    path: Path, track_ids: Sequence[str], segments: Sequence[int], features_BD: Tensor
) -> None:
    """Write the table, whole or not at all.

    Args:
        path: the Parquet file.
        track_ids: the track of each row.
        segments: number of the segment in its track.
        features_BD: all features, both blocks.

    Raises:
        DataError: lengths differ, columns are missing, a segment is listed twice, or a value is
            not finite.
    """
    expected = (len(track_ids), len(FEATURE_NAMES))
    if tuple(features_BD.shape) != expected or len(segments) != len(track_ids):
        raise DataError(
            f"{path}: expected features {expected} and {len(track_ids)} segments, "
            f"found {tuple(features_BD.shape)} and {len(segments)}"
        )
    keys = list(zip(track_ids, segments, strict=True))
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise DataError(f"{path}: expected each segment once, found again: {twice[:3]}")
    features_BD = features_BD.detach().cpu().float()
    finite_B = features_BD.isfinite().all(dim=-1)
    if not finite_B.all():
        row = int((~finite_B).nonzero()[0])
        bad = [n for n, v in zip(FEATURE_NAMES, features_BD[row].isfinite(), strict=True) if not v]
        raise DataError(f"{path}: segment {keys[row]}: expected finite features, found not: {bad}")
    columns = {
        "track_id": pa.array(track_ids, pa.string()),
        "segment": pa.array(segments, pa.int32()),
    }
    for name, values_B in zip(FEATURE_NAMES, features_BD.T.numpy(), strict=True):
        columns[name] = pa.array(np.ascontiguousarray(values_B), pa.float32())
    table = pa.table(columns).replace_schema_metadata({_VERSION_KEY: str(SCHEMA_VERSION)})
    write_table(path, table)


def read_features(path: Path) -> FeatureTable:
    """Read the table.

    Raises:
        DataError: the file is missing, no Parquet, damaged, or of another schema.
    """
    table = read_table(path)
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise DataError(f"{path}: expected feature schema {SCHEMA_VERSION}, found {version}")
    if missing := [
        n for n in ("track_id", "segment", *FEATURE_NAMES) if n not in table.schema.names
    ]:
        raise DataError(f"{path}: expected the columns of the schema, found no {missing}")
    features_DB = np.stack([table[name].to_numpy() for name in FEATURE_NAMES])
    return FeatureTable(
        track_ids=tuple(table["track_id"].to_pylist()),
        segments=tuple(table["segment"].to_pylist()),
        features_BD=torch.from_numpy(np.ascontiguousarray(features_DB.T)),
    )
