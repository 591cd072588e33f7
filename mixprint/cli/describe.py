"""The command `mixprint describe`: how a finished song is mixed, in words."""

from pathlib import Path
from typing import Annotated

import typer

from mixprint.cli.console_mix import ControllerOptions
from mixprint.cli.styles import DEFAULT_LIBRARY
from mixprint.progress import echo
from mixprint.text import shown


def describe(
    song: Annotated[
        Path,
        typer.Argument(
            help="A song, a folder of its four stems, or a saved style.", show_default=False
        ),
    ],
    library: Annotated[
        Path | None,
        typer.Option(
            "--library",
            help=f"Folder of saved styles, of which the nearest are named; {DEFAULT_LIBRARY} where "
            "that is there.",
            show_default=False,
        ),
    ] = None,
    number: Annotated[int, typer.Option("--number", min=1, help="How many styles are named.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Receives the settings as settings.json.", show_default=False
        ),
    ] = None,
    *,
    used: ControllerOptions,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the settings of another call.")
    ] = False,
) -> None:
    """Describe how a song is mixed: what a trained controller hears, per stem, with its spread.

    What was done to a mix cannot be told without its dry tracks. These are the settings with which
    typical tracks, the mean of those that the controller was trained on, would sound like this: of
    a dark voice it says a cut of the highs, whether an engineer made it dark or the singer.
    """
    from mixprint.api.description import describe as described
    from mixprint.console.settings import Settings
    from mixprint.storage.outputs import check_file

    if output is not None:
        check_file(output, Settings.is_file, inputs=[song], overwrite=overwrite)
    if library is None and DEFAULT_LIBRARY.is_dir():
        library = DEFAULT_LIBRARY
    found = described(
        song,
        library=library,
        number=number,
        controller=used.controller,
        encoder=used.mixing_checkpoint,
        separator=used.scnet_model,
        separator_config=used.scnet_config,
        device=used.device,
    )
    echo(f"{shown(found.title)}, beside typical tracks:")
    for name, phrases in found.words.items():
        echo(f"  {name}: {', '.join(phrases) or 'nothing'}")
    for match in found.nearest:
        likeness = "" if match.likeness is None else f"likeness {match.likeness:.2f}, "
        echo(f"near {match.style.title}: {likeness}distance {match.distance:.2f}")
    if output is not None:
        found.settings.save(output)
