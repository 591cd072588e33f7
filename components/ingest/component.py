"""KFP component of the step ingest."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    root: str,
    source: str,
    locations: list[str],
    params: str,
    manifest: dsl.Output[dsl.Dataset],
) -> list[int]:
    """Read a collection of songs into the catalogue and number its shards.

    Args:
        root: root folder of the run.
        source: folder, fma, musdbhq, pairs or synthetic.
        locations: the folder or folders that hold the songs.
        params: the section `ingest`, as JSON.
        manifest: describes the catalogue.

    Returns:
        the numbers of the shards that the songs are dealt to.
    """
    from components.ingest.main import IngestConfig, run

    config = IngestConfig.from_json(params)
    run(root=root, config=config, source=source, locations=locations).save(manifest.path)
    return config.shards
