import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import mixprint.fingerprint
from mixprint.errors import DataError
from mixprint.fingerprint import NEUTRAL, code_files, code_version, file_sha256, fingerprint


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


Write = Callable[[Mapping[str, str]], None]


@pytest.fixture
def sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Let a few files stand for the sources of the product."""

    def write(files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        code_version.cache_clear()
        mixprint.fingerprint._imported.cache_clear()

    monkeypatch.setattr("mixprint.fingerprint._FOLDER", tmp_path)
    yield write
    monkeypatch.undo()
    code_version.cache_clear()
    mixprint.fingerprint._imported.cache_clear()


TREE = {
    "components/made/main.py": "from components import step\nfrom mixprint.a.first import work\n",
    "components/step.py": "import mixprint.b.other\n",
    "mixprint/__init__.py": "def door():\n    import mixprint.b.other\n",
    "mixprint/errors.py": "import mixprint.b.other\n",
    "mixprint/a/__init__.py": "",
    "mixprint/a/first.py": "import json\nimport mixprint\nfrom mixprint import a, errors\n"
    "def work():\n    from mixprint.a import second as it\n",
    "mixprint/a/second.py": "from mixprint.b.third import name\nimport mixprint.a.first\n",
    "mixprint/a/alone.py": "",
    "mixprint/a/data.json": "{}",
    "mixprint/b/__init__.py": "",
    "mixprint/b/third.py": "",
    "mixprint/b/other.py": "",
    "mixprint/b/page.html": "",
}


def test_code_is_all_that_modules_import_less_what_is_neutral(sources: Write) -> None:
    sources(TREE)
    assert code_files("components.made.main") == [
        "components/made/main.py",
        "mixprint/a/__init__.py",
        "mixprint/a/first.py",
        "mixprint/a/second.py",
        "mixprint/b/__init__.py",
        "mixprint/b/page.html",
        "mixprint/b/third.py",
    ]
    assert code_files("mixprint.b.other", "mixprint.a.alone") == [
        "mixprint/a/alone.py",
        "mixprint/b/other.py",
        "mixprint/b/page.html",
    ]


def test_code_version_follows_the_sources_that_count(sources: Write) -> None:
    sources(TREE)
    before = code_version("components.made.main")
    for name in TREE:
        sources({**TREE, name: "# edited\n" + TREE[name]})
        changed = code_version("components.made.main") != before
        assert changed == (name in code_files("components.made.main")), name
    sources(TREE)
    assert code_version("components.made.main") == before


@pytest.mark.parametrize("name", ["mixprint.nothing", "mixprint.encoder", "mixprint"])
def test_code_starts_at_modules(name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}'"):
        code_version(name)


def test_what_is_neutral_is_there() -> None:
    for names in NEUTRAL.values():
        for name in names:
            assert importlib.util.find_spec(name) is not None, name
