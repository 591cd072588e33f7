"""Score a separator on songs with true stems: the table of the model card.

    python -m benchmarks.separator_scores embedded=data real=/path/to/musdbhq
    python -m benchmarks.separator_scores --held-out 16 --checkpoint separator.safetensors

`--held-out` makes songs that are played by instruments of no training song; it needs the Debian
packages of `mixprint.synthesis.soundbank` and `singer`.
"""

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from mixprint.log import setup_logging
from mixprint.separation import Separator, load_separator
from mixprint.separation.metrics import score_separator
from mixprint.stems import NUM_STEMS, SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis import training_songs

HELD_OUT_SEED = 9
HELD_OUT_DIR = Path("benchmarks/results/held_out")
COLUMNS = (*STEMS, "average")


class MixtureBaseline:
    """Gives the mixture for every stem: what a separation has to be better than."""

    sample_rate_hz = SAMPLE_RATE_HZ
    stems = STEMS

    def separate(self, audio_CT: Tensor, **_: Any) -> Tensor:
        """Return the mixture once for each stem."""
        return audio_CT.expand(NUM_STEMS, *audio_CT.shape)


def rows(name: str, folder: Path, separator: Separator, **options: Any) -> list[str]:
    """Score separator and mixture on the songs of a folder; silence has 0 dB by definition."""
    lines = []
    for label, tested in (("the separator", separator), ("the mixture", MixtureBaseline())):
        for measure, scores in score_separator(tested, [folder], **options).items():
            values = " | ".join(f"{scores[c]:.2f}" if c in scores else "" for c in COLUMNS)
            lines.append(f"| {name} | {label} | {measure} | {values} |")
    return lines


def make_held_out(num_songs: int) -> Path:
    """Make songs that are played by instruments of no training song; return their folder."""
    arguments = ["--out", str(HELD_OUT_DIR), "--held-out", "--seed", str(HELD_OUT_SEED)]
    training_songs.main([*arguments, "--songs", str(num_songs)])
    return HELD_OUT_DIR


def main() -> None:
    """Read the command line, score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("songs", nargs="*", metavar="NAME=DIR", help="songs with true stems")
    parser.add_argument("--held-out", type=int, default=0, metavar="N", help="make so many songs")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--config", default=None)
    parser.add_argument("--window", type=float, default=None, help="in s")
    args = parser.parse_args()
    setup_logging()
    sets = dict(text.split("=", 1) for text in args.songs)
    if args.held_out:
        sets["held out"] = str(make_held_out(args.held_out))
    separator = load_separator(args.checkpoint, args.config)
    print(f"| songs | estimate | measure, dB | {' | '.join(COLUMNS)} |")
    print("| --- | --- | --- |" + " ---: |" * len(COLUMNS))
    for name, folder in sets.items():
        print("\n".join(rows(name, Path(folder), separator, window_s=args.window)), flush=True)


if __name__ == "__main__":
    main()
