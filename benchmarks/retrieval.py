"""Find effect chains again on other songs: `python -m benchmarks.retrieval`.

Chains of random effects of the package multiafx, which no training of mixprint has met, are put on
the separated stems of two songs: 1, 2, 4 and 8 effects on each stem. The mix of the one song looks
for that of the other among the mixes of all chains (`mixprint.evaluation.chain_retrieval`). The
encoder stands beside the 64 features, a mean spectrum, an untrained encoder and chance, on
generated songs and on recordings.

The pool has as many mixes as there are chains; figures of other pools cannot be compared.

Every row is kept in `--finished` as soon as it is there: a run that was stopped goes on, more
chains (`--chains`) and other encoders (`--checkpoints`) are added to those that are done. Writes
`benchmarks/results/retrieval.json` and the same figures as Markdown beside it.
"""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.publish import publish
from benchmarks.retrieval_chains import Effects, MultiAFX, Rendered, render
from benchmarks.retrieval_songs import (
    GENERATED,
    NUM_GENERATED,
    REAL,
    Segment,
    cut_segments,
    generated_mixes,
    real_mixes,
)
from mixprint.encoder.checkpoint import Encoder, load_checkpoint
from mixprint.errors import ConfigError, MixprintError
from mixprint.evaluation.baselines import log_mel_mean, untrained_encoder
from mixprint.evaluation.chain_retrieval import (
    MEASURES,
    chain_chance,
    chain_estimates,
    chain_scores,
    pair_segments,
)
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.retrieval import Estimate, FloatArray
from mixprint.features import extract
from mixprint.fingerprint import code_version
from mixprint.log import setup_logging
from mixprint.machine.processes import ProcessEnded, side_by_side
from mixprint.progress import Progress
from mixprint.separation import load_separator
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.weights import SHIPPED_ENCODER

log = logging.getLogger("mixprint.benchmarks")

NAME = "retrieval"
LENGTHS = (1, 2, 4, 8)
KEPT, CHANGED = "kept", "changed"
LEVELS = (KEPT, CHANGED)
SHIPPED, FEATURES, LOG_MEL, UNTRAINED = "encoder", "features", "log-mel", "untrained"
# Row of the tables -> the vectors it compares, and how.
BASELINES: Mapping[str, tuple[str, str]] = {
    "64 features": (FEATURES, "rms"),
    "64 features, cosine": (FEATURES, "direction"),
    "mean log-mel spectrum": (LOG_MEL, "rms"),
    "untrained encoder": (UNTRAINED, "direction"),
}
AGAINST = "64 features"
NUM_BOOTSTRAP = 1000
NUM_DIGITS = 7  # of what is kept: float32 has no more


@dataclass(frozen=True, kw_only=True)
class Task:
    """A chain on two segments."""

    songs: str
    chain: int
    query: Segment
    partner: Segment


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything that a process needs to do tasks.

    Attributes:
        finished: keeps rows.
        checkpoints: name of a row -> folder of an encoder.
        seed: of the chains.
        untrained_seed: of the weights of the untrained encoder.
        load_effects: makes the effects to draw from.
        keeps_levels: whether stems are as loud after their chains as before.
        lengths: effects on each stem.
    """

    finished: Path
    checkpoints: Mapping[str, Path]
    seed: int
    untrained_seed: int
    load_effects: Callable[[], Effects]
    keeps_levels: bool
    lengths: tuple[int, ...] = LENGTHS


@dataclass(frozen=True, eq=False)
class System:
    """A way to turn stems into vectors, and what tells it from others."""

    embed: Callable[[Tensor, int], Tensor]
    identity: Mapping[str, Any]


def main() -> None:
    args = parse()
    # Imported here, for the processes that work need nothing of it.
    from benchmarks.pipeline import machine

    setup_logging()
    about = machine()
    MultiAFX()  # what is missing is told at once, and not by each process
    checkpoints = {SHIPPED: SHIPPED_ENCODER, **dict(map(named_folder, args.checkpoints))}
    work = Work(
        finished=args.finished,
        checkpoints=checkpoints,
        seed=args.seed,
        untrained_seed=args.seed,
        load_effects=MultiAFX,
        keeps_levels=args.levels == KEPT,
    )
    segments = {name: segments_of(name, args) for name in args.songs}
    tasks = [
        task
        for name, found in segments.items()
        for task in draw_tasks(name, found, args.chains, args.seed)
    ]
    rows = run(tasks, work, args.processes)
    values = {
        "machine": about,
        "chains": args.chains,
        "segment_s": args.segment_s,
        "levels": args.levels,
        "seed": args.seed,
        "num_songs": {name: len({s.song for s in found}) for name, found in segments.items()},
        "tables": {
            name: table_rows(
                [row for task, row in zip(tasks, rows, strict=True) if task.songs == name],
                list(checkpoints),
            )
            for name in args.songs
        },
        "failures": failures(rows),
        "cpu_s_per_chain": float(np.mean([row["chain"]["cpu_s"] for row in rows])),
    }
    publish(args.out, NAME, values, table(values))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--cache", type=Path, default=Path("results/retrieval-benchmark/songs"))
    parser.add_argument("--finished", type=Path, default=Path("results/retrieval-benchmark/rows"))
    shared = Path(os.environ.get("MIXPRINT_SHARED", "../shared"))
    parser.add_argument("--recordings", type=Path, default=shared / "audio")
    parser.add_argument("--songs", nargs="+", choices=(GENERATED, REAL), default=[GENERATED, REAL])
    parser.add_argument("--generated_songs", type=int, default=NUM_GENERATED)
    parser.add_argument(
        "--chains", type=int, default=100, help="per kind of songs, and size of the pool"
    )
    parser.add_argument("--segment_s", type=float, default=10.0)
    parser.add_argument(
        "--levels",
        choices=LEVELS,
        default=KEPT,
        help="of the stems after their chains: those of before, or as the effects leave them",
    )
    parser.add_argument(
        "--checkpoints", nargs="*", default=[], metavar="NAME=FOLDER", help="further encoders"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def named_folder(text: str) -> tuple[str, Path]:
    """Read `NAME=FOLDER`, or a folder that is its own name.

    Raises:
        ConfigError: something else goes by that name in the tables.
    """
    name, _, folder = text.partition("=")
    taken = {SHIPPED, FEATURES, LOG_MEL, UNTRAINED, *BASELINES, "chance"}
    if name in taken:
        raise ConfigError(
            f"--checkpoints: expected a name beside {', '.join(sorted(taken))}, found {name!r}"
        )
    return name, Path(folder or name)


def segments_of(name: str, args: argparse.Namespace) -> list[Segment]:
    """Make or find the songs of a kind, and separate them."""
    mixes = (
        generated_mixes(args.cache / GENERATED, args.generated_songs)
        if name == GENERATED
        else real_mixes(args.recordings)
    )
    separator = load_separator()
    return cut_segments(
        mixes, args.cache / "stems", separator.separate, separator.fingerprint, args.segment_s
    )


def draw_tasks(name: str, segments: Sequence[Segment], num_chains: int, seed: int) -> list[Task]:
    """Deal segments to chains."""
    songs = [segment.song for segment in segments]
    pairs = pair_segments(songs, [""] * len(songs), num_chains, seed)
    return [
        Task(songs=name, chain=n, query=segments[query], partner=segments[partner])
        for n, (query, partner) in enumerate(
            zip(pairs.query_N.tolist(), pairs.partner_N.tolist(), strict=True)
        )
    ]


def run(tasks: Sequence[Task], work: Work, num_processes: int) -> list[dict[str, Any]]:
    """Do all tasks that are not done yet.

    Returns:
        a row per task, in their order.

    Raises:
        MixprintError: a process was ended.
    """
    rows: dict[int, dict[str, Any]] = {}
    with Progress(log, "found", total=len(tasks), unit="chains") as progress:
        for index, row in side_by_side(tasks, num_processes, partial(start, work)):
            if isinstance(row, ProcessEnded):
                raise MixprintError(f"chain {tasks[index].chain}: {row.reason}")
            rows[index] = row
            progress.advance()
    return [rows[index] for index in range(len(tasks))]


def start(work: Work) -> Callable[[Task], dict[str, Any]]:
    """Load in this process what its tasks need."""
    torch.set_num_threads(1)
    encoders = {name: load_checkpoint(folder) for name, folder in work.checkpoints.items()}
    return partial(row, work, work.load_effects(), systems(encoders, work.untrained_seed))


def systems(encoders: Mapping[str, Encoder], untrained_seed: int) -> dict[str, System]:
    """Return what is compared; untrained, and with its standardisation, the first encoder."""
    first = next(iter(encoders.values()))
    untrained = untrained_encoder(first, untrained_seed)
    by_encoder, by_features, by_mel = (
        code_version(f"mixprint.{module}")
        for module in ("encoder.checkpoint", "features.extraction", "evaluation.baselines")
    )

    def features(stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        return first.standardisation.apply(extract(stems_BSCT, sample_rate_hz))

    of_first = {"standardisation": first.standardisation.to_values()}
    return {
        FEATURES: System(features, {"code": by_features, **of_first}),
        LOG_MEL: System(log_mel_mean, {"code": by_mel, "what": LOG_MEL}),
        UNTRAINED: System(
            untrained.embed, {"code": by_encoder, "fingerprint": untrained.fingerprint}
        ),
        **{
            name: System(encoder.embed, {"code": by_encoder, "fingerprint": encoder.fingerprint})
            for name, encoder in encoders.items()
        },
    }


def row(work: Work, effects: Effects, known: Mapping[str, System], task: Task) -> dict[str, Any]:
    """Make a row, or find it: both mixes of a chain, as vectors of every system."""
    finished = Finished(work.finished)
    made_with = {
        "chain": task.chain,
        "seed": work.seed,
        "lengths": list(work.lengths),
        "keeps_levels": work.keeps_levels,
        "segments": [task.query.identity(), task.partner.identity()],
        "effects": dict(effects.identity),
        "code": code_version("benchmarks.retrieval_chains"),
    }

    @cache
    def rendered() -> Rendered:
        """Put the chain on both segments, once, and only if anything of it is missing."""
        stems_NSCT = torch.stack([task.query.read(), task.partner.read()]).numpy()
        return render(
            stems_NSCT,
            effects,
            chain=task.chain,
            seed=work.seed,
            lengths=work.lengths,
            sample_rate_hz=SAMPLE_RATE_HZ,
            keeps_levels=work.keeps_levels,
        )

    def vectors(system: System) -> dict[str, Any]:
        return {str(n): embedded(system, stems) for n, stems in rendered().stems.items()}

    return {
        "chain": finished.result(made_with, lambda: about_chain(rendered())),
        "vectors": {
            name: finished.result(
                {**made_with, "system": dict(system.identity)}, partial(vectors, system)
            )
            for name, system in known.items()
        },
    }


def about_chain(rendered: Rendered) -> dict[str, Any]:
    return {
        "effects": rendered.names,
        "failures": [list(failure) for failure in rendered.failures],
        "cpu_s": rendered.cpu_s,
    }


def embedded(system: System, stems_NSCT: np.ndarray) -> list[list[float]]:
    with torch.inference_mode():
        vector_NE = system.embed(torch.from_numpy(stems_NSCT), SAMPLE_RATE_HZ)
    if not vector_NE.isfinite().all():
        raise MixprintError("expected finite vectors of a chain that was finite, found others")
    return [[float(f"{x:.{NUM_DIGITS}g}") for x in values] for values in vector_NE.tolist()]


def table_rows(
    rows: Sequence[Mapping[str, Any]], encoders: Sequence[str], num_bootstrap: int = NUM_BOOTSTRAP
) -> list[dict[str, Any]]:
    """Score every system at every length, beside the features."""
    compared = {**{name: (name, "direction") for name in encoders}, **BASELINES}
    lengths = list(next(iter(rows[0]["vectors"].values())))
    found = []
    for length in lengths:
        scores = {
            name: scores_of(rows, vectors, length, distance)
            for name, (vectors, distance) in compared.items()
        }
        for name, measured in scores.items():
            less = {m: measured[m] - scores[AGAINST][m] for m in MEASURES}
            found.append(
                {
                    "effects": int(length),
                    "system": name,
                    **plain(chain_estimates(measured, num_bootstrap=num_bootstrap, seed=1)),
                    "difference": plain(chain_estimates(less, num_bootstrap=num_bootstrap, seed=1)),
                }
            )
        found.append({"effects": int(length), "system": "chance", **chain_chance(len(rows))})
    return found


def scores_of(
    rows: Sequence[Mapping[str, Any]], vectors: str, length: str, distance: str
) -> dict[str, FloatArray]:
    query_NE, partner_NE = (
        np.array([row["vectors"][vectors][length][side] for row in rows]) for side in (0, 1)
    )
    return chain_scores(query_NE, partner_NE, distance=distance)


def plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def failures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Count the steps that were drawn anew, by effect and reason."""
    counts = Counter(tuple(failure) for row in rows for failure in row["chain"]["failures"])
    return [
        {"effect": effect, "reason": reason, "times": times}
        for (effect, reason), times in counts.most_common()
    ]


def table(values: Mapping[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    parts = []
    for name, rows in values["tables"].items():
        parts += [
            f"Songs: {name}, {values['num_songs'][name]}; pool of {values['chains']} mixes, one of "
            f"each chain; segments of {values['segment_s']:g} s; levels of stems "
            f"{values['levels']}; in % with 95 % intervals over chains; last column: R@1 less that "
            f"of the {AGAINST}.",
            "",
            "| effects | system | R@1 | R@5 | R@10 | MRR | difference |",
            "| ---: | --- |" + " ---: |" * (len(MEASURES) + 1),
            *(markdown_row(each) for each in rows),
            "",
        ]
    parts += [
        f"{values['cpu_s_per_chain']:.1f} CPU seconds for a chain on two songs at all lengths; "
        f"{about}.",
        "",
        "Effects that failed and were drawn anew: "
        + (
            "; ".join(
                f"`{each['effect']}` {each['reason']} ({each['times']})"
                for each in values["failures"]
            )
            or "none"
        )
        + ".",
    ]
    return "\n".join(parts) + "\n"


def markdown_row(each: Mapping[str, Any]) -> str:
    cells = [percent(each[measure]) for measure in MEASURES]
    is_compared = "difference" in each and each["system"] != AGAINST
    difference = percent(each["difference"]["recall_at_1"], sign="+") if is_compared else ""
    return f"| {each['effects']} | {each['system']} | {' | '.join(cells)} | {difference} |"


def percent(value: float | Mapping[str, float], sign: str = "") -> str:
    if isinstance(value, float):
        return f"{100 * value:.0f}"
    middle, low, high = (f"{100 * value[key]:{sign}.0f}" for key in ("value", "low", "high"))
    return f"{middle} [{low}, {high}]"


if __name__ == "__main__":
    main()
