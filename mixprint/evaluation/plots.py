"""Figures of the evaluation, as PNG files.

Colours are told apart with any common colour vision deficiency, and every group has a marker or
hatch of its own besides its colour.

Shape suffixes: N item, E embedding, D any dimension.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixprint.atomic import atomic_path
from mixprint.evaluation.page import PALETTE
from mixprint.evaluation.retrieval import Estimate, FloatArray

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx")
MAX_LEGEND_ENTRIES = 24
DPI = 110


def _save(figure: Figure, path: Path) -> None:
    """Write the figure; without the library's version in it, equal figures are equal files."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata={"Software": None})


def plot_training(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw the recorded losses over the epochs, and below them the scores of the validation.

    Args:
        path: the PNG.
        history: a mapping per epoch with the key `epoch`.
    """
    names = sorted({name for row in history for name in row} - {"epoch"})
    losses = [name for name in names if "loss" in name]
    shares = [name for name in names if "recall" in name or name.endswith(("_map", "accuracy"))]
    panels = [(label, group) for label, group in (("loss", losses), ("score", shares)) if group]
    figure = Figure(figsize=(7, 3 * max(len(panels), 1)), layout="constrained")
    for index, (label, group) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        for number, name in enumerate(group):
            points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=PALETTE[number % len(PALETTE)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                label=name.replace("_", " "),
            )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def plot_recall(
    path: Path,
    tasks: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    chances: Mapping[str, Mapping[str, float]],
) -> None:
    """Draw recall at 1, 5 and 10 with 95 % intervals beside the baselines and chance.

    Args:
        path: the PNG.
        tasks: task -> method -> measure -> estimate.
        chances: task -> measure -> level.
    """
    figure = Figure(figsize=(4.5 * max(len(tasks), 1), 4), layout="constrained")
    measures = ("recall_at_1", "recall_at_5", "recall_at_10")
    for index, (task, methods) in enumerate(tasks.items()):
        axes = figure.add_subplot(1, len(tasks), index + 1)
        width = 0.8 / max(len(methods), 1)
        centres = np.arange(len(measures), dtype=np.float64)
        for number, (method, estimates) in enumerate(methods.items()):
            chosen = [estimates[name] for name in measures]
            values = np.array([e.value for e in chosen])
            errors = np.array(
                [
                    [max(e.value - e.low, 0) for e in chosen],
                    [max(e.high - e.value, 0) for e in chosen],
                ]
            )
            axes.bar(
                centres + (number - (len(methods) - 1) / 2) * width,
                values,
                width * 0.9,
                yerr=errors,
                capsize=3,
                color=PALETTE[number],
                hatch=HATCHES[number % len(HATCHES)],
                edgecolor="white",
                label=method,
            )
        for position, name in enumerate(measures):
            axes.hlines(
                chances[task][name],
                position - 0.45,
                position + 0.45,
                colors="black",
                linestyles="dashed",
                label="chance" if position == 0 else "_nolegend_",
            )
        axes.set_xticks(centres, [name.replace("recall_at_", "recall at ") for name in measures])
        axes.set_ylim(0, 1.05)
        axes.set_title(task)
        if index == 0:
            # Below the panels: inside them it would hide bars.
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    _save(figure, path)


def project(points_NE: FloatArray) -> FloatArray:
    """Project on the two directions of the greatest variance (principal components).

    Returns:
        points, two columns; the sign of each is chosen so that its largest value is positive.
    """
    centred_NE = points_NE - points_NE.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred_NE, full_matrices=False)
    flat = np.zeros((len(points_NE), 2))
    num_axes = min(2, len(singular))
    flat[:, :num_axes] = left[:, :num_axes] * singular[:num_axes]
    peaks = flat[np.abs(flat).argmax(axis=0), [0, 1]]
    return np.where(peaks < 0, -flat, flat)


def plot_projection(
    path: Path, points_NE: FloatArray, groupings: Mapping[str, Sequence[str]]
) -> None:
    """Draw the embeddings in two dimensions, once per grouping.

    Args:
        path: the PNG.
        points_NE: one embedding per item.
        groupings: for example `style` -> the style of each item.
    """
    flat_N2 = project(points_NE)
    figure = Figure(figsize=(6.5, 5 * len(groupings)), layout="constrained")
    for index, (title, groups) in enumerate(groupings.items()):
        axes = figure.add_subplot(len(groupings), 1, index + 1)
        _scatter(axes, flat_N2, groups)
        axes.set_title(f"embeddings by {title}")
        axes.set_xlabel("first principal component")
        axes.set_ylabel("second principal component")
    _save(figure, path)


def _scatter(axes: Axes, flat_N2: FloatArray, groups: Sequence[str]) -> None:
    names = sorted(set(groups))
    for number, name in enumerate(names):
        chosen = np.array([group == name for group in groups])
        axes.scatter(
            flat_N2[chosen, 0],
            flat_N2[chosen, 1],
            color=PALETTE[number % len(PALETTE)],
            # The marker changes when the colours start again, so no two groups look alike.
            marker=MARKERS[(number + number // len(PALETTE)) % len(MARKERS)],
            s=40,
            edgecolors="black",
            linewidths=0.4,
            # A leading underscore or a dollar sign means something to the library.
            label=" " + name.replace("$", r"\$")[:30],
        )
    axes.grid(alpha=0.3)
    # One scale for both axes: distances in the picture are distances.
    axes.set_aspect("equal", adjustable="datalim")
    if len(names) <= MAX_LEGEND_ENTRIES:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
