import dataclasses
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

from mixprint.errors import ConfigError, DataError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import read_json
from mixprint.synthesis import STYLE_NAMES, DataConfig, dataset, generate
from mixprint.synthesis.dataset import RECORD_NAME, styles_of

CONFIG = DataConfig(num_songs=2, styles_per_song=2, duration_s=4.0, seed=5)
# Written by this test's own generator; another value means that every data.dvc out there is stale.
EXPECTED_SHA256 = "1ed59bb8dd7edb77834235ecc15cc99455254383db4a7e4a613e8e96fd2f2022"


def _pcm(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (2, 2, SAMPLE_RATE_HZ)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


def _tree_sha256(folder: Path) -> str:
    """Hash what `data.dvc` describes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != RECORD_NAME:
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


def _times(folder: Path) -> dict[str, int]:
    """Return the times of folders and files, as names relative to a folder."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def test_a_second_run_keeps_what_is_there(folders: list[Path]) -> None:
    before = _times(folders[0].parent)
    assert generate(folders[0].parent, CONFIG) == folders
    assert _times(folders[0].parent) == before


SMALL = DataConfig(num_songs=2, styles_per_song=1, duration_s=1.0, seed=5)


def test_mixes_of_other_parameters_are_made_again(tmp_path: Path) -> None:
    generate(tmp_path / "made", SMALL)
    for change in ({"seed": 6}, {"duration_s": 1.5}, {"num_songs": 1}, {"styles_per_song": 2}):
        config = dataclasses.replace(SMALL, **change)
        expected = generate(tmp_path / "fresh" / "-".join(change), config)
        found = generate(tmp_path / "made", config)
        assert [path.name for path in found] == [path.name for path in expected]
        assert _tree_sha256(tmp_path / "made") == _tree_sha256(expected[0].parent), change


def test_mixes_of_other_code_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = generate(tmp_path, dataclasses.replace(SMALL, num_songs=1))
    whole = _tree_sha256(tmp_path)
    (folder / "bass.wav").write_bytes(b"made by other code")
    monkeypatch.setattr(dataset, "code_version", lambda *modules: "another")
    generate(tmp_path, dataclasses.replace(SMALL, num_songs=1))
    assert _tree_sha256(tmp_path) == whole


def test_what_is_incomplete_or_unrecorded_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    first, second = generate(tmp_path, SMALL)
    whole, before = _tree_sha256(tmp_path), _times(second)
    (first / "drums.wav").unlink()
    generate(tmp_path, SMALL)
    assert (_tree_sha256(tmp_path), _times(second)) == (whole, before)
    for content in ("{", "[1]", "{}"):
        (tmp_path / RECORD_NAME).write_text(content)
        (first / "drums.wav").write_bytes(b"of an older version")
        generate(tmp_path, SMALL)
        assert _tree_sha256(tmp_path) == whole
    assert set(read_json(tmp_path / RECORD_NAME)) == {first.name, second.name}


def test_folders_that_are_not_recorded_are_not_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text("{}")
    generate(tmp_path, dataclasses.replace(SMALL, num_songs=1))
    assert (tmp_path / "mine" / "settings.json").is_file()
    assert "'mine'" in caplog.text


def test_a_persons_own_files_are_not_replaced_by_mixes(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, num_songs=1)
    (folder,) = generate(tmp_path / "made", config)
    (tmp_path / "own" / folder.name).mkdir(parents=True)
    own = tmp_path / "own" / folder.name / "take 1.wav"
    own.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"take 1\.wav"):
        generate(tmp_path / "own", config)
    assert own.read_bytes() == b"mine"
    (tmp_path / "licensed").mkdir()
    (tmp_path / "licensed" / "LICENCE.txt").write_text("mine")
    with pytest.raises(DataError, match="LICENCE"):
        generate(tmp_path / "licensed", config)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="expected a folder"):
        generate(tmp_path / "file", config)


def test_a_killed_run_is_continued(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from mixprint.synthesis import *;"
        "from mixprint.synthesis import dataset;"
        "write = dataset.write_json;"
        "dataset.write_json = lambda *a: (write(*a), os._exit(9) if a[1] else None);"
        f"generate(Path(sys.argv[1]), {SMALL!r})"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "made")], check=False)
    assert killed.returncode == 9
    (done,) = read_json(tmp_path / "made" / RECORD_NAME)
    before = _times(tmp_path / "made" / done)
    generate(tmp_path / "made", SMALL)
    assert _times(tmp_path / "made" / done) == before
    generate(tmp_path / "fresh", SMALL)
    assert _tree_sha256(tmp_path / "made") == _tree_sha256(tmp_path / "fresh")


def test_the_record_is_no_part_of_what_is_tracked() -> None:
    ignored = (Path(__file__).parents[2] / ".dvcignore").read_text().split()
    assert f"/data/{RECORD_NAME}" in ignored


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
