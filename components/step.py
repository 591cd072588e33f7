"""Parts that all steps share: manifests, done markers, the record of time and memory.

A step runs through `recorded` (time, memory, errors) and `once` (skip what is finished):

    with recorded(root, "features") as run:
        return once(step="features", run=run, ..., work=lambda: ...)

Files under the root of a run that belong to this module:
    steps/<name>.json           record of the last execution (state, seconds, peak memory, error)
    steps/<name>.done.json      done marker: recipe, SHA-256 of every output, counts
"""

import argparse
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import psutil

from components.run_folder import STEPS_DIR, DoneMarker, RunFolder, open_run
from mixprint.config import BASE_PROFILE
from mixprint.errors import ConfigError, DataError, MixprintError, OccupiedError
from mixprint.fingerprint import file_sha256, fingerprint
from mixprint.log import setup_logging
from mixprint.machine.processes import end_with, sigterm_exits, threads_each
from mixprint.schema import Number, Range, WithOthers, as_record
from mixprint.storage.atomic import (
    atomic_path,
    read_json,
    remove_all_leftovers,
    remove_leftovers,
    write_errors_named,
    write_json,
)

STEPS = ("ingest", "separate", "features", "train", "evaluate", "promote", "transfer")
# How many processes share the machine's cores: the local run sets it for the fan-out over shards.
WORKERS_VARIABLE = "MIXPRINT_WORKERS"
# Process id of the local run that has started this step: if it is killed, its steps end with it.
RUNNER_VARIABLE = "MIXPRINT_RUNNER"
_SAMPLE_EVERY_S = 0.1
# Finding the descendants means reading all processes of the machine: some milliseconds each time.
_SEARCH_EVERY_S = 1.0
# Writing the record of a step takes milliseconds: what is older was left by a writer that is dead.
_RECORD_PATIENCE_S = 3_600.0
MAX_SHARDS = 99_999  # their names have five digits

log = logging.getLogger("mixprint.step")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Manifest of data: it passes between steps in their place.

    Attributes:
        step: the step that wrote the data.
        uri: the file or folder that holds them.
        fingerprint: hash of their content, so that equal data are recognised as equal.
        counts: how much there is, for example `{"tracks": 30}`.
    """

    step: str
    uri: str
    fingerprint: str
    counts: Mapping[str, Number]

    def save(self, path: Path | str) -> None:
        """Write the manifest as JSON."""
        write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a manifest.

        Raises:
            DataError: the file is no manifest.
        """
        return as_record(read_json(Path(path)), f"{path}: expected a manifest", cls)

    @classmethod
    def of_files(
        cls, step: str, folder: Path, files: Sequence[str], counts: Mapping[str, float]
    ) -> Self:
        """Describe files by their content.

        Args:
            step: the step that wrote them.
            folder: the folder that holds them.
            files: paths inside the folder.
            counts: how much there is.

        Raises:
            DataError: a file is missing.
        """
        return cls.of_hashes(step, str(folder), _hashes(step, folder, files), counts)

    @classmethod
    def of_hashes(
        cls, step: str, uri: str, hashes: Mapping[str, str], counts: Mapping[str, float]
    ) -> Self:
        """Describe files by the SHA-256 of each.

        Args:
            step: the step that wrote them.
            uri: the folder that holds them.
            hashes: path inside the folder -> SHA-256.
            counts: how much there is.
        """
        return cls(step=step, uri=uri, fingerprint=fingerprint(dict(hashes)), counts=dict(counts))

    @classmethod
    def joined(cls, parts: Sequence["Manifest"]) -> Self:
        """Describe the parts of one folder as a whole, in any order.

        Raises:
            DataError: there is no part, or they come from different steps or folders.
        """
        if len({(part.step, part.uri) for part in parts}) != 1:
            found = sorted({f"{part.step} in {part.uri}" for part in parts})
            raise DataError(f"manifests: expected parts of one folder, found {found}")
        return cls(
            step=parts[0].step,
            uri=parts[0].uri,
            fingerprint=fingerprint(sorted(part.fingerprint for part in parts)),
            counts={"parts": len(parts)},
        )


def once(
    *,
    step: str,
    run: RunFolder,
    folder: Path,
    recipe: Mapping[str, Any],
    files: Sequence[str] | Callable[[], Sequence[str]],
    work: Callable[[], Mapping[str, float]],
    owns_marker: bool = True,
) -> Manifest:
    """Do the work unless its outputs are there, whole and made from the same inputs.

    The marker is removed before the work starts and written when it has ended, so a step that
    was killed is taken up again. What it can resume from is the work's own business.

    Args:
        step: name of the step, for the marker and the log.
        run: the folder of the run.
        folder: where the outputs lie in it.
        recipe: everything that the outputs depend on: inputs, parameters, code.
        files: paths of the outputs inside `folder`; a function if only the work decides them.
        work: makes the outputs, returns the counts.
        owns_marker: False on a machine that only helps another one with the step: it looks at the
            marker, and leaves it alone.

    Returns:
        the manifest of the outputs.
    """
    name = f"{STEPS_DIR}/{step}.done.json"
    run.refresh(name)
    marker = run.path / name
    if owns_marker:
        for leftover in (*remove_all_leftovers(folder), *remove_leftovers(marker)):
            log.info("removed %s, left by a start of %s that was killed", leftover, step)
    wanted = fingerprint(dict(recipe))
    if marker.exists():
        done = DoneMarker.read(marker, lambda: read_json(marker))
        if done is not None and done.recipe == wanted and run.is_intact(folder, done):
            log.info("%s: unchanged and finished, nothing to do", step)
            return Manifest.of_hashes(step, run.uri(folder), done.files, done.counts)
        if owns_marker:
            marker.unlink()
            run.publish()
    counts = dict(work())
    listed = files() if callable(files) else files
    hashes = _hashes(step, folder, listed)
    if owns_marker:
        run.publish()
        values = {"recipe": wanted, "files": hashes, "counts": counts}
        write_json(marker, {**values, **run.proofs(folder, listed)})
        run.publish()
    return Manifest.of_hashes(step, run.uri(folder), hashes, counts)


@dataclass(frozen=True, kw_only=True)
class TaskRecord(WithOthers):
    """Record that `recorded` has kept of one task, as far as others read it."""

    step: str
    state: str
    started_s: float
    error: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def end_s(self) -> float:
        """When it ended; when it started, if it was killed."""
        return self.started_s + self.seconds


@contextmanager
def recorded(root: Path | str, name: str, *, is_shared: bool = False) -> Iterator[RunFolder]:
    """Set up logging, then time and weigh what happens inside; keep the record with the run.

    Nobody else may be at work on the same step of the run. SIGTERM ends the work in good order.

    A record whose state is still `running` after its process is gone tells of a step that was
    killed, for example for want of memory. A worker that others keep out leaves theirs.

    Args:
        root: of the run.
        name: of the step, or of a machine's part in it: that of the record.
        is_shared: whether several workers may do it together.

    Yields:
        the folder of the run.

    Raises:
        DataError: another one is at work on it.
    """
    setup_logging()
    if runner := os.environ.get(RUNNER_VARIABLE):
        end_with(int(runner))
    with (
        sigterm_exits(),
        open_run(root) as run,
        nullcontext() if is_shared else run.sole_use(name),
    ):
        path = run.path / STEPS_DIR / f"{name}.json"
        remove_leftovers(path, older_than_s=_RECORD_PATIENCE_S if is_shared else 0.0)
        others = path.read_bytes() if is_shared and path.is_file() else None
        record: dict[str, Any] = {"step": name, "state": "running", "started_s": time.time()}
        write_json(path, record)
        run.publish()
        started_s = time.monotonic()
        with _MemoryMeter() as meter:
            try:
                with write_errors_named(run.path):
                    yield run
                    run.publish()
                record["state"] = "done"
            except OccupiedError:
                if others is None:
                    path.unlink()
                else:
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(others)
                run.publish()
                raise
            except Exception as error:
                record |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}
                raise
            finally:
                record["seconds"] = round(time.monotonic() - started_s, 3)
                record["peak_bytes"] = meter.read()
                if record["state"] != "running":
                    _write_record(run, path, record)
    log.info("%s: %.1f s, peak %.0f MB", name, record["seconds"], record["peak_bytes"] / 1e6)


def _write_record(run: RunFolder, path: Path, record: Mapping[str, Any]) -> None:
    """Write how a step ended, if it can be written: on a full disk the step's own error counts."""
    try:
        write_json(path, record)
        run.publish()
    except (DataError, OSError) as error:
        log.warning("the record of the step was not written: %s", error)


class _MemoryMeter:
    """Peak resident memory of this process and its descendants together, by sampling."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._descendants: list[psutil.Process] = []
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def read(self) -> int:
        """Take one more sample and return the peak so far, in bytes."""
        self._search()
        self._sample()
        return self._peak_bytes

    def _watch(self) -> None:
        searched_s = -math.inf
        while not self._stop.wait(_SAMPLE_EVERY_S):
            if time.monotonic() - searched_s >= _SEARCH_EVERY_S:
                self._search()
                searched_s = time.monotonic()
            self._sample()

    def _search(self) -> None:
        self._descendants = self._process.children(recursive=True)

    def _sample(self) -> None:
        total_bytes = 0
        for process in (self._process, *self._descendants):
            try:
                total_bytes += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # a child that ended between the listing and the look at it
        self._peak_bytes = max(self._peak_bytes, total_bytes)


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the command line that all steps share; a step adds its own arguments."""
    parser = argparse.ArgumentParser(description=description)
    add_root_argument(parser)
    add_params_arguments(parser)
    return parser


def add_root_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the run."""
    parser.add_argument(
        "--root", default="results/tiny", help="root of the run: a folder, or gs://bucket/prefix"
    )


def add_params_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the file of parameters and a profile in it."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--profile", default=BASE_PROFILE)


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with the message of an error that the user can mend, not a traceback."""
    try:
        yield
    except MixprintError as error:
        raise SystemExit(f"error: {error}") from error


def share_cores() -> None:
    """Leave the other processes of a fan-out their part of the cores."""
    workers = int(os.environ.get(WORKERS_VARIABLE, "1"))
    if workers > 1:
        import torch

        torch.set_num_threads(threads_each(workers))


@dataclass(frozen=True, kw_only=True)
class Sharding(WithOthers):
    """Part of the section `ingest` that the separation needs.

    Attributes:
        num_shards: how many shards the songs are dealt to.
        max_reject_fraction: part of the songs that may be left out.
    """

    num_shards: Annotated[int, Range(1, MAX_SHARDS)]
    max_reject_fraction: Annotated[float, Range(0, 1)]

    @classmethod
    def of_section(cls, section: Any) -> Self:
        """Take it out of the section.

        Raises:
            ConfigError: a value is missing or does not fit.
        """
        return as_record(section, "ingest", cls, ConfigError)


def section_json(values: Mapping[str, Any]) -> str:
    """Write a section as the one JSON text that a pipeline passes; equal values, equal text."""
    return json.dumps(values, sort_keys=True)


def _hashes(step: str, folder: Path, files: Sequence[str]) -> dict[str, str]:
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise DataError(f"{folder}: expected the outputs of step {step}, missing are {missing}")
    return {name: file_sha256(folder / name) for name in sorted(files)}
