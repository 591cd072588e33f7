"""Features: the 64 mixing features of every stored segment, and their standardisation.

Shape suffixes: B batch, S stem, C channel, T sample, D feature.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from components.layout import (
    FEATURES_FILES,
    FEATURES_FOLDER,
    catalogue_manifest,
    described_stems,
    stems_manifest,
)
from components.step import Manifest, clear_errors, once, recorded, step_parser
from mixprint.config import StepConfig
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version

log = logging.getLogger("mixprint.features")

# What the results follow from, with all that it imports.
CODE = ("components.features.main",)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(StepConfig):
    """Parameters of the feature extraction."""

    section: ClassVar[str] = "features"
    batch_size: int
    device: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.batch_size < 1:
            raise ConfigError(f"features.batch_size must be >= 1, got {self.batch_size}")


def run(*, root: str, config: FeaturesConfig, catalogue: Manifest, stems: Manifest) -> Manifest:
    """Measure every segment, and fit the standardisation on the training split.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        catalogue: the folder of the catalogue, for the splits.
        stems: the folder of the stem shards.

    Returns:
        manifest of the feature table and its standardisation.

    Raises:
        DataError: the training split is empty, or a feature is not finite.
    """
    with recorded(root, "features") as run_folder:
        folder = run_folder.path / FEATURES_FOLDER

        def work() -> dict[str, float]:
            with described_stems(run_folder, stems) as stems_dir:
                return _measure(folder, config, run_folder.local(catalogue.uri), stems_dir)

        return once(
            step="features",
            run=run_folder,
            folder=folder,
            recipe={
                "catalogue": catalogue.fingerprint,
                "stems": stems.fingerprint,
                "code": code_version(*CODE),
            },
            files=FEATURES_FILES,
            work=work,
        )


def _measure(
    folder: Path, config: FeaturesConfig, catalogue_dir: Path, stems_dir: Path
) -> dict[str, float]:
    # torch takes a second to import: a step with nothing to do needs none of this.
    import torch

    from mixprint.collection.catalogue import read_catalogue
    from mixprint.collection.shards import check_songs, read_index, read_row, read_segment
    from mixprint.features import Standardisation, extract
    from mixprint.features.table import write_features
    from mixprint.machine.device import resolve_device
    from mixprint.progress import Progress
    from mixprint.stems import SAMPLE_RATE_HZ

    device = resolve_device(config.device)
    references = read_index(stems_dir)
    split_of = {track.track_id: track.split for track in read_catalogue(catalogue_dir)}
    check_songs(references, split_of)
    rate_hz = read_row(references[0])["sample_rate_hz"] if references else SAMPLE_RATE_HZ
    if rate_hz != SAMPLE_RATE_HZ:
        raise DataError(f"{stems_dir}: expected stems at {SAMPLE_RATE_HZ} Hz, found {rate_hz} Hz")
    is_train = [split_of[reference.track_id] == "train" for reference in references]
    if not any(is_train):
        raise DataError(
            f"{catalogue_dir}: expected songs in the training split, found none among "
            f"{len(split_of)}: add songs, or lower ingest.valid_fraction and ingest.test_fraction"
        )
    batches = []
    with (
        torch.inference_mode(),
        Progress(log, "measured", total=len(references), unit="segments") as progress,
    ):
        for start in range(0, len(references), config.batch_size):
            batch = references[start : start + config.batch_size]
            stems_BSCT = torch.stack([read_segment(reference) for reference in batch])
            batches.append(extract(stems_BSCT.to(device), SAMPLE_RATE_HZ).cpu())
            progress.advance(len(batch))
    features_BD = torch.cat(batches)
    write_features(
        folder / "features.parquet",
        [reference.track_id for reference in references],
        [reference.segment for reference in references],
        features_BD,
    )
    Standardisation.fit(features_BD[torch.tensor(is_train)]).save(folder / "standardisation.json")
    return {"segments": len(references), "train_segments": sum(is_train)}


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    args = parser.parse_args()
    run(
        root=args.root,
        config=FeaturesConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
    )


if __name__ == "__main__":
    with clear_errors():
        main()
