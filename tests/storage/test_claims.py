import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pytest

from mixprint.errors import DataError
from mixprint.storage import claims
from mixprint.storage.claim_files import ClaimFiles, FolderClaims
from mixprint.storage.claims import (
    Claim,
    ClaimLostError,
    Observer,
    claim_owner,
    joint_work,
    take_claim,
    work_through,
)

HOLD = """
import sys, time
from pathlib import Path
from mixprint.storage.claims import take_claim
with take_claim(Path(sys.argv[1]), "task"):
    print("held", flush=True)
    time.sleep(60)
"""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def held_elsewhere(folder: Path, program: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has the task."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def from_another_machine(folder: Path, name: str = "task", generation: int = 1) -> Path:
    """Rewrite a claim as if its owner ran elsewhere: only the lease counts then."""
    path = folder / f"{name}.{generation}.claim"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "m", "host": "pod-7"}))
    return path


class Clock:
    """Stands for the clock of a worker, and what it has seen."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.observer = Observer(lambda: self.now_s)

    def take(self, folder: Path, after_s: float, name: str = "task") -> Claim | None:
        """Look for a task a while after the last look, at a lease of half a minute."""
        self.now_s += after_s
        return take_claim(folder, name, lease_s=30, observer=self.observer)


def taken_over(folder: Path) -> Claim:
    """Take the task of a worker elsewhere that does not renew its claim."""
    clock = Clock()
    assert clock.take(folder, 0) is None, "a first look takes nothing over"
    claim = clock.take(folder, 31)
    assert claim is not None
    return claim


def silent_since_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever cannot be seen here be gone."""
    monkeypatch.setattr(Observer, "silent_s", lambda *_: 1_000.0)


def test_one_holds_it_until_it_is_released(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    claim = take_claim(folder, "task")
    assert claim is not None
    with claim:
        claim.check()
        assert take_claim(folder, "task") is None
        assert str(os.getpid()) in claim_owner(folder, "task")
        with take_claim(folder, "task.2") or pytest.fail("another task"):
            assert files(folder) == ["task.1.claim", "task.2.1.claim"]
    assert files(folder) == []
    assert claim_owner(folder, "task") == ""
    assert take_claim(folder, "task") is not None


def test_a_killed_owner_is_followed_at_once_a_living_one_not(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        assert take_claim(tmp_path, "task") is None
        # Killed and not yet waited for, so the system still lists it.
        process.send_signal(signal.SIGKILL)
        deadline_s = time.monotonic() + 10
        while (claim := take_claim(tmp_path, "task")) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    assert files(tmp_path) == ["task.2.claim"]
    with claim:
        claim.check()
    assert files(tmp_path) == []


def test_a_process_id_that_was_used_again_is_no_owner(tmp_path: Path) -> None:
    assert take_claim(tmp_path, "task") is not None
    path = tmp_path / "task.1.claim"
    owner = json.loads(path.read_text())
    assert owner["pid"] == os.getpid()
    path.write_text(json.dumps(owner | {"started_ticks": owner["started_ticks"] - 1}))
    assert take_claim(tmp_path, "task") is not None


def test_another_machines_claim_is_good_for_a_lease_of_ones_own(tmp_path: Path) -> None:
    assert take_claim(tmp_path, "task") is not None
    path = from_another_machine(tmp_path)
    os.utime(path, (0, 0))
    clock = Clock()
    assert clock.take(tmp_path, 0) is None, "what time it bears does not count"
    assert clock.take(tmp_path, 29) is None
    assert claim_owner(tmp_path, "task").endswith("on pod-7")
    FolderClaims(tmp_path).renew(path.name)
    assert clock.take(tmp_path, 29) is None, "it was renewed"
    assert Clock().take(tmp_path, 1_000) is None, "a new worker has seen nothing yet"
    assert clock.take(tmp_path, 29) is None
    assert clock.take(tmp_path, 2) is not None


def test_a_claim_dated_ahead_is_not_waited_for_any_longer(tmp_path: Path) -> None:
    assert take_claim(tmp_path, "task") is not None
    ahead_s = time.time() + 3_600
    os.utime(from_another_machine(tmp_path), (ahead_s, ahead_s))
    taken_over(tmp_path).check()


def test_a_clock_that_is_set_takes_nothing_from_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take_claim(tmp_path, "task") is not None
    path = from_another_machine(tmp_path)
    clock = Clock()
    for step_s in (0, 86_400, -86_400, 86_400):
        # It is renewed all the time, by a file server whose clock jumps.
        os.utime(path, (1e9 + step_s, 1e9 + step_s))
        assert clock.take(tmp_path, 20) is None


def test_a_living_process_of_this_machine_keeps_its_claim_however_old(tmp_path: Path) -> None:
    assert take_claim(tmp_path, "task") is not None
    os.utime(tmp_path / "task.1.claim", (0, 0))
    clock = Clock()
    for _ in range(3):
        assert clock.take(tmp_path, 1_000) is None


def test_a_suspended_process_of_this_machine_keeps_its_claim_and_is_named(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        clock = Clock()
        for _ in range(2):
            assert clock.take(tmp_path, 1_000) is None
        assert f"suspended: kill -CONT {process.pid} " in claim_owner(tmp_path, "task")
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
        assert "suspended" not in claim_owner(tmp_path, "task")


def test_a_renewal_that_leaves_the_time_alone_is_seen_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems keep seconds, and some no times at all."""
    assert take_claim(tmp_path, "task") is not None
    path = from_another_machine(tmp_path)
    monkeypatch.setattr(os, "utime", lambda *_: None)
    clock = Clock()
    written, times = path.read_bytes(), path.stat()
    for _ in range(3):
        assert clock.take(tmp_path, 20) is None
        FolderClaims(tmp_path).renew(path.name)
        monkeypatch.undo()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        monkeypatch.setattr(os, "utime", lambda *_: None)
    assert json.loads(path.read_bytes()) == json.loads(written), "and says what it said"
    assert claim_owner(tmp_path, "task").endswith("on pod-7")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "t"}', '{"pid": "x"}'])
def test_a_claim_without_a_readable_owner_is_good_for_a_lease(tmp_path: Path, content: str) -> None:
    path = tmp_path / "task.1.claim"
    path.write_text(content)
    os.utime(path, (0, 0))
    assert "unknown" in claim_owner(tmp_path, "task")
    taken_over(tmp_path).check()


def test_a_claim_is_never_seen_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may be suspended for long at any place: nobody takes what it has not got."""
    dump = json.dump
    others: list[Claim | None] = []

    def slowly(value: object, file: TextIO) -> None:
        file.write('{"tok')
        file.flush()
        assert claims._generations(FolderClaims(tmp_path), "task") == []
        monkeypatch.setattr(json, "dump", dump)
        others.append(take_claim(tmp_path, "task"))
        file.seek(0)
        dump(value, file)

    monkeypatch.setattr(json, "dump", slowly)
    assert take_claim(tmp_path, "task") is None
    (other,) = others
    assert other is not None
    other.check()
    assert files(tmp_path) == ["task.1.claim"]


def test_without_hard_links_claims_are_exclusive_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    claim = take_claim(tmp_path, "task")
    assert claim is not None
    claim.check()
    assert not FolderClaims(tmp_path).create("task.1.claim", {})
    assert files(tmp_path) == ["task.1.claim"]


def test_a_link_that_the_server_made_at_the_first_of_two_requests_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def asked_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", asked_twice)
    assert take_claim(tmp_path, "task") is not None
    assert take_claim(tmp_path, "task") is None


def test_a_claim_is_renewed_while_its_owner_works(tmp_path: Path) -> None:
    claim = take_claim(tmp_path, "task", lease_s=0.3)
    assert claim is not None
    with claim:
        path = from_another_machine(tmp_path)
        # Only its content makes it somebody else's, and then it is no longer renewed.
        first_ns = path.stat().st_mtime_ns
        time.sleep(0.2)
        assert path.stat().st_mtime_ns == first_ns
        with pytest.raises(ClaimLostError, match="task"):
            claim.check()
    again = take_claim(tmp_path, "other", lease_s=0.3)
    assert again is not None
    with again:
        time.sleep(0.6)
        again.check()
        assert take_claim(tmp_path, "other", lease_s=0.3) is None


def test_who_sleeps_too_long_has_lost_it_and_takes_nothing_back(tmp_path: Path) -> None:
    late = take_claim(tmp_path, "task")
    assert late is not None
    from_another_machine(tmp_path)
    new = taken_over(tmp_path)
    with pytest.raises(ClaimLostError, match="taken over"):
        late.check()
    late.release()
    new.check()
    assert files(tmp_path) == ["task.2.claim"]


def test_of_many_that_take_over_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All see the same dead claim before any of them acts: the worst moment."""
    num_workers, num_rounds = 8, 20
    real_is_abandoned = claims._is_abandoned
    barrier = threading.Barrier(num_workers)

    def is_abandoned(*arguments: object) -> bool:
        found = real_is_abandoned(*arguments)  # type: ignore[arg-type]
        barrier.wait()
        return found

    silent_since_long(monkeypatch)
    monkeypatch.setattr(claims, "_is_abandoned", is_abandoned)
    for turn in range(num_rounds):
        name = f"task-{turn}"
        (tmp_path / f"{name}.1.claim").write_text("")
        with ThreadPoolExecutor(num_workers) as pool:
            won = list(pool.map(lambda name: take_claim(tmp_path, name), [name] * num_workers))
        assert sum(claim is not None for claim in won) == 1
        assert files(tmp_path)[-1:] == [f"{name}.2.claim"]
        (tmp_path / f"{name}.2.claim").unlink()


def test_a_slow_look_cannot_take_a_living_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sees a dead claim and pauses; meanwhile another takes it over, and lives."""
    (tmp_path / "task.1.claim").write_text("")
    silent_since_long(monkeypatch)
    real_create = claims._create
    others: list[claims.Claim | None] = []

    def create(*arguments: object) -> bool:
        monkeypatch.setattr(claims, "_create", real_create)
        others.append(take_claim(tmp_path, "task"))
        return real_create(*arguments)

    monkeypatch.setattr(claims, "_create", create)
    assert take_claim(tmp_path, "task") is None
    (other,) = others
    assert other is not None
    other.check()


def test_work_is_done_once_by_whomever(tmp_path: Path) -> None:
    names = [f"task-{index:02d}" for index in range(40)]
    done: list[str] = []

    def work(name: str, claim: claims.Claim) -> None:
        time.sleep(0.002)
        claim.check()
        done.append(name)

    def share() -> None:
        work_through(tmp_path, names, is_done=lambda n: n in done, work=work, poll_s=0.01)
        assert set(done) == set(names), "whoever returns finds all of it done"

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(share) for _ in range(4)]:
            future.result()
    assert sorted(done) == names
    assert files(tmp_path) == []
    work_through(tmp_path, [], is_done=lambda n: False, work=work)


def test_what_another_has_is_waited_for(tmp_path: Path) -> None:
    done: list[str] = []
    with held_elsewhere(tmp_path) as process:
        waiting = threading.Thread(
            target=lambda: work_through(
                tmp_path,
                ["task"],
                is_done=lambda name: name in done,
                work=lambda name, claim: done.append("here"),
                poll_s=0.01,
            )
        )
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
        assert process.poll() is None
        done.append("task")
        waiting.join(5)
        assert not waiting.is_alive()
    assert done == ["task"]


def test_a_task_that_was_lost_is_waited_for(tmp_path: Path) -> None:
    done: list[str] = []
    tried: list[str] = []

    def work(name: str, claim: claims.Claim) -> None:
        tried.append(name)
        if len(tried) == 1:
            from_another_machine(tmp_path)
            with taken_over(tmp_path):
                claim.check()
        done.append(name)

    work_through(tmp_path, ["task"], is_done=lambda n: n in done, work=work, poll_s=0.01)
    assert tried == ["task", "task"]
    assert done == ["task"]
    assert files(tmp_path) == []


def test_the_claim_of_one_killed_after_its_work_is_cleared_away(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        process.kill()
        process.wait()
        assert files(tmp_path) == ["task.1.claim"]
        work_through(tmp_path, ["task"], is_done=lambda n: True, work=lambda n, c: None)
        assert files(tmp_path) == []


def test_a_claim_that_one_was_killed_over_is_cleared_away(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        (tmp_path / "task.1.claim").rename(tmp_path / ".writing-1")
        work_through(tmp_path, ["task"], is_done=lambda n: True, work=lambda n, c: None)
        assert files(tmp_path) == [".writing-1"], "its writer lives"
        process.kill()
        process.wait()
        work_through(tmp_path, ["task"], is_done=lambda n: True, work=lambda n, c: None)
        assert files(tmp_path) == []


def test_a_living_workers_claim_is_not_cleared_away(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path):
        work_through(tmp_path, ["task"], is_done=lambda n: True, work=lambda n, c: None)
        assert files(tmp_path) == ["task.1.claim"]


def test_a_failure_frees_the_task(tmp_path: Path) -> None:
    def fail(name: str, claim: claims.Claim) -> None:
        raise DataError(name)

    with pytest.raises(DataError, match="task"):
        work_through(tmp_path, ["task"], is_done=lambda n: False, work=fail)
    assert files(tmp_path) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", write)
    with pytest.raises(DataError, match=r"task.*disk full \(ENOSPC\)"):
        take_claim(tmp_path, "task")
    assert files(tmp_path) == []


def test_who_comes_too_late_with_a_lower_generation_leaves_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = claims._create

    def overtaken(files: ClaimFiles, claim: str, owner: claims.Owner) -> bool:
        create(files, "a.2.claim", replace(owner, token="faster"))
        return create(files, claim, owner)

    monkeypatch.setattr(claims, "_create", overtaken)
    assert take_claim(tmp_path, "a") is None
    # Its process lives, and nobody would renew it: it would block the task for a whole lease.
    assert [path.name for path in tmp_path.iterdir()] == ["a.2.claim"]


JOIN = """
import sys, time
from pathlib import Path
from mixprint.storage.claims import joint_work
with joint_work(Path(sys.argv[1]), "stems", "a" * 64, "separate with overlap 0.25"):
    print("held", flush=True)
    time.sleep(60)
"""


def joins(folder: Path, recipe: str, **options: Any) -> AbstractContextManager[None]:
    return joint_work(folder, "stems", recipe * 64, f"separate by {recipe}", **options)


def test_workers_of_one_recipe_work_together_and_no_others_beside_them(tmp_path: Path) -> None:
    with joins(tmp_path, "a"), joins(tmp_path, "a"):
        message = rf"stems: .*found separate by a \(process {os.getpid()} on .*here separate by b; "
        with pytest.raises(DataError, match=message), joins(tmp_path, "b"):
            pytest.fail("two recipes at a time")
    with joins(tmp_path, "b"):
        pass
    assert files(tmp_path) == []


def test_a_worker_that_was_killed_keeps_no_other_recipe_out(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, JOIN) as process:
        with pytest.raises(DataError, match=r"overlap 0\.25"), joins(tmp_path, "b"):
            pytest.fail("two recipes at a time")
        process.kill()
        process.wait()
        with joins(tmp_path, "b"):
            pass
        assert files(tmp_path) == []


@pytest.mark.parametrize("is_alive", [True, False])
def test_of_another_recipe_elsewhere_a_sign_of_life_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_alive: bool
) -> None:
    """At once nobody can tell a pod that works from the claim of one that was lost."""
    with joins(tmp_path, "a"):
        (path,) = tmp_path.iterdir()
        owner = json.loads(path.read_text())
    path.write_text(json.dumps(owner | {"machine": "m", "host": "pod-7"}))
    clock = Clock()

    def sleep(_: float) -> None:
        clock.now_s += 10
        if is_alive and clock.now_s == 20:
            FolderClaims(tmp_path).renew(path.name)

    monkeypatch.setattr(time, "sleep", sleep)
    other = joins(tmp_path, "b", lease_s=30, observer=clock.observer)
    if is_alive:
        with pytest.raises(DataError, match="on pod-7"), other:
            pytest.fail("two recipes at a time")
        assert clock.now_s == 20
        return
    with other:
        assert clock.now_s == 40
        assert path.name not in files(tmp_path)
