"""The formats that settings are read from, by the ends of file names.

Light to import; a format is imported when it is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mixprint.errors import ConfigError
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.console.importing.imported import Imported


def _read_settings(path: Path) -> "Imported":
    from mixprint.console.importing.imported import Imported
    from mixprint.console.settings import Settings

    return Imported(Settings.load(path), ())


def _read_dawproject(path: Path) -> "Imported":
    from mixprint.console.importing.dawproject import read_dawproject

    return read_dawproject(path)


def _read_reaper(path: Path) -> "Imported":
    from mixprint.console.importing.reaper import read_reaper

    return read_reaper(path)


def _read_apo(path: Path) -> "Imported":
    from mixprint.console.importing.apo import read_apo

    return read_apo(path)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A kind of file that settings are read from.

    Attributes:
        suffix: end of the names of such files.
        summary: what it is, for the help of the command line.
        read: reads it.
    """

    suffix: str
    summary: str
    read: "Callable[[Path], Imported]"


READERS: Mapping[str, Reader] = {
    each.suffix: each
    for each in (
        Reader(suffix=".json", summary="settings.json", read=_read_settings),
        Reader(suffix=".rpp", summary="a project of REAPER", read=_read_reaper),
        Reader(suffix=".dawproject", summary="a DAWproject", read=_read_dawproject),
        Reader(
            suffix=".txt",
            summary="a track's text for Equalizer APO, or a folder of such texts",
            read=_read_apo,
        ),
    )
}


def describe_readers() -> str:
    """Return a phrase that says what can be read."""
    *others, last = (each.summary for each in READERS.values())
    return f"{', '.join(others)}, or {last}"


def read_any(path: Path) -> "Imported":
    """Read settings from a file, by its suffix, or from a folder of texts for Equalizer APO.

    Raises:
        ConfigError: no format has this suffix.
        DataError: it cannot be read.
    """
    if path.is_dir():
        return _read_apo(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{shown(path)}: expected {describe_readers()}, found {path.suffix or 'no suffix'!r}"
        )
    return reader.read(path)
