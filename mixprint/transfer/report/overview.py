"""The page of several transfers: which method does best, and how each sounds beside the others.

Transfers of the same input and target stand side by side, and one player switches between them.
The page holds so many sounds as keep it small; all have links.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from mixprint.pages.comparison import compare
from mixprint.pages.page import write_page
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.text import shown
from mixprint.transfer.report.page import (
    MIXES,
    clips_of,
    distance_cells,
    excerpt,
    label_of,
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
    others = {row["folder"] for row in summary["transfers"] if not row["is_asked_for"]}
    groups: dict[tuple[str, str], list[Done]] = {}
    for each in done:
        key = each.metrics["input_audio"], target_of(each.metrics)
        groups.setdefault(key, []).append(each)
    pairs = []
    num_left = MAX_CLIPS
    for number, group in enumerate(groups.values(), start=1):
        labels = _labels(path.parent, group, others)
        files = _clips(labels, group)
        if has_player := len(files) <= num_left:
            num_left -= len(files)
        pairs.append(_pair(path.parent, number, labels, group, files if has_player else {}))
    write_page(
        path,
        "transfer/report/overview.html",
        "Mixing style transfers",
        medians=_medians(summary),
        failures=[(f.where, f.reason, f.error) for f in failures],
        pairs=pairs,
    )


def _pair(
    page_dir: Path,
    number: int,
    labels: Sequence[str],
    group: Sequence["Done"],
    files: Mapping[str, tuple[Path, str, "Done"]],
) -> dict[str, Any]:
    """Return what the page shows of the transfers of a pair; without files there is no player."""
    title = pair_title(group[0].metrics)
    clips = {
        label: excerpt(folder / file, each.metrics) for label, (folder, file, each) in files.items()
    }
    return {
        "title": title,
        "player": compare(f"{number}. {title}", {"mix": clips}, SAMPLE_RATE_HZ, heard=labels[0])
        if clips
        else None,
        "transfers": [
            {
                "label": label,
                "distances": distance_cells(each.metrics),
                "links": _links(page_dir, each),
                "told": words(each.metrics),
            }
            for label, each in zip(labels, group, strict=True)
        ],
    }


def _medians(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per method."""
    return [
        [
            name,
            str(values["num_transfers"]),
            *(_percent(values[f"median_{k}_distance_reduction"]) for k in ("feature", "embedding")),
            f"{values['median_total_s']:.0f} s",
        ]
        for name, values in summary["methods"].items()
    ]


def _percent(reduction: float | None) -> str:
    return "not measured" if reduction is None else f"{reduction:+.0%}"


def _labels(page_dir: Path, group: Sequence["Done"], others: Collection[str]) -> list[str]:
    """Call each transfer of a pair by its method, and its folder where that is not enough."""
    labels = [label_of(each.metrics) for each in group]
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
