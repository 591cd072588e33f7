"""The evaluation's page: numbers, figures and neighbours to listen to, all in one HTML file.

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef, read_segment
from mixprint.evaluation.chain_retrieval import MEASURES as CHAIN_MEASURES
from mixprint.evaluation.chain_retrieval import counted_effects
from mixprint.evaluation.retrieval import FloatArray
from mixprint.pages.clips import Clip, make_clip
from mixprint.pages.page import write_page
from mixprint.stems import SAMPLE_RATE_HZ

# 16 players of 4 s in stereo at half the rate of a CD make about 4 MB of text.
NUM_QUERIES = 4
NUM_NEIGHBOURS = 3
PLAYER_S = 4.0
PLAYER_RATE_HZ = 22_050
# The measures of each task that are shown.
MEASURES: Mapping[str, tuple[str, ...]] = {
    "chain_retrieval": CHAIN_MEASURES,
    "style_retrieval": ("recall_at_1", "recall_at_5", "map", "style_over_song_ratio"),
    "song_retrieval": (
        "recall_at_1",
        "recall_at_5",
        "recall_at_10",
        "mean_rank",
        "median_rank",
        "map_at_10",
    ),
}
# What a linear probe reads -> its task, and the measure that is shown.
PROBES: Mapping[str, tuple[str, str]] = {
    "console settings, R2": ("settings", "mean_r2"),
    "style, accuracy": ("style", "accuracy"),
    "song, accuracy": ("song", "accuracy"),
}
METHODS: Mapping[str, str] = {
    "encoder": "encoder",
    "features": "64 features",
    "log_mel": "mean log-mel",
    "untrained": "untrained encoder",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Content of the page.

    Attributes:
        metrics: what metrics.json holds.
        settings_r2: method -> setting -> R2 with its interval; empty where they are not known.
        figures: description -> PNG.
        tracks: the tracks that were evaluated.
        first_segments: the first segment of each.
        distance_NN: distances of the tracks' embeddings.
    """

    metrics: Mapping[str, Any]
    settings_r2: Mapping[str, Mapping[str, Mapping[str, float]]]
    figures: Mapping[str, Path]
    tracks: Sequence[Track]
    first_segments: Sequence[SegmentRef]
    distance_NN: FloatArray


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write the page."""
    metrics = evaluation.metrics
    settings_r2 = evaluation.settings_r2
    run = ("encoder_fingerprint", "device", "num_bootstrap", "seed")
    write_page(
        path,
        "evaluation/report.html",
        "Evaluation of the mixing-style encoder",
        metrics=metrics,
        methods=list(METHODS.values()),
        retrieval={
            task: [_row(name, name, values) for name in names if name in values["chance"]]
            for task, names in MEASURES.items()
            if "absent" not in (values := metrics[task])
        },
        chains=_chain_rows(metrics["chain_retrieval"]),
        probes=[
            _row(label, measure, values)
            for label, (task, measure) in PROBES.items()
            if "absent" not in (values := metrics["probes"][task])
        ],
        probe_tasks={label: metrics["probes"][task] for label, (task, _) in PROBES.items()},
        settings_r2=[
            [name, *(settings_r2[method][name] for method in METHODS)]
            for name in next(iter(settings_r2.values()), {})
        ],
        figures={text: png.read_bytes() for text, png in evaluation.figures.items()},
        neighbours=_neighbours(evaluation),
        has_styles=any(track.style for track in evaluation.tracks),
        run={name: metrics[name] for name in run} | dict(metrics["versions"]),
    )


def measure_label(name: str) -> str:
    """Name a measure for people: `map_at_10` is mAP at 10."""
    return name.replace("map", "mAP").replace("mrr", "MRR").replace("_", " ")


def _chain_rows(values: Mapping[str, Any]) -> list[list[object]]:
    """Set the figures of the effect chains side by side: of each length, then of all together."""
    if "absent" in values:
        return []
    parts = {counted_effects(int(n)): found for n, found in values["by_length"].items()}
    if len(parts) > 1:
        parts["all lengths"] = values
    return [
        _row(f"{part}: {name}", name, {**found, "chance": values["chance"]})
        for part, found in parts.items()
        for name in MEASURES["chain_retrieval"]
    ]


def _row(label: str, measure: str, values: Mapping[str, Any]) -> list[object]:
    """Set a measure's figures side by side; a representation may lack one."""
    return [
        measure_label(label),
        *(values[method].get(measure, "") for method in METHODS),
        float(values["chance"][measure]),
    ]


def _neighbours(evaluation: Evaluation) -> list[tuple[str, list[Clip]]]:
    """Cut clips of some tracks, evenly spread over all, each with its nearest neighbours.

    Returns:
        title and clips of each of these tracks.
    """
    num_tracks = len(evaluation.tracks)
    queries = np.unique(np.linspace(0, num_tracks - 1, NUM_QUERIES).round().astype(int))
    groups = []
    for query in queries.tolist():
        order = np.argsort(evaluation.distance_NN[query], kind="stable").tolist()
        nearest = [i for i in order if i != query][:NUM_NEIGHBOURS]
        clips = [_clip(evaluation, query, "query")]
        for rank, i in enumerate(nearest, start=1):
            label = f"{rank}. distance {evaluation.distance_NN[query, i]:.3f}"
            clips.append(_clip(evaluation, i, label, query=query))
        groups.append((evaluation.tracks[query].title, clips))
    return groups


def _clip(evaluation: Evaluation, index: int, label: str, query: int | None = None) -> Clip:
    """Cut the first segment of a track, at its own level: that belongs to the mix."""
    track = evaluation.tracks[index]
    mark = ""
    if query is not None and track.style:
        mark = "good" if track.style == evaluation.tracks[query].style else "bad"
    return make_clip(
        f"{label}: {track.title}" + (f" ({track.style})" if track.style else ""),
        read_segment(evaluation.first_segments[index]).sum(0),
        SAMPLE_RATE_HZ,
        max_duration_s=PLAYER_S,
        player_rate_hz=PLAYER_RATE_HZ,
        css_class=mark,
    )
