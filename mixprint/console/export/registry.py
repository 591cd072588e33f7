"""The formats of an export, by name: what each is for, and how it is written.

Light to import, for the command line describes them: a format is imported when it is written.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from mixprint.console.export.song import Export, Plugins
from mixprint.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form in which settings are exported.

    Attributes:
        name: for people, options and export.json.
        summary: what it is, for the help of the command line.
        files: patterns of the files that it writes, relative to the folder.
        write: writes them; returns what it holds in another way, or not at all, in sentences.
        needs_audio: whether it refers to the dry tracks.
    """

    name: str
    summary: str
    files: tuple[str, ...]
    write: Callable[[Export], list[str]]
    needs_audio: bool = False


def _reaper(export: Export) -> list[str]:
    from mixprint.console.export.reaper import write_reaper
    from mixprint.console.export.reaper_stock import write_reaper_stock

    write = {"jsfx": write_reaper, "stock": write_reaper_stock}[export.plugins]
    return [f"REAPER: {note}" for note in write(export)]


def _dawproject(export: Export) -> list[str]:
    from mixprint.console.export.dawproject import write_dawproject

    return write_dawproject(export)


def _pedalboard(export: Export) -> list[str]:
    from mixprint.console.export.files import write_pedalboard

    return write_pedalboard(export)


def _apo(export: Export) -> list[str]:
    from mixprint.console.export.files import write_apo

    return write_apo(export)


def _impulses(export: Export) -> list[str]:
    from mixprint.console.export.files import write_impulses

    return write_impulses(export)


def _sheet(export: Export) -> list[str]:
    from mixprint.console.export.files import write_sheet

    return write_sheet(export)


def _settings(export: Export) -> list[str]:
    export.settings.save(export.out_dir / "settings.json")
    return []


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format(
            name="reaper",
            summary="a project for REAPER",
            files=("song.rpp", "Effects/mixprint/*.jsfx"),
            write=_reaper,
            needs_audio=True,
        ),
        Format(
            name="dawproject",
            summary="a project for Bitwig Studio, Studio One, Cubase and others",
            files=("song.dawproject",),
            write=_dawproject,
            needs_audio=True,
        ),
        Format(
            name="pedalboard",
            summary="a Python script that mixes with the package pedalboard",
            files=("song_pedalboard.py",),
            write=_pedalboard,
            needs_audio=True,
        ),
        Format(
            name="apo",
            summary="equalisers as text for Equalizer APO",
            files=("apo/*.txt",),
            write=_apo,
        ),
        Format(
            name="impulses",
            summary="impulse responses of equalisers and rooms as WAV",
            files=("impulses/*.wav",),
            write=_impulses,
        ),
        Format(name="sheet", summary="the settings in words", files=("sheet.md",), write=_sheet),
        Format(
            name="settings", summary="the exact numbers", files=("settings.json",), write=_settings
        ),
    )
}


def describe_formats() -> str:
    """Return a phrase that says what each format is."""
    *others, last = (f"{each.name} ({each.summary})" for each in FORMATS.values())
    return f"{', '.join(others)}, and {last}"


def chosen_formats(texts: Iterable[str]) -> list[Format]:
    """Return the formats of these names, all of them where there is none.

    Args:
        texts: names, several of them with commas between.

    Raises:
        ConfigError: there is no such format.
    """
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--to: expected {', '.join(FORMATS)}, found {name!r}")
    return [each for each in FORMATS.values() if not names or each.name in names]


def chosen_plugins(text: str) -> Plugins:
    """Return the plug-ins of this name.

    Raises:
        ConfigError: there are none.
    """
    for known in get_args(Plugins):
        if text == known:
            return known
    raise ConfigError(f"--plugins: expected {' or '.join(get_args(Plugins))}, found {text!r}")
