"""Runs of MLflow: how a training is told of, without waiting for the server."""

import importlib.metadata
import logging
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from mlflow.entities import Metric, Param
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from components.mlflow.client import FAULTS, connect, first_run, may_pass, now_ms, shown_uri
from components.mlflow.registry import log_encoder
from components.mlflow.store import (
    stops_when_lost,
)
from mixprint.errors import DataError, TrainingError
from mixprint.schema import read_record
from mixprint.storage.atomic import write_json

log = logging.getLogger("mixprint.tracking")

NOTE_FILE = "mlflow.json"
RECIPE_TAG = "mixprint.recipe"
TRAINING_TAG = "mixprint.training"
TRAINING_DATA_TAG = "mixprint.data"
_LAST_RETRY_S = 1.0
_SYSTEM_PREFIX = "system/"  # by it MLflow's pages find them
_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Note:
    """Note of a training beside its state, written before its run is made.

    Attributes:
        recipe: hash of what the training depends on.
        training: value of the run's `TRAINING_TAG`.
    """

    recipe: str
    training: str


def noted_training(note: Path, recipe: str) -> str:
    """Name a training as its earlier starts did; a new one gets a name, and notes it.

    Args:
        note: where the name is kept.
        recipe: hash of what the training depends on.
    """
    try:
        known = read_record(note, _Note) if note.exists() else None
    except DataError as error:
        log.warning("%s; a new run is begun", error)
        known = None
    if known is None or known.recipe != recipe:
        known = _Note(recipe=recipe, training=uuid.uuid4().hex)
        write_json(note, asdict(known))
    return known.training


@dataclass(frozen=True, eq=False)
class _Entry:
    """One thing that a run is to have: what it is, and what sends it."""

    what: str
    send: Callable[[], object]


class BackgroundRun:
    """A run that is written by a thread, so that a training never waits for the tracking server.

    What cannot be sent now is kept and tried again. What the server refuses for good is left out.
    The end of the log says what MLflow lacks; the training itself loses nothing. Where a lost
    server shall stop the step (`stops_when_lost`), the end raises an error if MLflow lacks what it
    did not refuse: the results are on disk by then.

    Beside what it is given, the run holds the installed packages and how busy the machine was.
    """

    def __init__(
        self,
        experiment: str,
        name: str,
        *,
        note: Path,
        recipe: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        texts: Mapping[str, str] | None = None,
        retry_s: float = 30.0,
        patience_s: float = 60.0,
        sample_s: float = 5.0,
    ) -> None:
        """Describe the run.

        Args:
            experiment: its experiment.
            name: of a new run.
            note: where the training is named, so that a resumption finds the run.
            recipe: hash of what the training depends on.
            params: of a new run.
            tags: of a new run, beside its recipe.
            texts: path among the artifacts -> content, of a new run.
            retry_s: time between two attempts.
            patience_s: how long the end of the training waits for what is not sent yet.
            sample_s: time between two looks at processors, memory, disks, network and GPUs.
        """
        self._experiment, self._name = experiment, name
        self._note, self._recipe = note, recipe
        self._params, self._tags = dict(params), dict(tags or {})
        self._texts = dict(texts or {})
        self._retry_s, self._patience_s, self._sample_s = retry_s, patience_s, sample_s
        self._run_id: str | None = None
        self._is_new = False
        self._started_ms = now_ms()
        self._stops_when_lost = stops_when_lost()
        self._num_refused = 0
        self._entries: queue.Queue[_Entry | None] = queue.Queue()
        self._missing: list[_Entry] = []
        self._refusals: set[str] = set()
        self._ending, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._is_over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="mlflow-system", daemon=True)

    def __enter__(self) -> Self:
        """Begin to send; the run is opened even if nothing is ever measured."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send what is left, and say how the run ended.

        Raises:
            TrainingError: the server is lost, and that shall stop the step.
        """
        status = "FINISHED" if kind is None else "FAILED"
        self._is_over.set()
        if self._sampler.is_alive():
            self._sampler.join()
        self._put(f"status {status}", lambda: MlflowClient().set_terminated(self._run, status))
        self._entries.put(None)
        self._ending.set()
        self._thread.join(self._patience_s)
        self._given_up.set()
        missing = [entry.what for entry in list(self._missing)]
        if not missing:
            return
        names = list(dict.fromkeys(missing))
        more = ["..."] if len(names) > _NUM_SHOWN else []
        lack = (
            f"MLflow at {shown_uri()} lacks {len(missing)} entries of this training's run: "
            f"{', '.join([*names[:_NUM_SHOWN], *more])}"
        )
        if self._stops_when_lost and kind is None and len(missing) > self._num_refused:
            raise TrainingError(
                f"{lack}; what was trained is kept, and the next attempt begins there"
            )
        log.warning(lack)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log figures of a step."""
        self._put_metrics(f"figures of step {step}", step, metrics)

    def log_encoder(self, encoder_fingerprint: str, folder: Path) -> None:
        """Log the encoder's files, and tag the run with their hash; see `log_encoder`."""
        self._put("the encoder", lambda: log_encoder(self._run, encoder_fingerprint, folder))

    def log_files(self, paths: Sequence[Path], folder: str) -> None:
        """Log files under a folder of the run's artifacts."""
        for path in paths:
            self._put(path.name, partial(self._log_file, path, folder))

    def _log_file(self, path: Path, folder: str) -> None:
        MlflowClient().log_artifact(self._run, str(path), folder)

    def _put_metrics(self, what: str, step: int, metrics: Mapping[str, float]) -> None:
        time_ms = now_ms()
        values = [Metric(name, value, time_ms, step) for name, value in metrics.items()]
        self._put(what, lambda: MlflowClient().log_batch(self._run, values))

    def _put(self, what: str, send: Callable[[], object]) -> None:
        self._entries.put(self._owed(what, send))

    def _owed(self, what: str, send: Callable[[], object]) -> _Entry:
        entry = _Entry(what, send)
        self._missing.append(entry)
        return entry

    @property
    def _run(self) -> str:
        """The run's id, which is known before anything is sent."""
        assert self._run_id is not None
        return self._run_id

    def _work(self) -> None:
        """Send everything in turn."""
        self._deliver(self._owed("the run", self._open))
        if self._run_id is not None:
            self._sampler.start()
        if self._is_new:
            self._deliver(self._owed("parameters", self._log_params))
            self._deliver(self._owed("list of packages", self._log_environment))
            for path, text in self._texts.items():
                self._deliver(self._owed(path, partial(self._log_text, text, path)))
        while (entry := self._entries.get()) is not None:
            if self._run_id is not None:
                self._deliver(entry)

    def _deliver(self, entry: _Entry) -> None:
        """Send an entry, as often as it takes; what is refused stays missing."""
        is_told = False
        while not self._given_up.is_set():
            try:
                entry.send()
            except (*FAULTS, DataError) as error:
                if not may_pass(error):
                    self._leave_out(entry, error)
                    return
                if not is_told:
                    log.warning("MLflow at %s: %s; tries again", shown_uri(), error)
                    is_told = True
            except Exception:
                # A bug in one entry must not cost the others.
                log.exception("MLflow at %s: %s is left out", shown_uri(), entry.what)
                self._num_refused += 1
                return
            else:
                self._missing.remove(entry)
                return
            if self._ending.wait(self._retry_s):
                self._given_up.wait(min(self._retry_s, _LAST_RETRY_S))

    def _leave_out(self, entry: _Entry, error: Exception) -> None:
        """Return the reason, once: a run that was deleted refuses each entry by the same one."""
        self._num_refused += 1
        if str(error) not in self._refusals:
            self._refusals.add(str(error))
            log.warning("MLflow at %s: %s is left out: %s", shown_uri(), entry.what, error)

    def _open(self) -> None:
        """Go on with the run of an earlier start, or make one."""
        experiment = connect(self._experiment)
        client = MlflowClient()
        # Before the run is made: that of a start that is killed here is found again.
        training = noted_training(self._note, self._recipe)
        if run_id := first_run(experiment, TRAINING_TAG, training):
            client.update_run(run_id, status="RUNNING")
            run = client.get_run(run_id)
            self._started_ms = run.info.start_time
        else:
            # Those that MLflow gives to every run: who, what program, which commit.
            tags = {RECIPE_TAG: self._recipe, TRAINING_TAG: training, **self._tags}
            run = client.create_run(experiment, self._started_ms, resolve_tags(tags), self._name)
        self._is_new = not run.data.params
        self._run_id = str(run.info.run_id)

    def _log_params(self) -> None:
        params = [Param(name, str(value)) for name, value in self._params.items()]
        MlflowClient().log_batch(self._run, params=params)

    def _log_environment(self) -> None:
        self._log_text(environment_text(), "environment/packages.txt")

    def _log_text(self, text: str, path: str) -> None:
        MlflowClient().log_text(self._run, text, path)

    def _sample(self) -> None:
        """Look at the machine at equal distances, by seconds since the run began.

        MLflow measures, but does not send: its own thread ends at the first fault of the server.
        """
        monitor = SystemMetricsMonitor(self._run, self._sample_s)
        while True:
            monitor.collect_metrics()
            if self._is_over.wait(monitor.sampling_interval):
                return
            values = monitor.aggregate_metrics()
            for part in monitor.monitors:
                part.clear_metrics()
            second = (now_ms() - self._started_ms) // 1000
            named = {f"{_SYSTEM_PREFIX}{name}": value for name, value in values.items()}
            self._put_metrics("load of the machine", second, named)


def environment_text() -> str:
    """List the installed packages as `name==version` lines."""
    pairs = {(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()}
    return "\n".join(f"{name}=={version}" for name, version in sorted(pairs, key=_caseless)) + "\n"


def _caseless(pair: tuple[str, str]) -> tuple[str, str]:
    return pair[0].lower(), pair[1]
