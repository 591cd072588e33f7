"""A small data set that the benchmarks read, made once."""

from pathlib import Path

import pytest

from benchmarks.segment_set import write_set

NUM_TRAIN = 4
SEGMENT_S = 3.0


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_set(folder, num_train=NUM_TRAIN, num_songs=1, segment_s=SEGMENT_S)
    return folder
