"""KFP component of the step features."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def features(
    root: str,
    params: str,
    catalogue: dsl.Input[dsl.Dataset],
    stems: dsl.Output[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
) -> None:
    """Measure the 64 mixing features of every segment.

    Args:
        root: root folder of the run.
        params: the section `features`, as JSON.
        catalogue: manifest of the catalogue.
        stems: describes the complete set of shards.
        manifest: describes the features.
    """
    from components.features.main import FeaturesConfig, run
    from components.layout import stems_manifest
    from components.step import Manifest

    # Not handed over by KFP: the manifests of all shards would be one argument of this command.
    whole = stems_manifest(root)
    whole.save(stems.path)
    run(
        root=root,
        config=FeaturesConfig.from_json(params),
        catalogue=Manifest.load(catalogue.path),
        stems=whole,
    ).save(manifest.path)
