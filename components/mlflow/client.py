"""MLflow as mixprint uses it: where runs go, and the registry of encoders.

A version of the registry is a folder of safetensors and JSON that a run has logged under
`model/`. Aliases say which one counts (`candidate`, `champion`); tags say why.
"""

import importlib.metadata
import logging
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import mlflow
from alembic.util import CommandError
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from components.mlflow.store import (
    artifact_root,
    checked_uri,
    database_path,
    nearest_uri,
    stops_when_lost,
    tracking_uri,
    without_credentials,
)
from mixprint.errors import DataError, TrainingError
from mixprint.schema import read_record
from mixprint.storage.atomic import read_json, write_json
from mixprint.storage.locks import locked

log = logging.getLogger("mixprint.tracking")

EXPERIMENT = "mixprint"
NOTE_FILE = "mlflow.json"
RECIPE_TAG = "mixprint.recipe"
TRAINING_TAG = "mixprint.training"
TRAINING_DATA_TAG = "mixprint.data"
MODEL_FOLDER = "model"
CHAMPION = "champion"
CANDIDATE = "candidate"
ENCODER_TAG = "mixprint.encoder"
# From its creation on, of a run that gets an encoder from outside.
IMPORT_TAG = "mixprint.import"
DATA_TAG = "mixprint.evaluation_data"
METRIC_TAG = "mixprint.metric."
DECISION_TAG = "mixprint.decision"
REASONS_TAG = "mixprint.reasons"
PREVIOUS_TAG = "mixprint.previous_champion"
# What fails when a store is not there, is busy, or is being made by another program.
_FAULTS = (MlflowException, OSError, SQLAlchemyError, CommandError)
# Of HTTP: request timeout, conflict, too many requests; every server error but "not implemented".
_PASSING_STATUS, _SERVER_ERROR, _NOT_IMPLEMENTED = frozenset({408, 409, 429}), 500, 501
_LAST_RETRY_S = 1.0
_SYSTEM_PREFIX = "system/"  # by it MLflow's pages find them
_NUM_SHOWN = 5


def own_experiment(task: str) -> str:
    """Name the experiment of a training that is no step of the pipeline."""
    return f"{EXPERIMENT}-{task}"


def connect(experiment: str = EXPERIMENT) -> str:
    """Point MLflow at the tracking store and return the id of one of mixprint's experiments.

    Steps may start at the same moment: of those on one machine, one makes an sqlite database.
    """
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    if (database := database_path(uri)) is None:
        return _experiment_id(experiment, None)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two that create the tables at once would undo each other's.
    with locked(database.with_name(f"{database.name}.lock")):
        return _experiment_id(experiment, artifact_root(uri))


def _experiment_id(experiment: str, root: Path | None) -> str:
    client = MlflowClient()
    if existing := client.get_experiment_by_name(experiment):
        return str(existing.experiment_id)
    try:
        return str(
            client.create_experiment(
                experiment, artifact_location=root.as_uri() if root is not None else None
            )
        )
    except MlflowException as error:
        # At a server another machine may have been faster: its experiment is taken.
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        other = client.get_experiment_by_name(experiment)
        if other is None:
            raise
        return str(other.experiment_id)


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
        self._started_ms = _now_ms()
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
        now_ms = _now_ms()
        values = [Metric(name, value, now_ms, step) for name, value in metrics.items()]
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
            except (*_FAULTS, DataError) as error:
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
        if run_id := _first_run(experiment, TRAINING_TAG, training):
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
            second = (_now_ms() - self._started_ms) // 1000
            named = {f"{_SYSTEM_PREFIX}{name}": value for name, value in values.items()}
            self._put_metrics("load of the machine", second, named)


def _now_ms() -> int:
    return round(time.time() * 1000)


def may_pass(error: Exception) -> bool:
    """Tell a fault that time may mend, such as a server that is away, from a refusal for good."""
    status: int | None = None
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    if status is not None:
        is_server = status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED
        return is_server or status in _PASSING_STATUS
    return isinstance(error, _FAULTS) and not isinstance(error, FileNotFoundError)


def shown_uri() -> str:
    """Return the store's address for messages: one of a database server may hold a password."""
    return without_credentials(tracking_uri())


@contextmanager
def may_be_lost(what: str) -> Iterator[None]:
    """Do without MLflow where its server is lost, unless that shall stop the step.

    MLflow itself tries a request again for minutes (MLFLOW_HTTP_REQUEST_MAX_RETRIES).

    Args:
        what: it is to have.

    Raises:
        DataError: it is lost, and that shall stop the step.
    """
    try:
        yield
    except _FAULTS as error:
        if not may_pass(error):
            raise
        lack = f"MLflow at {shown_uri()} lacks {what}: {error}"
        if stops_when_lost():
            raise DataError(lack) from error
        log.warning(lack)


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Say in one sentence that nothing can be done without MLflow.

    Raises:
        DataError: it is lost.
    """
    try:
        yield
    except _FAULTS as error:
        if not may_pass(error):
            raise
        raise DataError(f"MLflow at {shown_uri()}: expected {what}, found: {error}") from error


def environment_text() -> str:
    """List the installed packages as `name==version` lines."""
    pairs = {(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()}
    return "\n".join(f"{name}=={version}" for name, version in sorted(pairs, key=_caseless)) + "\n"


def _caseless(pair: tuple[str, str]) -> tuple[str, str]:
    return pair[0].lower(), pair[1]


def run_of_encoder(encoder_fingerprint: str, folder: Path) -> str:
    """Find the run that logged this encoder, or log it in a run of its own.

    Encoders that came from DVC or from another machine have no run in this store.

    Args:
        encoder_fingerprint: hash of the encoder's files.
        folder: the encoder's files.

    Returns:
        the id of a run whose `model/` holds the encoder.
    """
    experiment = connect()
    if logged := _first_run(experiment, ENCODER_TAG, encoder_fingerprint):
        return logged
    client = MlflowClient()
    # One that was killed has left it half made, or another one makes it at this moment.
    run_id = _first_run(experiment, IMPORT_TAG, encoder_fingerprint)
    if run_id is None:
        tags = resolve_tags({IMPORT_TAG: encoder_fingerprint})
        made = client.create_run(experiment, _now_ms(), tags, "import encoder")
        run_id = str(made.info.run_id)
        # A faster one may have logged it meanwhile, whatever its clock says.
        logged = _first_run(experiment, ENCODER_TAG, encoder_fingerprint)
        first = logged or _first_run(experiment, IMPORT_TAG, encoder_fingerprint) or run_id
        if first != run_id:
            client.delete_run(run_id)
        if logged:
            return logged
        run_id = first
    # First, because the tag that `log_encoder` sets at its end vouches for all of it.
    client.set_terminated(run_id)
    log_encoder(run_id, encoder_fingerprint, folder)
    return run_id


def _first_run(experiment: str, tag: str, value: str) -> str | None:
    """Find the oldest run with a tag of this value; of two of one moment, all take the same."""
    found = MlflowClient().search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'")
    oldest = min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
    return None if oldest is None else str(oldest.info.run_id)


def log_encoder(run_id: str, encoder_fingerprint: str, folder: Path) -> None:
    """Log the encoder's files, then tag the run with their hash: whoever finds it finds them all.

    Args:
        run_id: of the run.
        encoder_fingerprint: hash of the encoder's files.
        folder: the encoder's files.
    """
    client = MlflowClient()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json"}:
            client.log_artifact(run_id, str(path), MODEL_FOLDER)
    client.set_tag(run_id, ENCODER_TAG, encoder_fingerprint)


@dataclass(frozen=True)
class Decision:
    """A decision on a version, and its reason."""

    promoted: bool
    reasons: tuple[str, ...]


class Registry:
    """The versions of one registered model."""

    def __init__(self, model_name: str, *, must_exist: bool = False) -> None:
        """Connect to the store and make sure that the model has an entry there.

        Args:
            model_name: the registered model.
            must_exist: make neither a store nor an entry.

        Raises:
            DataError: the store is lost; or it is not there, and must exist.
        """
        self.model_name = model_name
        with needed("the registry of encoders"):
            if must_exist:
                mlflow.set_tracking_uri(checked_uri())
                self._client = MlflowClient()
                return
            connect()
            self._client = MlflowClient()
            try:
                self._client.create_registered_model(model_name)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                    raise

    def find(self, encoder_fingerprint: str) -> ModelVersion | None:
        """Find the version that holds this very encoder; of several, the first."""
        return next(iter(self._versions_of(encoder_fingerprint)), None)

    def _versions_of(self, encoder_fingerprint: str) -> list[ModelVersion]:
        found = self._client.search_model_versions(
            f"name = '{self.model_name}' and tags.`{ENCODER_TAG}` = '{encoder_fingerprint}'"
        )
        return sorted(found, key=lambda version: int(version.version))

    def _drop_others(self, encoder_fingerprint: str) -> ModelVersion:
        """Remove what others that registered the same encoder at one moment have made besides.

        Nobody has judged those; who is about to takes the first version, too.
        """
        first, *others = self._versions_of(encoder_fingerprint)
        for other in others:
            if DECISION_TAG in other.tags:
                continue
            try:
                self._client.delete_model_version(self.model_name, other.version)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                    raise
        return first

    def register(
        self,
        *,
        run_id: str,
        encoder_fingerprint: str,
        data_fingerprint: str,
        metrics: Mapping[str, float],
    ) -> ModelVersion:
        """Make the encoder that a run logged a version, and give that the alias `candidate`.

        A version that is there already, of a step that was killed, gets the alias only.

        Args:
            run_id: the run whose `model/` holds the encoder.
            encoder_fingerprint: hash of the encoder's files.
            data_fingerprint: hash of the data that the metrics were measured on.
            metrics: its evaluation, kept as tags so that later candidates can be compared.
        """
        if self.find(encoder_fingerprint) is None:
            tags = {ENCODER_TAG: encoder_fingerprint, DATA_TAG: data_fingerprint}
            tags |= {METRIC_TAG + name: repr(float(value)) for name, value in metrics.items()}
            self._client.create_model_version(
                self.model_name, source=f"runs:/{run_id}/{MODEL_FOLDER}", run_id=run_id, tags=tags
            )
        version = self._drop_others(encoder_fingerprint)
        self._client.set_registered_model_alias(self.model_name, CANDIDATE, version.version)
        return version

    def champion(self) -> ModelVersion | None:
        """Return the version with alias `champion`, or None."""
        try:
            aliases = self._client.get_registered_model(self.model_name).aliases
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            return None
        return self.version(str(aliases[CHAMPION])) if CHAMPION in aliases else None

    def version(self, version: str) -> ModelVersion:
        """Return a version by its number.

        Raises:
            DataError: there is no such version.
        """
        try:
            return self._client.get_model_version(self.model_name, version)
        except MlflowException as error:
            known = sorted(
                int(v.version)
                for v in self._client.search_model_versions(f"name = '{self.model_name}'")
            )
            raise DataError(
                f"registry {self.model_name}: expected one of the versions {known}, got {version!r}"
            ) from error

    def decide(self, version: str, decision: Decision) -> None:
        """Write the decision and its reasons on the version; move `champion` if it was won."""
        champion = self.champion()
        # MLflow gives numbers of versions as integers or as texts, depending on the call.
        previous = str(champion.version) if champion is not None else ""
        if decision.promoted and previous != version:
            self.tag(version, PREVIOUS_TAG, previous)
            self._client.set_registered_model_alias(self.model_name, CHAMPION, version)
        self.tag(version, DECISION_TAG, "promoted" if decision.promoted else "refused")
        self.tag(version, REASONS_TAG, "; ".join(decision.reasons))

    def rollback(self) -> tuple[str, str]:
        """Return `champion` back to the version that had it before.

        Returns:
            the numbers of the version that lost the alias and of the one that has it now.

        Raises:
            DataError: there is no champion, or none before it.
        """
        champion = self.champion()
        if champion is None:
            raise DataError(f"registry {self.model_name}: expected a champion, found none")
        previous = champion.tags.get(PREVIOUS_TAG, "")
        if not previous:
            raise DataError(
                f"registry {self.model_name}: expected a champion before version "
                f"{champion.version}, found none"
            )
        lost = str(champion.version)
        self._client.set_registered_model_alias(self.model_name, CHAMPION, previous)
        self.tag(lost, DECISION_TAG, "rolled back")
        self.tag(lost, REASONS_TAG, f"rolled back by hand to version {previous}")
        return lost, previous

    def download_champion(self, folder: Path) -> Path:
        """Fetch the champion's files into a folder and return the folder that holds them.

        Raises:
            DataError: there is no champion.
        """
        if self.champion() is None:
            raise DataError(
                f"registry {self.model_name}: expected a version with alias {CHAMPION!r}, found "
                "none; the newest version's tag mixprint.reasons says why; name one by hand with "
                "`make promote VERSION=n`"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return Path(
            mlflow.artifacts.download_artifacts(
                f"models:/{self.model_name}@{CHAMPION}", dst_path=str(folder)
            )
        )

    def tag(self, version: str, key: str, value: str) -> None:
        """Set one tag of a version."""
        self._client.set_model_version_tag(self.model_name, version, key, value)


def fetch_model(name: str, folder: Path) -> Path:
    """Fetch a registered model's files; the entry point `models` of `mixprint.checkpoints`.

    Args:
        name: `models:/<model>@<alias>` or `models:/<model>/<version>`.
        folder: receives the files.

    Returns:
        the folder that holds them.

    Raises:
        DataError: the registry has no such model, alias or version, or is not there.
    """
    uri = nearest_uri()
    mlflow.set_tracking_uri(uri)
    try:
        return Path(mlflow.artifacts.download_artifacts(name, dst_path=str(folder)))
    except _FAULTS as error:
        raise DataError(
            f"{name}: expected a registered model in {without_credentials(uri)}, found: {error}"
        ) from error


def log_model_files(run_id: str, folder: Path) -> None:
    """Add files to a run's `model/`, where they belong to the version that is made of it."""
    MlflowClient().log_artifacts(run_id, str(folder), MODEL_FOLDER)


def read_model_json(version: ModelVersion, name: str) -> Any | None:
    """Read a JSON file that lies beside a version's weights; None if there is none."""
    path = f"{MODEL_FOLDER}/{name}"
    client = MlflowClient()
    run_id = version.run_id
    if run_id is None:  # a version that others made of files without a run
        return None
    if path not in {item.path for item in client.list_artifacts(run_id, MODEL_FOLDER)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read_json(client.download_artifacts(run_id, path, folder))


def describe_version(
    model_name: str, version: str, text: str, data_fingerprint: str, metrics: Mapping[str, float]
) -> None:
    """Write on a version what its newest evaluation found.

    Args:
        model_name: the registered model.
        version: number of the version.
        text: its model card, in Markdown.
        data_fingerprint: hash of the data that the metrics were measured on.
        metrics: its evaluation, as tags.
    """
    client = MlflowClient()
    client.update_model_version(model_name, version, description=text)
    tags = {DATA_TAG: data_fingerprint}
    tags |= {METRIC_TAG + name: repr(float(value)) for name, value in metrics.items()}
    for key, value in tags.items():
        client.set_model_version_tag(model_name, version, key, value)
