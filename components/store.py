"""Where MLflow keeps its runs and the registry; without MLflow, which takes seconds to import."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from mixprint.errors import ConfigError

# A folder, for sqlite writes files beside its database: a container mounts them all at once.
STORE = Path("mlstore")
URI_VARIABLE = "MLFLOW_TRACKING_URI"
USERNAME_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
# What a step does that MLflow's server is lost to: the files of the run hold all it has found.
LOST_VARIABLE = "MIXPRINT_MLFLOW_LOST"
GO_ON, STOP = "go-on", "stop"
_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """Give MLFLOW_TRACKING_URI, by default a database below the working directory.

    Credentials in the address of a server move to the variables that MLflow has for them: MLflow
    writes addresses into its messages and logs.
    """
    uri = os.environ.get(URI_VARIABLE) or f"{_SQLITE}{(STORE / 'mlflow.db').resolve()}"
    parts = urlsplit(uri)
    if parts.scheme in {"http", "https"} and parts.username is not None:
        os.environ[USERNAME_VARIABLE] = unquote(parts.username)
        os.environ[PASSWORD_VARIABLE] = unquote(parts.password or "")
        os.environ[URI_VARIABLE] = uri = without_credentials(uri)
    return uri


def without_credentials(uri: str) -> str:
    """Leave name and password out of an address; any other text stays as it is."""
    parts = urlsplit(uri)
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)) if at else uri


def stops_when_lost() -> bool:
    """Tell whether a step shall fail whose figures MLflow lacks.

    Raises:
        ConfigError: the variable says neither.
    """
    wanted = os.environ.get(LOST_VARIABLE) or GO_ON
    if wanted not in {GO_ON, STOP}:
        raise ConfigError(f"{LOST_VARIABLE}: expected {GO_ON} or {STOP}, found {wanted!r}")
    return wanted == STOP


def database_path(uri: str) -> Path | None:
    """Give the file of an sqlite database; None if the store is a server."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def artifact_root(uri: str) -> Path | None:
    """Give the folder of the artifacts beside an sqlite database; None if a server decides."""
    database = database_path(uri)
    return None if database is None else database.parent / "mlartifacts"
