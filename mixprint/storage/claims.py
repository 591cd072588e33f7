"""Claims: many workers share a list of tasks over one folder, without a coordinator.

The workers may be processes of one machine or of many (pods, hosts with a common NFS, or with a
bucket in place of the folder). All that is asked of the folder is that a file can be created
exclusively, so no locks are involved.

A claim is a file ``<name>.<generation>.claim`` that says who owns it. The newest generation
counts. Its owner renews it while it works, by touching the file, and removes it at the end. A
claim whose owner is gone is taken over by creating the next generation: of several workers that
want to, one succeeds, and no claim that somebody lives by is ever moved or overwritten. (A claim
that is renamed or deleted to make room may by then be that of a faster worker.)

An owner on this machine is gone when its process has ended, and not before: one that is suspended,
or whose machine has slept, keeps its claim. An owner elsewhere is gone when this worker itself has
seen no renewal for the length of a lease (`Observer`). The time that a claim bears does not count:
a clock that is wrong or is set changes nothing, and a worker that has just started looks on for a
whole lease before it takes anything over.

What a claim cannot do is to stop an owner elsewhere that was suspended for longer than the lease:
it wakes up and believes that it still owns the task, until it looks (`Claim.check`) or its next
renewal looks. It has to look just before it publishes. Tasks have to give the same result whoever
does them, publish it by a rename, and remove nothing that they have not seen before the work: then
the late owner at worst puts the same bytes in their own place once more.
"""

import logging
import os
import re
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self, TypeGuard

from mixprint.errors import DataError, MixprintError, OccupiedError
from mixprint.machine.processes import process_state, runs
from mixprint.schema import as_record, parse_json
from mixprint.storage.atomic import TEMPORARY_PREFIX, write_errors_named
from mixprint.storage.bucket import GcsBucket
from mixprint.storage.claim_files import ClaimFiles, claim_files

log = logging.getLogger("mixprint.claims")

# NFS clients may believe for a minute that nothing has changed; a claim is opened before its stamp
# is read, which asks the server, but a lease below that would be rash all the same.
LEASE_S = 90.0
RENEWALS_PER_LEASE = 6
POLL_S = 1.0
CLAIM_SUFFIX = ".claim"
# So much of a recipe tells it from another one, in the name of a claim.
RECIPE_DIGITS = 16
_GATE = "~gate"
# States of a process that a signal or a debugger has stopped, see `process_state`.
SUSPENDED = ("T", "t")

_GENERATION = re.compile(r"\.(\d+)\.claim")


class ClaimLostError(MixprintError):
    """A task is somebody else's now, because its owner did not renew the claim in time."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Holder of a claim.

    Attributes:
        token: tells this claim from all others.
        host: name of the machine, for messages.
        machine: tells running systems apart, see `_machine`.
        pid: the process on that machine.
        started_ticks: when it started; process ids are used again.
        activity: what it does, for messages.
    """

    token: str
    host: str
    machine: str
    pid: int
    started_ticks: int
    activity: str


class Observer:
    """Time for which this process has seen no sign of life of the owners of claims.

    Its clock is this process's own, and stands still while the machine sleeps.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Have seen nothing yet."""
        self._clock_s = clock_s
        self._seen: dict[str, tuple[Hashable, float]] = {}

    def silent_s(self, where: str, stamp: Hashable) -> float:
        """Tell how long a claim has had the stamp that it has now, 0 at the first sight."""
        now_s = self._clock_s()
        known_stamp, since_s = self._seen.get(where, (None, now_s))
        if known_stamp != stamp:
            self._seen[where] = stamp, now_s
            return 0.0
        return now_s - since_s


_OBSERVER = Observer()


class Claim:
    """A task of one's own; made by `take_claim`, used as a context.

    Inside the context a thread renews the claim; at its end the claim is released.
    """

    def __init__(self, files: ClaimFiles, name: str, generation: int, owner: Owner, lease_s: float):
        """Describe a claim whose file exists."""
        self._files, self._name, self._generation = files, name, generation
        self._file = _claim_name(name, generation)
        self._owner = owner
        self._renew_every_s = lease_s / RENEWALS_PER_LEASE
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"claim-{name}", daemon=True)

    def __enter__(self) -> Self:
        """Start to renew."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to renew, and let others have the task if it is still ours to give."""
        self._stop.set()
        self._thread.join()
        self.release()

    def check(self) -> None:
        """Make sure that the task is still ours; cheap enough for every step of the work.

        Raises:
            ClaimLostError: it has been taken over.
        """
        if not self.is_held():
            raise ClaimLostError(
                f"{self._files.where(self._file)}: expected the claim of process "
                f"{self._owner.pid} on {self._owner.host}, found that it was taken over: it was "
                "not renewed in time"
            )

    def is_held(self) -> bool:
        """Tell whether the task is still ours."""
        newest = max(_generations(self._files, self._name), default=0)
        return self._is_there() and newest <= self._generation

    def release(self) -> None:
        """Remove the claim's file, if it is still ours; a newer generation stays."""
        if self._is_there():
            self._files.remove(self._file)

    def _is_there(self) -> bool:
        seen = _look(self._files, self._file)
        return seen is not None and seen.owner == self._owner

    def _renew(self) -> None:
        while not self._stop.wait(self._renew_every_s):
            try:
                if not self.is_held():
                    log.warning("%s: the claim was taken over", self._name)
                    return
                self._files.renew(self._file)
            except (OSError, DataError) as error:
                # A file server may be away for a moment; the lease bears some failures.
                log.warning("%s: the claim could not be renewed: %s", self._name, error)


@dataclass(frozen=True)
class _Seen:
    """Content of a claim's file: the owner, None if that cannot be read; and its stamp."""

    owner: Owner | None
    stamp: Hashable


def take_claim(
    folder: Path | GcsBucket,
    name: str,
    *,
    activity: str = "",
    lease_s: float = LEASE_S,
    observer: Observer = _OBSERVER,
) -> Claim | None:
    """Claim a task, unless a living worker has it.

    Args:
        folder: where the claims lie, common to all workers; created if it is missing. Or a bucket.
        name: of the task; fit for a file name.
        activity: what this worker does, for the messages of others.
        lease_s: how long a claim from another machine is good for without renewal. The same for
            all workers.
        observer: what this process has seen of the claims so far.

    Returns:
        the claim, to be entered at once; None if the task is somebody else's, or if several
        workers went for it in this moment and another one has got it.

    Raises:
        DataError: the disk is full, or the bucket cannot be used.
    """
    files = claim_files(folder)
    with write_errors_named(files.where(name)):
        return _take(files, name, activity, lease_s, observer)


def _take(
    files: ClaimFiles, name: str, activity: str, lease_s: float, observer: Observer
) -> Claim | None:
    files.make()
    generations = _generations(files, name)
    newest = max(generations, default=0)
    if newest:
        where = files.where(_claim_name(name, newest))
        seen = _look(files, _claim_name(name, newest))
        if seen is None or not _is_abandoned(seen, where, lease_s, observer):
            return None
        log.info("%s: taken over from %s, which is gone", name, _described(seen.owner))
    owner = _this_process(activity)
    if not _create(files, _claim_name(name, newest + 1), owner):
        return None
    claim = Claim(files, name, newest + 1, owner, lease_s)
    # Who looked before us, and was slow, may have created a higher generation in the meantime.
    if not claim.is_held():
        claim.release()
        return None
    for older in generations:
        files.remove(_claim_name(name, older))
    return claim


def claim_owner(folder: Path | GcsBucket, name: str) -> str:
    """Say who has a task, for the log; empty if nobody has."""
    files = claim_files(folder)
    newest = max(_generations(files, name), default=0)
    seen = _look(files, _claim_name(name, newest)) if newest else None
    return _described(seen.owner) if seen else ""


def work_through(
    folder: Path | GcsBucket,
    names: Sequence[str],
    *,
    is_done: Callable[[str], bool],
    work: Callable[[str, Claim], None],
    lease_s: float = LEASE_S,
    poll_s: float = POLL_S,
) -> None:
    """Do tasks together with all other workers that call this with the same folder.

    Each worker begins at another place of the list, leaves out what is done or claimed, and at
    the end waits for what others still have, and takes that over if they die.

    Args:
        folder: where the claims lie; or a bucket.
        names: of the tasks.
        is_done: tells whether a task is finished, by whomever.
        work: does a task. It may call `Claim.check` and should do so before it publishes.
        lease_s: see `take_claim`.
        poll_s: time between two looks at what others have.

    Raises:
        whatever `work` raises, but `ClaimLostError`: that task is waited for again.
    """
    first = secrets.randbelow(len(names)) if names else 0
    left = [*names[first:], *names[:first]]
    told: dict[str, str] = {}
    while True:
        left = [name for name in left if not _done_or_did(folder, name, is_done, work, lease_s)]
        if not left:
            _clear_dead(folder, names, lease_s)
            return
        for name in left:
            owner = claim_owner(folder, name)
            if owner and told.get(name) != owner:
                told[name] = owner
                log.info("%s: %s works on it, waiting", name, owner)
        time.sleep(poll_s)


def _clear_dead(folder: Path | GcsBucket, names: Sequence[str], lease_s: float) -> None:
    """Remove the claims of workers that died as they wrote them, or after the end of their task."""
    files = claim_files(folder)
    found = files.names()
    for name in found:
        seen = _look(files, name) if name.startswith(TEMPORARY_PREFIX) else None
        if seen is not None and _is_abandoned(seen, files.where(name), lease_s, _OBSERVER):
            files.remove(name)
    claimed = {_GENERATION.sub("", name) for name in found if name.endswith(CLAIM_SUFFIX)}
    for name in claimed.intersection(names):
        claim = take_claim(folder, name, lease_s=lease_s)
        if claim is not None:
            claim.release()


@contextmanager
def joint_work(
    folder: Path | GcsBucket,
    what: str,
    recipe: str,
    activity: str,
    *,
    lease_s: float = LEASE_S,
    poll_s: float = POLL_S,
    observer: Observer = _OBSERVER,
) -> Iterator[None]:
    """Work on something together with all that follow the same recipe, and with nobody else.

    Each worker has a claim of its own, whose name holds the recipe. To look at the others and to
    add one's own takes a claim that all of them share, so that no two come in at once.

    Args:
        folder: where the claims lie; or a bucket.
        what: all of them work on; fit for a file name.
        recipe: fingerprint of all that the result follows from.
        activity: what this worker does, with its parameters, for the messages of others.
        lease_s: see `take_claim`.
        poll_s: time between two looks.
        observer: see `take_claim`.

    Raises:
        OccupiedError: a living worker follows another recipe; the message names both.
    """
    files, digest = claim_files(folder), recipe[:RECIPE_DIGITS]
    gate_name = f"{what}{_GATE}"
    first_stamps: dict[str, Hashable] = {}
    told = ""
    while True:
        gate = take_claim(folder, gate_name, lease_s=lease_s, observer=observer)
        if gate is None:
            waited_for = claim_owner(folder, gate_name)
        else:
            with gate:
                other = _other_recipe(files, what, digest, lease_s, observer)
                if other is None:
                    mine = _joined(folder, f"{what}~{digest}~{uuid.uuid4().hex}", activity, lease_s)
                    if gate.is_held():
                        break
                    mine.release()
                    continue
            where, seen = other
            waited_for = _described(seen.owner)
            if _is_here(seen.owner) or first_stamps.setdefault(where, seen.stamp) != seen.stamp:
                raise OccupiedError(
                    f"{what}: expected all that work on it at one time to do the same, found "
                    f"{waited_for} there, and here {activity}; wait for its end, or give another "
                    "root"
                )
        if waited_for and waited_for != told:
            told = waited_for
            log.info("%s: waiting for a sign of life of %s", what, waited_for)
        time.sleep(poll_s)
    try:
        with mine:
            yield
    finally:
        # Removes the claims of those who were killed meanwhile.
        _other_recipe(files, what, digest, lease_s, observer)


def _joined(folder: Path | GcsBucket, name: str, activity: str, lease_s: float) -> Claim:
    claim = take_claim(folder, name, activity=activity, lease_s=lease_s)
    assert claim is not None, "nobody else knows the name"
    return claim


def _other_recipe(
    files: ClaimFiles, what: str, digest: str, lease_s: float, observer: Observer
) -> tuple[str, _Seen] | None:
    """Find who works on something by another recipe; claims of those who are gone are removed."""
    found = None
    for name in files.names():
        if not (name.startswith(f"{what}~") and name.endswith(CLAIM_SUFFIX)):
            continue
        where, seen = files.where(name), _look(files, name)
        if seen is None or name.startswith(f"{what}{_GATE}."):
            continue
        if _is_abandoned(seen, where, lease_s, observer):
            files.remove(name)
        elif not name.startswith(f"{what}~{digest}~"):
            found = where, seen
    return found


def _done_or_did(
    folder: Path | GcsBucket,
    name: str,
    is_done: Callable[[str], bool],
    work: Callable[[str, Claim], None],
    lease_s: float,
) -> bool:
    """Do a task if it is left to be done and free; tell whether it is done now."""
    if is_done(name):
        return True
    claim = take_claim(folder, name, lease_s=lease_s)
    if claim is None:
        return False
    with claim:
        # Its last owner may have finished it between our look and our claim.
        if is_done(name):
            return True
        try:
            work(name, claim)
        except ClaimLostError as error:
            log.warning("%s", error)
            return False
    return True


def _claim_name(name: str, generation: int) -> str:
    return f"{name}.{generation}{CLAIM_SUFFIX}"


def _generations(files: ClaimFiles, name: str) -> list[int]:
    """List the generations of a task's claim; several if one was just taken over."""
    return [
        int(match[1])
        for found in files.names()
        if found.startswith(name) and (match := _GENERATION.fullmatch(found, len(name)))
    ]


def _create(files: ClaimFiles, claim: str, owner: Owner) -> bool:
    return files.create(claim, asdict(owner))


def _look(files: ClaimFiles, claim: str) -> _Seen | None:
    """Read a claim; None if it is gone."""
    written = files.look(claim)
    if written is None:
        return None
    try:
        owner = as_record(parse_json(written.content, claim), claim, Owner)
    except DataError:
        owner = None
    return _Seen(owner, written.stamp)


def _is_abandoned(seen: _Seen, where: str, lease_s: float, observer: Observer) -> bool:
    """Tell whether a claim's owner is gone."""
    if _is_here(seen.owner):
        return not runs(seen.owner.pid, seen.owner.started_ticks)
    return observer.silent_s(where, seen.stamp) > lease_s


def _is_here(owner: Owner | None) -> TypeGuard[Owner]:
    """Tell whether a claim's owner runs, or ran, where this process can see it."""
    return owner is not None and owner.machine == _machine()


def _described(owner: Owner | None) -> str:
    if owner is None:
        return "an unknown process"
    text = f"process {owner.pid} on {owner.host}"
    if owner.activity:
        text = f"{owner.activity} ({text})"
    if _is_here(owner) and process_state(owner.pid)[0] in SUSPENDED:
        text += f" (suspended: kill -CONT {owner.pid} lets it go on)"
    return text


def _this_process(activity: str) -> Owner:
    pid = os.getpid()
    return Owner(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=pid,
        started_ticks=process_state(pid)[1],
        activity=activity,
    )


@cache
def _machine() -> str:
    """Name the running system and the space of process ids that this process lives in.

    Containers of one host have ids of their own, and may have one host name: a process of the
    other one must not be looked for here. Where Linux does not tell, every process counts as a
    machine of its own, and then leases decide.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex
