import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixprint.errors import ConfigError, DataError
from mixprint.scratch import Scratch

# Whole blocks, so that sizes on disk are those of the content.
BLOCK = 4096


def kept(scratch: Scratch) -> int:
    return sum(path.stat().st_size for path in scratch.folder.glob("pieces/*"))


def fetched(scratch: Scratch, key: str, num_blocks: int = 1) -> bool:
    """Ask for a piece; tell whether it had to be fetched."""
    calls = []

    def fetch() -> bytes:
        calls.append(key)
        return bytes([len(key)]) * (num_blocks * BLOCK)

    content = scratch.piece(key, num_blocks * BLOCK, fetch)
    assert content == bytes([len(key)]) * (num_blocks * BLOCK)
    return bool(calls)


def test_the_least_recently_used_give_way(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 3 * BLOCK)
    assert [fetched(scratch, key) for key in ("a", "b", "c")] == [True, True, True]
    assert not fetched(scratch, "a")
    assert fetched(scratch, "d")
    assert kept(scratch) == 3 * BLOCK
    assert not fetched(scratch, "a")
    assert not fetched(scratch, "c")
    assert fetched(scratch, "b")


def test_a_piece_larger_than_the_limit_is_read_and_not_kept(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 3 * BLOCK)
    assert not any(not fetched(scratch, "a", 4) for _ in range(2))
    assert kept(scratch) == 0


def test_the_cache_gives_way_to_work(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 3 * BLOCK)
    for key in ("a", "b", "c"):
        fetched(scratch, key)
    with scratch.work_folder() as folder:
        scratch.make_room(2 * BLOCK, "a song")
        assert kept(scratch) == BLOCK
        (folder / "song").write_bytes(bytes(2 * BLOCK))
        with pytest.raises(DataError, match=r"another song: .*4096 bytes too few.*_LIMIT"):
            scratch.make_room(2 * BLOCK, "another song")
        fetched(scratch, "d")
        fetched(scratch, "e")
        assert kept(scratch) == BLOCK
    scratch.make_room(3 * BLOCK, "three songs")


def test_shadows_count_by_what_was_reserved(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 6 * BLOCK)
    with scratch.work_folder() as folder:
        shadows = scratch.shadows(folder, 3 * BLOCK, "shadows")
        (shadows / "a").write_bytes(bytes(5 * BLOCK))
        # Three, and the block of the file that says so.
        scratch.make_room(2 * BLOCK, "a song")
        with pytest.raises(DataError, match="a long song"):
            scratch.make_room(3 * BLOCK, "a long song")
    with scratch.work_folder() as folder, pytest.raises(DataError, match="shadows"):
        scratch.shadows(folder, 7 * BLOCK, "shadows")


def test_folders_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, BLOCK)
    code = (
        "import os; from pathlib import Path; from mixprint.scratch import Scratch\n"
        f"with Scratch(Path({str(tmp_path)!r}), 1).work_folder() as folder:\n"
        "    (folder / 'song').write_bytes(b'x'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.glob("work-*/song"))) == 1
    with scratch.work_folder() as first:
        assert list(tmp_path.glob("work-*/song")) == []
        with scratch.work_folder() as second:
            assert first.is_dir()
            assert second != first
    assert list(tmp_path.glob("work-*")) == []


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXPRINT_SCRATCH", str(tmp_path))
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "3M")
    assert Scratch.from_environment() == Scratch(tmp_path, 3_000_000)
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "")
    assert Scratch.from_environment().limit_bytes == 20_000_000_000
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "20 GB")
    with pytest.raises(ConfigError, match=r"MIXPRINT_SCRATCH_LIMIT.*'20 GB'"):
        Scratch.from_environment()
    monkeypatch.delenv("MIXPRINT_SCRATCH")
    monkeypatch.delenv("MIXPRINT_SCRATCH_LIMIT")
    assert str(os.getuid()) in Scratch.from_environment().folder.name
