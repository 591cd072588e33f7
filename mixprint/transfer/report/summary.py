"""Summary of a batch of transfers, as numbers.

<out>/summary.json    a row per transfer, medians per method, and what failed and why
<out>/summary.csv     the rows

The rows are of all finished transfers that lie there: first those that were asked for, then what
other calls have made (`is_asked_for` tells them apart).
"""

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixprint.storage.atomic import atomic_path, read_json, write_json
from mixprint.storage.outputs import result_in
from mixprint.text import shown
from mixprint.transfer.jobs import Done, Failure, Outcome
from mixprint.transfer.layout import (
    METRICS_NAME,
    METRICS_VERSION,
    PAGE_NAME,
    SUMMARY,
    SUMMARY_NAME,
    TABLE_NAME,
    TRANSFER,
)
from mixprint.transfer.report.overview import write_overview
from mixprint.transfer.report.page import pair_title, target_of

# Equal transfers differ in them.
TIMES = ("separation_s", "optimisation_s", "total_s")
DISTANCES = ("feature", "embedding")


def write_summary(out_dir: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Write the summary, its table and the page that compares all.

    Args:
        out_dir: the transfers are in it.
        outcomes: of what was asked for, in the order of the rows.

    Returns:
        what summary.json holds.
    """
    done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    others = _others(out_dir, done)
    summary = summarise(out_dir, done, failures, others)
    with result_in(out_dir, SUMMARY):
        _write_table(out_dir / TABLE_NAME, summary["transfers"])
        write_overview(out_dir / PAGE_NAME, [*done, *others], failures, summary)
        write_json(out_dir / SUMMARY_NAME, summary)
    return summary


def _others(out_dir: Path, done: Sequence[Done]) -> list[Done]:
    """Find the finished transfers of other calls, by the names of their folders."""
    asked = {each.folder for each in done}
    folders = [path.parent for path in sorted(out_dir.glob(f"*/{METRICS_NAME}"))]
    found = [
        Done(folder, read_json(folder / METRICS_NAME), was_there=True)
        for folder in folders
        if folder not in asked and TRANSFER.is_whole(folder)
    ]
    return [each for each in found if each.metrics["schema_version"] == METRICS_VERSION]


def summarise(
    out_dir: Path,
    done: Sequence[Done],
    failures: Sequence[Failure],
    others: Sequence[Done] = (),
) -> dict[str, Any]:
    """Gather the distances; medians are null where there is nothing to take them of."""
    rows = [
        _row(out_dir, each) | {"is_asked_for": is_asked}
        for group, is_asked in ((done, True), (others, False))
        for each in group
    ]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['method']}, {row['optimize_target']}", []).append(row)
    return {
        "num_transfers": len(rows),
        "num_failed": len(failures),
        "failed": [
            {"where": f.where, "reason": f.reason, "detail": str(f.error)} for f in failures
        ],
        **_medians(rows),
        "methods": {
            name: {"num_transfers": len(group), **_medians(group)} for name, group in groups.items()
        },
        "transfers": rows,
    }


def _row(out_dir: Path, done: Done) -> dict[str, Any]:
    metrics = done.metrics
    row = {
        "folder": shown(done.folder.relative_to(out_dir)),
        "pair": pair_title(metrics),
        "input": metrics["input_audio"],
        "target": target_of(metrics),
        "method": metrics["method"],
        "optimize_target": metrics["optimize_target"],
        "lr": metrics["hyperparameters"]["lr"],
    }
    for kind in DISTANCES:
        initial = metrics[f"initial_{kind}_distance"]
        final = metrics[f"final_{kind}_distance"]
        row |= {f"initial_{kind}_distance": initial, f"final_{kind}_distance": final}
        row[f"{kind}_distance_reduction"] = 1 - final / initial if initial else None
    return row | {
        "converged": metrics["converged"],
        "num_steps_run": metrics["num_steps_run"],
        "loudness_lufs": metrics["output"]["loudness_lufs"],
        "true_peak_dbtp": metrics["output"]["true_peak_dbtp"],
        **{name: metrics["timings"][name] for name in TIMES},
    }


def _medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    names = (*(f"{kind}_distance_reduction" for kind in DISTANCES), "total_s")
    return {f"median_{name}": _median(row[name] for row in rows) for name in names}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["folder"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
