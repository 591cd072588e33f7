"""Ingest: a collection of songs becomes the catalogue and the rejects."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.layout import CATALOGUE_FILES, CATALOGUE_FOLDER
from components.step import Manifest, clear_errors, once, recorded, step_parser
from mixprint.config import StepConfig
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version
from mixprint.storage.atomic import write_json

if TYPE_CHECKING:
    from mixprint.collection.catalogue import Track

log = logging.getLogger("mixprint.ingest")

# What the results follow from, with all that it imports.
CODE = ("components.ingest.main",)

# One has nothing to be told from.
MIN_TRAIN_TRACKS = 2
# As MIN_SONGS of mixprint.evaluation.evaluate, which takes seconds to import.
MIN_TEST_SONGS = 3


@dataclass(frozen=True, kw_only=True)
class IngestConfig(StepConfig):
    """Parameters of the ingestion."""

    section: ClassVar[str] = "ingest"
    min_duration_s: float
    max_duration_s: float
    min_level_dbfs: float
    max_channel_difference_db: float
    max_clipped_fraction: float
    max_reject_fraction: float
    valid_fraction: float
    test_fraction: float
    follow_links: bool
    num_shards: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.min_duration_s <= self.max_duration_s:
            raise ConfigError(
                f"ingest: expected 0 < min_duration_s <= max_duration_s, got "
                f"{self.min_duration_s} and {self.max_duration_s}"
            )
        if self.num_shards < 1:
            raise ConfigError(f"ingest.num_shards must be >= 1, got {self.num_shards}")
        for name in ("max_clipped_fraction", "max_reject_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"ingest.{name} must be in [0, 1], got {getattr(self, name)}")
        parts = (self.valid_fraction, self.test_fraction)
        if min(parts) < 0 or sum(parts) >= 1:
            raise ConfigError(
                f"ingest: valid_fraction and test_fraction must leave songs to train, got {parts}"
            )

    @property
    def shards(self) -> list[int]:
        """The numbers of the shards that the songs are dealt to."""
        return list(range(self.num_shards))


def run(*, root: str, config: IngestConfig, source: str, locations: Sequence[str]) -> Manifest:
    """List the songs of a collection, and what was refused.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        source: folder, fma, musdbhq, pairs or synthetic.
        locations: the folder or folders that hold the songs, local or ``gs://bucket/folder``.

    Returns:
        manifest of the catalogue.

    Raises:
        DataError: too many files were refused.
    """
    # torch comes with it, and takes a second to import: a KFP driver that only wires has no need.
    from mixprint.collection.locations import collection

    with recorded(root, "ingest") as run_folder, collection(locations, source) as songs:
        folder = run_folder.path / CATALOGUE_FOLDER

        def work() -> dict[str, float]:
            from mixprint.audio.inspection import InspectionRules
            from mixprint.collection.building import build_catalogue, check_reject_fraction
            from mixprint.collection.catalogue import REJECTS_NAME, write_catalogue

            folders = songs.folders()
            tracks, rejects = build_catalogue(
                source,
                folders,
                InspectionRules(
                    min_duration_s=config.min_duration_s,
                    max_duration_s=config.max_duration_s,
                    min_level_dbfs=config.min_level_dbfs,
                    max_channel_difference_db=config.max_channel_difference_db,
                    max_clipped_fraction=config.max_clipped_fraction,
                ),
                valid_fraction=config.valid_fraction,
                test_fraction=config.test_fraction,
                follow_links=config.follow_links,
                num_workers=len(os.sched_getaffinity(0)),
                origin=songs,
            )
            write_catalogue(folder, tracks, rejects, locations=[songs.uri(f) for f in folders])
            rejected = run_folder.uri(folder / REJECTS_NAME)
            check_reject_fraction(tracks, rejects, config.max_reject_fraction, rejected)
            _check_size(tracks)
            return {"tracks": len(tracks), "rejects": len(rejects)}

        return once(
            step="ingest",
            run=run_folder,
            folder=folder,
            recipe={
                "source": source,
                "locations": list(locations),
                "files": songs.listing(),
                "config": {k: v for k, v in config.to_values().items() if k != "num_shards"},
                "code": code_version(*CODE),
            },
            files=CATALOGUE_FILES,
            work=work,
        )


def _check_size(tracks: "Sequence[Track]") -> None:
    """Refuse, before hours of work, what no encoder can be trained on; warn of what proves nothing.

    Raises:
        DataError: there are too few songs.
    """
    test, valid = ({t.song for t in tracks if t.split == split} for split in ("test", "valid"))
    num_train = sum(track.split == "train" for track in tracks)
    if num_train < MIN_TRAIN_TRACKS:
        raise DataError(
            f"expected at least {MIN_TRAIN_TRACKS} songs to train on, found {num_train} of "
            f"{len(tracks)} in the split train: give at least "
            f"{MIN_TEST_SONGS + MIN_TRAIN_TRACKS} songs, "
            "better some dozens, each twice as long as separate.segment_s; or transfer between "
            "two songs with `mixprint transfer`"
        )
    if len(test) < MIN_TEST_SONGS:
        log.warning(
            "songs held out for a test: %d; at least %d are needed to prove that an encoder is "
            "good: %s",
            len(test),
            MIN_TEST_SONGS,
            "it is measured on those that choose its best epoch, too, which flatters it"
            if len(test | valid) >= MIN_TEST_SONGS
            else "none will be promoted, and the shipped one transfers",
        )


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    parser.add_argument("--source", required=True)
    places = parser.add_mutually_exclusive_group(required=True)
    places.add_argument("--location", action="append", help="twice for pairs")
    places.add_argument("--locations", type=json.loads, help="all of them, as a JSON list")
    parser.add_argument("--output", type=Path, help="receives the numbers of the shards, as JSON")
    args = parser.parse_args()
    config = IngestConfig.load(args.params, args.profile)
    run(
        root=args.root,
        config=config,
        source=args.source,
        locations=args.location if args.locations is None else args.locations,
    )
    if args.output is not None:
        write_json(args.output, config.shards)


if __name__ == "__main__":
    with clear_errors():
        main()
