"""KFP component of the step promote."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    root: str,
    params: str,
    encoder: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    promotion: dsl.Output[dsl.Dataset],
) -> None:
    """Register the encoder with its model card, and make it champion if it passes the gate.

    Args:
        root: root folder of the run.
        params: the section `promote`, as JSON.
        encoder: manifest of the encoder.
        evaluation: manifest of the metrics.
        promotion: describes the decision.
    """
    from components.promote.main import PromoteConfig, run
    from components.step import Manifest

    run(
        root=root,
        config=PromoteConfig.from_json(params),
        encoder=Manifest.load(encoder.path),
        evaluation=Manifest.load(evaluation.path),
    ).save(promotion.path)
