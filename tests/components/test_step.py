import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from components.layout import described_stems, evaluation_manifest, stems_manifest
from components.run_folder import RunFolder
from components.step import Manifest, Sharding, _MemoryMeter, once, recorded, section_json
from mixprint.collection.shards import SeparatorFingerprint, read_index, shard_name, write_shard
from mixprint.errors import ConfigError, DataError
from mixprint.storage.atomic import atomic_path, read_json
from pipelines.run_local import _raw_records
from tests.processes import wait_until


class Work:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, folder: Path, text: str = "result") -> None:
        self.folder, self.text, self.calls = folder, text, 0

    def __call__(self) -> dict[str, float]:
        self.calls += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "out.txt").write_text(self.text)
        return {"files": 1}

    def once(self, root: Path, recipe: dict[str, int], *, owns_marker: bool = True) -> Manifest:
        return once(
            step="demo",
            run=RunFolder(root),
            folder=self.folder,
            recipe=recipe,
            files=["out.txt"],
            work=self,
            owns_marker=owns_marker,
        )


def test_finished_work_is_not_done_again(tmp_path: Path) -> None:
    work = Work(tmp_path / "demo")
    first = work.once(tmp_path, {"a": 1})
    second = work.once(tmp_path, {"a": 1})
    assert work.calls == 1
    assert first == second
    assert first.counts == {"files": 1}


def test_another_recipe_does_it_again(tmp_path: Path) -> None:
    work = Work(tmp_path / "demo")
    work.once(tmp_path, {"a": 1})
    work.once(tmp_path, {"a": 2})
    assert work.calls == 2


@pytest.mark.parametrize("damage", ["edit", "remove"])
def test_damaged_output_is_made_again(tmp_path: Path, damage: str) -> None:
    work = Work(tmp_path / "demo")
    first = work.once(tmp_path, {"a": 1})
    path = tmp_path / "demo" / "out.txt"
    path.write_text("resulT") if damage == "edit" else path.unlink()
    assert work.once(tmp_path, {"a": 1}) == first
    assert work.calls == 2


def test_work_that_failed_leaves_no_marker(tmp_path: Path) -> None:
    work = Work(tmp_path / "demo")
    work.once(tmp_path, {"a": 1})

    def fail() -> dict[str, float]:
        raise DataError("broken input")

    with pytest.raises(DataError, match="broken input"):
        once(
            step="demo",
            run=RunFolder(tmp_path),
            folder=work.folder,
            recipe={"a": 2},
            files=["out.txt"],
            work=fail,
        )
    work.once(tmp_path, {"a": 1})
    assert work.calls == 2, "the outputs may be of either recipe, so neither is finished"


def test_who_only_helps_leaves_the_marker_alone(tmp_path: Path) -> None:
    work = Work(tmp_path / "demo")
    first = work.once(tmp_path, {"a": 1})
    marker = tmp_path / "steps" / "demo.done.json"
    before = marker.read_bytes()
    assert work.once(tmp_path, {"a": 1}, owns_marker=False) == first
    assert work.calls == 1
    assert work.once(tmp_path, {"a": 2}, owns_marker=False) == first
    assert work.calls == 2
    assert marker.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "null",
        "",
        '{"recipe": ',
        "garbage",
        "[" * 100_000,
        '{"recipe": 1, "files": {}, "counts": {}}',
        '{"recipe": "x", "files": [], "counts": {}}',
        '{"recipe": "x", "files": {"out.txt": null}, "counts": {}}',
        '{"recipe": "x", "files": {}, "counts": {"files": "many"}}',
    ],
)
def test_a_damaged_marker_counts_as_missing(tmp_path: Path, text: str) -> None:
    work = Work(tmp_path / "demo")
    first = work.once(tmp_path, {"a": 1})
    marker = tmp_path / "steps" / "demo.done.json"
    whole = marker.read_bytes()
    marker.write_text(text)
    assert work.once(tmp_path, {"a": 1}) == first
    assert work.calls == 2
    assert marker.read_bytes() == whole


def test_a_damaged_marker_tells_no_counts(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text("{}")
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "evaluate.done.json").write_text("[]")
    assert evaluation_manifest(tmp_path).counts == {}


@pytest.mark.parametrize("text", ["[]", "null", "[" * 5_000, '{"step": "demo"}', "half of a"])
def test_damaged_records_are_left_out(tmp_path: Path, text: str) -> None:
    with recorded(tmp_path, "demo"):
        pass
    (tmp_path / "steps" / "other.json").write_text(text)
    [record] = _raw_records(tmp_path, 0.0)
    assert record.step == "demo"


def test_a_root_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "steps").touch()
    with pytest.raises(DataError, match=r"/steps: .*File exists \(EEXIST\)$"):
        recorded(tmp_path, "demo").__enter__()


def test_what_a_step_cannot_write_is_one_sentence(tmp_path: Path) -> None:
    def refused() -> None:
        with recorded(tmp_path, "demo") as run:
            raise PermissionError(errno.EACCES, "no", str(run.path / "features"))

    with pytest.raises(DataError, match=r"features: .*Permission denied \(EACCES\)$"):
        refused()


def test_missing_output_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"demo, missing are \['other.txt'\]"):
        once(
            step="demo",
            run=RunFolder(tmp_path),
            folder=tmp_path / "demo",
            recipe={},
            files=["other.txt"],
            work=Work(tmp_path / "demo"),
        )


def test_equal_content_has_an_equal_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    here, there = Work(tmp_path / "a"), Work(tmp_path / "b")
    one, two = here.once(tmp_path / "run1", {}), there.once(tmp_path / "run2", {"x": 1})
    assert one.fingerprint == two.fingerprint
    other = Work(tmp_path / "c", "other").once(tmp_path / "run3", {})
    assert other.fingerprint != one.fingerprint


def test_manifest_survives_its_file(tmp_path: Path) -> None:
    manifest = Manifest(step="demo", uri="results/x", fingerprint="ab", counts={"tracks": 3})
    manifest.save(tmp_path / "artifact")
    assert Manifest.load(tmp_path / "artifact") == manifest


def test_other_json_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "artifact").write_text('{"uri": "x"}')
    with pytest.raises(DataError, match="expected a manifest"):
        Manifest.load(tmp_path / "artifact")


def test_parts_are_joined_in_any_order() -> None:
    parts = [
        Manifest(step="separate", uri="stems", fingerprint=str(i), counts={"shard": i})
        for i in range(3)
    ]
    assert Manifest.joined(parts) == Manifest.joined(parts[::-1])
    stranger = Manifest(step="separate", uri="elsewhere", fingerprint="9", counts={})
    with pytest.raises(DataError, match="parts of one folder"):
        Manifest.joined([*parts, stranger])


def test_record_of_a_step_that_ended_well(tmp_path: Path) -> None:
    with recorded(tmp_path, "demo"):
        assert read_json(tmp_path / "steps" / "demo.json")["state"] == "running"
    record = read_json(tmp_path / "steps" / "demo.json")
    assert record["state"] == "done"
    assert record["seconds"] >= 0
    assert record["peak_bytes"] > 10_000_000, "a Python process with torch is larger than 10 MB"


def test_the_memory_of_what_a_step_has_started_counts() -> None:
    command = [sys.executable, "-c", "large = b'x' * 200_000_000; input()"]
    own_bytes = psutil.Process().memory_info().rss
    with _MemoryMeter() as meter, subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        wait_until(lambda: meter._peak_bytes > own_bytes + 150_000_000)
        child.kill()


def test_record_of_a_step_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with recorded(tmp_path, "demo"):
            raise DataError("no songs")

    with pytest.raises(DataError):
        fail()
    record = read_json(tmp_path / "steps" / "demo.json")
    assert record["state"] == "failed"
    assert record["error"] == "DataError: no songs"


def test_the_separation_takes_its_part_of_the_section_ingest() -> None:
    section = {"num_shards": 8, "max_reject_fraction": 0.5, "seed": 1}
    assert Sharding.of_section(section) == Sharding(num_shards=8, max_reject_fraction=0.5)
    with pytest.raises(ConfigError, match=r"num_shards"):
        Sharding.of_section(section | {"num_shards": 0})


def test_sections_have_one_text() -> None:
    assert section_json({"b": 1, "a": 2.0}) == section_json({"a": 2.0, "b": 1})


def test_a_step_keeps_other_starts_of_itself_out_and_no_other_step(tmp_path: Path) -> None:
    with recorded(tmp_path, "demo"), recorded(tmp_path, "other"):
        before = (tmp_path / "steps" / "demo.json").read_bytes()
        message = rf"the step demo \(process {os.getpid()} on .*wait for its end"
        with pytest.raises(DataError, match=message), recorded(tmp_path, "demo"):
            pytest.fail("two at a time")
        assert (tmp_path / "steps" / "demo.json").read_bytes() == before, (
            "the record is the first's"
        )
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == [
        "demo.json",
        "other.json",
    ]


def test_workers_of_a_step_that_is_shared_are_let_in(tmp_path: Path) -> None:
    with (
        recorded(tmp_path, "demo", is_shared=True),
        recorded(tmp_path, "demo", is_shared=True),
    ):
        pass


def test_a_half_record_of_a_worker_that_is_long_dead_is_removed_and_no_fresh_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "steps" / "demo.json"
    left = []
    for _ in range(2):
        with atomic_path(path) as temporary:
            temporary.write_text("{}")
        temporary.write_text("{")
        left.append(temporary)
    old, fresh = left
    os.utime(old, (1e9, 1e9))
    with recorded(tmp_path, "demo", is_shared=True):
        assert not old.exists()
        assert fresh.exists(), "another worker may be writing it now"
    with recorded(tmp_path, "demo"):
        assert not fresh.exists()


STEP = """
import sys, time
from pathlib import Path
from components.step import recorded
from mixprint.storage.atomic import atomic_path
with recorded(sys.argv[1], "demo") as run, atomic_path(run.path / "demo" / "out.txt") as path:
    path.write_text("half")
    print("at work", flush=True)
    time.sleep(60)
"""


@contextmanager
def step_at_work(root: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", STEP, str(root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "at work\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_that_was_ended_keeps_nobody_out_and_what_it_left_is_removed(
    tmp_path: Path, number: signal.Signals
) -> None:
    with step_at_work(tmp_path) as process:
        process.send_signal(number)
        process.wait()
    left = list((tmp_path / "demo").iterdir())
    assert len(left) == (number == signal.SIGKILL), "SIGTERM ends it in good order"
    stranger = tmp_path / "demo" / ".writing-of-somebody-else"
    stranger.write_text("not ours")
    with recorded(tmp_path, "demo"):
        Work(tmp_path / "demo").once(tmp_path, {"a": 1})
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"out.txt", stranger.name}
    names = {path.name for path in (tmp_path / "steps").iterdir()}
    assert names == {"demo.json", "demo.done.json"}


def test_steps_end_with_the_local_run_that_has_started_them(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as runner,
        step_at_work(tmp_path, MIXPRINT_RUNNER=str(runner.pid)) as process,
    ):
        runner.kill()
        assert process.wait(30) == 128 + signal.SIGTERM


def write_set(folder: Path, recipes: list[str]) -> None:
    for index, recipe in enumerate(recipes):
        with write_shard(
            folder / shard_name(index, len(recipes)),
            fingerprint=f"{recipe} {index}",
            sample_rate_hz=44_100,
            separator=SeparatorFingerprint("none", "", "1"),
            recipe=recipe,
        ):
            pass


def test_shards_of_two_recipes_are_no_set(tmp_path: Path) -> None:
    write_set(tmp_path / "stems", ["a", "a"])
    assert stems_manifest(tmp_path).counts == {"parts": 2}
    write_set(tmp_path / "stems", ["a", "b"])
    message = "2 recipes: that of shard-00000-of-00002.parquet is not that of shard-00001"
    for read in (stems_manifest, lambda root: read_index(root / "stems")):
        with pytest.raises(DataError, match=message):
            read(tmp_path)


def test_a_step_reads_the_stems_that_its_manifest_describes(tmp_path: Path) -> None:
    write_set(tmp_path / "stems", ["a", "a"])
    run, stems = RunFolder(tmp_path), stems_manifest(tmp_path)
    with described_stems(run, stems) as folder:
        assert folder == tmp_path / "stems"
    with (
        pytest.raises(DataError, match="found others while they were read"),
        described_stems(run, stems),
    ):
        write_set(tmp_path / "stems", ["b", "b"])
    with pytest.raises(DataError, match=r"found others \("), described_stems(run, stems):
        pytest.fail("other stems were given")
