"""Where a run keeps its results, so that a step finds those of the steps before it."""

from pathlib import Path

from components.step import STEPS_DIR, Manifest
from mixprint.atomic import read_json

CATALOGUE_FOLDER = "catalogue"
CATALOGUE_FILES = ("catalogue.parquet", "rejects.parquet")
STEMS_FOLDER = "stems"
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


def catalogue_manifest(root: Path) -> Manifest:
    """Describe the catalogue of a run from disk."""
    return _from_disk("ingest", root, root / CATALOGUE_FOLDER, CATALOGUE_FILES)


def shard_manifest(root: Path, index: int, num_shards: int) -> Manifest:
    """Describe a finished stem shard; its done marker stands for its content."""
    from mixprint.shards import done_path, shard_name

    folder = root / STEMS_FOLDER
    marker = done_path(folder / shard_name(index, num_shards))
    return Manifest.of_files("separate", folder, [marker.name], {"shard": index})


def stems_manifest(root: Path) -> Manifest:
    """Describe all stem shards of a run from disk."""
    from mixprint.shards import list_shards

    num_shards = len(list_shards(root / STEMS_FOLDER))
    return Manifest.joined([shard_manifest(root, i, num_shards) for i in range(num_shards)])


def features_manifest(root: Path) -> Manifest:
    """Describe the features of a run from disk."""
    return _from_disk("features", root, root / FEATURES_FOLDER, FEATURES_FILES)


def encoder_manifest(root: Path) -> Manifest:
    """Describe the encoder of a run from disk."""
    return _from_disk("train", root, root / ENCODER_FOLDER, ENCODER_FILES)


def evaluation_manifest(root: Path) -> Manifest:
    """Describe the metrics of a run from disk."""
    return _from_disk("evaluate", root, root / EVALUATION_FOLDER, (METRICS_FILE,))


def promotion_manifest(root: Path) -> Manifest:
    """Describe the decision about a run's encoder from disk."""
    return _from_disk("promote", root, root, (PROMOTION_FILE,))


def _from_disk(step: str, root: Path, folder: Path, files: tuple[str, ...]) -> Manifest:
    """Outputs that DVC restored have no done marker, and so no counts."""
    marker = root / STEPS_DIR / f"{step}.done.json"
    counts = read_json(marker)["counts"] if marker.exists() else {}
    return Manifest.of_files(step, folder, files, counts)
