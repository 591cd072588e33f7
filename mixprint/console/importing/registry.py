"""The formats that settings are read from, by the ends of file names.

Light to import; a format is imported when it is read.
"""

from collections.abc import Callable, Mapping
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


def _read_apo(path: Path) -> "Imported":
    from mixprint.console.importing.apo import read_apo

    return read_apo(path)


READERS: "Mapping[str, Callable[[Path], Imported]]" = {
    ".json": _read_settings,
    ".dawproject": _read_dawproject,
    ".txt": _read_apo,
}


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
            f"{shown(path)}: expected a file that ends in {', '.join(READERS)}, or a folder of "
            f"texts for Equalizer APO, found {path.suffix or 'no suffix'}"
        )
    return reader(path)
