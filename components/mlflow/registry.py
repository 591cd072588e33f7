"""Registry of encoders in MLflow.

A version is a folder of safetensors and JSON that a run has logged under `model/`. Aliases say
which one counts (`candidate`, `champion`); tags say why.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from components.mlflow.client import FAULTS, connect, first_run, needed, now_ms
from components.mlflow.store import (
    checked_uri,
    nearest_uri,
    without_credentials,
)
from mixprint.errors import DataError
from mixprint.storage.atomic import read_json

log = logging.getLogger("mixprint.tracking")

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
    if logged := first_run(experiment, ENCODER_TAG, encoder_fingerprint):
        return logged
    client = MlflowClient()
    # One that was killed has left it half made, or another one makes it at this moment.
    run_id = first_run(experiment, IMPORT_TAG, encoder_fingerprint)
    if run_id is None:
        tags = resolve_tags({IMPORT_TAG: encoder_fingerprint})
        made = client.create_run(experiment, now_ms(), tags, "import encoder")
        run_id = str(made.info.run_id)
        # A faster one may have logged it meanwhile, whatever its clock says.
        logged = first_run(experiment, ENCODER_TAG, encoder_fingerprint)
        first = logged or first_run(experiment, IMPORT_TAG, encoder_fingerprint) or run_id
        if first != run_id:
            client.delete_run(run_id)
        if logged:
            return logged
        run_id = first
    # First, because the tag that `log_encoder` sets at its end vouches for all of it.
    client.set_terminated(run_id)
    log_encoder(run_id, encoder_fingerprint, folder)
    return run_id


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
            self._client.create_model_version(
                self.model_name,
                source=f"runs:/{run_id}/{MODEL_FOLDER}",
                run_id=run_id,
                tags={ENCODER_TAG: encoder_fingerprint, **_tags(data_fingerprint, metrics)},
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
                f"registry {self.model_name}: expected one of the versions "
                f"{', '.join(map(str, known))}, found {version}"
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
    except FAULTS as error:
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
    for key, value in _tags(data_fingerprint, metrics).items():
        client.set_model_version_tag(model_name, version, key, value)


def _tags(data_fingerprint: str, metrics: Mapping[str, float]) -> dict[str, str]:
    """Write an evaluation as tags of a version."""
    values = {METRIC_TAG + name: repr(float(value)) for name, value in metrics.items()}
    return {DATA_TAG: data_fingerprint, **values}
