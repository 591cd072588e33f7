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

from mixprint.evaluation.retrieval import Estimate, FloatArray
from mixprint.features.schema import FEATURE_NAMES, MIX_FEATURES, STEM_FEATURES
from mixprint.pages.colours import PALETTE
from mixprint.stems import STEMS
from mixprint.storage.atomic import atomic_path

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx")
MAX_LEGEND_ENTRIES = 24
DPI = 110
# Of t-SNE: its time grows with the square of the points, and more of them hide each other.
MAX_POINTS = 500
PERPLEXITY = 15.0
# Fewer points have no neighbourhoods to keep.
MIN_TSNE_POINTS = 8


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
                label=name.replace("_", " ").replace(".", " "),
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
    figure = Figure(figsize=(7, 3.4 * max(len(tasks), 1)), layout="constrained")
    measures = ("recall_at_1", "recall_at_5", "recall_at_10")
    for index, (task, methods) in enumerate(tasks.items()):
        axes = figure.add_subplot(len(tasks), 1, index + 1)
        _bars(axes, {m: [found[name] for name in measures] for m, found in methods.items()})
        for position, name in enumerate(measures):
            axes.hlines(
                chances[task][name],
                position - 0.45,
                position + 0.45,
                colors="black",
                linestyles="dashed",
                label="chance" if position == 0 else "_nolegend_",
            )
        axes.set_xticks(
            range(len(measures)), [name.replace("recall_at_", "recall at ") for name in measures]
        )
        axes.set_ylim(0, 1.05)
        axes.set_title(task)
    if tasks:
        _legend_below(figure, axes)
    _save(figure, path)


def plot_recall_by_length(
    path: Path, methods: Mapping[str, Mapping[int, Estimate]], chance: float
) -> None:
    """Draw recall at 1 against the number of effects, with 95 % intervals.

    Args:
        path: the PNG.
        methods: method -> effects on each stem -> estimate.
        chance: what a random order finds.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    lengths = list(next(iter(methods.values())))
    _bars(axes, {method: [found[n] for n in lengths] for method, found in methods.items()})
    axes.axhline(chance, color="black", linestyle="dashed", label="chance")
    axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_xlabel("effects on each stem")
    axes.set_ylabel("recall at 1")
    axes.set_ylim(0, 1.05)
    _legend_below(figure, axes)
    _save(figure, path)


def plot_probes(path: Path, methods: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Draw R2 of the predicted settings by kind of setting, with 95 % intervals.

    Args:
        path: the PNG.
        methods: method -> kind of setting -> R2.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    kinds = list(next(iter(methods.values())))
    _bars(axes, {method: [found[kind] for kind in kinds] for method, found in methods.items()})
    axes.axhline(0, color="black", linestyle="dashed", label="chance")
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("R2")
    # Far below zero is as good as useless: the part that tells something keeps its scale.
    lowest = min(estimate.value for found in methods.values() for estimate in found.values())
    axes.set_ylim(min(max(lowest - 0.1, -1.0), -0.05), 1.05)
    _legend_below(figure, axes)
    _save(figure, path)


def _bars(axes: Axes, methods: Mapping[str, Sequence[Estimate]]) -> None:
    """Draw a group of bars per position, one bar per method, with intervals."""
    width = 0.8 / max(len(methods), 1)
    for number, (method, estimates) in enumerate(methods.items()):
        values = np.array([e.value for e in estimates])
        errors = np.array(
            [
                [max(e.value - e.low, 0) for e in estimates],
                [max(e.high - e.value, 0) for e in estimates],
            ]
        )
        axes.bar(
            np.arange(len(estimates)) + (number - (len(methods) - 1) / 2) * width,
            values,
            width * 0.9,
            yerr=errors,
            capsize=3,
            color=PALETTE[number],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="white",
            label=method,
        )


def _legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend below the panels: inside them it would hide bars."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)


def plot_confusion(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Draw how often which style was found for each style that was looked for.

    Args:
        path: the PNG.
        wanted: the style of each query.
        found: the style of the item found first.
    """
    names = sorted(set(wanted) | set(found))
    number = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    for a, b in zip(wanted, found, strict=True):
        counts[number[a], number[b]] += 1
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.5, 1.5 + 0.6 * len(names))
    figure = Figure(figsize=(size + 0.5, size), layout="constrained")
    axes = figure.add_subplot()
    _heat_map(axes, shares, names, names, "{:.0%}", highest=1.0)
    axes.set_xlabel("style of the nearest track")
    axes.set_ylabel("style that is looked for")
    _save(figure, path)


def plot_feature_changes(path: Path, changes: Mapping[str, FloatArray]) -> None:
    """Draw how much each feature differs, a row per kind of feature and a column per stem.

    Args:
        path: the PNG.
        changes: what is compared -> RMS difference of each of `FEATURE_NAMES`, standardised.
    """
    kinds = [*STEM_FEATURES, *MIX_FEATURES]
    figure = Figure(figsize=(7, 6 * len(changes)), layout="constrained")
    highest = max(float(change_D.max()) for change_D in changes.values())
    for index, (title, change_D) in enumerate(changes.items()):
        axes = figure.add_subplot(len(changes), 1, index + 1)
        by_name = dict(zip(FEATURE_NAMES, change_D.tolist(), strict=True))
        rows = np.array([[by_name[f"{stem}_{kind}"] for stem in STEMS] for kind in kinds])
        labels = [kind.replace("_", " ") for kind in kinds]
        _heat_map(axes, rows, labels, list(STEMS), "{:.2f}", highest=highest)
        axes.set_title(title)
    _save(figure, path)


def _heat_map(
    axes: Axes,
    values: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    form: str,
    *,
    highest: float,
) -> None:
    """Draw a table whose cells are the darker the greater they are."""
    axes.imshow(values, cmap="Blues", vmin=0, vmax=max(highest, 1e-9), aspect="auto")
    axes.set_xticks(range(len(columns)), [_plain_text(c) for c in columns], rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), [_plain_text(r) for r in rows])
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 * highest else "black"
        axes.text(j, i, form.format(value), ha="center", va="center", color=colour, fontsize=8)


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


def neighbourhoods(points_NE: FloatArray) -> FloatArray:
    """Lay points out in two dimensions so that neighbours stay neighbours (t-SNE).

    Only who is near whom means something, not how far apart groups lie. The start is the
    projection on the principal components, and the result does not depend on the number of cores.

    Args:
        points_NE: at least `MIN_TSNE_POINTS` points.

    Source: van der Maaten and Hinton 2008, "Visualizing data using t-SNE".
    """
    # They take seconds to import.
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    start_N2 = project(points_NE)
    with threadpool_limits(1):
        flat_N2: FloatArray = TSNE(
            perplexity=min(PERPLEXITY, (len(points_NE) - 1) / 3),
            init=start_N2 / max(float(start_N2[:, 0].std()), 1e-12) * 1e-4,
            method="exact",
        ).fit_transform(points_NE)
    return flat_N2


def plot_projection(
    path: Path, points_NE: FloatArray, groupings: Mapping[str, Sequence[str]]
) -> None:
    """Draw embeddings in two dimensions, once per grouping.

    Args:
        path: the PNG.
        points_NE: one embedding per item; of many, evenly chosen ones are drawn.
        groupings: for example `style` -> the style of each item.
    """
    chosen = np.unique(np.linspace(0, len(points_NE) - 1, MAX_POINTS).round().astype(int))
    points_NE = points_NE[chosen]
    is_tsne = len(points_NE) >= MIN_TSNE_POINTS and bool(np.ptp(points_NE, axis=0).any())
    flat_N2 = neighbourhoods(points_NE) if is_tsne else project(points_NE)
    figure = Figure(figsize=(6.5, 5 * len(groupings)), layout="constrained")
    for index, (title, groups) in enumerate(groupings.items()):
        axes = figure.add_subplot(len(groupings), 1, index + 1)
        _scatter(axes, flat_N2, [groups[i] for i in chosen])
        axes.set_title(f"embeddings by {title}")
        if is_tsne:
            # The axes of t-SNE have no meaning.
            axes.set_xticks([])
            axes.set_yticks([])
        else:
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
            label=" " + _plain_text(name),
        )
    axes.grid(alpha=0.3)
    # One scale for both axes: distances in the picture are distances.
    axes.set_aspect("equal", adjustable="datalim")
    if len(names) <= MAX_LEGEND_ENTRIES:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)


def _plain_text(name: str) -> str:
    """Shorten a name; a dollar sign means something to the library, and a leading underscore."""
    return name.replace("$", r"\$").lstrip("_")[:30]
