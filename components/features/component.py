"""KFP component of the step features."""

from typing import List  # noqa: UP035  KFP reads `Input[List[...]]` only in this form

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def features(
    root: str,
    params: str,
    catalogue: dsl.Input[dsl.Dataset],
    shards: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    stems: dsl.Output[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
) -> None:
    """Measure the 64 mixing features of every segment.

    Args:
        root: root folder of the run.
        params: the section `features`, as JSON.
        catalogue: manifest of the catalogue.
        shards: manifests of all stem shards.
        stems: describes the complete set of shards.
        manifest: describes the features.
    """
    from components.features.main import FeaturesConfig, run
    from components.step import Manifest

    whole = Manifest.joined([Manifest.load(shard.path) for shard in shards])
    whole.save(stems.path)
    run(
        root=root,
        config=FeaturesConfig.from_json(params),
        catalogue=Manifest.load(catalogue.path),
        stems=whole,
    ).save(manifest.path)
