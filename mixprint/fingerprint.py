"""Fingerprints: what a result was made from, in one comparable text."""

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

from mixprint.errors import DataError

READ_BYTES = 1 << 20
# The modules between a file and its samples: what is made from songs follows from all of them.
AUDIO_CODE = (
    "mixprint.audio.files",
    "mixprint.audio.containers",
    "mixprint.audio.decoding",
    "mixprint.audio.fileview",
    "mixprint.audio.flac",
    "mixprint.audio.layouts",
    "mixprint.audio.mp3",
    "mixprint.audio.ogg",
    "mixprint.audio.resampling",
    "mixprint.audio.signatures",
    "mixprint.audio.streams",
)


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
def code_version(*packages: str) -> str:
    """Hash the Python sources of packages or modules, so that a cache knows when code changed.

    Args:
        packages: dotted names, for example ``mixprint.separation``; none means ``mixprint``.

    Returns:
        SHA-256 over relative names and contents, in hexadecimal. Other files (weights, JSON) do
        not count: they have fingerprints of their own.

    Raises:
        DataError: a name is no importable package or module with source files.
    """
    digest = hashlib.sha256()
    for package in sorted(packages or ("mixprint",)):
        for name, path in _sources(package):
            digest.update(f"{name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sources(package: str) -> list[tuple[str, Path]]:
    """List a package's source files with names that do not depend on where it is installed."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise DataError(f"code_version: expected an importable package, found none: {package!r}")
    if spec.submodule_search_locations is None:
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise DataError(f"code_version: {package!r} has no source file: {spec.origin}")
        return [(package, Path(spec.origin))]
    return [
        (f"{package}/{path.relative_to(folder).as_posix()}", path)
        for folder in sorted(spec.submodule_search_locations)
        for path in sorted(Path(folder).rglob("*.py"))
    ]
