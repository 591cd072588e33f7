"""The application: all commands, in the order of `mixprint --help`."""

from typing import Annotated

import typer

from mixprint.cli import console, console_demo, console_fit, console_mix, styles
from mixprint.cli.blend import blend
from mixprint.cli.check_separator import check_separator
from mixprint.cli.describe import describe
from mixprint.cli.exits import clear_exits
from mixprint.cli.groups import ungrouped
from mixprint.cli.listening import listening_results, listening_test
from mixprint.cli.machine import doctor, estimate
from mixprint.cli.measure import features, quality
from mixprint.cli.separate import separate
from mixprint.cli.transfer import transfer, transfer_batch
from mixprint.progress import echo

COMMANDS = (
    transfer,
    transfer_batch,
    separate,
    check_separator,
    blend,
    listening_test,
    listening_results,
    features,
    describe,
    quality,
    estimate,
    doctor,
)

CONSOLE_COMMANDS = (
    console_mix.mix,
    console.recover,
    console.render,
    console.show,
    console.export,
    console.import_,
    console.check_pairs,
    console_fit.fit,
    console_demo.demo,
)

STYLES_COMMANDS = (styles.add, styles.list_, styles.find)

_NAMES = {"token_normalize_func": lambda token: token.replace("_", "-")}
app = typer.Typer(
    help="Learn what a mix sounds like, and give one song the mix of another.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings=_NAMES,
)


def _group(name: str, summary: str) -> typer.Typer:
    group = typer.Typer(
        help=summary, no_args_is_help=True, rich_markup_mode="markdown", context_settings=_NAMES
    )
    app.add_typer(group, name=name)
    return group


for group, commands in (
    (app, COMMANDS),
    (
        _group(
            "console", "A mixing console: take a mix apart, change its settings, render, export."
        ),
        CONSOLE_COMMANDS,
    ),
    (_group("styles", "A library of saved styles: add songs, list, find."), STYLES_COMMANDS),
):
    for command in commands:
        # A name that Python keeps for itself has a line behind it.
        name = command.__name__.removesuffix("_").replace("_", "-")
        group.command(name)(clear_exits(ungrouped(command)))


def _show_version(wanted: bool) -> None:
    """Print the version, and end."""
    if wanted:
        from mixprint import __version__

        echo(f"mixprint {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """Learn what a mix sounds like, and give one song the mix of another."""
