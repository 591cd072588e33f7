"""The generated data set: songs on disk in the MUSDB18-HQ layout, with the truth beside them.

<out>/<song>-<style>/{mixture,vocals,bass,drums,other}.wav   44.1 kHz, stereo, 16 bit
<out>/<song>-<style>/settings.json                           song, style, score, mix settings
<out>/LICENCE.txt
"""

import json
import logging
import wave
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mixprint.atomic import atomic_folder, atomic_path
from mixprint.config import StepConfig
from mixprint.errors import ConfigError
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.compose import compose
from mixprint.synthesis.exact import Rng, Signal
from mixprint.synthesis.instruments import render
from mixprint.synthesis.mixing import STYLE_NAMES, draw_settings, mix

log = logging.getLogger("mixprint.synthesis")

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
    """Write the data set; songs that are there already are kept.

    Args:
        out_dir: folder that receives a folder per mix.
        config: how many songs, styles and seconds, and the seed.
        num_workers: processes that work side by side; the result does not depend on it.

    Returns:
        The folders of all mixes, sorted.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    songs = [f"song{index:02d}" for index in range(config.num_songs)]
    with atomic_path(out_dir / "LICENCE.txt") as temporary:
        temporary.write_text(_LICENCE)
    jobs = [(out_dir, config, index, song) for index, song in enumerate(songs)]
    folders: list[Path] = []
    with (
        Progress(log, "generated", total=len(jobs), unit="songs") as progress,
        ProcessPoolExecutor(num_workers) as pool,
    ):
        for written in pool.map(_generate_song, jobs):
            folders += written
            progress.advance()
    return sorted(folders)


def styles_of(index: int, config: DataConfig) -> list[str]:
    """Return the styles in which a song is mixed.

    The styles are dealt out in turn, and shuffled anew for each round: so each meets equally many
    songs, and always others beside it.
    """
    num_styles = len(STYLE_NAMES)
    order = Rng(config.seed, "styles", index // num_styles).shuffled(STYLE_NAMES)
    return [order[(index + turn) % num_styles] for turn in range(config.styles_per_song)]


def _generate_song(job: tuple[Path, DataConfig, int, str]) -> list[Path]:
    out_dir, config, index, song = job
    folders = {style: out_dir / f"{song}-{style}" for style in styles_of(index, config)}
    missing = {style: path for style, path in folders.items() if not path.is_dir()}
    if missing:
        score = compose(song, config.seed, config.duration_s)
        dry = render(score, config.seed)
        for style, folder in missing.items():
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
    return list(folders.values())


def write_mix(folder: Path, stems_CT: dict[str, Signal], truth: dict[str, object]) -> None:
    """Write one mix; its folder is whole or absent."""
    with atomic_folder(folder) as temporary:
        write_files(temporary, stems_CT, truth)


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
    for name, pcm_CT in {"mixture": mixture, **rounded}.items():
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((2, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            file.writeframes(pcm_CT.T.astype("<i2").tobytes())
    (folder / "settings.json").write_text(json.dumps(truth, indent=2, sort_keys=True) + "\n")
