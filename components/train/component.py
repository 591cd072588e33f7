"""KFP component of the step train."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    root: str,
    params: str,
    catalogue: dsl.Input[dsl.Dataset],
    stems: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    encoder: dsl.Output[dsl.Model],
) -> None:
    """Train the mixing-style encoder.

    Args:
        root: root folder of the run.
        params: the section `train`, as JSON.
        catalogue: manifest of the catalogue.
        stems: manifest of the stem shards.
        features: manifest of the features.
        encoder: describes the encoder.
    """
    from components.step import Manifest
    from components.train.main import TrainConfig, run

    run(
        root=root,
        config=TrainConfig.from_json(params),
        catalogue=Manifest.load(catalogue.path),
        stems=Manifest.load(stems.path),
        features=Manifest.load(features.path),
    ).save(encoder.path)
