"""The commands `mixprint console ...`: settings that a person can read, change and hear."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixprint.cli.options import OverwriteOption
from mixprint.console.export.registry import chosen_formats, chosen_plugins, describe_formats
from mixprint.console.importing.registry import describe_readers
from mixprint.errors import ConfigError
from mixprint.progress import echo, progress
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.console.alignment import Alignment
    from mixprint.console.settings import Settings

log = logging.getLogger("mixprint.console")

TracksArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Audio files, one per track, or a folder of them; a track is named after its file.",
        show_default=False,
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="settings.json; neutral settings without it.", show_default=False
    ),
]
LockOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lock",
        help="What stays as it is: drums, drums.eq, *.fader_db, master; repeated.",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--output_dir", help="Receives all results.")]


class Rooms(StrEnum):
    """Ways to feed the rooms."""

    inserts = "inserts"
    sends = "sends"


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """Options that change settings."""

    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting, for example vocals.eq.high.gain_db=2, or +=2 to add to it; repeated.",
            show_default=False,
        ),
    ] = None
    amount: Annotated[
        list[str] | None,
        typer.Option(
            "--amount",
            help="How much is done, 0 to 2: of all, or of a track (drums=0.5); repeated.",
            show_default=False,
        ),
    ] = None

    rooms: Annotated[
        Rooms | None,
        typer.Option(
            "--rooms",
            help="A room for each track (inserts), or at most three that tracks share (sends); "
            "as in the settings without it.",
            show_default=False,
        ),
    ] = None

    def changed(
        self,
        settings: "Settings",
        kept: "Settings | None" = None,
        locked: Sequence[str] = (),
    ) -> "Settings":
        """Apply them: first the amounts, then the single settings, then how rooms are fed.

        Args:
            settings: that are changed.
            kept: where what is locked is taken from, after the amounts.
            locked: see `Settings.lock`.
        """
        amounts = _amounts(self.amount or [])
        if None in amounts:
            settings = settings.scaled(amounts.pop(None))
        if amounts:
            settings = settings.scaled({str(name): value for name, value in amounts.items()})
        if kept is not None:
            settings = settings.lock(kept, locked)
        for path, value in map(_assignment, self.sets or []):
            settings = settings.edit({path: value})
        return _with_rooms(settings, self.rooms)


def _with_rooms(settings: "Settings", rooms: Rooms | None) -> "Settings":
    """Feed the rooms so, and say what that changes."""
    from mixprint.console.sharing import with_shared_rooms

    if rooms is Rooms.inserts and settings.rooms != rooms:
        raise ConfigError("--rooms: expected sends, for these settings share their rooms already")
    if rooms is Rooms.sends:
        settings, told = with_shared_rooms(settings)
        for sentence in told:
            log.info("%s", sentence)
    return settings


def _amounts(texts: Sequence[str]) -> dict[str | None, float]:
    """Read amounts: of tracks by name, of all under None."""
    amounts: dict[str | None, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            amounts[name if equals else None] = float(value)
        except ValueError as error:
            raise ConfigError(f"--amount: expected a number, found {value!r}") from error
    return amounts


def _assignment(text: str) -> tuple[str, str]:
    """Read `path=value`, `path+=value` (also `path=+=value`) or `path-=value`.

    A track's name may hold an equals sign, too.
    """
    path, equals, value = text.rpartition("=")
    if not equals:
        raise ConfigError(f"--set: expected a setting and its value, found {text!r}")
    sign = path[-1:] if path[-1:] in ("+", "-") else ""
    if not sign:
        return path, value
    return path.removesuffix(sign).removesuffix("="), f"{sign}={value}"


def recover(
    tracks: TracksArgument,
    mix: Annotated[Path, typer.Option("--mix", help="The mix that was made of the tracks.")],
    output_dir: OutOption,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="settings.json where the search begins; from the levels without it.",
            show_default=False,
        ),
    ] = None,
    lock: LockOption = None,
    num_steps: Annotated[
        int, typer.Option("--num_steps", min=0, help="Number of search steps.")
    ] = 240,
    overwrite: OverwriteOption = False,
) -> None:
    """Take a mix apart: find the settings with which a console makes it of its dry tracks.

    Delay, polarity and drift of the mix are found first. Writes the mix as the console makes it,
    with its settings, as `mixprint console render` does.
    """
    from mixprint.console.pairs import Pair
    from mixprint.console.recovery import recover_pair
    from mixprint.console.settings import Settings
    from mixprint.console.tracks import find_tracks, track_name

    pair = Pair(track_name(mix), find_tracks(tracks), mix)
    start = None if settings is None else Settings.load(settings)
    found = recover_pair(
        pair, output_dir, start=start, locked=lock or (), num_steps=num_steps, overwrite=overwrite
    )
    echo(_told(pair.name, found.alignment))
    echo(f"distance to the mix {found.distance:.3f}; a plain sum has {found.plain_distance:.3f}")
    echo(f"listen to {shown(output_dir / 'mix.wav')}; what was found: {shown(output_dir)}/sheet.md")
    echo(f"open {shown(output_dir / 'console.html')} to hear and change it")


def check_pairs(
    raw: Annotated[Path, typer.Argument(help="Tracks, or folders of them.", show_default=False)],
    mixed: Annotated[Path, typer.Argument(help="Mixes of these names.", show_default=False)],
) -> None:
    """Report delay, polarity and drift of mixes against their tracks, and which cannot be used.

    Exit code: 0 if all can be used, 1 if one cannot.
    """
    from mixprint.console.pairs import find_pairs, load_pair
    from mixprint.errors import MixprintError

    pairs, unpaired = find_pairs(raw, mixed)
    refused = [f"{shown(each.path)}: {each.reason}" for each in unpaired]
    for pair in progress(pairs, len(pairs), "checked", "pairs", log):
        try:
            echo(_told(pair.name, load_pair(pair).alignment))
        except MixprintError as error:
            refused.append(str(error))
    for reason in refused:
        echo(f"failed: {reason}", err=True)
    echo(f"{len(pairs) + len(unpaired) - len(refused)} can be used, {len(refused)} cannot")
    if refused:
        raise typer.Exit(1)


def _told(name: str, alignment: "Alignment") -> str:
    polarity = "inverted" if alignment.polarity < 0 else "kept"
    delay_ms = round(1_000 * alignment.delay_s, 2) + 0.0  # never minus nothing
    drift_ppm = round(alignment.drift_ppm, 1) + 0.0
    return (
        f"{name}: delay {delay_ms:+.2f} ms, polarity {polarity}, drift {drift_ppm:+.1f} ppm, "
        f"likeness {alignment.likeness:.2f}"
    )


def render(
    tracks: TracksArgument,
    settings: SettingsOption = None,
    *,
    changes: ChangeOptions,
    output_dir: OutOption,
    overwrite: OverwriteOption = False,
) -> None:
    """Mix tracks by settings: whole songs, exactly, in memory that does not grow.

    Writes mix.wav, the tracks as they sound in it, the settings as they were used, a sheet that
    says them in words, and console.html, a page on which the console can be heard and changed.
    """
    from mixprint.console.results import write_mix
    from mixprint.console.tracks import find_tracks

    found = find_tracks(tracks)
    used = changes.changed(_loaded(settings, found))
    write_mix(found, used, output_dir, overwrite=overwrite)
    echo(f"listen to {shown(output_dir / 'mix.wav')}; what was done: {shown(output_dir)}/sheet.md")
    echo(f"open {shown(output_dir / 'console.html')} to hear and change it")


def export(
    tracks: TracksArgument,
    settings: SettingsOption = None,
    *,
    changes: ChangeOptions,
    output_dir: OutOption,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            help=f"Formats, with commas or repeated: {describe_formats()}; all without it.",
            show_default=False,
        ),
    ] = None,
    plugins: Annotated[
        str,
        typer.Option(
            "--plugins",
            help="Of a project for REAPER: jsfx (the console itself), or stock (REAPER's own).",
        ),
    ] = "jsfx",
    title: Annotated[
        str | None,
        typer.Option("--title", help="Title of the song; the folder's name without it."),
    ] = None,
    tempo_bpm: Annotated[
        float | None,
        typer.Option("--tempo_bpm", help="If it is known, for bars and beats in a project."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Take settings to another program: a project with the dry tracks, a script, filters.

    Writes the tracks as they were given, the mix to compare with, each format's files, and notes
    on what a format holds in another way or not at all.
    """
    from mixprint.console.export.folder import write_export
    from mixprint.console.tracks import find_tracks

    formats, used_plugins = chosen_formats(to or ()), chosen_plugins(plugins)
    found = find_tracks(tracks)
    used = changes.changed(_loaded(settings, found))
    notes = write_export(
        found,
        used,
        output_dir,
        formats,
        title=title if title is not None else shown(output_dir.resolve().name),
        tempo_bpm=tempo_bpm,
        plugins=used_plugins,
        inputs=[] if settings is None else [settings],
        overwrite=overwrite,
    )
    for note in notes:
        echo(f"note: {note}")
    echo(f"exported to {shown(output_dir)}: {', '.join(each.name for each in formats)}")


def import_(
    file: Annotated[
        Path,
        typer.Argument(help=f"What is read: {describe_readers()}.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", help="settings.json, which is written.")],
    tracks: Annotated[
        list[Path] | None,
        typer.Option(
            "--tracks",
            help="Audio files, or a folder of them, that the settings shall be for; repeated.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Bring settings back from another program, and list what of it was not understood."""
    from mixprint.console.importing.matching import for_tracks
    from mixprint.console.importing.registry import read_any
    from mixprint.console.settings import Settings
    from mixprint.console.tracks import find_tracks
    from mixprint.storage.outputs import check_file

    check_file(output, Settings.is_file, inputs=[file], overwrite=overwrite)
    names = list(find_tracks(tracks)) if tracks else None
    imported = read_any(file)
    if names is not None:
        imported = for_tracks(imported, names)
    imported.settings.save(output)
    for note in imported.notes:
        echo(f"note: {note}")
    echo(f"read {len(imported.settings.tracks)} tracks and the master into {shown(output)}")


def show(
    settings: Annotated[Path, typer.Argument(help="settings.json", show_default=False)],
    *,
    changes: ChangeOptions,
) -> None:
    """Say settings in words; with their spread, where `mixprint console mix` has predicted them."""
    from mixprint.console.settings import Settings
    from mixprint.console.spread import Spread
    from mixprint.console.words import markdown

    used = changes.changed(Settings.load(settings))
    echo(markdown(used, Spread.beside(settings)).rstrip())


def _loaded(path: Path | None, tracks: Mapping[str, Path]) -> "Settings":
    from mixprint.console.settings import Settings

    return Settings.neutral(list(tracks)) if path is None else Settings.load(path)
