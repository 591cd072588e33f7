"""KFP component of the step evaluate."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    root: str,
    params: str,
    catalogue: dsl.Input[dsl.Dataset],
    stems: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    encoder: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Measure the encoder by retrieval and probes, and write the report.

    Args:
        root: root folder of the run.
        params: the section `evaluate`, as JSON.
        catalogue: manifest of the catalogue.
        stems: manifest of the stem shards.
        features: manifest of the features.
        encoder: manifest of the encoder.
        evaluation: describes the metrics and the report.
        metrics: the metrics, for the Kubeflow UI.
        report: the report, for the Kubeflow UI.
    """
    from components.evaluate.main import EvaluateConfig, run
    from components.step import Manifest
    from mixprint.storage.bucket import copy_from

    made = run(
        root=root,
        config=EvaluateConfig.from_json(params),
        catalogue=Manifest.load(catalogue.path),
        stems=Manifest.load(stems.path),
        features=Manifest.load(features.path),
        encoder=Manifest.load(encoder.path),
    )
    made.save(evaluation.path)
    for name, value in made.counts.items():
        metrics.log_metric(name, value)
    copy_from(f"{made.uri}/report.html", report.path)
