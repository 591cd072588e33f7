"""Where MLflow keeps its runs and the registry; without MLflow, which takes seconds to import."""

import os
from pathlib import Path

# A folder, for sqlite writes files beside its database: a container mounts them all at once.
STORE = Path("mlstore")
_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """Give MLFLOW_TRACKING_URI, by default a database below the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{(STORE / 'mlflow.db').resolve()}"


def database_path(uri: str) -> Path | None:
    """Give the file of an sqlite database; None if the store is a server."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def artifact_root(uri: str) -> Path | None:
    """Give the folder of the artifacts beside an sqlite database; None if a server decides."""
    database = database_path(uri)
    return None if database is None else database.parent / "mlartifacts"
