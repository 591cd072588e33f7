"""KFP component of the step separate."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def separate(
    root: str,
    params: str,
    ingest_params: str,
    shard: int,
    catalogue: dsl.Input[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
) -> None:
    """Separate the songs of one shard into stems.

    Args:
        root: root folder of the run.
        params: the section `separate`, as JSON.
        ingest_params: the section `ingest`, as JSON, for the number of shards.
        shard: number of the shard.
        catalogue: manifest of the catalogue.
        manifest: describes the shard.
    """
    from components.separate.main import SeparateConfig, run
    from components.step import Manifest, num_shards_of

    [made] = run(
        root=root,
        config=SeparateConfig.from_json(params),
        num_shards=num_shards_of(ingest_params),
        catalogue=Manifest.load(catalogue.path),
        shard=int(shard),
    )
    made.save(manifest.path)
