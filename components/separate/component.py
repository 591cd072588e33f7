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
) -> None:
    """Separate the songs of one shard into stems; its done marker tells the next step of it.

    Args:
        root: root folder of the run.
        params: the section `separate`, as JSON.
        ingest_params: the section `ingest`, as JSON: the number of shards, and how many songs may
            be left out.
        shard: number of the shard.
        catalogue: manifest of the catalogue.
    """
    from components.separate.main import SeparateConfig, run
    from components.step import Manifest, Sharding
    from mixprint.errors import ConfigError
    from mixprint.schema import parse_json

    ingest = Sharding.of_section(parse_json(ingest_params, "ingest", ConfigError))
    run(
        root=root,
        config=SeparateConfig.from_json(params),
        num_shards=ingest.num_shards,
        catalogue=Manifest.load(catalogue.path),
        shard=int(shard),
        max_reject_fraction=ingest.max_reject_fraction,
    )
