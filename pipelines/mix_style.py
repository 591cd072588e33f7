"""The DAG: wiring only.

    ingest -> separate (one task per shard) -> features -> train -> evaluate -> promote -> transfer

Promotion comes before transfer, because transfer uses the champion of the registry.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

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

Placing = Callable[[dsl.PipelineTask], dsl.PipelineTask]


def here(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Place a task on this machine, which takes no settings of a cluster.

    KFP's own cache knows neither file contents nor library code; the done markers of the steps
    know both, so a task always starts and skips by itself what is finished.
    """
    return task.set_caching_options(False)


def pipeline(
    placed: Placing,
    *,
    root: str,
    source: str,
    locations: Sequence[str],
    params: Mapping[str, Mapping[str, Any]],
) -> GraphComponent:
    """Make the DAG.

    Args:
        placed: gives a task what its step gets where it runs.
        root: default of the pipeline's parameter `root`.
        source: default of `source`.
        locations: default of `locations`.
        params: all sections; defaults of the steps' parameters.
    """
    defaults = {name: section_json(values) for name, values in params.items()}
    places = list(locations)

    @dsl.pipeline(name="separate-all")
    def separate_all(
        root: str,
        params: str,
        ingest_params: str,
        shards: list[int],
        catalogue: dsl.Input[dsl.Dataset],
    ) -> None:
        """Separate all shards, each in a task of its own.

        In a pipeline of its own, because what follows waits for all of them and is handed nothing
        of theirs: collected, the manifests of 236 shards are as long as an argument may be.

        Args:
            root: root folder of the run.
            params: parameters of the step separate, as JSON.
            ingest_params: parameters of the step ingest, as JSON.
            shards: numbers of the shards.
            catalogue: manifest of the catalogue.
        """
        with dsl.ParallelFor(shards) as shard:
            placed(
                separate(
                    root=root,
                    params=params,
                    ingest_params=ingest_params,
                    shard=shard,
                    catalogue=catalogue,
                )
            )

    @dsl.pipeline(name="mixprint", description="Learn what a mix sounds like, and transfer it.")
    def mix_style(
        root: str = root,
        source: str = source,
        locations: list[str] = places,
        ingest_params: str = defaults["ingest"],
        separate_params: str = defaults["separate"],
        features_params: str = defaults["features"],
        train_params: str = defaults["train"],
        evaluate_params: str = defaults["evaluate"],
        promote_params: str = defaults["promote"],
        transfer_params: str = defaults["transfer"],
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
        ingested = placed(
            ingest(root=root, source=source, locations=locations, params=ingest_params)
        ).outputs
        separated = separate_all(
            root=root,
            params=separate_params,
            ingest_params=ingest_params,
            shards=ingested["Output"],
            catalogue=ingested["manifest"],
        ).set_caching_options(False)
        measured = placed(
            features(root=root, params=features_params, catalogue=ingested["manifest"]).after(
                separated
            )
        ).outputs
        data = {
            "root": root,
            "catalogue": ingested["manifest"],
            "stems": measured["stems"],
        }
        trained = placed(train(**data, params=train_params, features=measured["manifest"])).outputs
        evaluated = placed(
            evaluate(
                **data,
                params=evaluate_params,
                features=measured["manifest"],
                encoder=trained["encoder"],
            )
        ).outputs
        promoted = placed(
            promote(
                root=root,
                params=promote_params,
                encoder=trained["encoder"],
                evaluation=evaluated["evaluation"],
            )
        ).outputs
        placed(transfer(**data, params=transfer_params, promotion=promoted["promotion"]))

    return mix_style


mix_style = pipeline(
    here,
    root="results/tiny",
    source="synthetic",
    locations=["data"],
    params=load_params(PARAMS_FILE),
)
