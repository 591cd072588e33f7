"""The DAG: wiring only.

    ingest -> separate (one task per shard) -> features -> train -> evaluate -> promote -> transfer

Promotion comes before transfer, because transfer uses the champion of the registry.
"""

from pathlib import Path
from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.features.component import features
from components.ingest.component import ingest
from components.promote.component import promote
from components.separate.component import separate
from components.step import section_json
from components.train.component import train
from components.transfer.component import transfer
from mixprint.config import load_params

PARAMS_FILE = Path(__file__).resolve().parents[1] / "params.yaml"
_DEFAULTS = {name: section_json(values) for name, values in load_params(PARAMS_FILE).items()}


def _placed(task: Any) -> Any:
    """Settings that only a cluster heeds.

    KFP's own cache knows neither file contents nor library code; the done markers of the steps
    know both, so a task always starts and skips by itself what is finished.
    """
    return task.set_caching_options(False)


@dsl.pipeline(name="mixprint", description="Learn what a mix sounds like, and transfer it.")
def mix_style(
    root: str = "results/tiny",
    source: str = "synthetic",
    locations: list[str] = ["data"],  # noqa: B006  KFP reads the default and never changes it
    ingest_params: str = _DEFAULTS["ingest"],
    separate_params: str = _DEFAULTS["separate"],
    features_params: str = _DEFAULTS["features"],
    train_params: str = _DEFAULTS["train"],
    evaluate_params: str = _DEFAULTS["evaluate"],
    promote_params: str = _DEFAULTS["promote"],
    transfer_params: str = _DEFAULTS["transfer"],
) -> None:
    """Chain the steps.

    Args:
        root: root folder of the run.
        source: folder, fma, musdbhq, pairs or synthetic.
        locations: the folder or folders that hold the songs.
        ingest_params: parameters of the step ingest, as JSON.
        separate_params: parameters of the step separate, as JSON.
        features_params: parameters of the step features, as JSON.
        train_params: parameters of the step train, as JSON.
        evaluate_params: parameters of the step evaluate, as JSON.
        promote_params: parameters of the step promote, as JSON.
        transfer_params: parameters of the step transfer, as JSON.
    """
    ingested = _placed(
        ingest(root=root, source=source, locations=locations, params=ingest_params)
    ).outputs
    with dsl.ParallelFor(ingested["Output"]) as shard:
        separated = _placed(
            separate(
                root=root,
                params=separate_params,
                ingest_params=ingest_params,
                shard=shard,
                catalogue=ingested["manifest"],
            )
        )
    measured = _placed(
        features(
            root=root,
            params=features_params,
            catalogue=ingested["manifest"],
            shards=dsl.Collected(separated.outputs["manifest"]),
        )
    ).outputs
    data = {
        "root": root,
        "catalogue": ingested["manifest"],
        "stems": measured["stems"],
    }
    trained = _placed(train(**data, params=train_params, features=measured["manifest"])).outputs
    evaluated = _placed(
        evaluate(
            **data,
            params=evaluate_params,
            features=measured["manifest"],
            encoder=trained["encoder"],
        )
    ).outputs
    promoted = _placed(
        promote(
            root=root,
            params=promote_params,
            encoder=trained["encoder"],
            evaluation=evaluated["evaluation"],
        )
    ).outputs
    _placed(transfer(**data, params=transfer_params, promotion=promoted["promotion"]))
