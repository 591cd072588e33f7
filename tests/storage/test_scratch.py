import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from mixprint.errors import ConfigError, DataError
from mixprint.storage import scratch as scratch_module
from mixprint.storage.locks import locked
from mixprint.storage.scratch import Scratch

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


def sum_of(scratch: Scratch) -> int:
    return int((scratch.folder / "pieces-bytes").read_text())


def test_a_full_cache_gives_a_little_more_than_is_needed(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 20 * BLOCK)
    for number in range(20):
        fetched(scratch, f"{number}")
    assert kept(scratch) == sum_of(scratch) == 20 * BLOCK
    fetched(scratch, "one more")
    assert kept(scratch) == sum_of(scratch) == 18 * BLOCK
    scratch.make_room(5 * BLOCK, "a song")
    assert kept(scratch) == sum_of(scratch) == 13 * BLOCK


def test_pieces_count_in_whole_blocks(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 3 * BLOCK)
    for number in range(4):
        scratch.piece(f"{number}", 5, lambda: b"piece")
    assert kept(scratch) == 3 * 5
    assert sum_of(scratch) == 3 * BLOCK


@pytest.mark.parametrize("text", [str(10**12), "", "many", "\udcff", None])
def test_a_sum_that_is_missing_or_too_large_is_counted_anew(
    tmp_path: Path, text: str | None
) -> None:
    scratch = Scratch(tmp_path, 20 * BLOCK)
    for number in range(19):
        fetched(scratch, f"{number}")
    if text is None:
        (tmp_path / "pieces-bytes").unlink()
    else:
        (tmp_path / "pieces-bytes").write_text(text, errors="surrogateescape")
    # There is room for one more, so none gives way.
    fetched(scratch, "a")
    assert kept(scratch) == sum_of(scratch) == 20 * BLOCK
    fetched(scratch, "b")
    assert kept(scratch) == sum_of(scratch) == 18 * BLOCK


def test_the_cache_is_listed_only_to_evict(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 3 * BLOCK)
    fetched(scratch, "a")
    for number in range(3):
        (tmp_path / "pieces" / f"{number}").write_bytes(bytes(BLOCK))
    # They are not seen yet.
    for key in ("b", "c"):
        fetched(scratch, key)
    assert kept(scratch) == 6 * BLOCK
    fetched(scratch, "d")
    assert kept(scratch) == sum_of(scratch) == 3 * BLOCK


def _die_while_keeping(scratch: Scratch) -> None:
    scratch_module.atomic_path = lambda _: os._exit(1)
    fetched(scratch, "a")


def test_the_sum_of_a_killed_process_is_too_large_and_heals(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 3 * BLOCK)
    process = multiprocessing.get_context("fork").Process(
        target=_die_while_keeping, args=(scratch,)
    )
    process.start()
    process.join()
    assert process.exitcode == 1
    assert (kept(scratch), sum_of(scratch)) == (0, BLOCK)
    assert [fetched(scratch, key) for key in ("a", "b", "c")] == [True, True, True]
    assert kept(scratch) == sum_of(scratch) == 3 * BLOCK


def _keep_many(scratch: Scratch, number: int, barrier: Barrier) -> None:
    for i in range(30):
        # Every second one is wanted by all at once.
        barrier.wait()
        fetched(scratch, f"{i}" if i % 2 else f"{i} of {number}")
        with locked(scratch.folder / "lock"):
            assert kept(scratch) <= scratch.limit_bytes


def test_the_limit_holds_for_several_processes(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 20 * BLOCK)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4, timeout=60)
    processes = [
        context.Process(target=_keep_many, args=(scratch, number, barrier)) for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    # Of what all wanted at once, each piece is counted once.
    assert 16 * BLOCK < kept(scratch) == sum_of(scratch) <= 20 * BLOCK


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
        "import os; from pathlib import Path; from mixprint.storage.scratch import Scratch\n"
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
