"""The command `mixprint console fit`: a controller learns the style of one engineer from pairs."""

from pathlib import Path
from typing import Annotated

import typer

from mixprint.cli.options import DeviceOption, EncoderOption
from mixprint.progress import echo
from mixprint.text import shown


def fit(
    pairs: Annotated[
        tuple[Path, Path],
        typer.Option(
            "--pairs",
            help="Two folders, RAW and MIXED, paired by names: tracks or folders of them, and "
            "their mixes, or folders of the tracks as they sound in the mix.",
            show_default=False,
        ),
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output_dir",
            help="Receives the controller; a stopped call goes on there.",
            show_default=False,
        ),
    ],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="A controller to start from: a folder; default for the shipped one; none for a "
            "small one from scratch, as where none is shipped.",
        ),
    ] = "default",
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            help="YAML or JSON laid over mixprint/controller/own_style.yaml; repeated.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.0, help="Of training, after the fits; 0: no limit.")
    ] = 0.0,
    mixing_checkpoint: EncoderOption = "",
    device: DeviceOption = "auto",
) -> None:
    """Learn how one engineer mixes, from pairs of raw tracks and mixes.

    Finds the settings of each pair, which takes a minute or more, and then trains a controller on
    them. `mixprint console mix --controller DIR` mixes other tracks as this engineer does. Pairs
    that cannot be used are listed with their reasons, and left out.
    """
    from mixprint.api.models import fitting, load_encoder
    from mixprint.controller.checkpoint import load_controller
    from mixprint.controller.outputs import check_initial
    from mixprint.controller.own_style import OwnStyleConfig, fit_folders, learn_style, told
    from mixprint.controller.shipped import start_folder
    from mixprint.machine.device import resolve_device

    overrides = [f"max_minutes={minutes}"] if minutes else []
    used = OwnStyleConfig.layered(config or (), overrides)
    where = resolve_device(device)
    begin = start_folder(start)
    if begin is not None:
        check_initial(begin, output_dir)
    initial = None if begin is None else load_controller(begin, where)
    encoder = None
    if initial is not None and initial.encoder_fingerprint:
        encoder = fitting(initial, load_encoder(mixing_checkpoint, where), is_named=True)
    fits, refused = fit_folders(*pairs, output_dir, used)
    for each in refused:
        echo(f"left out: {shown(each.path)}: {each.reason}", err=True)
    echo(f"{len(fits)} pairs are learned from, {len(refused)} left out")
    best = learn_style(fits, used, output_dir, initial=initial, encoder=encoder, device=where).best
    for line in told(best):
        echo(line)
    echo(f"use it: mixprint console mix TRACKS --controller {shown(output_dir)} --output_dir OUT")
