"""KFP component of the step transfer."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def transfer(
    root: str,
    params: str,
    catalogue: dsl.Input[dsl.Dataset],
    stems: dsl.Input[dsl.Dataset],
    promotion: dsl.Input[dsl.Dataset],
    transfers: dsl.Output[dsl.Dataset],
) -> None:
    """Songs with the mix of other songs, by the champion of the registry.

    Args:
        root: root folder of the run.
        params: the section `transfer`, as JSON.
        catalogue: manifest of the catalogue.
        stems: manifest of the stem shards.
        promotion: manifest of the decision, which names the registered model.
        transfers: describes the results.
    """
    from components.step import Manifest
    from components.transfer.main import TransferConfig, run

    run(
        root=root,
        config=TransferConfig.from_json(params),
        catalogue=Manifest.load(catalogue.path),
        stems=Manifest.load(stems.path),
        promotion=Manifest.load(promotion.path),
    ).save(transfers.path)
