"""The page of several transfers: which method does best, and how each sounds beside the others.

Transfers of the same input and target stand side by side, and one player switches between them.
The page holds so many sounds as keep it small; all have links.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from mixprint.pages import page
from mixprint.pages.comparison import SCRIPT, STYLE, comparison
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.text import shown
from mixprint.transfer.report.page import (
    DISTANCE_HEADER,
    DISTANCES_EXPLAINED,
    MIXES,
    clips_of,
    distance_cells,
    excerpt,
    pair_title,
    target_of,
    words,
)

if TYPE_CHECKING:
    from mixprint.transfer.jobs import Done, Failure

# A clip of 10 s is about 0.35 MB of text.
MAX_CLIPS = 18
MAX_CLIPS_OF_A_PAIR = 9


def write_overview(
    path: Path,
    done: Sequence["Done"],
    failures: Sequence["Failure"],
    summary: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        done: the transfers.
        failures: what could not be done.
        summary: see `mixprint.transfer.report.summary`.
    """
    sections = [_medians(summary)]
    if failures:
        sections += [
            page.heading("Not done"),
            page.table(["where", "reason", ""], ([f.where, f.reason, f.error] for f in failures)),
        ]
    others = {row["folder"] for row in summary["transfers"] if not row["is_asked_for"]}
    pairs: dict[tuple[str, str], list[Done]] = {}
    for each in done:
        key = each.metrics["input_audio"], target_of(each.metrics)
        pairs.setdefault(key, []).append(each)
    sections += [page.heading("All transfers"), page.paragraph(DISTANCES_EXPLAINED)]
    num_left = MAX_CLIPS
    for number, group in enumerate(pairs.values(), start=1):
        name = pair_title(group[0].metrics)
        labels = _labels(path.parent, group, others)
        sections += [
            page.heading(name, 3),
            page.table(
                ["transfer", *DISTANCE_HEADER],
                (
                    [label, *distance_cells(d.metrics)]
                    for label, d in zip(labels, group, strict=True)
                ),
            ),
        ]
        files = _clips(labels, group)
        if len(files) <= num_left:
            num_left -= len(files)
            clips = {
                label: excerpt(folder / file, each.metrics)
                for label, (folder, file, each) in files.items()
            }
            player = comparison(
                f"{number}. {name}", {"mix": clips}, SAMPLE_RATE_HZ, heard=labels[0]
            )
            sections.append(player)
        for label, each in zip(labels, group, strict=True):
            told = page.links(_links(path.parent, each)) + "".join(words(each.metrics))
            sections.append(page.folded(f"{label}: files, and what changed", told))
    page.write_page(path, "Mixing style transfers", sections, style=STYLE, script=SCRIPT)


def _medians(summary: Mapping[str, Any]) -> str:
    header = ["method", "transfers", "features nearer", "embedding nearer", "time"]
    rows = [
        [
            name,
            str(values["num_transfers"]),
            *(_percent(values[f"median_{k}_distance_reduction"]) for k in ("feature", "embedding")),
            f"{values['median_total_s']:.0f} s",
        ]
        for name, values in summary["methods"].items()
    ]
    return page.heading("Methods, medians") + page.table(header, rows)


def _percent(reduction: float | None) -> str:
    return "not measured" if reduction is None else f"{reduction:+.0%}"


def _labels(page_dir: Path, group: Sequence["Done"], others: Collection[str]) -> list[str]:
    """Call each transfer of a pair by its method, and its folder where that is not enough."""
    labels = [f"{d.metrics['method']}, {d.metrics['optimize_target']}" for d in group]
    places = [shown(_relative(page_dir, each.folder)) for each in group]
    return [
        (label if labels.count(label) == 1 else f"{label} ({place})")
        + (", from another call" if place in others else "")
        for label, place in zip(labels, places, strict=True)
    ]


def _clips(labels: Sequence[str], group: Sequence["Done"]) -> dict[str, tuple[Path, str, "Done"]]:
    """Choose what a player holds: input, target, and the first outputs."""
    first = group[0]
    files = {
        clip: (first.folder, file, first)
        for clip, file in clips_of(MIXES, first.metrics).items()
        if clip != "output"
    }
    num_outputs = MAX_CLIPS_OF_A_PAIR - len(files)
    chosen: Iterable[tuple[str, Done]] = zip(labels[:num_outputs], group, strict=False)
    return files | {label: (each.folder, MIXES["output"], each) for label, each in chosen}


def _links(page_dir: Path, each: "Done") -> dict[str, str]:
    """Link to a transfer's own page and files."""
    files = {"page with the stems": "report.html"} | clips_of(MIXES, each.metrics)
    base = _relative(page_dir, each.folder)
    return {text: quote_from_bytes(os.fsencode(f"{base}/{file}")) for text, file in files.items()}


def _relative(page_dir: Path, folder: Path) -> str:
    return Path(os.path.relpath(folder, page_dir)).as_posix()
