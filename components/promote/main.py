"""Promote: the encoder becomes a version of the registry, and champion if it passes the gate.

By hand: `python -m components.promote.main by-hand --version 3` and `... rollback`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from components.layout import (
    METRICS_FILE,
    PROMOTION_FILE,
    encoder_manifest,
    evaluation_manifest,
)
from components.step import Manifest, clear_errors, recorded, step_parser
from mixprint.atomic import read_json, write_json
from mixprint.config import StepConfig
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.log import setup_logging

log = logging.getLogger("mixprint.promote")

_GATE_TAG = "mixprint.gate"


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(StepConfig):
    """The gate that an encoder must pass to become champion."""

    section: ClassVar[str] = "promote"
    model_name: str
    metric: str
    fallback_metric: str
    min_metric: float
    max_regression: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.model_name or not self.metric:
            raise ConfigError("promote: model_name and metric must not be empty")
        if self.max_regression < 0:
            raise ConfigError(f"promote.max_regression must be >= 0, got {self.max_regression}")


@dataclass(frozen=True, kw_only=True)
class Champion:
    """What the gate needs to know of the present champion."""

    version: str
    metrics: Mapping[str, float]
    data_fingerprint: str


def gate_metric(metrics: Mapping[str, float], config: PromoteConfig) -> str:
    """Name the metric that decides: the fallback where the data have no known styles.

    Raises:
        DataError: the evaluation has neither.
    """
    for name in (config.metric, config.fallback_metric):
        if name in metrics:
            return name
    raise DataError(
        f"promote: expected the metric {config.metric!r} or {config.fallback_metric!r} in the "
        f"evaluation, found {sorted(metrics)}"
    )


def judge(
    metrics: Mapping[str, float],
    data_fingerprint: str,
    champion: Champion | None,
    config: PromoteConfig,
) -> tuple[bool, tuple[str, ...]]:
    """Decide whether a candidate becomes champion.

    It must reach `min_metric`, and must not be worse than the champion by more than
    `max_regression`. A champion that was measured on other data is no yardstick.

    Args:
        metrics: of the candidate.
        data_fingerprint: of the data that they were measured on.
        champion: the present champion, or None.
        config: the gate.

    Returns:
        whether it is promoted, and the reasons in words.
    """
    name = gate_metric(metrics, config)
    value = metrics[name]
    enough = value >= config.min_metric
    comparison = "meets" if enough else "is below"
    reasons = [f"{name} {value:.4f} {comparison} the minimum {config.min_metric:.4f}"]
    if champion is None:
        reasons.append("there is no champion yet")
        return enough, tuple(reasons)
    if champion.data_fingerprint != data_fingerprint or name not in champion.metrics:
        reasons.append(f"champion {champion.version} was measured on other data: not compared")
        return enough, tuple(reasons)
    best = champion.metrics[name]
    holds = value >= best - config.max_regression
    comparison = "is not worse than" if holds else "is worse than"
    reasons.append(
        f"{name} {value:.4f} {comparison} champion {champion.version} with {best:.4f} "
        f"(allowed loss {config.max_regression:.4f})"
    )
    return enough and holds, tuple(reasons)


def run(*, root: str, config: PromoteConfig, encoder: Manifest, evaluation: Manifest) -> Manifest:
    """Register the encoder and decide about the alias `champion`.

    An encoder that is registered already keeps its version, and its decision too unless the gate
    or its metrics have changed: a rollback by hand is not undone by running the pipeline again.

    Args:
        root: root folder of the run.
        config: the gate.
        encoder: the encoder's files.
        evaluation: the folder with its `metrics.json`.

    Returns:
        manifest of `promotion.json`.
    """
    with recorded(Path(root), "promote"):
        # MLflow takes seconds to import.
        from components import tracking
        from mixprint.encoder.checkpoint import load_checkpoint

        # The metadata of a checkpoint hold its times: the same encoder, trained again, differs
        # in them, and must not become another version.
        identity = load_checkpoint(Path(encoder.uri)).fingerprint
        evaluated = read_json(Path(evaluation.uri) / METRICS_FILE)
        metrics = {
            name: float(value)
            for name, value in evaluated.items()
            if isinstance(value, int | float)
        }
        data_fingerprint = evaluated["data_fingerprint"]
        gate = fingerprint({"config": config.to_values(), "metrics": metrics})
        registry = tracking.Registry(config.model_name)
        version = registry.find(identity)
        if version is None:
            run_id = tracking.run_of_encoder(identity, Path(encoder.uri))
            version = registry.register(
                run_id=run_id,
                encoder_fingerprint=identity,
                data_fingerprint=data_fingerprint,
                metrics=metrics,
            )
        number = str(version.version)
        if version.tags.get(_GATE_TAG) == gate:
            log.info("version %s of %s was judged before", number, config.model_name)
        else:
            promoted, reasons = judge(
                metrics, data_fingerprint, _champion(registry, number), config
            )
            registry.decide(number, tracking.Decision(promoted, reasons))
            registry.tag(number, _GATE_TAG, gate)
        version = registry.version(number)
        decision = version.tags[tracking.DECISION_TAG]
        reasons_text = version.tags[tracking.REASONS_TAG]
        log.info("version %s of %s: %s; %s", number, config.model_name, decision, reasons_text)
        name = gate_metric(metrics, config)
        write_json(
            Path(root) / PROMOTION_FILE,
            {
                "model_name": config.model_name,
                "version": number,
                "encoder": identity,
                "metric": name,
                "value": metrics[name],
                "decision": decision,
                "reasons": reasons_text.split("; "),
            },
        )
        return Manifest.of_files("promote", Path(root), [PROMOTION_FILE], {})


def _champion(registry: Any, candidate: str) -> Champion | None:
    """Give the champion to beat; a version need not beat itself."""
    from components import tracking

    version = registry.champion()
    if version is None or str(version.version) == candidate:
        return None
    return Champion(
        version=str(version.version),
        metrics={
            key.removeprefix(tracking.METRIC_TAG): float(value)
            for key, value in version.tags.items()
            if key.startswith(tracking.METRIC_TAG)
        },
        data_fingerprint=version.tags.get(tracking.DATA_TAG, ""),
    )


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    parser.add_argument("action", choices=["run", "by-hand", "rollback"])
    parser.add_argument("--version", help="the version to promote by hand")
    parser.add_argument("--model-name", help="the registered model; default from the parameters")
    args = parser.parse_args()
    if args.action == "by-hand" and not args.version:
        parser.error("by-hand needs --version")
    config = PromoteConfig.load(args.params, args.profile)
    if args.action == "run":
        run(
            root=str(args.root),
            config=config,
            encoder=encoder_manifest(args.root),
            evaluation=evaluation_manifest(args.root),
        )
        return
    setup_logging()
    from components import tracking

    registry = tracking.Registry(args.model_name or config.model_name)
    if args.action == "rollback":
        lost, now = registry.rollback()
        log.info("champion of %s: version %s, was %s", registry.model_name, now, lost)
        return
    version = str(registry.version(args.version).version)
    registry.decide(version, tracking.Decision(True, ("promoted by hand",)))
    log.info("champion of %s: version %s", registry.model_name, version)


if __name__ == "__main__":
    with clear_errors():
        main()
