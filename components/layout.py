"""Places of a run's results, so that a step finds those of the steps before it."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from components.run_folder import STEMS_FOLDER, DoneMarker, RunFolder, open_run
from components.step import STEPS_DIR, Manifest
from mixprint.errors import DataError
from mixprint.fingerprint import file_sha256
from mixprint.storage.atomic import read_json
from mixprint.storage.bucket import GcsBucket, is_bucket, open_bucket

# DVC sets it for the command of a stage. It compares contents by itself, and restores outputs of an
# earlier time beside markers of a later one.
_DVC_VARIABLE = "DVC_STAGE"
CATALOGUE_FOLDER = "catalogue"
CATALOGUE_FILES = ("catalogue.parquet", "rejects.parquet")
FEATURES_FOLDER = "features"
FEATURES_FILES = ("features.parquet", "standardisation.json")
ENCODER_FOLDER = "encoder"
ENCODER_FILES = ("weights.safetensors", "config.json")
ENCODER_HISTORY_FILE = "history.json"
ZERO_SHOT_FOLDER = "zero_shot"
ZERO_SHOT_FILES = ("weights.safetensors", "config.json", "history.json")
EVALUATION_FOLDER = "evaluation"
METRICS_FILE = "metrics.json"
DETAILS_FILE = "details.json"
REPORT_FILE = "report.html"
PROMOTION_FILE = "promotion.json"
TRANSFER_FOLDER = "transfer"
TRANSFER_METRICS_FILE = "transfer_metrics.json"


def catalogue_manifest(root: Path | str) -> Manifest:
    """Describe the catalogue of a run."""
    return _found("ingest", root, CATALOGUE_FOLDER, CATALOGUE_FILES)


def shard_manifest(root: Path | str, index: int, num_shards: int) -> Manifest:
    """Describe a finished stem shard; its done marker stands for its content."""
    from mixprint.collection.shards import done_path, shard_name

    marker = done_path(Path(STEMS_FOLDER) / shard_name(index, num_shards))
    counts = {"shard": index}
    if not is_bucket(str(root)):
        return Manifest.of_files("separate", Path(root) / STEMS_FOLDER, [marker.name], counts)
    digest = _sha256(open_bucket(str(root)), marker.as_posix())
    return Manifest.of_hashes("separate", _below(root, STEMS_FOLDER), {marker.name: digest}, counts)


@contextmanager
def described_stems(run: RunFolder, stems: Manifest) -> Iterator[Path]:
    """Return the folder of the stem shards for reading.

    Args:
        run: the folder of the run.
        stems: what the shards must be, before they are read and when they have been.

    Raises:
        DataError: they are others: a separation has replaced them.
    """
    folder = run.local(stems.uri)
    _check_stems(folder, stems, "")
    yield folder
    # Of a run in a bucket, this fetches the markers as they are now.
    _check_stems(run.local(stems.uri), stems, " while they were read")


def _check_stems(folder: Path, stems: Manifest, when: str) -> None:
    from mixprint.collection.shards import done_path, list_shards

    found = Manifest.joined(
        [
            Manifest.of_files("separate", folder, [done_path(path).name], {})
            for path in list_shards(folder)
        ]
    )
    if found.fingerprint != stems.fingerprint:
        raise DataError(
            f"{stems.uri}: expected the stem shards that this step was given "
            f"({stems.fingerprint[:12]}), found others{when} ({found.fingerprint[:12]}): a "
            "separation has replaced them; start the pipeline again"
        )


def stems_manifest(root: Path | str) -> Manifest:
    """Describe all stem shards of a run."""
    from mixprint.collection.shards import done_path, list_shards

    uri = _below(root, STEMS_FOLDER)
    with open_run(root) as run:
        # Of a run in a bucket, the markers are fetched all at once.
        markers = [done_path(path) for path in list_shards(run.local(uri))]
        hashes = [{marker.name: file_sha256(marker)} for marker in markers]
    return Manifest.joined([Manifest.of_hashes("separate", uri, each, {}) for each in hashes])


def features_manifest(root: Path | str) -> Manifest:
    """Describe the features of a run."""
    return _found("features", root, FEATURES_FOLDER, FEATURES_FILES)


def encoder_manifest(root: Path | str) -> Manifest:
    """Describe the encoder of a run."""
    return _found("train", root, ENCODER_FOLDER, ENCODER_FILES)


def evaluation_manifest(root: Path | str) -> Manifest:
    """Describe the metrics of a run."""
    return _found("evaluate", root, EVALUATION_FOLDER, (METRICS_FILE,))


def promotion_manifest(root: Path | str) -> Manifest:
    """Describe the decision about a run's encoder."""
    return _found("promote", root, "", (PROMOTION_FILE,))


def _found(step: str, root: Path | str, folder: str, files: tuple[str, ...]) -> Manifest:
    """Describe what a step has left; what DVC restored has no done marker, and so no counts."""
    name = f"{STEPS_DIR}/{step}.done.json"
    if not is_bucket(str(root)):
        marker = Path(root) / name
        done = DoneMarker.read(marker, lambda: read_json(marker)) if marker.exists() else None
        place = Path(root) / folder
        made = Manifest.of_files(step, place, files, done.counts if done else {})
        if done and not os.environ.get(_DVC_VARIABLE):
            _check_content(step, place, {file: done.files.get(file) for file in files})
        return made
    bucket = open_bucket(str(root))
    # The marker spares the reading of what it describes.
    done = None
    if bucket.exists(name):
        done = DoneMarker.read(bucket.uri(name), lambda: bucket.read_json(name))
    known = done.files if done else {}
    prefix = f"{folder}/" if folder else ""
    hashes = {file: known.get(file) or _sha256(bucket, f"{prefix}{file}") for file in files}
    return Manifest.of_hashes(step, _below(root, folder), hashes, done.counts if done else {})


def _check_content(step: str, folder: Path, known: Mapping[str, str | None]) -> None:
    """Refuse files that have changed since their step wrote them.

    Raises:
        DataError: names the first of them.
    """
    for file, sha256 in known.items():
        if sha256 is not None and file_sha256(folder / file) != sha256:
            raise DataError(
                f"{folder / file}: expected what step {step} has written, found other content: "
                f"it is damaged or was edited; start step {step} again, which makes it anew"
            )


def _sha256(bucket: GcsBucket, name: str) -> str:
    return hashlib.sha256(bucket.read_bytes(name)).hexdigest()


def _below(root: Path | str, folder: str) -> str:
    if is_bucket(str(root)):
        return f"{str(root).rstrip('/')}/{folder}".rstrip("/")
    return str(Path(root) / folder)
