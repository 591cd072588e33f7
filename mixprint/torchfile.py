"""Files of `torch.save`, read without running what is in them."""

import logging
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from mixprint.errors import CheckpointError

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
)


def read_plain(path: Path) -> Any:
    """Read a file of `torch.save` that holds nothing but tensors, to the CPU, and plain values.

    Its checksums are looked at first, which torch does not do: a second per gigabyte, on the way
    to memory.

    Raises:
        CheckpointError: it is unreadable or damaged, or holds anything that would run code.
    """
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of plain tensors, found: {error!r}"
        ) from error


def _check_sums(path: Path) -> None:
    """Compare a file's content with the checksums in it, if it is of the kind that has any.

    Raises:
        CheckpointError: they differ, or the file is no archive that `torch.save` would write.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            log.warning(
                "%s: a checkpoint as before torch 1.6, which has no checksums: nobody would notice "
                "damage to its weights",
                path,
            )
            return
        try:
            with zipfile.ZipFile(file) as archive:
                # torch stores and never packs: what is packed may fill any memory.
                packed = [
                    entry.filename
                    for entry in archive.infolist()
                    if entry.compress_type != zipfile.ZIP_STORED
                ]
                damaged = None if packed else archive.testzip()
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
