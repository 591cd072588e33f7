"""Local disk for what lies in buckets: folders to work in, and a cache of what was read.

MIXPRINT_SCRATCH names the folder (default: one below the system's temporary folder), and
MIXPRINT_SCRATCH_LIMIT how much all processes together may keep there, as ``20G`` (the default).
The cache gives way, the least recently used first, to what is being worked on: songs, a shard that
is being written, the small results of a run. What of these does not fit by itself is an error that
says so; a piece of a shard that does not fit is read without being kept.

<folder>/pieces/<hash>      the cache
<folder>/pieces-bytes       what it takes, or more: counted where this is missing, or too much
<folder>/lock               held by who changes any of this
<folder>/work-<id>/         a folder of one process, removed when it is done
<folder>/work-<id>/shadows/ many tiny files, see `Scratch.shadows`
<folder>/work-<id>.lock     held while that process lives
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mixprint.errors import ConfigError, DataError
from mixprint.storage.atomic import atomic_path, write_errors_named
from mixprint.storage.locks import locked

log = logging.getLogger("mixprint.scratch")

FOLDER_VARIABLE, LIMIT_VARIABLE = "MIXPRINT_SCRATCH", "MIXPRINT_SCRATCH_LIMIT"
DEFAULT_LIMIT = "20G"
_QUANTITY = re.compile(r"(\d+)([KMGT]?)")
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PIECES, _SUM, _WORK, _LOCK = "pieces", "pieces-bytes", "work-", ".lock"
_SHADOWS, _RESERVED = "shadows", "reserved"
# What `st_blocks` counts in, whatever the file system.
_BLOCK_BYTES = 512
# An eviction frees this part of the limit beyond what is needed, so that the next is far.
_SPARE_PART = 10


@dataclass(frozen=True)
class Scratch:
    """A folder with a limit.

    Attributes:
        folder: common to all processes of a machine.
        limit_bytes: how much they may keep there together.
    """

    folder: Path
    limit_bytes: int

    @classmethod
    def from_environment(cls) -> Self:
        """Read the two variables.

        Raises:
            ConfigError: the limit is no quantity.
        """
        text = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
        if (match := _QUANTITY.fullmatch(text)) is None:
            raise ConfigError(
                f"{LIMIT_VARIABLE}: expected a whole number with K, M, G or T, as '20G', found "
                f"{text!r}"
            )
        folder = os.environ.get(FOLDER_VARIABLE) or str(
            Path(tempfile.gettempdir()) / f"mixprint-scratch-{os.getuid()}"
        )
        return cls(Path(folder), int(match[1]) * _FACTORS[match[2]])

    @contextlib.contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Return a folder of one's own; those of processes that were killed are removed."""
        self._make()
        path = self.folder / f"{_WORK}{uuid.uuid4().hex}"
        with contextlib.ExitStack() as stack:
            with self._locked():
                self._clear_dead()
                stack.enter_context(locked(_lock_of(path)))
                path.mkdir()
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
                _lock_of(path).unlink(missing_ok=True)

    def shadows(self, folder: Path, num_bytes: int, what: str) -> Path:
        """Make a folder for so many files that counting them each time would take too long.

        Args:
            folder: from `work_folder`.
            num_bytes: that all of them will take at most; counted from now on.
            what: they are, for the message.

        Raises:
            DataError: they do not fit.
        """
        self.make_room(num_bytes, what)
        (folder / _RESERVED).write_text(str(num_bytes))
        (folder / _SHADOWS).mkdir()
        return folder / _SHADOWS

    def make_room(self, num_bytes: int, what: str) -> None:
        """Let the cache give way to something that is about to be written, or has been.

        Args:
            num_bytes: that are about to be written; 0 for what is there already.
            what: they are, for the message.

        Raises:
            DataError: it does not fit beside what else is being worked on.
        """
        self._make()
        with self._locked():
            missing = self._evict(num_bytes)
        if missing > 0:
            raise DataError(
                f"{what}: expected room for it in {self.folder}, where {self.limit_bytes} bytes "
                f"may lie, found {missing} bytes too few: raise {LIMIT_VARIABLE}, or let fewer "
                "processes work there at a time"
            )

    def piece(self, key: str, num_bytes: int, fetch: Callable[[], bytes]) -> bytes:
        """Return a piece of something that never changes, from the cache if it is there.

        Args:
            key: names the piece and the version of what it is a piece of.
            num_bytes: its size.
            fetch: reads it from where it lies.
        """
        path = self.folder / _PIECES / hashlib.sha256(key.encode()).hexdigest()
        try:
            content = path.read_bytes()
            if len(content) == num_bytes:
                os.utime(path)
                return content
        except FileNotFoundError:
            pass
        content = fetch()
        if num_bytes <= self.limit_bytes:
            self._keep(path, content)
        return content

    def _keep(self, path: Path, content: bytes) -> None:
        """Keep a piece if there is room; a reader does not fail for want of it."""
        self._make()
        try:
            with self._locked():
                if _holds(path, len(content)) or self._evict(len(content)) > 0:
                    return
                # Before the piece: where this process is killed, the sum is too large.
                unit = os.statvfs(path.parent).f_frsize
                self._set_sum(self._sum() + -(-len(content) // unit) * unit)
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
        except DataError as error:
            log.warning("what was read is not kept: %s", error)

    def _make(self) -> None:
        (self.folder / _PIECES).mkdir(parents=True, exist_ok=True)

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.folder / "lock")

    def _clear_dead(self) -> None:
        for path in self.folder.glob(f"{_WORK}*{_LOCK}"):
            # The lock of a process that lives is not to be had.
            with contextlib.suppress(TimeoutError), locked(path, patience_s=0):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)

    def _evict(self, num_bytes: int) -> int:
        """Remove pieces until so many bytes fit; return how many are still missing."""
        room = self.limit_bytes - _used(self.folder) - num_bytes
        if self._sum() <= room:
            return 0
        pieces = self._pieces()
        kept = sum(size for _, size, _ in pieces)
        if kept > room:
            spare = self.limit_bytes // _SPARE_PART
            for _, size, path in sorted(pieces):
                if kept <= room and kept - size < room - spare:
                    break
                path.unlink()
                kept -= size
        self._set_sum(kept)
        return max(0, kept - room)

    def _pieces(self) -> list[tuple[int, int, Path]]:
        """List when each was last used, its bytes and its path; takes long where there are many."""
        pieces = []
        for path in (self.folder / _PIECES).iterdir():
            status = path.stat()
            pieces.append((status.st_mtime_ns, status.st_blocks * _BLOCK_BYTES, path))
        return pieces

    def _sum(self) -> int:
        """Tell how many bytes the pieces take, or more."""
        try:
            return int((self.folder / _SUM).read_text())
        except (FileNotFoundError, ValueError):
            num_bytes = sum(size for _, size, _ in self._pieces())
            self._set_sum(num_bytes)
            return num_bytes

    def _set_sum(self, num_bytes: int) -> None:
        # Not atomic: where a killed process has left it empty, the pieces are counted.
        with write_errors_named(path := self.folder / _SUM):
            path.write_text(str(num_bytes))


def _holds(path: Path, num_bytes: int) -> bool:
    """Tell whether another process has kept this piece meanwhile."""
    try:
        return path.stat().st_size == num_bytes
    except FileNotFoundError:
        return False


def _used(folder: Path) -> int:
    """Count the bytes of what is being worked on."""
    total = 0
    for work in folder.glob(f"{_WORK}*"):
        reserved = work / _RESERVED
        total += int(reserved.read_text()) if reserved.is_file() else 0
        for parent, folders, names in os.walk(work):
            folders[:] = [name for name in folders if name != _SHADOWS]
            for name in names:
                # Another process may be removing its own.
                with contextlib.suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK_BYTES  # noqa: PTH118
    return total


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + _LOCK)
