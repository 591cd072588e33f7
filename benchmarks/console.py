"""Measure the console and the transfers: `python -m benchmarks.console`.

Six tables:

- `quality`: how near each method of transfer comes to the true answer, with the defaults of the
  command `mixprint transfer`, beside three baselines, the style known and the oracle, for four
  kinds of questions (`mixprint.evaluation.transfer_benchmark`);
- `pairs`: dry stems and mix are given, the settings are found and compared with the true ones by
  what they do (`mixprint.evaluation.recovery_benchmark`);
- `rivals`: StemFX, ST-ITO and mixprint on clips of real music (`mixprint.evaluation.rivals`);
- `real`: real multitracks mixed like real songs, by the objective measure of Diff-MST
  (`benchmarks.console_real`);
- `speed`: seconds and memory of the console, effect by effect and altogether;
- `exports`: how far what other programs make of an export lies from the console.

The songs are those of `benchmarks.transfer`. Each figure of the first four tables is kept in
`--finished` as soon as it is there: a run that was stopped goes on where it was, more cases are
added to those that are done, and several processes may work on kinds or ways of their own.
Writes `benchmarks/results/console.json` and the same figures as Markdown tables beside it; tables
that were not asked for stay as they were there.
"""

import argparse
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import console_exports, console_real, console_speed
from benchmarks.own_process import run_in_own_process
from benchmarks.publish import publish
from benchmarks.transfer import (
    BYTES_PER_MB,
    PLAIN,
    SEGMENT_S,
    START_S,
    WAYS,
    as_method,
    networks_of,
    write_songs,
)
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.mix_distances import MEASURES
from mixprint.evaluation.recovery_benchmark import (
    PAIR_MEASURES,
    Recoveries,
    oracle,
    run_pairs,
    style_known,
    summarise_pairs,
)
from mixprint.evaluation.retrieval import Estimate
from mixprint.evaluation.rivals import (
    TARGET,
    SongMethod,
    measure_clip,
    rival_clips,
    summarise_clips,
)
from mixprint.evaluation.transfer_benchmark import (
    KINDS,
    NEARER_BY,
    NOTHING,
    Segment,
    blind,
    draw_cases,
    paired_differences,
    run_benchmark,
    summarise,
)
from mixprint.fingerprint import code_version, file_sha256, fingerprint
from mixprint.log import setup_logging
from mixprint.machine.memory import keep_freed_memory
from mixprint.progress import progress
from mixprint.separation import load_separator
from mixprint.storage.atomic import read_json
from mixprint.transfer.methods.registry import METHODS, shipped_methods
from mixprint.transfer.settings import Hyperparameters
from mixprint.weights import SHIPPED_ENCODER

log = logging.getLogger("mixprint.benchmarks")

NAME = "console"
SEGMENT = Segment(START_S, SEGMENT_S)
NO_RIVALS = "the clips of the rivals are not here ({folder}): expected <clip>/target.mp3"


def main() -> None:
    args = parse()
    # Imported here, for the measured processes should hold nothing of it.
    from benchmarks.pipeline import machine

    setup_logging()
    if set(args.tables) & {"quality", "pairs"}:
        write_songs(args.songs)
    about = machine()
    before = args.out / f"{NAME}.json"
    values = dict(read_json(before)) if before.exists() else {}
    for name in args.tables:
        asked = {"machine": about, **{key: getattr(args, key) for key in SETTINGS[name]}}
        values[name] = {**asked, "rows": TABLES[name](args)}
        publish(args.out, NAME, values, table(values))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--songs", type=Path, default=Path("results/transfer-benchmark"))
    parser.add_argument("--finished", type=Path, default=Path("results/console-benchmark"))
    shared = Path(os.environ.get("MIXPRINT_SHARED", "../shared"))
    parser.add_argument("--rivals", type=Path, default=shared / "audio/rivals")
    parser.add_argument("--real", type=Path, default=shared / "audio")
    parser.add_argument("--controller", type=Path, help="folder of one; default: the shipped one")
    parser.add_argument("--sections", type=int, default=3, help="of each song of the table real")
    parser.add_argument("--references", type=int, default=100, help="songs of the table real")
    parser.add_argument(
        "--controller_steps", type=int, default=8, help="of the fit after its pass, in that table"
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=shipped_methods())
    parser.add_argument("--cases", type=int, default=96, help="of each kind")
    parser.add_argument(
        "--oracle_cases",
        type=int,
        default=24,
        help="of each kind, for the oracle and for pairs, which take minutes each",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the cases; those of seed 0 helped to choose priors"
    )
    parser.add_argument("--num_steps", type=int, default=Hyperparameters.num_steps)
    parser.add_argument("--recovery_steps", type=int, default=Recoveries.num_steps)
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are reported")
    return parser.parse_args(arguments)


def quality(args: argparse.Namespace) -> dict[str, Any]:
    """Hold every way, the references and the baselines against the truth."""
    keep_freed_memory()
    encoder = load_checkpoint(SHIPPED_ENCODER)
    separator = load_separator()
    finished = Finished(args.finished)
    code = code_version("mixprint.transfer.fit")
    methods = [
        blind(
            name,
            as_method(WAYS[name], encoder, args.num_steps),
            {
                "way": asdict(WAYS[name]),
                "num_steps": args.num_steps,
                "code": code,
                **networks_of(WAYS[name], encoder),
            },
        )
        for name in args.ways
    ]
    rows = run_benchmark(
        draw_cases(args.songs, args.cases, seed=args.seed),
        [style_known(), *methods, oracle(recoveries_of(args), args.oracle_cases)],
        kinds=[KINDS[name] for name in args.kinds],
        standardisation=encoder.standardisation,
        separate=separator.separate,
        segment=SEGMENT,
        finished=finished,
        made_with={
            "standardisation": fingerprint(encoder.standardisation.to_values()),
            "separator": separator.fingerprint,
        },
    )
    return {
        "medians": [plain(row) for row in summarise(rows)],
        "differences": {
            against: [plain(row) for row in paired_differences(rows, against)]
            for against in (NOTHING, PLAIN.method)
        },
    }


def recoveries_of(args: argparse.Namespace) -> Recoveries:
    return Recoveries(Finished(args.finished), args.recovery_steps)


def pairs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Take mixes apart."""
    keep_freed_memory()
    rows = run_pairs(
        draw_cases(args.songs, args.oracle_cases, seed=args.seed),
        recoveries_of(args),
        segment=SEGMENT,
        finished=Finished(args.finished),
    )
    return [plain(row) for row in summarise_pairs(rows)]


def rivals(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure rivals and mixprint on real clips; nothing, with a sentence, where they are not."""
    if not any(args.rivals.glob(f"*/{TARGET}.mp3")):
        log.warning(NO_RIVALS.format(folder=args.rivals))
        return []
    finished = Finished(args.finished)
    code = code_version("mixprint.api.transfers", "mixprint.evaluation.rivals")
    clips = rival_clips(args.rivals)
    rows = []
    asked = [name for name in args.ways if name in METHODS]
    methods = {f"mixprint, {name}": partial(by_command, name, args.num_steps) for name in asked}
    encoder = load_checkpoint(SHIPPED_ENCODER)
    made_with = {
        "methods": {name: networks_of(WAYS[name], encoder) for name in asked},
        "num_steps": args.num_steps,
        "code": code,
        "separator": load_separator().fingerprint,
    }
    for clip in progress(clips, len(clips), "measured", "clips", log):
        key = {**made_with, "clip": file_sha256(clip / f"{TARGET}.mp3")}
        found = finished.result(key, partial(clip_rows, clip, methods))
        rows += found["rows"]
    return summarise_clips(rows)


def clip_rows(clip: Path, methods: Mapping[str, SongMethod]) -> dict[str, Any]:
    return {"rows": measure_clip(clip, methods)}


def by_command(method: str, num_steps: int, original: Path, target: Path) -> Tensor:
    """Transfer as the command does, with its defaults."""
    from mixprint.api.transfers import transfer_style

    with tempfile.TemporaryDirectory() as out:
        found = transfer_style(original, target, out, method=method, num_steps=num_steps)
        return torch.from_numpy(found.audio.copy())


def real(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure mixes of real multitracks; nothing, with a sentence, where they are not."""
    keep_freed_memory()
    asked = console_real.RealMixes(
        folder=args.real,
        controller=args.controller,
        num_steps=args.controller_steps,
        num_sections=args.sections,
        num_references=args.references,
    )
    return console_real.measure(asked, Finished(args.finished))


def speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the console."""
    jobs = console_speed.jobs(args.runs)
    shown = progress(jobs, len(jobs), "measured", "configurations", log)
    return [run_in_own_process("benchmarks.console_speed", job, job.threads) for job in shown]


def exports(_args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what other programs make of exports."""
    return console_exports.measure()


TABLES: Mapping[str, Callable[[argparse.Namespace], Any]] = {
    "quality": quality,
    "pairs": pairs,
    "rivals": rivals,
    "real": real,
    "speed": speed,
    "exports": exports,
}
# What is written beside each table's rows.
SETTINGS: Mapping[str, Sequence[str]] = {
    "quality": ("seed", "num_steps", "recovery_steps"),
    "pairs": ("seed", "recovery_steps"),
    "rivals": ("num_steps",),
    "real": ("controller_steps", "sections", "references"),
    "speed": ("runs",),
    "exports": (),
}


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON holds it."""
    return {key: asdict(x) if isinstance(x, Estimate) else x for key, x in row.items()}


def table(values: Mapping[str, Any]) -> str:
    """Write the figures as Markdown."""
    parts = [MARKDOWN[name](values[name]) for name in TABLES if name in values]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def about(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values["machine"].items())


def header(measures: Mapping[str, str]) -> list[str]:
    return [f"{name}, {unit}" if unit != "1" else name for name, unit in measures.items()]


def quality_table(values: Mapping[str, Any]) -> list[str]:
    """Write how far each method lies from the truth, and the differences of methods."""
    found = values["rows"]
    lines = [
        f"Distance to the truth, smaller is nearer; at most {values['num_steps']} steps, "
        f"{values['recovery_steps']} of the oracle; medians over the cases; {about(values)}.",
        "",
        "| kind | stems | method | cases | "
        + " | ".join(header(MEASURES))
        + " | nearer than the input, % ("
        + ", ".join(NEARER_BY)
        + ") | seconds |",
        "| --- | --- | --- | ---: |" + " ---: |" * (len(MEASURES) + 2),
    ]
    for row in found["medians"]:
        cells = [f"{row[name]['value']:.2f}" for name in MEASURES]
        nearer = ", ".join(f"{100 * row['nearer'][name]:.0f}" for name in NEARER_BY)
        lines.append(
            f"| {row['kind']} | {row['stems']} | {row['method']} | {row['cases']} | "
            + " | ".join(cells)
            + f" | {'' if row['method'] == NOTHING else nearer} | {row['seconds']:.1f} |"
        )
    for against, rows in found["differences"].items():
        if not rows:  # nobody asked that method
            continue
        lines += [
            "",
            f"Mean difference to `{against}` on the same cases, below 0 is nearer to the truth; "
            "95 % intervals over songs.",
            "",
            "| kind | stems | method | cases | " + " | ".join(header(MEASURES)) + " |",
            "| --- | --- | --- | ---: |" + " ---: |" * len(MEASURES),
        ]
        lines += [
            f"| {row['kind']} | {row['stems']} | {row['method']} | {row['cases']} | "
            + " | ".join(interval(row[name], sign="+") for name in MEASURES)
            + " |"
            for row in rows
        ]
    return lines


def pairs_table(values: Mapping[str, Any]) -> list[str]:
    """Write how near recovered settings come."""
    lines = [
        "Dry stems and truth are given; distance of the mixes and differences of what the settings "
        f"do; {values['recovery_steps']} steps; medians over the mixes of the means over stems, "
        "with 95 % intervals over songs.",
        "",
        "| settings | mixes | " + " | ".join(header(PAIR_MEASURES)) + " |",
        "| --- | ---: |" + " ---: |" * len(PAIR_MEASURES),
    ]
    for row in values["rows"]:
        cells = [interval(row[name]) if row[name] else "" for name in PAIR_MEASURES]
        lines.append(f"| {row['method']} | {row['pairs']} | " + " | ".join(cells) + " |")
    return lines


def rivals_table(values: Mapping[str, Any]) -> list[str]:
    """Write the distances of the clips."""
    if not values["rows"]:
        return ["The clips of the rivals were not at hand."]
    clips = list(values["rows"][0]["clips"])
    return [
        "Distance of StemFX's paper to the true mix of real clips, after MP3 of 192 kb/s; "
        f"mixprint with the defaults of the command, at most {values['num_steps']} steps.",
        "",
        "| method | " + " | ".join(clips) + " | mean |",
        "| --- |" + " ---: |" * (len(clips) + 1),
        *(
            f"| {row['method']} | "
            + " | ".join(f"{row['clips'][clip]:.2f}" for clip in clips)
            + f" | {row['mean']:.2f} |"
            for row in values["rows"]
        ),
    ]


def real_table(values: Mapping[str, Any]) -> list[str]:
    """Write the measures of real mixes."""
    return console_real.table(values["rows"])


def speed_table(values: Mapping[str, Any]) -> list[str]:
    """Write seconds and memory of the console."""
    return [
        f"{console_speed.NUM_TRACKS} stereo tracks of {console_speed.DURATION_S:g} s; medians of "
        f"{values['runs']} runs; {about(values)}.",
        "",
        "| what | gradients | threads | seconds | peak memory, MB |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {row['work']} | {'yes' if row['has_backward'] else 'no'} | {row['threads']} "
            f"| {row['seconds']:.3f} | {row['peak_bytes'] / BYTES_PER_MB:.0f} |"
            for row in values["rows"]
        ),
    ]


def exports_table(values: Mapping[str, Any]) -> list[str]:
    """Write the deviations of exports."""
    return [
        "Deviation from the console's own rendering, restricted to what the export holds; the "
        f"worst of {console_exports.NUM_STYLES} styles of the generator.",
        "",
        "| export | deviation, dB |",
        "| --- | ---: |",
        *(f"| {row['export']} | {row['deviation_db']:.0f} |" for row in values["rows"]),
    ]


MARKDOWN: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "quality": quality_table,
    "pairs": pairs_table,
    "rivals": rivals_table,
    "real": real_table,
    "speed": speed_table,
    "exports": exports_table,
}


def interval(estimate: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{estimate[key]:{sign}.2f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
