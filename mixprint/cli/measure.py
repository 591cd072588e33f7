"""Commands that measure mixes: `features` and `quality`."""

import csv
import io
import json
import logging
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mixprint.cli.options import (
    DeviceOption,
    OverwriteOption,
    SeparatorConfigOption,
    SeparatorOption,
)
from mixprint.errors import AudioError
from mixprint.progress import echo, progress
from mixprint.text import shown

log = logging.getLogger("mixprint")


class TableFormat(StrEnum):
    """Forms of a printed table of features."""

    json = "json"
    csv = "csv"


def features(
    songs: Annotated[
        list[Path], typer.Argument(help="Audio files, and folders of them.", show_default=False)
    ],
    table_format: Annotated[
        TableFormat, typer.Option("--format", help="How they are printed.")
    ] = TableFormat.json,
    segment_duration: Annotated[
        float, typer.Option("--segment_duration", help="Length of the segment in s.")
    ] = 10.0,
    segment_offset: Annotated[
        float, typer.Option("--segment_offset", help="Start of the segment in s.")
    ] = 0.0,
    scnet_model: SeparatorOption = "default",
    scnet_config: SeparatorConfigOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Print the 64 mixing features of a segment of each song, with their units.

    A song that cannot be used is named, and the others are printed.

    Exit code: 0 if all songs are there, 1 if one failed, 2 if an option is wrong.
    """
    from mixprint.api.songs import measure
    from mixprint.machine.device import resolve_device
    from mixprint.separation import load_separator
    from mixprint.separation.batch import name_songs
    from mixprint.transfer.settings import check_segment

    check_segment(segment_duration, segment_offset)
    separator = load_separator(scnet_model, scnet_config, resolve_device(device))
    found, unusable = name_songs(songs)
    failures = [outcome.detail for outcome in unusable]
    rows: dict[str, dict[str, float]] = {}
    for path in progress(found, len(found), "measured", "songs", log):
        try:
            rows[shown(path)] = measure(
                path,
                segment_duration=segment_duration,
                segment_offset=segment_offset,
                separator=separator,
            )
        except AudioError as error:
            failures.append(str(error))
    for failure in failures:
        echo(f"failed: {failure}", err=True)
    echo(_table(rows, table_format))
    if failures:
        raise typer.Exit(1)


def _table(rows: Mapping[str, Mapping[str, float]], table_format: TableFormat) -> str:
    """Return the features of all songs as text.

    Args:
        rows: song -> feature -> value.
        table_format: JSON, or CSV with a column per song.
    """
    from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, SCHEMA_VERSION

    units = dict(zip(FEATURE_NAMES, FEATURE_UNITS, strict=True))
    if table_format is TableFormat.json:
        result = {"schema_version": SCHEMA_VERSION, "units": units, "songs": rows}
        return json.dumps(result, indent=2, ensure_ascii=False)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["feature", "unit", *rows])
    for name in FEATURE_NAMES:
        writer.writerow([name, units[name], *(row[name] for row in rows.values())])
    return table.getvalue().removesuffix("\n")


def quality(
    catalogue: Annotated[
        Path, typer.Option("--catalogue", help="Folder of the catalogue of a pipeline run.")
    ],
    stems: Annotated[Path, typer.Option("--stems", help="Folder of its stem shards.")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Folder of an encoder.")],
    out: Annotated[Path, typer.Option("--out", help="Receives the figures and the head.")],
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="CSV with the header track,score. Default: the mixes are damaged by known "
            "amounts (clipping, noise, masking, over-compression), and what is left is the score.",
            show_default=False,
        ),
    ] = None,
    variants: Annotated[
        int, typer.Option("--variants", min=1, help="Damaged mixes of each track.")
    ] = 8,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=1, help="Resamples of the songs for the intervals.")
    ] = 1000,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 1,
    overwrite: OverwriteOption = False,
) -> None:
    """Learn scores of mixes from an encoder's embeddings, and measure how well that goes.

    The encoder stays as it is; a head of two layers is fitted. R2 and Kendall's tau are measured
    for songs that the head has not met, beside the 64 features, a mean spectrum and an encoder
    that was not trained.
    """
    from mixprint.collection.catalogue import read_catalogue
    from mixprint.encoder.checkpoint import load_checkpoint
    from mixprint.evaluation.quality import regress_quality
    from mixprint.evaluation.report import METHODS
    from mixprint.machine.device import resolve_device

    used_device = resolve_device(device)
    results = regress_quality(
        tracks=read_catalogue(catalogue),
        stems_dir=stems,
        encoder=load_checkpoint(checkpoint, used_device),
        out_dir=out,
        scores_path=scores,
        num_variants=variants,
        num_bootstrap=bootstrap,
        seed=seed,
        device=used_device,
        overwrite=overwrite,
    )
    echo(
        f"{results['num_mixes']} mixes of {results['num_songs']} songs, of which the encoder may "
        f"know {results['num_training_songs']} from its training"
    )
    for method, label in METHODS.items():
        figures = [
            f"{name} {e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
            for name, e in (
                ("R2", results[method]["r2"]),
                ("Kendall's tau", results[method]["kendall_tau"]),
            )
        ]
        echo(f"{label}: {', '.join(figures)}")
