"""Places that commands write to: checked before any work, so that nobody's files are lost.

A result in a folder is recognised by its marker, a JSON file that is written last. While it is
being written, `UNFINISHED_NAME` says so, and a run that was killed leaves that behind. Files that
neither of the two accounts for are a person's own: they are never written over.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from mixprint.errors import DataError, error_text
from mixprint.storage.atomic import read_json
from mixprint.storage.locks import sole_use
from mixprint.text import first_of, shown

UNFINISHED_NAME = ".mixprint-unfinished"


@dataclass(frozen=True)
class Kind:
    """A kind of result that a folder may hold.

    Attributes:
        noun: what a person calls it, for example ``a transfer``.
        marker: name of the JSON file that is written last.
        keys: what the marker holds at least.
        names: patterns of all files of it that may be written, relative to the folder.
        never_beside: name of a file that shows that the marker belongs to another kind of result.
    """

    noun: str
    marker: str
    keys: frozenset[str]
    names: tuple[str, ...]
    never_beside: str | None = None

    def files(self, folder: Path) -> list[Path]:
        """List what lies under the names of such a result, whoever has written it."""
        found = []
        for name in (self.marker, *self.names):
            # glob overlooks links that lead nowhere.
            paths = folder.glob(name) if has_magic(name) else [folder / name]
            found += [path for path in paths if os.path.lexists(path)]
        return sorted(set(found))

    def has(self, folder: Path, path: Path) -> bool:
        """Tell whether a path is one that such a result in a folder may be written to."""
        path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
        if not path.is_relative_to(folder):
            return False
        # Where names differ in case only, some systems take them for one.
        name = path.relative_to(folder).as_posix().casefold()
        return any(fnmatchcase(name, p.casefold()) for p in (self.marker, *self.names))

    def is_whole(self, folder: Path) -> bool:
        """Tell whether a folder holds a finished result of this kind."""
        if self.never_beside is not None and (folder / self.never_beside).exists():
            return False
        try:
            values = read_json(folder / self.marker)
        except DataError:
            return False
        return isinstance(values, dict) and self.keys <= values.keys()

    def is_ours(self, folder: Path) -> bool:
        """Tell whether files under these names are mixprint's, finished or not."""
        return self.is_whole(folder) or _unfinished_noun(folder) == self.noun


def check_folder(
    folder: Path,
    kind: Kind,
    *,
    also: Sequence[Kind] = (),
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
    updates: bool = False,
) -> None:
    """Refuse a folder in which a result cannot be written, or would cost somebody something.

    Args:
        folder: receives the result; it may be missing.
        kind: of the result.
        also: kinds that share names with it and may lie there from other calls.
        inputs: files that are read and must stay.
        overwrite: an earlier result may be replaced.
        updates: an earlier result of this very kind is carried on, not replaced.

    Raises:
        DataError: the folder cannot be written; an input or other files lie under the names of
            the result; or an earlier result does, and is not to be replaced.
    """
    check_place(folder, is_folder=True)
    wanted = kind.files(folder)
    theirs = [path for other in (kind, *also) for path in other.files(folder)]
    for path in theirs:
        if (same := _same_file(path, inputs)) is not None:
            raise DataError(
                f"{shown(folder)}: expected another folder than that of an input, found "
                f"{shown(same)}, which would be written over; choose another folder"
            )
    ours = {path for k in (kind, *also) if k.is_ours(folder) for path in k.files(folder)}
    if foreign := [shown(path.relative_to(folder)) for path in wanted if path not in ours]:
        raise DataError(
            f"{shown(folder)}: expected a new folder or one that mixprint has written, found "
            f"other files there: {first_of(foreign, ', ')}; choose another folder"
        )
    finished = [k for k in (kind, *also) if k.is_whole(folder) and not (updates and k is kind)]
    if wanted and finished and not overwrite:
        raise DataError(
            f"{shown(folder)}: expected a new folder, found {finished[0].noun} of another call; "
            "choose another folder, or replace it by --overwrite (with make OVERWRITE=1)"
        )


def remove_result(folder: Path, kind: Kind) -> None:
    """Remove an earlier result, and nothing else; does nothing where there is none."""
    if not kind.is_ours(folder):
        return
    # What a run that is killed here leaves is still known to be ours.
    (folder / UNFINISHED_NAME).write_text(kind.noun, encoding="utf-8")
    for path in sorted(kind.files(folder), key=lambda p: p.name != kind.marker):
        path.unlink()
        for parent in path.relative_to(folder).parents:
            if parent != Path():
                with suppress(OSError):
                    (folder / parent).rmdir()
    (folder / UNFINISHED_NAME).unlink()


def clear_unfinished(folder: Path, kind: Kind) -> None:
    """Remove what a run has left that was killed just after it had written a whole result."""
    if kind.is_whole(folder) and _unfinished_noun(folder) == kind.noun:
        (folder / UNFINISHED_NAME).unlink(missing_ok=True)


@contextmanager
def result_in(folder: Path, kind: Kind) -> Iterator[None]:
    """Write a result: whenever this is killed, the files are known to be of such a result.

    Args:
        folder: checked by `check_folder`; created if it is missing.
        kind: of the result; the body writes its marker last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / UNFINISHED_NAME
    unfinished.write_text(kind.noun, encoding="utf-8")
    try:
        yield
    finally:
        if kind.is_whole(folder) or not kind.files(folder):
            unfinished.unlink(missing_ok=True)


@contextmanager
def reserved(folder: Path, activity: str) -> Iterator[None]:
    """Keep other runs out of a folder; one that was made for nothing is removed again.

    Args:
        folder: created if it is missing.
        activity: see `sole_use`.

    Raises:
        DataError: another run is at work there, or it cannot be written.
    """
    check_place(folder, is_folder=True)
    was_there = folder.is_dir()
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_use(folder, activity))
        except OSError as error:
            raise DataError(f"{shown(folder)}: cannot be written: {error_text(error)}") from error
        try:
            yield
        finally:
            stack.close()
            if not was_there:
                with suppress(OSError):
                    folder.rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is removed in the end.

    Raises:
        DataError: there is no place for it.
    """
    with ExitStack() as stack:
        try:
            name = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        except OSError as error:
            raise DataError(
                "TMPDIR: expected a folder for temporary files that can be written, found: "
                f"{error_text(error)}"
            ) from error
        yield Path(name)


def check_file(
    path: Path,
    is_ours: Callable[[Path], bool],
    *,
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Refuse a file that cannot be written, or would cost somebody something.

    Args:
        path: receives a result; it may be missing.
        is_ours: tells by its content whether mixprint has written a file.
        inputs: files that are read and must stay.
        overwrite: an earlier result may be replaced.

    Raises:
        DataError: see above.
    """
    check_place(path, is_folder=False)
    if not os.path.lexists(path):
        return
    if (same := _same_file(path, inputs)) is not None:
        raise DataError(
            f"{shown(path)}: expected another file than the input {shown(same)}, found the same"
        )
    if not is_ours(path):
        raise DataError(
            f"{shown(path)}: expected a new file or one that mixprint has written, found another; "
            "choose another name"
        )
    if not overwrite:
        raise DataError(
            f"{shown(path)}: expected a new file, found that of another call; choose another "
            "name, or replace it by --overwrite"
        )


def check_place(path: Path, *, is_folder: bool) -> None:
    """Refuse a path under which nothing can be written.

    Raises:
        DataError: it is a file where a folder is needed, or the other way round; a part of it is
            no folder; or the system refuses writing there.
    """
    what = "a folder" if is_folder else "a file"
    try:
        _check_name(path)
        if os.path.lexists(path):
            os.stat(path)  # noqa: PTH116 - a link that leads nowhere is an error here
            if path.is_dir() is not is_folder:
                found = "a file" if is_folder else "a folder"
                raise DataError(f"{shown(path)}: expected {what} to write to, found {found}")
            if not is_folder and not path.is_file():
                raise DataError(f"{shown(path)}: expected {what} to write to, found a device")
        parent = path if is_folder else path.parent
        while not os.path.lexists(parent):
            _check_name(parent)
            parent = parent.parent
        if not parent.is_dir():
            raise DataError(
                f"{shown(path)}: expected a folder {shown(parent)}, found something else"
            )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shown(path)}: expected {what} to write to, found: {error_text(error)}"
        ) from error
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataError(
            f"{shown(path)}: expected to be allowed to write there, found {shown(parent)} read-only"
        )


def _check_name(path: Path) -> None:
    """Have the system say what it has against a name, such as its length."""
    with suppress(FileNotFoundError):
        os.lstat(path)


def _unfinished_noun(folder: Path) -> str:
    try:
        return (folder / UNFINISHED_NAME).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _same_file(path: Path, inputs: Sequence[Path]) -> Path | None:
    """Find the input that a path leads to, whatever it is called there."""
    for given in inputs:
        # What cannot be looked at is no input that could be lost.
        with suppress(OSError):
            if path.samefile(given):
                return given
    return None
