"""Promote: the encoder becomes a version of the registry, and champion if it passes the gate.

By hand: `python -m components.promote.main by-hand --version 3` and `... rollback`.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.layout import (
    DETAILS_FILE,
    ENCODER_FILES,
    ENCODER_FOLDER,
    ENCODER_HISTORY_FILE,
    METRICS_FILE,
    PROMOTION_FILE,
    encoder_manifest,
    evaluation_manifest,
)
from components.step import Manifest, clear_errors, recorded, step_parser
from mixprint.config import StepConfig
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.log import setup_logging
from mixprint.schema import read_mapping
from mixprint.storage.atomic import remove_leftovers, write_json
from mixprint.text import first_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from components.mlflow.registry import Registry
    from mixprint.encoder.checkpoint import Encoder
    from mixprint.evaluation.retrieval import Estimate

log = logging.getLogger("mixprint.promote")

# What the results follow from, with all that it imports.
CODE = ("components.promote.main",)

_GATE_TAG = "mixprint.gate"
# More is better in these, and the evaluation keeps their score of every track.
GATE_METRICS = (
    "style_recall_at_1",
    "style_map",
    "chain_recall_at_1",
    "chain_recall_at_5",
    "chain_recall_at_10",
    "chain_mrr",
    "song_recall_at_1",
    "song_recall_at_5",
    "song_recall_at_10",
    "song_map_at_10",
)


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(StepConfig):
    """The gate that an encoder must pass to become champion; see `judge`."""

    section: ClassVar[str] = "promote"
    model_name: str
    metric: str
    fallback_metric: str
    min_metric: float
    max_regression: float
    bootstrap_samples: int
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.model_name:
            raise ConfigError("promote.model_name must not be empty")
        for name in ("metric", "fallback_metric"):
            if getattr(self, name) not in GATE_METRICS:
                raise ConfigError(
                    f"promote.{name} must be one of {GATE_METRICS}, got {getattr(self, name)!r}"
                )
        if self.max_regression < 0:
            raise ConfigError(f"promote.max_regression must be >= 0, got {self.max_regression}")
        if self.bootstrap_samples < 1:
            raise ConfigError(
                f"promote.bootstrap_samples must be >= 1, got {self.bootstrap_samples}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """Evaluation of an encoder, as the gate needs it.

    Attributes:
        metrics: content of metrics.json.
        details: content of details.json: scores of every track and chain, and the tracks' songs.
    """

    metrics: Mapping[str, Any]
    details: Mapping[str, Any]

    @property
    def yardstick(self) -> tuple[Any, Any]:
        """Return what two evaluations must share before their figures can be compared.

        It is what was evaluated, not all that was there: with songs added to the training, or
        files to the rejects, a candidate must still be as good as the champion.
        """
        return self.metrics.get("schema_version"), self.metrics.get("evaluated_fingerprint")

    @property
    def numbers(self) -> dict[str, float]:
        """Return the numbers at the top level of the metrics."""
        return {
            name: float(value)
            for name, value in self.metrics.items()
            if isinstance(value, int | float)
        }

    def scores(self, metric: str) -> dict[str, float]:
        """Return the score of every track or chain: the metric is their mean."""
        task, _, measure = metric.partition("_")
        scores: dict[str, float] = self.details["scores"][task][measure]
        return scores

    def unit(self, metric: str, item: str) -> str:
        """Name what a track or chain is resampled with: the song, but a chain is its own unit."""
        return item if metric.startswith("chain_") else str(self.details["songs"][item])


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The present champion; its evaluation is None where its version has no model card."""

    version: str
    evaluated: Evaluated | None


def gate_metric(metrics: Mapping[str, Any], config: PromoteConfig) -> str:
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


def _lack(metrics: Mapping[str, Any], config: PromoteConfig) -> str:
    """Say why an evaluation has no metric for the gate; empty if it has one."""
    if config.metric in metrics or config.fallback_metric in metrics:
        return ""
    # A semicolon ends a reason.
    whys = {
        task: str(metrics.get(f"{task}_retrieval", {}).get("absent", "not measured"))
        for task in dict.fromkeys(
            name.partition("_")[0] for name in (config.metric, config.fallback_metric)
        )
    }
    told = ", ".join(f"{task} retrieval: {why}" for task, why in whys.items()).replace(";", ",")
    return f"there is no figure to judge the encoder by: {told}"


def judge(
    candidate: Evaluated, champion: Champion | None, config: PromoteConfig
) -> tuple[bool, tuple[str, ...]]:
    """Decide whether a candidate becomes champion.

    It must be good enough: the lower end of its metric's 95 % interval must reach `min_metric`.

    And it must not be significantly worse than the champion: it is refused if the whole 95 %
    interval of the difference, candidate less champion, lies below -`max_regression`. Both were
    measured on the same tracks or chains, so the difference is taken one by one and bootstrapped
    over songs, or over chains: what is hard for both does not widen its interval. A gate on the
    values alone would be a lottery where few songs are tested, for there a track more or less
    decides. The price is that few songs prove little against a candidate: with them, `min_metric`
    is the gate.

    A champion that was measured on other data or in another way is no yardstick.

    Figures of songs that the encoder has trained on prove nothing: with too few songs for a test
    of its own, only a person can decide.

    Args:
        candidate: its evaluation.
        champion: the present champion, or None.
        config: the gate.

    Returns:
        whether it is promoted, and the reasons in words.
    """
    from mixprint.evaluation.evaluate import ALL_SPLITS

    if lack := _lack(candidate.metrics, config):
        return False, (lack,)
    name = gate_metric(candidate.metrics, config)
    value, low, high = (float(candidate.metrics[f"{name}{end}"]) for end in ("", "_low", "_high"))
    enough = low >= config.min_metric
    comparison = "reaches" if enough else "is below"
    reasons = [
        f"{name} {value:.4f} [{low:.4f}, {high:.4f}]: the lower end {comparison} the minimum "
        f"{config.min_metric:.4f}"
    ]
    if candidate.metrics["split_used"] == ALL_SPLITS:
        # A semicolon ends a reason.
        why = candidate.metrics["split_reason"].replace(";", ",")
        return False, (*reasons, f"too few songs are held out to prove anything: {why}")
    met = candidate.metrics.get("chain_retrieval", {}).get("known_effects", [])
    if name.startswith("chain_") and met:
        why = f"the encoder was trained with {len(met)} of the effects that it was tested by"
        return False, (*reasons, f"{why} ({first_of(met, ', ')}), see train.held_out_effects")
    if champion is None:
        return enough, (*reasons, "there is no other champion")
    if champion.evaluated is None:
        reasons.append(f"champion {champion.version} has no model card: not compared")
        return enough, tuple(reasons)
    if unlike := _unlike(candidate, champion.evaluated, name):
        reasons.append(f"champion {champion.version} was measured {unlike}: not compared")
        return enough, tuple(reasons)
    difference = _difference(candidate, champion.evaluated, name, config)
    holds = difference.high >= -config.max_regression
    comparison = "is not significantly worse than" if holds else "is worse than"
    reasons.append(
        f"{name} {comparison} that of champion {champion.version}: difference "
        f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], allowed loss "
        f"{config.max_regression:.4f}"
    )
    return enough and holds, tuple(reasons)


def _unlike(candidate: Evaluated, champion: Evaluated, name: str) -> str:
    """Say why two evaluations cannot be compared by a metric; empty if they can."""
    if champion.yardstick != candidate.yardstick:
        return "on other data"
    if name not in champion.metrics:
        return (
            f"without {name}, which its evaluation, of an older version or with other parameters, "
            "does not have"
        )
    tests = [each.metrics.get("chain_retrieval", {}) for each in (candidate, champion)]
    if name.startswith("chain_") and len({test.get("test_fingerprint") for test in tests}) > 1:
        return "with other chains of effects"
    return ""


def _difference(
    candidate: Evaluated, champion: Evaluated, name: str, config: PromoteConfig
) -> "Estimate":
    """Estimate how much better the candidate is, track by track."""
    import numpy as np

    from mixprint.evaluation.measures import numbered
    from mixprint.evaluation.retrieval import bootstrap_mean

    new, old = candidate.scores(name), champion.scores(name)
    if new.keys() != old.keys():
        raise DataError(
            f"promote: expected scores of the same {len(new)} tracks for both encoders, found "
            f"{len(new.keys() ^ old.keys())} tracks that only one of them has"
        )
    tracks = sorted(new)
    return bootstrap_mean(
        np.array([new[track] - old[track] for track in tracks]),
        numbered([candidate.unit(name, track) for track in tracks]),
        config.bootstrap_samples,
        config.seed,
    )


def run(*, root: str, config: PromoteConfig, encoder: Manifest, evaluation: Manifest) -> Manifest:
    """Register the encoder with its model card, and decide about the alias `champion`.

    An encoder that is registered already keeps its version, and its decision too unless the gate
    or its metrics have changed: a rollback by hand is not undone by running the pipeline again.

    Args:
        root: root folder of the run.
        config: the gate.
        encoder: the encoder's files.
        evaluation: the folder with its `metrics.json`, `details.json` and plots.

    Returns:
        manifest of `promotion.json`.
    """
    with recorded(root, "promote") as run_folder:
        # MLflow takes seconds to import.
        from components.mlflow.registry import DECISION_TAG, REASONS_TAG, Registry
        from mixprint.encoder.checkpoint import load_checkpoint

        # The metadata of a checkpoint hold its times: the same encoder, trained again, differs
        # in them, and must not become another version.
        encoder_dir = run_folder.local(encoder.uri, *ENCODER_FILES)
        run_folder.refresh(f"{ENCODER_FOLDER}/{ENCODER_HISTORY_FILE}")
        loaded = load_checkpoint(encoder_dir)
        identity = loaded.fingerprint
        folder = run_folder.local(evaluation.uri)
        evaluated = Evaluated(
            metrics=read_mapping(folder / METRICS_FILE),
            details=read_mapping(folder / DETAILS_FILE),
        )
        gate = fingerprint({"config": config.to_values(), "metrics": dict(evaluated.metrics)})
        remove_leftovers(run_folder.path / PROMOTION_FILE)
        registry = Registry(config.model_name)
        version = registry.find(identity)
        if version is not None and version.tags.get(_GATE_TAG) == gate:
            number = str(version.version)
            log.info("version %s of %s was judged before", number, config.model_name)
        else:
            number = _judged(registry, version, loaded, encoder_dir, folder, evaluated, config)
            registry.tag(number, _GATE_TAG, gate)
        version = registry.version(number)
        decision = version.tags[DECISION_TAG]
        reasons_text = version.tags[REASONS_TAG]
        log.info("version %s of %s: %s; %s", number, config.model_name, decision, reasons_text)
        is_measured = not _lack(evaluated.metrics, config)
        name = gate_metric(evaluated.metrics, config) if is_measured else None
        write_json(
            run_folder.path / PROMOTION_FILE,
            {
                "model_name": config.model_name,
                "version": number,
                "encoder": identity,
                "metric": name,
                "value": evaluated.metrics.get(f"{name}"),
                "low": evaluated.metrics.get(f"{name}_low"),
                "high": evaluated.metrics.get(f"{name}_high"),
                "decision": decision,
                "reasons": reasons_text.split("; "),
            },
        )
        made = Manifest.of_files("promote", run_folder.path, [PROMOTION_FILE], {})
        return replace(made, uri=run_folder.uri(run_folder.path))


def _judged(
    registry: "Registry",
    version: "ModelVersion | None",
    loaded: "Encoder",
    encoder_dir: Path,
    folder: Path,
    evaluated: Evaluated,
    config: PromoteConfig,
) -> str:
    """Register an encoder, unless it is, with its model card, and decide; return the version.

    Args:
        registry: the registry.
        version: the encoder's version if it is registered.
        loaded: the encoder.
        encoder_dir: its files.
        folder: what the evaluation wrote.
        evaluated: its figures.
        config: the gate.
    """
    from components.mlflow.registry import (
        DECISION_TAG,
        Decision,
        describe_version,
        run_of_encoder,
    )

    run_id = run_of_encoder(loaded.fingerprint, encoder_dir)
    text = _log_card(run_id, folder, loaded, evaluated, config.model_name)
    data_fingerprint = str(evaluated.metrics["data_fingerprint"])
    # One without a decision is of a step that was killed, maybe before the alias was set.
    if version is None or DECISION_TAG not in version.tags:
        version = registry.register(
            run_id=run_id,
            encoder_fingerprint=loaded.fingerprint,
            data_fingerprint=data_fingerprint,
            metrics=evaluated.numbers,
        )
    number = str(version.version)
    describe_version(config.model_name, number, text, data_fingerprint, evaluated.numbers)
    promoted, reasons = judge(evaluated, _champion(registry, version), config)
    registry.decide(number, Decision(promoted, reasons))
    return number


def _log_card(
    run_id: str, evaluation_dir: Path, encoder: "Encoder", evaluated: Evaluated, name: str
) -> str:
    """Put the model card beside the encoder's weights, with the figures that the gate reads.

    Returns:
        the card's summary.
    """
    from components.mlflow.registry import log_model_files
    from mixprint.evaluation.card import write_model_card

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        text = write_model_card(
            folder,
            name=name,
            encoder=encoder,
            metrics=evaluated.metrics,
            figures=sorted((evaluation_dir / "plots").glob("*.png")),
        )
        write_json(folder / METRICS_FILE, dict(evaluated.metrics))
        write_json(folder / DETAILS_FILE, dict(evaluated.details))
        log_model_files(run_id, folder)
    return text


def _champion(registry: Any, candidate: Any) -> Champion | None:
    """Return the champion to beat; a version need not beat itself.

    A candidate that got the alias in a start that was killed before it wrote so has to beat the
    champion of before, as it had then.
    """
    from components.mlflow.registry import DECISION_TAG, PREVIOUS_TAG, read_model_json

    version = registry.champion()
    if version is not None and str(version.version) == str(candidate.version):
        was_judged = DECISION_TAG in version.tags
        previous = "" if was_judged else version.tags.get(PREVIOUS_TAG, "")
        version = registry.version(previous) if previous else None
    if version is None:
        return None
    metrics = read_model_json(version, METRICS_FILE)
    details = read_model_json(version, DETAILS_FILE)
    evaluated = None
    if metrics is not None and details is not None:
        evaluated = Evaluated(metrics=metrics, details=details)
    return Champion(version=str(version.version), evaluated=evaluated)


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    parser.add_argument("action", nargs="?", default="run", choices=["run", "by-hand", "rollback"])
    parser.add_argument("--version", help="the version to promote by hand")
    parser.add_argument("--model-name", help="the registered model; default from the parameters")
    args = parser.parse_args()
    if args.action == "by-hand" and not args.version:
        parser.error("by-hand needs --version")
    config = PromoteConfig.load(args.params, args.profile)
    if args.action == "run":
        run(
            root=args.root,
            config=config,
            encoder=encoder_manifest(args.root),
            evaluation=evaluation_manifest(args.root),
        )
        return
    setup_logging()
    from components.mlflow.registry import Decision, Registry

    registry = Registry(args.model_name or config.model_name, must_exist=True)
    if args.action == "rollback":
        lost, now = registry.rollback()
        log.info("champion of %s: version %s, was %s", registry.model_name, now, lost)
        return
    version = str(registry.version(args.version).version)
    registry.decide(version, Decision(True, ("promoted by hand",)))
    log.info("champion of %s: version %s", registry.model_name, version)


if __name__ == "__main__":
    with clear_errors():
        main()
