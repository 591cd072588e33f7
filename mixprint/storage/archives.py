"""Zip archives of data: downloaded, checked, and unpacked as a whole."""

import logging
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mixprint.errors import DataError
from mixprint.progress import progress
from mixprint.storage.atomic import write_errors_named
from mixprint.storage.download import PIN, fetch, public_url
from mixprint.storage.folders import whole_folder
from mixprint.text import shown

log = logging.getLogger("mixprint.download")

_COPY_BYTES = 1 << 20
_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip archive behind a URL.

    Attributes:
        source: URL with a pinned hash, see `mixprint.storage.download.fetch`.
        max_bytes: its size, or more.
        unpacked_bytes: size of the files in it, or more.
    """

    source: str
    max_bytes: int
    unpacked_bytes: int


def fetch_unpacked(archive: Archive, folder: Path) -> None:
    """Download an archive and unpack it as a new folder, which is there as a whole or not at all.

    A download that broke off is resumed. The archive lies beside the folder until it is unpacked,
    and is removed then.

    Args:
        archive: what is downloaded.
        folder: final name; there may be an empty folder.

    Raises:
        DataError: there is something in the folder, or too little room; the archive cannot be had,
            has another hash, or cannot be unpacked.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(
            f"{shown(folder)}: expected no folder, or an empty one, to unpack "
            f"{public_url(archive.source)} to, found one with files"
        )
    place = folder.parent
    with write_errors_named(place):
        place.mkdir(parents=True, exist_ok=True)
        begun = place.glob(f"{archive.source.partition(PIN)[2]}*")
        missing_bytes = archive.max_bytes - sum(path.stat().st_size for path in begun)
        what = f"{public_url(archive.source).partition(PIN)[0]} and what is in it"
        _check_room(place, max(missing_bytes, 0) + archive.unpacked_bytes, what)
        path = fetch(archive.source, archive.max_bytes, place)
        with whole_folder(folder) as temporary:
            unpack(path, temporary)
        path.unlink()


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip archive, file by file, into a folder that is empty.

    Args:
        path: the archive.
        folder: receives its files. Nothing is written elsewhere: an archive with names that lead
            out of the folder, or with links, is refused before its first file is written.

    Raises:
        DataError: the archive is refused or broken, or there is too little room.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            for entry in entries:
                _check_entry(entry, path)
            _check_room(folder, sum(entry.file_size for entry in entries), f"files of {path.name}")
            for entry in progress(entries, len(entries), "unpacked", "files", log):
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, _COPY_BYTES)
    # Of an encrypted archive zipfile raises a RuntimeError, of an unknown method the next one.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{shown(path)}: expected a whole zip archive, found: {error}") from error


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name = PurePosixPath(entry.filename)
    is_outside = name.is_absolute() or ".." in name.parts or "\\" in entry.filename
    if is_outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(
            f"{shown(path)}: expected files inside of the archive's folder, found "
            f"{'a link, ' if not is_outside else ''}{shown(entry.filename)}"
        )


def _check_room(folder: Path, num_bytes: int, what: str) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < num_bytes:
        raise DataError(
            f"{shown(folder)}: expected {num_bytes / _GIGABYTE:.1f} GB free for {what}, found "
            f"{free_bytes / _GIGABYTE:.1f} GB"
        )
