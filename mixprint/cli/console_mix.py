"""The command `mixprint console mix`: a controller sets the console for tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixprint.cli.console import ChangeOptions, LockOption, OutOption, TracksArgument
from mixprint.cli.options import (
    DeviceOption,
    EncoderOption,
    OverwriteOption,
    SeparatorConfigOption,
    SeparatorOption,
)
from mixprint.console.export.registry import chosen_formats, describe_formats
from mixprint.errors import ConfigError
from mixprint.progress import echo
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.console.settings import Settings
    from mixprint.console.spread import Spread

EXPORT_FOLDER = "export"
ExportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        help=f"Also for other programs, in the folder {EXPORT_FOLDER}: {describe_formats()}; "
        "with commas or repeated.",
        show_default=False,
    ),
]
StepsOption = Annotated[
    int,
    typer.Option(
        "--num_steps",
        min=0,
        help="Most steps of a fit to the reference, from the controller's settings on.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ControllerOptions:
    """Options of what hears tracks and songs."""

    controller: Annotated[
        Path | None,
        typer.Option(
            "--controller",
            help="Folder of a trained controller. Default: the shipped one.",
            show_default=False,
        ),
    ] = None
    mixing_checkpoint: EncoderOption = ""
    scnet_model: SeparatorOption = "default"
    scnet_config: SeparatorConfigOption = None
    device: DeviceOption = "auto"

    def predict(
        self,
        tracks: Mapping[str, Path],
        reference: Path | None,
        num_steps: int,
        kept: "Settings",
        locked: Sequence[str],
    ) -> "tuple[Settings, Spread, list[str]]":
        """Let the controller set the console for tracks, and fit it from there.

        Args:
            tracks: name -> file.
            reference: a song, a folder of stems or a saved style; None: a good mix.
            num_steps: of the fit.
            kept: where what is locked is taken from.
            locked: what the fit leaves alone.

        Returns:
            settings, their spread, and sentences: what the fit came to, and what the mix is.
        """
        from mixprint.api.mixing import find_settings
        from mixprint.api.references import busiest_of_files, read_reference
        from mixprint.controller.shipped import load_named
        from mixprint.machine.device import resolve_device

        where = resolve_device(self.device)
        controller = load_named(self.controller, where)
        heard = None
        if reference is not None:
            heard = read_reference(
                reference, where, separator=self.scnet_model, separator_config=self.scnet_config
            )
        excerpt = busiest_of_files(list(tracks.values()))
        found = find_settings(
            controller,
            excerpt,
            list(tracks),
            heard,
            num_steps=num_steps,
            kept=kept,
            locked=locked,
            encoder=self.mixing_checkpoint,
            device=where,
        )
        what = "a good mix of these tracks" if heard is None else f"mixed like {heard.title}"
        return found.settings, found.spread, [*found.words, what]


def mix(
    tracks: TracksArgument,
    output_dir: OutOption,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="The song whose mix is wanted, or a folder of its four stems; a good mix of the "
            "tracks without it.",
            show_default=False,
        ),
    ] = None,
    style: Annotated[
        Path | None,
        typer.Option(
            "--style",
            help="A saved style (mixprint styles add) in place of a song.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="settings.json from which locked settings are taken; neutral ones without it.",
            show_default=False,
        ),
    ] = None,
    lock: LockOption = None,
    num_steps: StepsOption = 0,
    *,
    changes: ChangeOptions,
    export: ExportOption = None,
    used: ControllerOptions,
    overwrite: OverwriteOption = False,
) -> None:
    """Mix tracks like a reference: a trained controller sets the console, in one pass.

    With --num_steps a fit goes on from there. It reads the ten seconds of tracks and reference in
    which they sound the most. The whole song is written as by `mixprint console render`, and how
    sure the controller is of each setting.
    """
    from mixprint.api.mixing import check_steps
    from mixprint.console.export.folder import check_export_folder, write_export
    from mixprint.console.results import check_mix_folder, write_mix
    from mixprint.console.settings import Settings
    from mixprint.console.tracks import find_tracks
    from mixprint.console.words import markdown

    if reference is not None and style is not None:
        raise ConfigError("--style: expected either a style or a --reference, found both")
    check_steps(num_steps, has_reference=reference is not None or style is not None)
    formats = chosen_formats(export) if export else ()
    found = find_tracks(tracks)
    wanted = reference if style is None else style
    others = [path for path in (wanted, settings) if path is not None]
    check_mix_folder(output_dir, found, others=others, overwrite=overwrite)
    folder = output_dir / EXPORT_FOLDER
    if formats:
        check_export_folder(folder, found, inputs=others, overwrite=overwrite)
    kept = Settings.neutral(list(found))
    if settings is not None:
        kept = Settings.load(settings).in_order(list(found))
    predicted, spread, (*told, what) = used.predict(found, wanted, num_steps, kept, lock or ())
    changed = changes.changed(predicted, kept, lock or ())
    write_mix(found, changed, output_dir, spread=spread, overwrite=overwrite)
    echo(markdown(changed, spread).rstrip())
    for sentence in told:
        echo(sentence)
    if formats:
        title = shown(output_dir.resolve().name)
        for note in write_export(
            found, changed, folder, formats, title=title, inputs=others, overwrite=overwrite
        ):
            echo(f"note: {note}")
        echo(f"exported to {shown(folder)}: {', '.join(each.name for each in formats)}")
    echo(f"{what}: listen to {shown(output_dir / 'mix.wav')}")
    echo(f"open {shown(output_dir / 'console.html')} to hear and change it")
