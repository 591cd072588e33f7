"""The folder of a run as a step sees it: local, wherever the run lies.

Below a local root a step works in place. Of a run in a bucket it has a mirror on local disk
(`mixprint.storage.scratch`), gone at its end: what it reads is fetched when it asks for it, what
it has changed is uploaded by `publish`, data before what vouches for them. Stem shards are not
mirrored: a folder stands for theirs, and they are read out of the bucket by pieces
(`mixprint.collection.remote_shards`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mixprint.errors import ConfigError, DataError, MixprintError, TrainingError
from mixprint.fingerprint import file_sha256
from mixprint.machine.processes import sigterm_exits
from mixprint.schema import Number, as_record
from mixprint.storage.atomic import TEMPORARY_PREFIX
from mixprint.storage.bucket import GcsBucket, in_parallel, is_bucket, open_bucket
from mixprint.storage.claims import LEASE_S, Claim, ClaimLostError, claim_owner, take_claim
from mixprint.storage.locks import sole_use
from mixprint.storage.scratch import Scratch

log = logging.getLogger("mixprint.step")

STEMS_FOLDER, CLAIMS_FOLDER, STEPS_DIR = "stems", "claims", "steps"
# While a step works, what it has saved to resume from is uploaded so often.
FOLLOW_EVERY_S = 15.0
# Longer than the lease of a worker that was killed.
CLAIM_PATIENCE_S, CLAIM_POLL_S = 2 * LEASE_S, 2.0
IN_USE_SUFFIX = ".in-use"
_MIRROR, _PRIVATE = "run", "private"
_DONE_SUFFIX, _JSON_SUFFIX = ".done.json", ".json"


@dataclass(frozen=True, kw_only=True)
class DoneMarker:
    """Marker of a finished step.

    Attributes:
        recipe: fingerprint of what the outputs were made from.
        files: path of each output -> its SHA-256.
        counts: how much there is.
        objects: what a bucket tells of each output, see `MirroredRun.proofs`.
    """

    recipe: str
    files: Mapping[str, str]
    counts: Mapping[str, Number]
    objects: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, where: str | Path, content: Callable[[], Any]) -> Self | None:
        """Read a marker; a damaged one counts as missing: its step makes it again.

        Args:
            where: it lies, for the log.
            content: reads it as JSON.
        """
        try:
            return as_record(content(), where, cls)
        except DataError as error:
            log.warning("%s; the marker counts as missing", error)
            return None


class RunFolder:
    """A run below a local root.

    Attributes:
        path: where the step works.
        root: names the run, also for other machines.
        is_mirror: whether other machines that work on the run have folders of their own.
    """

    is_mirror = False

    def __init__(self, path: Path) -> None:
        """Touch nothing yet."""
        self.path = path
        self.root = str(path.absolute())

    def name_of(self, path: Path) -> str:
        """Name a file or folder below `path`, as `refresh` does."""
        return path.relative_to(self.path).as_posix()

    def uri(self, folder: Path) -> str:
        """Say where a folder below `path` lies for other steps, for manifests."""
        return str(folder)

    def local(self, uri: str, *names: str) -> Path:
        """Return the folder that another step has named in its manifest.

        Args:
            uri: from the manifest.
            names: of the files that are needed; none: all.

        Raises:
            DataError: it cannot be read, or is none of this run.
        """
        del names
        return Path(uri)

    def localised(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Put folders of this machine in place of those that `uri` has named."""
        return dict(values)

    def private(self, name: str) -> Path:
        """Return a place for what no other step needs."""
        return self.path / name

    def refresh(self, name: str) -> None:
        """Look what has become of a file below `path`; it may be missing."""

    def restore(self, folder: Path) -> None:
        """Bring back what an earlier attempt has left in a folder, to resume from."""

    def check_machines(self, *, is_alone: bool) -> None:
        """Refuse work of several machines together where they would not see the same files.

        Args:
            is_alone: whether this machine works alone.

        Raises:
            ConfigError: it does not, and the run lies in a bucket.
        """
        del is_alone

    def publish(self) -> None:
        """Let others see what has changed below `path`.

        Raises:
            DataError: it cannot be written.
        """

    @contextmanager
    def sole_use(self, step: str) -> Iterator[None]:
        """Keep every other start of a step out while this one is at work on it.

        Raises:
            DataError: another one is; the message names it.
        """
        with sole_use(self.path / STEPS_DIR, f"the step {step}", f".{step}{IN_USE_SUFFIX}"):
            yield

    @contextmanager
    def followed(self, name: str) -> Iterator[None]:
        """Publish again and again while the work inside goes on.

        Args:
            name: of the work; nobody else may do it at the same time.

        Raises:
            TrainingError: somebody else does it.
        """
        del name
        yield

    def proofs(self, folder: Path, names: Sequence[str]) -> dict[str, Any]:
        """Return what a marker needs to know of files besides their SHA-256, for `is_intact`."""
        del folder, names
        return {}

    def is_intact(self, folder: Path, done: DoneMarker) -> bool:
        """Tell whether the files of a marker are there as it describes them."""
        return all(
            (folder / name).is_file() and file_sha256(folder / name) == sha256
            for name, sha256 in done.files.items()
        )


class MirroredRun(RunFolder):
    """A run in a bucket."""

    is_mirror = True

    def __init__(self, root: str, folder: Path, scratch: Scratch) -> None:
        """Begin with an empty mirror.

        Args:
            root: ``gs://bucket/prefix``.
            folder: local and empty.
            scratch: that the folder is part of.
        """
        super().__init__(folder / _MIRROR)
        self.root = root.rstrip("/")
        self.bucket: GcsBucket = open_bucket(self.root)
        self.scratch = scratch
        self._folder = folder
        # What is equal here and there: name -> size and time of change of the file here.
        self._equal: dict[str, tuple[int, int]] = {}
        self._lock = threading.RLock()
        self._is_lost = False
        self._step_claim: Claim | None = None
        self.path.mkdir()

    def uri(self, folder: Path) -> str:
        """See `RunFolder.uri`."""
        name = self.name_of(folder)
        return self.root if name == "." else f"{self.root}/{name}"

    def local(self, uri: str, *names: str) -> Path:
        """See `RunFolder.local`."""
        if f"{uri}/" != f"{self.root}/" and not uri.startswith(f"{self.root}/"):
            raise DataError(f"{uri}: expected a folder of the run {self.root}")
        inside = uri.removeprefix(self.root).strip("/")
        folder = self.path / inside
        if inside == STEMS_FOLDER:
            self.point_to_bucket(folder)
        elif names:
            self._fetch({f"{inside}/{name}".strip("/") for name in names})
        else:
            self.restore(folder)
        return folder

    def localised(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `RunFolder.localised`; what is in the folders is fetched, as `local` does it."""

        def here(value: Any) -> Any:
            if isinstance(value, Mapping):
                return self.localised(value)
            return str(self.local(value)) if str(value).startswith(f"{self.root}/") else value

        return {name: here(value) for name, value in values.items()}

    def private(self, name: str) -> Path:
        """See `RunFolder.private`."""
        folder = self._folder / _PRIVATE
        folder.mkdir(exist_ok=True)
        return folder / name

    def point_to_bucket(self, folder: Path) -> None:
        """Let a folder below `path` stand for the same one in the bucket."""
        from mixprint.collection.remote_shards import point_to_bucket
        from mixprint.collection.shard_upload import fetch_markers

        point_to_bucket(folder, self.uri(folder))
        fetch_markers(folder)

    def refresh(self, name: str) -> None:
        """See `RunFolder.refresh`."""
        if self.bucket.exists(name):
            self._fetch({name})

    def restore(self, folder: Path) -> None:
        """See `RunFolder.restore`."""
        prefix = f"{self.name_of(folder)}/"
        self._fetch(set(self.bucket.list(prefix)))

    def check_machines(self, *, is_alone: bool) -> None:
        """See `RunFolder.check_machines`."""
        if not is_alone:
            raise ConfigError(
                f"{self.root}: expected a folder that all machines of a training see, found a "
                "bucket: give a root in a common file system, or let the step start the other "
                "machines (NODES=)"
            )

    def publish(self) -> None:
        """See `RunFolder.publish`; of several files, those that vouch for others go last."""
        with self._lock:
            if self._is_lost:
                # What is here is older than what its successor has published.
                return
            if self._step_claim is not None:
                self._check(self._step_claim)
            here = {name: _look(self.path / name) for name in self._names()}
            changed = [name for name, seen in here.items() if self._equal.get(name) != seen]
            gone = self._equal.keys() - here.keys()
            in_parallel(self.bucket.delete, sorted(gone))
            for name in gone:
                del self._equal[name]
            for rank in range(3):
                names = [name for name in changed if _rank(name) == rank]
                self.bucket.upload_all({name: self.path / name for name in names})
                self._equal |= {name: here[name] for name in names}

    def drop(self, folder: Path) -> None:
        """Forget what was published of a folder, and remove it here."""
        with self._lock:
            for name in [name for name in self._names() if folder in (self.path / name).parents]:
                (self.path / name).unlink()
                self._equal.pop(name, None)

    @contextmanager
    def sole_use(self, step: str) -> Iterator[None]:
        """See `RunFolder.sole_use`: by a claim; one that was lost publishes nothing more."""
        self._step_claim = claim = _claimed(self.root, f"step-{step}", DataError)
        with claim:
            try:
                yield
            finally:
                self._step_claim = None

    @contextmanager
    def followed(self, name: str) -> Iterator[None]:
        """See `RunFolder.followed`; a bucket that is away for a while is no error before the end.

        A lock would end at this machine's border, so the work is claimed. Who has lost the claim,
        because it was suspended, overwrites nothing of its successor's. A step has a claim already.
        """
        over = threading.Event()
        stack = ExitStack()
        claim = self._step_claim
        if claim is None:
            claim = stack.enter_context(_claimed(self.root, name, TrainingError))

        def follow() -> None:
            while not over.wait(FOLLOW_EVERY_S):
                try:
                    claim.check()
                    self.publish()
                except ClaimLostError:
                    return
                except (DataError, OSError) as error:
                    log.warning("not uploaded yet: %s", error)

        thread = threading.Thread(target=follow, name="follow", daemon=True)
        with stack:
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                self._check(claim)
                self.publish()

    def _check(self, claim: Claim) -> None:
        try:
            claim.check()
        except ClaimLostError:
            self._is_lost = True
            raise

    def proofs(self, folder: Path, names: Sequence[str]) -> dict[str, Any]:
        """See `RunFolder.proofs`: sizes and checksums, which a bucket tells without reading."""
        found = self._checksums(folder)
        return {"objects": {name: found[name] for name in names}}

    def is_intact(self, folder: Path, done: DoneMarker) -> bool:
        """See `RunFolder.is_intact`; nothing is fetched."""
        found = self._checksums(folder)
        return done.objects.keys() == done.files.keys() and all(
            found.get(name) == proof for name, proof in done.objects.items()
        )

    def _checksums(self, folder: Path) -> dict[str, list[int | str]]:
        prefix = f"{self.name_of(folder)}/"
        return {
            name.removeprefix(prefix): [info.num_bytes, info.crc32c]
            for name, info in self.bucket.infos(prefix).items()
        }

    def _fetch(self, names: set[str]) -> None:
        """Fetch files that are not here yet."""
        wanted = sorted(names - self._equal.keys())
        if not wanted:
            return
        with self._lock:
            found = in_parallel(self.bucket.info, wanted)
            num_bytes = sum(info.num_bytes for info in found if info is not None)
            what = self.bucket.uri(wanted[0])
            self.scratch.make_room(num_bytes, f"{what} (and {len(wanted) - 1} more files)")
            self.bucket.download_all(wanted, self.path)
            self._equal |= {name: _look(self.path / name) for name in wanted}

    def _names(self) -> list[str]:
        """Name what is mirrored."""
        stems = self.path / STEMS_FOLDER
        return [
            self.name_of(path)
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
            and stems not in path.parents
            and not path.name.startswith(TEMPORARY_PREFIX)
        ]


@contextmanager
def sole_use_of_root(root: str, folder: Path, activity: str) -> Iterator[None]:
    """Keep every other run of the whole pipeline away from a root.

    Args:
        root: of the run: a local folder, or ``gs://bucket/prefix``.
        folder: what such a run writes on this machine: the root itself, where that is local.
        activity: what this run does, for the other one's message.

    Raises:
        DataError: another run is at work there; the message names it.
    """
    with ExitStack() as stack:
        stack.enter_context(sole_use(folder, activity))
        if is_bucket(root):
            stack.enter_context(_claimed(root, "pipeline-run", DataError, activity))
        yield


def _claimed(root: str, name: str, error: type[MixprintError], activity: str = "") -> Claim:
    """Claim some work in a bucket; that of a worker that was killed can be had after its lease."""
    claims = open_bucket(f"{root}/{CLAIMS_FOLDER}")
    deadline_s = time.monotonic() + CLAIM_PATIENCE_S
    told = False
    while (claim := take_claim(claims, name, activity=activity)) is None:
        owner = claim_owner(claims, name) or "another worker"
        if time.monotonic() > deadline_s:
            raise error(f"{root}: {name}: expected to be the only one at work there, found {owner}")
        if not told:
            told = True
            log.info("%s: waiting at most %.0f s for %s", name, CLAIM_PATIENCE_S, owner)
        time.sleep(CLAIM_POLL_S)
    return claim


@contextmanager
def open_run(root: Path | str) -> Iterator[RunFolder]:
    """Open a run for a step.

    Args:
        root: a local folder, or ``gs://bucket/prefix``.

    Raises:
        DataError: the bucket cannot be opened.
        ConfigError: see `Scratch.from_environment`.
    """
    if not is_bucket(str(root)):
        yield RunFolder(Path(root))
        return
    scratch = Scratch.from_environment()
    # So that a pod that is told to end gives back its claims and uploads what it has saved.
    with sigterm_exits(), scratch.work_folder() as folder:
        yield MirroredRun(str(root), folder, scratch)


def _look(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _rank(name: str) -> int:
    """Order uploads: data, then JSON, which may hold their checksums, then done markers."""
    return name.endswith(_JSON_SUFFIX) + name.endswith(_DONE_SUFFIX)
