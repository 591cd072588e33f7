"""Copies of a folder at every moment at which a kill would leave something else."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mixprint.checkpoints import torchfile
from mixprint.storage.atomic import TEMPORARY_PREFIX


class Boundaries:
    """Copies a folder before every change to its files: what a kill there would leave.

    What Python has not handed to the system yet is in no copy, as it would be lost. Writers of
    native code, which announce nothing, give one more copy with half of their file.
    """

    _CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})

    def __init__(self, folder: Path, copies: Path) -> None:
        self._folder, self._copies = folder, copies
        self._active = self._copying = False
        self._seen: set[tuple[object, ...]] = set()
        self.names: list[str] = []
        sys.addaudithook(self._hook)  # which can never be taken away again

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Copy at each boundary inside."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", self._after(os.fsync, "fsync"))
            patch.setattr(torch, "save", self._torn(torch.save, 1))
            patch.setattr(torchfile, "save_file", self._torn(safetensors.torch.save_file, 1))
            self._active = True
            try:
                yield
            finally:
                self._active = False

    def folders(self) -> list[Path]:
        return [self._copies / str(number) for number in range(len(self.names))]

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active or self._copying:
            return
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes and event not in self._CHANGES:
            return
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and str(self._folder) in str(path):
            self._copy(f"{event} {Path(path).name}")

    def _after(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            result = original(*arguments)
            if self._active:
                self._copy(name)
            return result

        return wrapped

    def _torn(self, original: Callable[..., Any], position: int) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            result = original(*arguments)
            path = Path(arguments[position])
            content = path.read_bytes()
            self._copying = True
            path.write_bytes(content[: len(content) // 2])
            self._copying = False
            self._copy(f"half of {path.name}")
            self._copying = True
            path.write_bytes(content)
            self._copying = False
            return result

        return wrapped

    def _copy(self, name: str) -> None:
        """Copy the folder, unless it is as it was: logs do not count, they come at any time."""
        self._copying = True
        content = tuple(
            (str(path.parent), path.name.startswith(TEMPORARY_PREFIX) or path.name, digest(path))
            for path in sorted(self._folder.rglob("*"))
            if "logs" not in path.parts
        )
        if content not in self._seen:
            self._seen.add(content)
            shutil.copytree(self._folder, self._copies / str(len(self.names)))
            self.names.append(name)
        self._copying = False


def digest(path: Path) -> int | None:
    return hash(path.read_bytes()) if path.is_file() else None
