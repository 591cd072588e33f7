"""Tensors in files: read without running what is in them, and not believed beyond their size."""

import logging
import mmap
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixprint.errors import CheckpointError
from mixprint.storage.atomic import atomic_path

log = logging.getLogger("mixprint.torchfile")

ZIP_MAGIC = b"PK\x03\x04"
# What the restricted unpickler raises on bytes that are no pickle depends on the bytes.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
)
SMALL_BYTES = 1 << 28
# The one thing that the restricted unpickler makes as large as a number in the file says.
_BYTEARRAY = b"bytearray\n"
_PICKLE_SUFFIX = ".pkl"
# How safetensors tells what the system said.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def read_plain(path: Path) -> Any:
    """Read a file of `torch.save` that holds nothing but tensors, to the CPU, and plain values.

    Its checksums are looked at first, which torch does not do: a second per gigabyte, on the way
    to memory.

    Raises:
        CheckpointError: it is unreadable or damaged, holds anything that would run code, or
            something larger than itself: packed records, or tensors that repeat a few values.
    """
    try:
        _check_archive(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of plain tensors, found: {_short(error)}"
        ) from error
    for value in _tensors(loaded):
        check_size(path, [value])
    return loaded


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is missing, or none.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: expected readable safetensors, found: {_short(error)}"
        ) from error
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        DataError: it cannot be written, see `mixprint.storage.atomic.write_errors_named`.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary)
        except SafetensorError as error:
            told = _SYSTEM_ERROR.search(str(error))
            if told is None:
                raise
            raise OSError(int(told[1]), str(error)) from error


def check_size(path: Path, tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that repeat what a file holds until they fill the memory.

    Args:
        path: the file.
        tensors: what is taken from it together.

    Raises:
        CheckpointError: they are larger than the file, and than what any machine has room for.
    """
    held = path.stat().st_size
    # Values that repeat count as often as they are named: a copy of the tensor holds them all.
    num_bytes = sum(value.numel() * value.element_size() for value in tensors)
    if num_bytes > max(held, SMALL_BYTES):
        raise CheckpointError(
            f"{path}: expected tensors that a file of {held} bytes holds, found {num_bytes} bytes"
        )


def _check_archive(path: Path) -> None:
    """Compare a file's content with its checksums, and refuse one that stands for more than it is.

    Raises:
        CheckpointError: they differ, or the file is no archive that `torch.save` would write.
        ValueError: it claims more than it holds.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            log.warning(
                "%s: a checkpoint as before torch 1.6, which has no checksums: nobody would notice "
                "damage to its weights",
                path,
            )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _refuse_bytearray(content)
            return
        try:
            with zipfile.ZipFile(file) as archive:
                # torch stores and never packs: what is packed may fill any memory.
                entries = archive.infolist()
                packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
                if not packed and sum(e.file_size for e in entries) > path.stat().st_size:
                    raise ValueError("records that are larger than the file")
                damaged = None if packed else archive.testzip()
                for entry in entries:
                    if not packed and entry.filename.endswith(_PICKLE_SUFFIX):
                        _refuse_bytearray(archive.read(entry))
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise CheckpointError(
                f"{path}: expected a whole archive of torch.save, found: {error}"
            ) from error
    if packed:
        raise CheckpointError(
            f"{path}: expected an archive as torch.save writes it, found compressed {packed[0]!r}"
        )
    if damaged is not None:
        raise CheckpointError(
            f"{path}: expected content that fits its checksums (CRC-32), found {damaged!r} "
            "damaged; copy or download the file again"
        )


def _refuse_bytearray(content: bytes | mmap.mmap) -> None:
    if content.find(_BYTEARRAY) >= 0:
        raise ValueError("a bytearray, whose size a file can claim without holding it")


def _tensors(value: Any) -> Iterator[Tensor]:
    """List the tensors in nested values; what is named many times is looked at once."""
    rest, seen = [value], set()
    while rest:
        item = rest.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping):
            rest.extend(item.values())
        elif isinstance(item, list | tuple | set):
            rest.extend(item)


def _short(error: BaseException) -> str:
    """Describe a foreign error in a line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:300]}..."
