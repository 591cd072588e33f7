"""The songs on which a representation of mixes is proved: the same songs in many styles.

<out>/<split>-<song>-<style>/{mixture,vocals,bass,drums,other}.wav, settings.json
<out>/<split>-<song>-dry/                            the same of the dry stems, where asked for
<out>/.made-with.json                                what each mix was made with

Nothing of the splits is shared: songs, styles and, between training and test, instruments, drum
kits and voices differ. Within a split each style is met by many songs and each song by many
styles, so that what mixes of one style have in common is the mix alone.

`python -m mixprint.synthesis.style_benchmark --out DIR`
"""

import argparse
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mixprint.collection.catalogue import SPLITS
from mixprint.fingerprint import code_version, fingerprint
from mixprint.log import setup_logging
from mixprint.schema import WithOthers
from mixprint.synthesis.dataset import write_mix, write_mixes
from mixprint.synthesis.exact import Rng, Signal, gain
from mixprint.synthesis.mixing import MixSettings, free_style, mix, varied
from mixprint.synthesis.training_songs import SongSource, check_installed

# In place of the name of a style: the stems before any mixing.
DRY = "dry"
_DRY_PEAK_DBFS = -1.0


@dataclass(frozen=True, kw_only=True)
class DryLevel(WithOthers):
    """Part of the settings of dry stems: the gain that restores the level they are mixed at."""

    gain_db: float


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """Size of a split; each song is mixed in `styles_per_song` of the styles."""

    num_songs: int
    num_styles: int
    styles_per_song: int


@dataclass(frozen=True, kw_only=True)
class StyleBenchmark:
    """Parameters that the songs follow from.

    Attributes:
        seed: of songs and styles.
        duration_s: of a song.
        train: size of the training split.
        valid: of the validation split, which plays the training's instruments.
        test: of the test split; its instruments, drum kits and voices are held out.
        has_dry: whether each song's dry stems are written, too, as a mix in the style `DRY`.
    """

    seed: int = 46
    duration_s: float = 24.0
    train: SplitSize = SplitSize(num_songs=96, num_styles=48, styles_per_song=4)
    valid: SplitSize = SplitSize(num_songs=8, num_styles=6, styles_per_song=6)
    test: SplitSize = SplitSize(num_songs=12, num_styles=6, styles_per_song=6)
    has_dry: bool = False

    def songs(self) -> list[tuple[str, int]]:
        """List split and number of every song."""
        return [(split, n) for split in SPLITS for n in range(getattr(self, split).num_songs)]

    def styles(self, split: str, number: int) -> list[MixSettings]:
        """Return the styles in which a song is mixed: dealt in turn, shuffled anew each round."""
        size: SplitSize = getattr(self, split)
        deal, start = divmod(number, size.num_styles)
        order = Rng(self.seed, split, "deal", deal).shuffled(range(size.num_styles))
        chosen = [order[(start + turn) % size.num_styles] for turn in range(size.styles_per_song)]
        return [
            free_style(Rng(self.seed, split, "style", index), f"{split}{index:02d}")
            for index in sorted(chosen)
        ]

    def write(self, song: tuple[str, int], folders: Mapping[str, Path]) -> None:
        """Compose and play a song, and mix it in some of its styles.

        Args:
            song: split and number.
            folders: style -> folder of the mix.
        """
        split, number = song
        name = song_name(split, number)
        source = SongSource(seed=self.seed, duration_s=self.duration_s, held_out=split == "test")
        # The numbers of one source go on from split to split: no song comes twice.
        shift = self.train.num_songs if split == "valid" else 0
        score, dry = source.play(number + shift)
        styles = {style.style: style for style in self.styles(split, number)}
        for style, folder in folders.items():
            if style == DRY:
                write_dry(folder, dry, {"song": name, "style": DRY, "split": split})
                continue
            settings = varied(styles[style], Rng(self.seed, name, style, "mix"))
            truth: dict[str, object] = {
                "song": name,
                "style": style,
                "split": split,
                "genre": score.genre,
                "mix": settings.to_values(),
            }
            write_mix(folder, mix(dry, settings), truth)


def write_dry(folder: Path, dry_CT: Mapping[str, Signal], about: Mapping[str, object]) -> None:
    """Write dry stems, which may be louder than a file holds, with the gain that restores them."""
    peak = max(float(np.max(np.abs(x_CT))) for x_CT in (sum(dry_CT.values()), *dry_CT.values()))
    scale = gain(_DRY_PEAK_DBFS) / peak if peak > 0.0 else 1.0
    truth = {**about, **asdict(DryLevel(gain_db=-20.0 * math.log10(scale)))}
    write_mix(folder, {stem: scale * x_CT for stem, x_CT in dry_CT.items()}, truth)


def song_name(split: str, number: int) -> str:
    """Name a song, as its folders and its settings do."""
    return f"{split}-{number:03d}"


def generate_benchmark(
    out_dir: Path, benchmark: StyleBenchmark | None = None, num_workers: int = 1
) -> list[Path]:
    """Write all mixes; one that is there already is kept if it would become the same again.

    Args:
        out_dir: receives a folder per mix, in the layout of `mixprint.synthesis.dataset`.
        benchmark: what they follow from.
        num_workers: processes that work side by side; the result does not depend on it.

    Returns:
        the folders of all mixes, sorted.

    Raises:
        ConfigError: what plays and sings is not installed.
    """
    check_installed()
    benchmark = benchmark or StyleBenchmark()
    dry = [DRY] if benchmark.has_dry else []
    mixes = {
        (split, number): {
            style: out_dir / f"{song_name(split, number)}-{style}"
            for style in (*(style.style for style in benchmark.styles(split, number)), *dry)
        }
        for split, number in benchmark.songs()
    }
    # Started as a program, this module has another name.
    code = code_version("mixprint.synthesis.style_benchmark")
    made_with = fingerprint({**asdict(benchmark), "code": code})
    return write_mixes(out_dir, mixes, benchmark.write, made_with, num_workers)


def main() -> None:
    """Read the command line and write the songs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    setup_logging()
    generate_benchmark(args.out, num_workers=args.workers)


if __name__ == "__main__":
    main()
