import hashlib
import itertools
import json
import os
import subprocess
import sys
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from mixprint.errors import ConfigError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis import STYLE_NAMES, DataConfig, generate
from mixprint.synthesis.dataset import styles_of

CONFIG = DataConfig(num_songs=2, styles_per_song=2, duration_s=4.0, seed=5)
# Written by this test's own generator; another value means that every data.dvc out there is stale.
EXPECTED_SHA256 = "1ed59bb8dd7edb77834235ecc15cc99455254383db4a7e4a613e8e96fd2f2022"


def _pcm(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (2, 2, SAMPLE_RATE_HZ)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


def _tree_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return generate(tmp_path_factory.mktemp("data"), CONFIG)


def test_another_process_with_other_threads_and_a_plainer_processor_writes_the_same_bytes(
    folders: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from mixprint.synthesis import *;"
        f"generate(Path(sys.argv[1]), {CONFIG!r}, num_workers=2)"
    )
    environment = {
        "OMP_NUM_THREADS": "7",
        "OPENBLAS_NUM_THREADS": "7",
        # NumPy then runs the code that it would run on a processor without these extensions.
        "NPY_DISABLE_CPU_FEATURES": " ".join(f for f in __cpu_dispatch__ if __cpu_features__[f]),
    }
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, env=os.environ | environment
    )
    assert _tree_sha256(tmp_path) == _tree_sha256(folders[0].parent)


def test_the_bytes_are_those_of_every_other_machine(folders: list[Path]) -> None:
    assert _tree_sha256(folders[0].parent) == EXPECTED_SHA256


def test_stems_add_up_to_the_mixture_to_the_bit(folders: list[Path]) -> None:
    for folder in folders:
        stems = sum(_pcm(folder / f"{stem}.wav").astype(np.int32) for stem in STEMS)
        np.testing.assert_array_equal(stems, _pcm(folder / "mixture.wav"))


def test_no_mix_clips_and_each_stem_sounds(folders: list[Path]) -> None:
    for folder in folders:
        pcm = {name: _pcm(folder / f"{name}.wav").astype(int) for name in (*STEMS, "mixture")}
        # -1 dBFS; the rounding of four stems moves a sum by up to two steps.
        assert max(np.abs(x).max() for x in pcm.values()) == pytest.approx(29_204, abs=3)
        for stem in STEMS:
            assert pcm[stem].std() > 30, f"{folder.name}: {stem} is silent"


def test_the_truth_lies_beside_each_mix(folders: list[Path]) -> None:
    truth = json.loads((folders[0] / "settings.json").read_text())
    assert f"{truth['song']}-{truth['style']}" == folders[0].name
    assert set(truth["mix"]["stems"]) == set(STEMS)


def test_a_second_run_keeps_what_is_there(folders: list[Path]) -> None:
    before = [(folder / "mixture.wav").stat().st_mtime_ns for folder in folders]
    assert generate(folders[0].parent, CONFIG) == folders
    assert [(folder / "mixture.wav").stat().st_mtime_ns for folder in folders] == before


def test_every_style_meets_several_songs_and_other_styles() -> None:
    config = DataConfig(num_songs=10, styles_per_song=3, duration_s=24.0, seed=0)
    songs_of = defaultdict(set)
    pairs = set()
    for index in range(config.num_songs):
        styles = list(styles_of(index, config))
        assert len(set(styles)) == config.styles_per_song
        pairs.update(itertools.combinations(sorted(styles), 2))
        for style in styles:
            songs_of[style].add(index)
    assert set(songs_of) == set(STYLE_NAMES)
    assert min(map(len, songs_of.values())) >= 4
    assert len(pairs) >= 12  # of 15: style and song are not tied together


def test_more_styles_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="styles_per_song: expected 1 to 6, got 7"):
        DataConfig(num_songs=1, styles_per_song=7, duration_s=4.0, seed=0)
