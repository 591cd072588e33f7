"""MLflow as mixprint uses it: where runs go, and what is done where its server is lost."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    ErrorCode,
)
from mlflow.tracking import MlflowClient
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from components.mlflow.store import (
    artifact_root,
    database_path,
    stops_when_lost,
    tracking_uri,
    without_credentials,
)
from mixprint.errors import DataError
from mixprint.storage.locks import locked

log = logging.getLogger("mixprint.tracking")

EXPERIMENT = "mixprint"
# What fails when a store is not there, is busy, or is being made by another program.
FAULTS = (MlflowException, OSError, SQLAlchemyError, CommandError)
# Of HTTP: request timeout, conflict, too many requests; every server error but "not implemented".
_PASSING_STATUS, _SERVER_ERROR, _NOT_IMPLEMENTED = frozenset({408, 409, 429}), 500, 501


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


def now_ms() -> int:
    """Return the time as MLflow counts it."""
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
    return isinstance(error, FAULTS) and not isinstance(error, FileNotFoundError)


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
    except FAULTS as error:
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
    except FAULTS as error:
        if not may_pass(error):
            raise
        raise DataError(f"MLflow at {shown_uri()}: expected {what}, found: {error}") from error


def first_run(experiment: str, tag: str, value: str) -> str | None:
    """Find the oldest run with a tag of this value; of two of one moment, all take the same."""
    found = MlflowClient().search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'")
    oldest = min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
    return None if oldest is None else str(oldest.info.run_id)
