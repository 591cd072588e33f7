"""Small files of an export: scripts, texts and impulse responses."""

import logging
from dataclasses import replace

from mixprint.audio.files import write_audio
from mixprint.console.export.apo import apo_heading, to_apo
from mixprint.console.export.impulse import impulses
from mixprint.console.export.pedalboard_script import to_pedalboard
from mixprint.console.export.song import Export
from mixprint.console.schema import MASTER
from mixprint.console.tracks import file_stems
from mixprint.console.words import markdown
from mixprint.progress import progress
from mixprint.storage.atomic import write_text

log = logging.getLogger("mixprint.console")


def write_pedalboard(export: Export) -> list[str]:
    """Write the script of `to_pedalboard`; its comments say what is left out where."""
    files = {
        name: path.relative_to(export.out_dir).as_posix() for name, path in export.stems.items()
    }
    text = to_pedalboard(export.settings, files, export.title)
    write_text(export.out_dir / "song_pedalboard.py", text)
    return [
        "pedalboard: no saturation, expansion, knees and rooms; cuts fall by 6 dB an octave in "
        "place of 12; the script says where"
    ]


def write_apo(export: Export) -> list[str]:
    """Write a text per track, and one of the master."""
    texts = to_apo(export.settings)
    # The master has the name that no track can have; a file system may see no difference.
    stems = file_stems([MASTER, *export.settings.tracks])
    for name, text in texts.items():
        write_text(export.out_dir / "apo" / f"{stems[name]}.txt", apo_heading(name) + text)
    return ["Equalizer APO: levels and equalisers, and nothing else"]


def write_impulses(export: Export) -> list[str]:
    """Write what each track's equaliser and room answer to an impulse, float WAV."""
    stems = file_stems(export.settings.tracks)
    rate_hz = export.settings.sample_rate_hz
    for name in progress(stems, len(stems), "wrote impulses of", "tracks", log):
        # One by one: the rooms of all at once are long.
        alone = replace(export.settings, tracks={name: export.settings.tracks[name]})
        for kind, impulse_CK in impulses(alone, rate_hz)[name].items():
            path = export.out_dir / "impulses" / f"{stems[name]}.{kind.replace(' ', '-')}.wav"
            write_audio(path, impulse_CK, rate_hz, subtype="FLOAT")
    return [
        "impulses: they hold equalisers and rooms, without levels, dynamics, width and pan; a "
        "room's is to be fed with the mean of both channels"
    ]


def write_sheet(export: Export) -> list[str]:
    """Write the settings in words."""
    write_text(export.out_dir / "sheet.md", markdown(export.settings))
    return []
