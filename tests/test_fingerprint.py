import hashlib
from pathlib import Path

import pytest

from mixprint.errors import DataError
from mixprint.fingerprint import code_version, file_sha256, fingerprint


def test_order_of_keys_does_not_count_and_order_of_lists_does() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint(1) != fingerprint("1")


def test_fingerprint_is_the_hash_of_canonical_json() -> None:
    assert fingerprint({"b": "é", "a": 1}) == hashlib.sha256(b'{"a":1,"b":"\\u00e9"}').hexdigest()


def test_nan_has_no_fingerprint() -> None:
    with pytest.raises(DataError, match="finite"):
        fingerprint({"a": float("nan")})


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(DataError, match="missing"):
        file_sha256(tmp_path / "missing")


def test_code_version_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    for number in (1, 2):
        folder = tmp_path / f"copy{number}" / "fingerprinted"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "part.py").write_text("x = 1\n")
        (folder / "notes.txt").write_text(f"{number}")
        monkeypatch.syspath_prepend(str(folder.parent))
        code_version.cache_clear()
        versions.append(code_version("fingerprinted"))
    # Neither the place nor files that are no code count; an edit does.
    assert versions[0] == versions[1]
    (folder / "part.py").write_text("x = 2\n")
    code_version.cache_clear()
    assert code_version("fingerprinted") != versions[0]


def test_code_version_of_one_module_and_of_none() -> None:
    assert code_version("mixprint.stems") != code_version("mixprint.errors")
    with pytest.raises(DataError, match=r"mixprint\.nothing"):
        code_version("mixprint.nothing")
