"""Place of MLflow's runs and registry; without MLflow, which takes seconds to import."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from mixprint.errors import ConfigError, DataError

# A folder, for sqlite writes files beside its database: a container mounts them all at once.
STORE = Path("mlstore")
DATABASE = STORE / "mlflow.db"
# Where this package lies: in a checkout that was installed in place, so does the store of its runs.
CHECKOUT = Path(__file__).resolve().parents[2]
URI_VARIABLE = "MLFLOW_TRACKING_URI"
USERNAME_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
# What a step does that MLflow's server is lost to: the files of the run hold all it has found.
LOST_VARIABLE = "MIXPRINT_MLFLOW_LOST"
GO_ON, STOP = "go-on", "stop"
_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, by default a database below the working directory.

    Credentials in the address of a server move to the variables that MLflow has for them: MLflow
    writes addresses into its messages and logs.
    """
    uri = os.environ.get(URI_VARIABLE) or f"{_SQLITE}{DATABASE.resolve()}"
    parts = urlsplit(uri)
    if parts.scheme in {"http", "https"} and parts.username is not None:
        os.environ[USERNAME_VARIABLE] = unquote(parts.username)
        os.environ[PASSWORD_VARIABLE] = unquote(parts.password or "")
        os.environ[URI_VARIABLE] = uri = without_credentials(uri)
    return uri


def checked_uri() -> str:
    """Return `tracking_uri` where only what is there counts: MLflow would make an empty store.

    Raises:
        DataError: there is no such database or folder.
    """
    uri = tracking_uri()
    place = database_path(uri)
    if place is None and (parts := urlsplit(uri)).scheme in {"", "file"}:
        place = Path(unquote(parts.path))
    if place is not None and not place.exists():
        raise DataError(
            f"MLflow: expected the store of runs and registry at {place}, found none: set "
            f"{URI_VARIABLE} to the address of yours"
        )
    return uri


def nearest_uri() -> str:
    """Find the store that a name like `models:/name@alias` means, wherever the command is called.

    It is that of MLFLOW_TRACKING_URI, else the one in the working directory, in the nearest folder
    above it, or in the checkout that mixprint runs from.

    Raises:
        DataError: none of these is there.
    """
    if os.environ.get(URI_VARIABLE):
        return checked_uri()
    here = Path.cwd()
    for folder in (here, *here.parents, CHECKOUT):
        if (folder / DATABASE).is_file():
            return f"{_SQLITE}{(folder / DATABASE).resolve()}"
    raise DataError(
        f"MLflow: expected {DATABASE} in {here}, in a folder above it or in {CHECKOUT}, found "
        f"none: call the command where the pipeline runs, or set {URI_VARIABLE}"
    )


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
    """Return the file of an sqlite database; None if the store is a server."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def artifact_root(uri: str) -> Path | None:
    """Return the folder of the artifacts beside an sqlite database; None if a server decides."""
    database = database_path(uri)
    return None if database is None else database.parent / "mlartifacts"
