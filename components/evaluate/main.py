"""Evaluate: retrieval and probes of the encoder beside baselines, plots and report."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.layout import (
    DETAILS_FILE,
    ENCODER_FILES,
    ENCODER_FOLDER,
    ENCODER_HISTORY_FILE,
    EVALUATION_FOLDER,
    METRICS_FILE,
    REPORT_FILE,
    catalogue_manifest,
    described_stems,
    encoder_manifest,
    features_manifest,
    stems_manifest,
)
from components.step import Manifest, clear_errors, once, recorded, step_parser
from mixprint.config import StepConfig
from mixprint.encoder.settings import MAX_CHAIN_LENGTH, MIN_SEGMENT_S
from mixprint.errors import ConfigError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.storage.atomic import write_json

if TYPE_CHECKING:
    from mixprint.evaluation.held_out_chains import ChainTest

log = logging.getLogger("mixprint.evaluate")

# What the results follow from, with all that it imports.
CODE = ("components.evaluate.main",)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StepConfig):
    """Parameters of the evaluation."""

    section: ClassVar[str] = "evaluate"
    bootstrap_samples: int
    num_chains: int
    chain_effects: tuple[int, ...]
    chain_segment_s: float
    seed: int
    device: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.bootstrap_samples < 1:
            raise ConfigError(
                f"evaluate.bootstrap_samples must be >= 1, got {self.bootstrap_samples}"
            )
        if self.num_chains < 0 or self.num_chains == 1:
            raise ConfigError(
                f"evaluate.num_chains must be 0 (not measured) or >= 2, got {self.num_chains}"
            )
        lengths = set(self.chain_effects)
        possible = range(1, MAX_CHAIN_LENGTH + 1)
        if len(lengths) < len(self.chain_effects) or not lengths.issubset(possible):
            raise ConfigError(
                f"evaluate.chain_effects must be numbers of 1 to {MAX_CHAIN_LENGTH}, each once, "
                f"got {self.chain_effects}"
            )
        if self.chain_segment_s < MIN_SEGMENT_S:
            raise ConfigError(
                f"evaluate.chain_segment_s must be >= {MIN_SEGMENT_S:g}, "
                f"got {self.chain_segment_s:g}"
            )

    def chain_test(self) -> "ChainTest":
        """Return what decides about the retrieval of effect chains."""
        from mixprint.evaluation.held_out_chains import ChainTest

        return ChainTest(
            num_chains=self.num_chains,
            lengths=self.chain_effects,
            segment_s=self.chain_segment_s,
            seed=self.seed,
        )


def run(
    *,
    root: str,
    config: EvaluateConfig,
    catalogue: Manifest,
    stems: Manifest,
    features: Manifest,
    encoder: Manifest,
) -> Manifest:
    """Measure the encoder, write `metrics.json`, plots and the report, and track them.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        catalogue: the folder of the catalogue.
        stems: the folder of the stem shards.
        features: the folder of the features.
        encoder: the folder of the encoder.

    Returns:
        manifest of the metrics and the report; its counts are the metrics.
    """
    with recorded(root, "evaluate") as run_folder:
        folder = run_folder.path / EVALUATION_FOLDER
        data_fingerprint = fingerprint(
            {m.step: m.fingerprint for m in (catalogue, stems, features)}
        )

        def work() -> dict[str, float]:
            # torch and MLflow take seconds to import: a step with nothing to do needs neither.
            from mixprint.encoder.checkpoint import load_checkpoint
            from mixprint.evaluation.baselines import untrained_encoder
            from mixprint.evaluation.evaluate import evaluate
            from mixprint.machine.device import resolve_device

            device = resolve_device(config.device)
            encoder_dir = run_folder.local(encoder.uri, *ENCODER_FILES)
            run_folder.refresh(f"{ENCODER_FOLDER}/{ENCODER_HISTORY_FILE}")
            loaded = load_checkpoint(encoder_dir, device)
            with described_stems(run_folder, stems) as stems_dir:
                metrics = evaluate(
                    stems_dir=stems_dir,
                    features_dir=run_folder.local(features.uri),
                    catalogue_dir=run_folder.local(catalogue.uri),
                    encoder=loaded,
                    untrained=untrained_encoder(loaded, config.seed),
                    out_dir=folder,
                    chain_test=config.chain_test(),
                    num_bootstrap=config.bootstrap_samples,
                    seed=config.seed,
                    device=device,
                    history_path=encoder_dir / ENCODER_HISTORY_FILE,
                    known_effects=loaded.metadata.get("effects", ()),
                )
            # Beside what was evaluated: all that was there.
            write_json(folder / METRICS_FILE, {**metrics, "data_fingerprint": data_fingerprint})
            numbers = headline(metrics)
            _track(loaded.fingerprint, encoder_dir, folder, numbers)
            for name, value in numbers.items():
                log.info("%s: %.4g", name, value)
            return numbers

        return once(
            step="evaluate",
            run=run_folder,
            folder=folder,
            recipe={
                "data": data_fingerprint,
                "encoder": encoder.fingerprint,
                "config": config.to_values(),
                "code": code_version(*CODE),
            },
            files=lambda: [
                METRICS_FILE,
                DETAILS_FILE,
                REPORT_FILE,
                *(f"plots/{path.name}" for path in sorted((folder / "plots").glob("*.png"))),
            ],
            work=work,
        )


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures that stand at the top of the metrics, without counts and settings."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name.startswith(("chain_", "song_", "style_", "probe_"))
        and isinstance(value, int | float)
    }


def _track(
    encoder_fingerprint: str, encoder_dir: Path, folder: Path, numbers: Mapping[str, float]
) -> None:
    """Add metrics, plots and report to the encoder's run."""
    import mlflow

    from components.mlflow.client import may_be_lost
    from components.mlflow.registry import run_of_encoder

    with may_be_lost("the evaluation"):
        run_id = run_of_encoder(encoder_fingerprint, encoder_dir)
        with mlflow.start_run(run_id=run_id):
            mlflow.log_metrics({f"evaluation.{name}": value for name, value in numbers.items()})
            mlflow.log_artifacts(str(folder), "evaluation")


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    args = parser.parse_args()
    run(
        root=args.root,
        config=EvaluateConfig.load(args.params, args.profile),
        catalogue=catalogue_manifest(args.root),
        stems=stems_manifest(args.root),
        features=features_manifest(args.root),
        encoder=encoder_manifest(args.root),
    )


if __name__ == "__main__":
    with clear_errors():
        main()
