"""The generated data set: songs on disk in the MUSDB18-HQ layout, with the truth beside them.

<out>/<song>-<style>/{mixture,vocals,bass,drums,other}.wav   44.1 kHz, stereo, 16 bit
<out>/<song>-<style>/settings.json                           song, style, score, mix settings
<out>/LICENCE.txt
<out>/.made-with.json                                        what each mix was made with

The last one is no part of the data: it may differ while the songs are the same to the bit, so
`.dvcignore` keeps it out of what `data.dvc` describes.
"""

import json
import logging
import os
import shutil
import wave
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from mixprint.config import StepConfig
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.machine.processes import end_with_parent
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import (
    atomic_folder,
    atomic_path,
    read_json,
    remove_leftovers,
    write_json,
)
from mixprint.synthesis.compose import compose
from mixprint.synthesis.exact import Rng, Signal
from mixprint.synthesis.instruments import render
from mixprint.synthesis.mixing import STYLE_NAMES, draw_settings, mix

log = logging.getLogger("mixprint.synthesis")

Song = TypeVar("Song", bound=Hashable)

RECORD_NAME = ".made-with.json"
LICENCE_NAME = "LICENCE.txt"
SETTINGS_NAME = "settings.json"
MIXTURE = "mixture"
FILE_NAMES = (*(f"{name}.wav" for name in (MIXTURE, *STEMS)), SETTINGS_NAME)

_LICENCE = """\
These songs were composed, played and mixed by the program mixprint (mixprint.synthesis).
No recording, sample or composition of anybody else is in them.
They are dedicated to the public domain under CC0 1.0.
"""


@dataclass(frozen=True, kw_only=True)
class DataConfig(StepConfig):
    """Parameters of the generated data set."""

    section: ClassVar[str] = "data"
    num_songs: int
    styles_per_song: int
    duration_s: float
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_songs < 1 or self.duration_s < 1.0:
            raise ConfigError(
                f"data: expected num_songs >= 1 and duration_s >= 1, "
                f"got {self.num_songs} and {self.duration_s}"
            )
        if not 1 <= self.styles_per_song <= len(STYLE_NAMES):
            raise ConfigError(
                f"data.styles_per_song: expected 1 to {len(STYLE_NAMES)}, "
                f"got {self.styles_per_song}"
            )


def generate(out_dir: Path, config: DataConfig, num_workers: int = 1) -> list[Path]:
    """Write the data set; a mix that is there already is kept if it would become the same again.

    What other parameters or other code have made is made anew, or removed where the data set has
    no such mix any more. Folders of which nothing is recorded are not removed.

    Args:
        out_dir: folder that receives a folder per mix.
        config: how many songs, styles and seconds, and the seed.
        num_workers: processes that work side by side; the result does not depend on it.

    Returns:
        The folders of all mixes, sorted.
    """
    mixes = {
        song: {style: out_dir / f"{song}-{style}" for style in styles_of(index, config)}
        for index, song in enumerate(f"song{index:02d}" for index in range(config.num_songs))
    }
    made_with = fingerprint(
        {"seed": config.seed, "duration_s": config.duration_s, "code": code_version(__name__)}
    )
    licence = out_dir / LICENCE_NAME
    is_right = licence.is_file() and licence.read_bytes() == _LICENCE.encode()
    if licence.exists() and not is_right and not (out_dir / RECORD_NAME).exists():
        raise DataError(
            f"{licence}: expected that of a data set, found another beside no record of one; "
            "choose another folder"
        )
    folders = write_mixes(out_dir, mixes, partial(_write_song, config), made_with, num_workers)
    # Left alone where it is right, for what depends on the data looks at the times of its files.
    if not is_right:
        with atomic_path(licence) as temporary:
            temporary.write_text(_LICENCE)
    return folders


def write_mixes(
    out_dir: Path,
    mixes: Mapping[Song, Mapping[str, Path]],
    write: Callable[[Song, Mapping[str, Path]], None],
    made_with: str,
    num_workers: int,
) -> list[Path]:
    """Write the mixes of songs; one that is there already is kept if it was made with the same.

    Mixes that are recorded and not listed any more are removed. Folders of which nothing is
    recorded are not removed.

    Args:
        out_dir: folder that receives the mixes and their record.
        mixes: per song, style -> folder in `out_dir`.
        write: makes a song in some of its styles, given in the same way, by `write_mix`.
        made_with: fingerprint of what all mixes follow from.
        num_workers: processes that work side by side.

    Returns:
        the folders of all mixes, sorted.
    """
    folders = sorted(folder for by_style in mixes.values() for folder in by_style.values())
    _check_own(out_dir, folders)
    out_dir.mkdir(parents=True, exist_ok=True)
    record = _clear_stale(out_dir, folders, made_with)
    jobs = [
        (song, {style: path for style, path in by_style.items() if path.name not in record})
        for song, by_style in mixes.items()
    ]
    with (
        Progress(log, "generated", total=len(jobs), unit="songs") as progress,
        ProcessPoolExecutor(num_workers, initializer=end_with_parent) as pool,
    ):
        for written in pool.map(partial(_named, write), jobs):
            if written:
                record |= dict.fromkeys(written, made_with)
                write_json(out_dir / RECORD_NAME, record)
            progress.advance()
    return folders


def _named(
    write: Callable[[Song, Mapping[str, Path]], None], job: tuple[Song, Mapping[str, Path]]
) -> list[str]:
    """Make some mixes of a song; returns their names."""
    song, folders = job
    if folders:
        write(song, folders)
    return [folder.name for folder in folders.values()]


def styles_of(index: int, config: DataConfig) -> list[str]:
    """Return the styles in which a song is mixed.

    The styles are dealt out in turn, and shuffled anew for each round: so each meets equally many
    songs, and always others beside it.
    """
    num_styles = len(STYLE_NAMES)
    order = Rng(config.seed, "styles", index // num_styles).shuffled(STYLE_NAMES)
    return [order[(index + turn) % num_styles] for turn in range(config.styles_per_song)]


def _check_own(out_dir: Path, folders: Sequence[Path]) -> None:
    """Refuse to write over what is no mix: each mix is made in place of the folder that is there.

    Raises:
        DataError: a file lies where a folder is needed, or a mix's folder holds other files.
    """
    for folder in (out_dir, *folders):
        if os.path.lexists(folder) and not folder.is_dir():
            raise DataError(f"{folder}: expected a folder to write to, found something else")
    for folder in folders:
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if foreign := sorted(found - set(FILE_NAMES)):
            raise DataError(
                f"{folder}: expected a mix of the data set, found also {foreign}; choose another "
                "folder"
            )


def _clear_stale(out_dir: Path, folders: Sequence[Path], made_with: str) -> dict[str, str]:
    """Remove what is recorded and not part of the data set, and forget what is to be made anew.

    Args:
        out_dir: folder of the data set.
        folders: its mixes.
        made_with: fingerprint of what they should be made with.

    Returns:
        the record of the mixes that can be kept: name -> fingerprint.
    """
    path = out_dir / RECORD_NAME
    remove_leftovers(path)
    try:
        before = dict(read_json(path)) if path.exists() else {}
    except (DataError, TypeError, ValueError) as error:
        log.warning("%s: unreadable, so all mixes are made anew: %s", path, error)
        before = {}
    kept = {
        folder.name: made_with
        for folder in folders
        if before.get(folder.name) == made_with
        and all((folder / name).is_file() for name in FILE_NAMES)
    }
    names = {folder.name for folder in folders}
    present = {settings.parent.name for settings in out_dir.glob(f"*/{SETTINGS_NAME}")}
    # Only what was found: a record that somebody else wrote could name any folder of the disk.
    for name in sorted((before.keys() - names) & present):
        log.info("%s: removed, for it is no part of the data set any more", out_dir / name)
        shutil.rmtree(out_dir / name, ignore_errors=True)
    # Before a stale mix is touched: if we are killed, no record takes half a mix for a whole one.
    if kept != before:
        write_json(path, kept)
    if stale := [folder.name for folder in folders if folder.is_dir() and folder.name not in kept]:
        log.info(
            "%d mixes are made anew, as they are incomplete, or not known to be made with these "
            "parameters and this code",
            len(stale),
        )
    if foreign := sorted(present - names - before.keys()):
        log.warning("%s: expected nothing but the data set, found also %s", out_dir, foreign)
    return kept


def _write_song(config: DataConfig, song: str, folders: Mapping[str, Path]) -> None:
    """Compose and play a song, and mix it in some styles."""
    score = compose(song, config.seed, config.duration_s)
    dry = render(score, config.seed)
    for style, folder in folders.items():
        settings = draw_settings(style, Rng(config.seed, song, style, "mix"))
        truth = {
            "song": song,
            "style": style,
            "genre": score.genre,
            "tempo_bpm": score.tempo_bpm,
            "key": score.key,
            "mix": settings.to_values(),
        }
        write_mix(folder, mix(dry, settings), truth)


def write_mix(folder: Path, stems_CT: dict[str, Signal], truth: dict[str, object]) -> None:
    """Write one mix in place of what is there; its folder is whole or absent."""
    with atomic_folder(folder) as temporary:
        write_files(temporary, stems_CT, truth)
        shutil.rmtree(folder, ignore_errors=True)


def write_files(folder: Path, stems_CT: dict[str, Signal], truth: dict[str, object]) -> None:
    """Write the files of one mix.

    Args:
        folder: receives them.
        stems_CT: stem name -> signal, full scale at +-1.
        truth: content of `settings.json`.
    """
    # Rounded first and summed then: the mixture is the sum of its stems to the bit.
    rounded = {stem: np.floor(stems_CT[stem] * 32767.0 + 0.5).astype("<i2") for stem in STEMS}
    mixture = np.add.reduce([rounded[stem] for stem in STEMS])
    for name, pcm_CT in {MIXTURE: mixture, **rounded}.items():
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((2, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            file.writeframes(pcm_CT.T.astype("<i2").tobytes())
    (folder / SETTINGS_NAME).write_text(json.dumps(truth, indent=2, sort_keys=True) + "\n")
