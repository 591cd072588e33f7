"""Commands for listening tests: `listening-test` and `listening-results`."""

from pathlib import Path
from typing import Annotated

import typer

from mixprint.cli.options import OverwriteOption
from mixprint.progress import echo
from mixprint.text import shown


def listening_test(
    batch_dir: Annotated[
        Path, typer.Argument(help="Holds the folders of transferred pairs.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Receives the test: open its index.html.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the choice and order of trials.")] = 1,
    max_trials: Annotated[
        int, typer.Option("--max_trials", min=1, help="More are left out at random.")
    ] = 8,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a listening test (MUSHRA) of transferred pairs, to be taken in any browser, offline.

    Results for the same two songs, of different methods or settings, are compared in one trial,
    with a hidden reference, an anchor and the input as it was. Ratings are saved as files, which
    `mixprint listening-results` analyses.
    """
    from mixprint.listening.generate import PAGE_NAME, make_test

    test = make_test(batch_dir, out, max_trials=max_trials, seed=seed, overwrite=overwrite)
    for trial in test["trials"]:
        echo(f"{trial['trial']}: {trial['title']}: {', '.join(trial['conditions'])}")
    echo(f"open {shown(out / PAGE_NAME)} in a browser")


def listening_results(
    places: Annotated[
        list[Path],
        typer.Argument(help="Saved ratings, and folders of them.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Receives the figures; a page is written beside it.")
    ] = Path("results.json"),
    overwrite: OverwriteOption = False,
) -> None:
    """Analyse saved ratings: means with 95 % intervals, after screening the listeners.

    Files that cannot be used are named, and the exit code is then 1; the others are analysed.
    """
    from mixprint.listening.analyse import analyse, results_text

    results = analyse(places, out, overwrite=overwrite)
    echo(results_text(results))
    echo(f"{results['num_listeners']} listeners, {results['num_trials']} trials")
    for left in results["screened_out"]:
        echo(
            f"left out: {left['listener']}, who missed the hidden reference in "
            f"{left['failed_fraction']:.0%} of the trials"
        )
    for refused in results["refused"]:
        echo(f"refused: {refused['reason']}", err=True)
    echo(f"open {shown(out.with_suffix('.html'))}")
    if results["refused"]:
        raise typer.Exit(1)
