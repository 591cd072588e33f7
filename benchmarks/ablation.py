"""Worth of each part of the representation: `make ablation`.

Generates the songs of `mixprint.synthesis.style_benchmark`, ingests, separates and measures them
once, then trains and evaluates an encoder for each variant, all by the steps of the pipeline. What
is finished is not done again: a run that was killed goes on. Writes
`benchmarks/results/ablation.json` and the same figures as a Markdown table beside it.
"""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pipeline import machine
from benchmarks.publish import publish
from components.layout import (
    CATALOGUE_FOLDER,
    ENCODER_FOLDER,
    EVALUATION_FOLDER,
    FEATURES_FOLDER,
    METRICS_FILE,
    STEMS_FOLDER,
)
from mixprint.config import load_params
from mixprint.log import setup_logging
from mixprint.storage.atomic import atomic_path, read_json
from mixprint.synthesis.style_benchmark import generate_benchmark
from mixprint.training.measured import MEASURED_FOLDER
from mixprint.training.outputs import STATE_FOLDER

log = logging.getLogger("mixprint.ablation")

PROFILE, DESCRIPTORS_PROFILE = "representation", "descriptors"
ROOT = Path("results/ablation")
PARAMS_FILE = "params.yaml"
SHARED_FOLDERS = (CATALOGUE_FOLDER, STEMS_FOLDER, FEATURES_FOLDER)
DEFAULT = "default"
# What a variant changes in the section `train` of the profile.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "FiLM alone": {"feature_skip": False},
    "features prepended": {"conditioning": "prepend", "feature_skip": False},
    "features join late alone": {"conditioning": "none"},
    "no features": {"conditioning": "none", "feature_skip": False},
    "styles not told": {"same_style": "negative"},
    "styles ignored": {"same_style": "ignored"},
    "no shared chains": {"shared_chain_weight": 0.0},
    "shared chains alone": {"segment_weight": 0.0, "shared_chain_weight": 1.0},
    "other songs alone repel": {"negatives": ["songs"]},
    "siblings do not repel": {"negatives": ["songs", "augmented"]},
    "other songs do not repel": {"negatives": ["siblings", "augmented"]},
    "augmented anchors do not repel": {"negatives": ["songs", "siblings"]},
    "without level": {"dropped_families": ["level"]},
    "without dynamics": {"dropped_families": ["dynamics"]},
    "without spectrum": {"dropped_families": ["spectrum"]},
    "without stereo": {"dropped_families": ["stereo"]},
    "without masking": {"dropped_families": ["masking"]},
    "siblings in other batches": {"siblings_per_batch": 1},
    "temperature learned": {"learn_temperature": True},
    "chains, contrast and prediction": {"augmentation": "chains", "prediction_weight": 1.0},
    "chains, contrast alone": {"augmentation": "chains"},
    "chains, prediction alone": {
        "augmentation": "chains",
        "prediction_weight": 1.0,
        "contrast_weight": 0.0,
    },
    "chains and the fixed chain in turn": {"augmentation": "alternating", "prediction_weight": 1.0},
}
# What one changes in that of the profile of the other backbone.
DESCRIPTORS: Mapping[str, Mapping[str, Any]] = {
    "descriptors": {},
    "descriptors, and prediction": {"prediction_weight": 0.3},
    "descriptors, random chains": {"augmentation": "chains"},
    "descriptors, random chains and prediction": {
        "augmentation": "chains",
        "prediction_weight": 0.3,
    },
    "descriptors, prediction alone": {
        "augmentation": "chains",
        "prediction_weight": 1.0,
        "contrast_weight": 0.0,
    },
    "descriptors, the fixed chain": {"augmentation": "fixed"},
    "descriptors, styles attract": {"style_weight": 1.0},
    "descriptors, any styles behind a chain": {"same_style": "negative"},
}
METHODS = ("features", "log_mel", "untrained", "chance")
MEASURES = {
    "style R@1": ("style_retrieval", "recall_at_1"),
    "style mAP": ("style_retrieval", "map"),
    "style over song": ("style_retrieval", "style_over_song_ratio"),
    "song R@1": ("song_retrieval", "recall_at_1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    names = [*VARIANTS, *DESCRIPTORS]
    parser.add_argument("--variants", nargs="*", default=names, choices=names)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    args = parser.parse_args()
    setup_logging()
    params, of_descriptors = (
        load_params(Path(PARAMS_FILE), profile, args.set)
        for profile in (PROFILE, DESCRIPTORS_PROFILE)
    )
    # Its runs and models must not stand among those of real runs.
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{args.root.resolve()}/mlflow.db"
    prepare(args.root, params)
    for name in args.variants:
        if name in DESCRIPTORS:
            train_variant(args.root, name, of_descriptors, DESCRIPTORS[name])
        else:
            train_variant(args.root, name, params, VARIANTS[name])
    metrics = finished(args.root)
    values = {"machine": machine(), "overrides": args.set, "metrics": metrics}
    publish(args.out, "ablation", values, table(metrics))


def prepare(root: Path, params: Mapping[str, Any]) -> None:
    """Make songs, stems and features, which all variants share."""
    data_dir = root / "data"
    generate_benchmark(data_dir, num_workers=os.cpu_count() or 1)
    run_step("ingest", root, params, "--source", "synthetic", "--location", str(data_dir))
    run_step("separate", root, params)
    run_step("features", root, params)


def train_variant(
    root: Path, name: str, params: Mapping[str, Any], changes: Mapping[str, Any]
) -> None:
    """Train and evaluate one variant in a folder of its own."""
    folder = folder_of(root, name)
    folder.mkdir(parents=True, exist_ok=True)
    for shared in SHARED_FOLDERS:
        link = folder / shared
        if not link.is_symlink():
            link.symlink_to((root / shared).resolve(), target_is_directory=True)
    # Views that were measured for one variant serve all that need the same.
    measured = folder / ENCODER_FOLDER / STATE_FOLDER / MEASURED_FOLDER
    if not measured.is_symlink():
        target = (root / MEASURED_FOLDER).resolve()
        target.mkdir(exist_ok=True)
        measured.parent.mkdir(parents=True, exist_ok=True)
        measured.symlink_to(target, target_is_directory=True)
    log.info("variant: %s", name)
    changed = {**params, "train": {**params["train"], **changes}}
    run_step("train", folder, changed)
    run_step("evaluate", folder, changed)


def folder_of(root: Path, name: str) -> Path:
    return root / name.replace(",", "").replace(" ", "-")


def finished(root: Path) -> dict[str, Any]:
    """Read the metrics of all variants that were evaluated, now or before."""
    paths = {
        name: folder_of(root, name) / EVALUATION_FOLDER / METRICS_FILE
        for name in (*VARIANTS, *DESCRIPTORS)
    }
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def run_step(step: str, root: Path, params: Mapping[str, Any], *arguments: str) -> None:
    """Run one step of the pipeline, as DVC would; it skips what is finished."""
    params_path = root / PARAMS_FILE
    params_path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(params_path) as temporary:
        temporary.write_text(yaml.safe_dump({**params, "profiles": {}}))
    command = [sys.executable, "-m", f"components.{step}.main", "--root", str(root)]
    subprocess.run([*command, "--params", str(params_path), *arguments], check=True)


def table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a row per variant, and those of the baselines, as Markdown."""
    lines = ["| encoder | " + " | ".join(MEASURES) + " |", "| --- |" + " ---: |" * len(MEASURES)]
    lines += [row(name, found, "encoder") for name, found in metrics.items()]
    baselines = next(iter(metrics.values()))
    lines += [row(f"*{method}*", baselines, method) for method in METHODS]
    return "\n".join(lines) + "\n"


def row(name: str, metrics: Mapping[str, Any], method: str) -> str:
    cells = [cell(metrics[task][method], measure) for task, measure in MEASURES.values()]
    return f"| {name} | " + " | ".join(cells) + " |"


def cell(values: Mapping[str, Any], measure: str) -> str:
    found = values[measure]
    if isinstance(found, Mapping):
        return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found:.2f}"


if __name__ == "__main__":
    main()
