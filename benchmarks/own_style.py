"""Number of pairs that an own style takes: `python -m benchmarks.own_style --controller DIR`.

An engineer is a drawn style (`mixprint.controller.draws`) that deviates a little from song to
song. Songs that no training meets are played, cut into excerpts of some tracks, and mixed so. A
controller learns from 10, 30, 100 and 300 of these pairs (`mixprint.controller.own_style`), and
mixes others of the same engineer: without a reference, and with the mix of another song as the
reference. Beside it stand the mean of the prior that it has learned from the same pairs, the
controller that it started from, and tracks at equal level; all by the distance of the mix to the
true one (`mixprint.dsp.spectral_distance.multi_resolution_stft`).

The settings of the pairs are the true ones, or (`--fits paired`) those that a search finds from the
sound alone, which takes tens of seconds of a core for each pair.

What is made stays in `--work`, and a stopped run goes on there. Writes `own_style.json` and the
same figures as a Markdown table beside it.
"""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pipeline import machine
from benchmarks.publish import publish
from mixprint.console.alignment import Alignment
from mixprint.console.pairs import LoadedPair
from mixprint.console.recovery import Recovery, recover_excerpt
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.controller.checkpoint import Controller, load_controller
from mixprint.controller.draws import Style, draw_style
from mixprint.controller.examples import ExampleConfig
from mixprint.controller.fits import Fit, read_fit, write_fit
from mixprint.controller.fitted import FittedExamples
from mixprint.controller.measured import Audio, MeasuredExamples, measure_examples
from mixprint.controller.own_style import OwnStyleConfig, learn_style
from mixprint.controller.segments import Segment, cut, varied
from mixprint.controller.settings import ControllerTrainConfig
from mixprint.controller.shipped import start_folder
from mixprint.controller.songs import song_pool
from mixprint.controller.validation import Validation
from mixprint.encoder.checkpoint import Encoder, load_checkpoint
from mixprint.evaluation.retrieval import bootstrap_mean
from mixprint.fingerprint import code_version, fingerprint
from mixprint.log import setup_logging
from mixprint.progress import progress
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import read_json, write_json
from mixprint.training.loading import derive_seed
from mixprint.weights import SHIPPED_ENCODER

log = logging.getLogger("mixprint.benchmarks")

NAME = "own_style"
PARAMS = Path("params.yaml")
COUNTS = (10, 30, 100, 300)
# No song of a training begins so, see `mixprint.controller.songs.TrackWriter.name`.
SONG_SEED = 970_417
# Of a setting from song to song, in parts of its range: 1.2 dB of a band's gain, 2.5 dB of a fader.
DEVIATION = 0.03
NUM_BOOTSTRAP = 1_000
COLUMNS = {
    "own": "own style",
    "own_reference": "own style, reference",
    "mean": "mean of its settings",
    "start": "controller before",
    "start_reference": "controller before, reference",
    "equal": "equal level",
}


@dataclass(frozen=True)
class Engineer:
    """A style with deviations from song to song.

    Attributes:
        seed: of both.
        style: what is common.
        deviation: standard deviation of each setting that does something, in parts of its range.
    """

    seed: int
    style: Style
    deviation: float

    def settings(self, segment: Segment, number: int) -> Settings:
        """Return the settings for a song."""
        settings = self.style.settings(
            segment.names, segment.roles, segment.trims_db(), SAMPLE_RATE_HZ
        )
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "deviation", number))
        changes = {}
        for name, strip in settings.strips().items():
            for each, value in strip.items():
                drawn = float(torch.randn((), generator=generator))
                if each.is_fitted and not strip.is_neutral(each.name):
                    low, high = each.on_scale(each.low), each.on_scale(each.high)
                    moved = each.on_scale(value) + self.deviation * drawn * (high - low)
                    changes[f"{name}.{each.name}"] = each.off_scale(moved)
        return settings.edit(changes)


@dataclass(frozen=True)
class Pairs:
    """Parameters of the generated pairs.

    Attributes:
        engineer: who mixes.
        examples: parameters of songs, excerpts and styles.
        num_songs: that are played; pairs are excerpts of them.
        max_tracks: of a pair.
        duration_s: of a pair.
        fit_steps: of the search for their settings; 0: the true ones are taken.
        folder: receives songs and pairs.
    """

    engineer: Engineer
    examples: ExampleConfig
    num_songs: int
    max_tracks: int
    duration_s: float
    fit_steps: int
    folder: Path

    def fits(self, number: int, *, for_test: bool) -> list[Fit]:
        """Make pairs, or read those that were made before.

        Args:
            number: of pairs.
            for_test: of songs of their own; their settings are the true ones.
        """
        songs = replace(
            self.examples.songs,
            seed=SONG_SEED,
            duration_s=2 * self.duration_s,
            num_valid=self.num_songs,
            pool_size=self.num_songs,
        )
        pool = song_pool(self.folder / "songs", songs, valid=for_test)
        kind = "test" if for_test else "train"
        fits = []
        for n in progress(range(number), number, "made", f"pairs ({kind})", log):
            recipe = self._recipe(kind, n)
            folder = self.folder / "pairs" / recipe[:16]
            if not folder.is_dir():
                generator = torch.Generator().manual_seed(derive_seed(SONG_SEED, kind, n))
                song = pool.song(0, n % pool.size)
                length = round(self.duration_s * SAMPLE_RATE_HZ)
                free = song.num_samples - length
                first = int(torch.randint(free + 1, (), generator=generator))
                segment = varied(cut(song, first, length), generator, self.examples.segments)
                segment = segment.chosen(range(min(self.max_tracks, len(segment.names))))
                self._write(segment, n + for_test * 1_000_000, folder, f"{kind} {n}", recipe)
            fits.append(read_fit(folder))
        return fits

    def _recipe(self, kind: str, number: int) -> str:
        values = {
            "pair": [kind, number],
            "engineer": [self.engineer.seed, self.engineer.deviation],
            "sizes": [self.num_songs, self.max_tracks, self.duration_s],
            "fit_steps": self.fit_steps if kind == "train" else 0,
            "code": code_version("mixprint.controller.draws", "mixprint.console.recovery"),
        }
        return fingerprint(values)

    def _write(self, segment: Segment, number: int, folder: Path, name: str, recipe: str) -> None:
        settings = self.engineer.settings(segment, number)
        mixed_NCT = render(segment.tracks_NCT, settings, SAMPLE_RATE_HZ).float()
        mix_CT = mixed_NCT.sum(dim=0)
        loaded = LoadedPair(
            segment.tracks_NCT, mix_CT, SAMPLE_RATE_HZ, Alignment(0.0, 1, 0.0, 1.0), mixed_NCT
        )
        found = Recovery(settings, 0.0)
        if self.fit_steps and "train" in name:
            # As from a finished mix: how each track sounds in it is unknown.
            loaded = replace(loaded, mixed_NCT=None)
            found = recover_excerpt(loaded, segment.names, num_steps=self.fit_steps)
        write_fit(folder, name, recipe, loaded, found)


@dataclass(frozen=True)
class OtherPairs:
    """Pairs that nothing is learned from.

    Attributes:
        measured: their descriptors and sound, each with a reference.
        song_Q: song of each.
        context_s: what of each is heard and not compared.
    """

    measured: MeasuredExamples
    song_Q: list[int]
    context_s: float

    def distances(self, controller: Controller) -> dict[str, list[float]]:
        """Return the distance of each pair by each way to set the console."""
        found: dict[str, list[float]] = {}
        for number in range(len(self.measured.items)):
            validation = Validation(
                _Alone(self.measured, number),
                context_s=self.context_s,
                gate_weight=0.0,
                device=torch.device("cpu"),
            )
            for name, value in validation.figures(controller.network).items():
                found.setdefault(name, []).append(value)
        return found


class _Alone(MeasuredExamples):
    """One of several examples."""

    def __init__(self, measured: MeasuredExamples, number: int) -> None:
        self.items = [measured.items[number]]
        self._measured, self._number = measured, number

    def audio(self, number: int) -> Audio:
        return self._measured.audio(self._number + number)


def measure_test(
    fits: Sequence[Fit], config: OwnStyleConfig, encoder: Encoder | None, folder: Path, songs: int
) -> OtherPairs:
    """Describe the pairs of the test, each with the mix of another one as its reference."""
    source = FittedExamples(
        fits,
        fits,
        replace(config.pairs, track_dropout=0.0),
        reference_dropout=0.0,
        seed=config.seed + 2,
    )
    encoder_fingerprint = "" if encoder is None else encoder.fingerprint
    made_with = [source.fingerprint, encoder_fingerprint, len(fits)]
    measured = measure_examples(
        source,
        len(fits),
        num_audio=len(fits),
        encoder=encoder,
        folder=folder / fingerprint(made_with)[:16],
        num_workers=0,
        device=torch.device("cpu"),
    )
    return OtherPairs(measured, [n % songs for n in range(len(fits))], config.context_s)


def row(
    count: int, own: Mapping[str, list[float]], before: Mapping[str, list[float]], test: OtherPairs
) -> dict[str, Any]:
    """Gather the figures of a number of pairs: means, and the difference to the prior's mean."""
    columns = {
        "own": own["no_reference_distance"],
        "own_reference": own["distance"],
        "mean": own["mean_style_distance"],
        "start": before.get("no_reference_distance", []),
        "start_reference": before.get("distance", []),
        "equal": own["equal_level_distance"],
    }
    song_Q = np.array(test.song_Q)
    differences = {}
    for name in ("own", "own_reference"):
        gain_Q = np.array(columns[name]) - np.array(columns["mean"])
        differences[name] = asdict(bootstrap_mean(gain_Q, song_Q, NUM_BOOTSTRAP, seed=1))
    means = {name: float(np.mean(values)) for name, values in columns.items() if values}
    return {"pairs": count, "means": means, "less_mean": differences}


def table(values: Mapping[str, Any]) -> str:
    """Draw the curve."""
    lines = [
        f"# Own style: {values['test']} other pairs, settings {values['fits']}",
        "",
        "| pairs | " + " | ".join(COLUMNS.values()) + " | own style less mean (95 %) | minutes |",
        "| ---: |" + " ---: |" * (len(COLUMNS) + 2),
    ]
    for each in values["curve"]:
        cells = [f"{each['means'][n]:.3f}" if n in each["means"] else "" for n in COLUMNS]
        gain = each["less_mean"]["own"]
        cells.append("{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain))
        cells.append(f"{each['minutes']:.1f}")
        lines.append(f"| {each['pairs']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("benchmarks/results"))
    add("--work", type=Path, default=Path("results/own_style"), help="songs, pairs, controllers")
    add("--controller", default="default", help="a folder, default or none: what it starts from")
    add("--counts", type=int, nargs="+", default=COUNTS)
    add("--test", type=int, default=32, help="pairs that nothing is learned from")
    add("--songs", type=int, default=48, help="songs for the pairs, and as many for the test")
    add("--max_tracks", type=int, default=8)
    add("--duration_s", type=float, default=8.0, help="of a pair")
    add("--fits", choices=("known", "paired"), default="known", help="settings of the pairs")
    add("--seed", type=int, default=1, help="of the engineer")
    add("--config", type=Path, action="append", default=[], help="see `mixprint console fit`")
    args = parser.parse_args()
    setup_logging()
    config = OwnStyleConfig.layered(args.config)
    begin = start_folder(args.controller)
    initial = None if begin is None else load_controller(begin)
    encoder = None
    if initial is not None and initial.encoder_fingerprint:
        encoder = load_checkpoint(SHIPPED_ENCODER)
        initial.check_encoder(encoder.fingerprint)
    pairs = Pairs(
        engineer(args.seed),
        ControllerTrainConfig.load(PARAMS).examples,
        args.songs,
        args.max_tracks,
        args.duration_s,
        config.fit_steps if args.fits == "paired" else 0,
        args.work,
    )
    test_fits = pairs.fits(args.test, for_test=True)
    test = measure_test(test_fits, config, encoder, args.work / "test", args.songs)
    fits = pairs.fits(max(args.counts), for_test=False)
    before = {} if initial is None else test.distances(initial)
    curve = []
    for count in args.counts:
        started = time.monotonic()
        folder = args.work / f"{args.fits}-{args.seed}-{count}"
        learn_style(fits[:count], config, folder, initial=initial, encoder=encoder, device="cpu")
        minutes = (time.monotonic() - started) / 60
        found = row(count, test.distances(load_controller(folder)), before, test)
        curve.append(found | {"minutes": _first_minutes(folder, minutes)})
    values = {
        "machine": machine(),
        "fits": args.fits,
        "test": args.test,
        "deviation": DEVIATION,
        "controller": "" if initial is None else initial.fingerprint,
        "curve": curve,
    }
    publish(args.out, NAME, values, table(values))


def engineer(seed: int) -> Engineer:
    """Draw an engineer, of usual taste."""
    draws = replace(ControllerTrainConfig.load(PARAMS).examples.draws, wide_share=0.0)
    generator = torch.Generator().manual_seed(derive_seed(seed, "engineer"))
    return Engineer(seed, draw_style(generator, draws), DEVIATION)


def _first_minutes(folder: Path, minutes: float) -> float:
    """Keep how long a training took; where it is read again, it takes no time."""
    path = folder / "minutes.json"
    if not path.exists():
        write_json(path, minutes)
    kept: float = read_json(path)
    return kept


if __name__ == "__main__":
    main()
