"""Fingerprints: what a result was made from, in one comparable text."""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from mixprint.errors import DataError

READ_BYTES = 1 << 20
# Modules and packages whose edits make no result another, by the reason. All others that a step
# imports, directly or not, count.
NEUTRAL = {
    "say what is wrong, and how far a run is": (
        "mixprint.errors",
        "mixprint.log",
        "mixprint.progress",
        "mixprint.text",
        "mixprint.training.curves",
        "mixprint.training.recorder",
    ),
    "read settings, whose values are part of every recipe": ("mixprint.config", "mixprint.schema"),
    "names results, and makes none": ("mixprint.fingerprint",),
    "choose where the work is done, which changes rounding at most": ("mixprint.machine",),
    "carry files as they are, and see that they are whole or absent": (
        "mixprint.checkpoints.registry",
        "mixprint.checkpoints.torchfile",
        "mixprint.collection.remote_shards",
        "mixprint.collection.shard_upload",
        "mixprint.storage.atomic",
        "mixprint.storage.bucket",
        "mixprint.storage.claim_files",
        "mixprint.storage.claims",
        "mixprint.storage.download",
        "mixprint.storage.folders",
        "mixprint.storage.locks",
        "mixprint.storage.outputs",
        "mixprint.storage.scratch",
        "mixprint.training.outputs",
    ),
}
# Beside modules: what pages are made of.
PAGE_PARTS = frozenset({".css", ".html", ".js"})
_FOLDER = Path(__file__).resolve().parents[1]
_LIBRARY = "mixprint"


def fingerprint(value: Any) -> str:
    """Hash a JSON-able value: equal values give equal texts, whatever the order of their keys.

    Returns:
        SHA-256 of the canonical JSON, in hexadecimal.

    Raises:
        DataError: the value holds NaN, an infinity or something that JSON cannot express.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"fingerprint: expected finite JSON values, found: {error}") from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_sha256(path: Path | str) -> str:
    """Hash a file's bytes, read by parts.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while part := file.read(READ_BYTES):
                digest.update(part)
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error}") from error
    return digest.hexdigest()


@cache
def code_version(*roots: str) -> str:
    """Hash the sources that a result follows from, so that a cache knows when code changed.

    Args:
        roots: dotted names of the modules that make the result, see `code_files`.

    Returns:
        SHA-256 over relative names and contents, in hexadecimal. Other files (weights, JSON) do
        not count: they have fingerprints of their own.

    Raises:
        DataError: see `code_files`.
    """
    digest = hashlib.sha256()
    for name in code_files(*roots):
        digest.update(f"{name}\0{file_sha256(_FOLDER / name)}\n".encode())
    return digest.hexdigest()


def code_files(*roots: str) -> list[str]:
    """List the sources behind some modules: they, what they import of the library, and so on.

    Imports inside functions count, those of `NEUTRAL` modules do not, and with the parts of pages
    that lie beside a module they are complete. Of the steps (`components`) only the roots count:
    what they import of each other moves files and keeps records.

    Args:
        roots: dotted names of modules.

    Returns:
        paths relative to the folder of the packages, sorted.

    Raises:
        DataError: a root is no module with a source file.
    """
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        source = _source(module)
        if source is None or (module in roots and source.name == "__init__.py"):
            raise DataError(f"code_files: expected the name of a module, found {module!r}")
        found[module] = source
        waiting += _imported(module)
    folders = {source.parent for source in found.values()}
    parts = [path for f in folders for path in f.iterdir() if path.suffix in PAGE_PARTS]
    return sorted(path.relative_to(_FOLDER).as_posix() for path in (*found.values(), *parts))


@cache
def _imported(module: str) -> tuple[str, ...]:
    """List the modules of the library, less the neutral ones, that a module imports."""
    source = _source(module)
    assert source is not None
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    # Importing a module imports the packages around it, but for the library's own, which is the
    # door for programs and imports whatever these ask for.
    parts = [name.split(".") for name in names]
    modules = {
        ".".join(part[:depth])
        for part in parts
        if part[0] == _LIBRARY
        for depth in range(2, len(part) + 1)
    }
    return tuple(sorted(m for m in modules if not _is_neutral(m) and _source(m) is not None))


def _is_neutral(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for names in NEUTRAL.values() for name in names)


def _source(module: str) -> Path | None:
    """Find the source of a module or package of mixprint or of the steps."""
    path = _FOLDER / module.replace(".", "/")
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)
