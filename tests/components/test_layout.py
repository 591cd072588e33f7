"""Where a run keeps its results: what has changed since its step wrote it is not taken."""

from pathlib import Path

import pytest

from components.layout import FEATURES_FILES, features_manifest
from components.run_folder import RunFolder
from components.step import Manifest, once
from mixprint.errors import DataError


def _write(root: Path) -> Manifest:
    folder = root / "features"

    def work() -> dict[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FEATURES_FILES:
            (folder / name).write_text(f"values of {name}")
        return {"segments": 3}

    return once(
        step="features",
        run=RunFolder(root),
        folder=folder,
        recipe={},
        files=FEATURES_FILES,
        work=work,
    )


@pytest.mark.parametrize("name", FEATURES_FILES)
def test_a_damaged_file_gets_no_fingerprint_of_its_own(tmp_path: Path, name: str) -> None:
    made = _write(tmp_path)
    assert features_manifest(tmp_path) == made
    path = tmp_path / "features" / name
    path.write_text(path.read_text().replace("v", "w"))

    with pytest.raises(DataError, match=f"{name}: expected what step features has written"):
        features_manifest(tmp_path)

    assert _write(tmp_path) == made, "its step makes it again"
    assert features_manifest(tmp_path) == made


def test_what_dvc_restored_beside_a_later_marker_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _write(tmp_path)
    (tmp_path / "features" / FEATURES_FILES[0]).write_text("values of an earlier time")
    monkeypatch.setenv("DVC_STAGE", "train")
    assert features_manifest(tmp_path).fingerprint != made.fingerprint
