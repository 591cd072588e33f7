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
from mixprint.evaluation.retrieval import FloatArray
from mixprint.pages import page
from mixprint.stems import SAMPLE_RATE_HZ

# 16 players of 4 s in stereo at half the rate of a CD make about 4 MB of text.
NUM_QUERIES = 4
NUM_NEIGHBOURS = 3
PLAYER_S = 4.0
PLAYER_RATE_HZ = 22_050
# The measures of each task that are shown.
MEASURES: Mapping[str, tuple[str, ...]] = {
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
METHODS: Mapping[str, str] = {
    "encoder": "encoder",
    "features": "64 features",
    "log_mel": "mean log-mel",
    "untrained": "untrained encoder",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the page shows.

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
    sections = [
        page.paragraph(
            f"{metrics['num_tracks']} tracks of {metrics['num_songs']} songs, split: "
            f"{metrics['split_used']} ({metrics['split_reason']}). Below each figure stands its "
            "95 % interval, by bootstrap over songs.",
            note=metrics["split_used"] != "test",
        ),
        *tables(metrics),
    ]
    if evaluation.settings_r2:
        names = list(next(iter(evaluation.settings_r2.values())))
        rows = [
            [name, *(page.Interval(**evaluation.settings_r2[m][name]) for m in METHODS)]
            for name in names
        ]
        sections.append(
            page.folded(
                f"R2 of each of the {len(names)} settings",
                page.table(["setting", *METHODS.values()], rows),
            )
        )
    sections.append(page.heading("Figures"))
    for description, figure in evaluation.figures.items():
        sections += [page.image(figure, description), page.paragraph(description)]
    sections += [page.heading("Neighbours to listen to"), *_neighbours(evaluation)]
    details = {
        name: metrics[name] for name in ("encoder_fingerprint", "device", "num_bootstrap", "seed")
    }
    sections += [page.heading("Run"), page.definitions(details | dict(metrics["versions"]))]
    page.write_page(path, "Evaluation of the mixing-style encoder", sections)


def tables(metrics: Mapping[str, Any]) -> list[str]:
    """Make a section with a table per task, or say why there is none."""
    sections = []
    for key, title, text in (
        (
            "style_retrieval",
            "Finding the same mix style in other songs",
            "Each track looks for its style among other songs, with its own song in other styles "
            "as distractors. The ratio is how much farther the same song in other styles lies "
            "than the same style in other songs; above 1 the mix counts more than the song.",
        ),
        (
            "song_retrieval",
            "Finding the same song",
            "The end of each track looks for its beginning among the beginnings of all tracks.",
        ),
    ):
        values = metrics[key]
        sections += [page.heading(title), page.paragraph(text)]
        if "absent" in values:
            sections.append(_absent(values))
            continue
        rows = [_row(name, name, values) for name in MEASURES[key] if name in values["chance"]]
        sections += [_table(rows), page.paragraph(f"{values['num_queries']} queries.")]
    sections += [
        page.heading("What a linear probe reads out of the embedding"),
        page.paragraph(
            "The settings of the console (R2, mean of all; 0 is what knowing nothing gives) and "
            "the style (accuracy), for songs that the probe has not met; and the song (accuracy), "
            "for styles that it has not met. An embedding of the mix is good at the first two, "
            "and bad at the last."
        ),
    ]
    rows = []
    for task, measure, label in (
        ("settings", "mean_r2", "console settings, R2"),
        ("style", "accuracy", "style, accuracy"),
        ("song", "accuracy", "song, accuracy"),
    ):
        values = metrics["probes"][task]
        if "absent" in values:
            sections.append(_absent(values, f"{label}: "))
        else:
            rows.append(_row(label, measure, values))
    return [*sections, _table(rows)] if rows else sections


def measure_label(name: str) -> str:
    """Name a measure for people: `map_at_10` is mAP at 10."""
    return name.replace("map", "mAP").replace("_", " ")


def _absent(values: Mapping[str, Any], prefix: str = "") -> str:
    return page.paragraph(f"{prefix}Not measured: {values['absent']}.", note=True)


def _table(rows: Sequence[Sequence[object]]) -> str:
    return page.table(["measure", *METHODS.values(), "chance"], rows)


def _row(label: str, measure: str, values: Mapping[str, Any]) -> list[object]:
    """Set a measure's figures side by side; a representation may lack one."""
    cells = [
        page.Interval(**values[method][measure]) if measure in values[method] else ""
        for method in METHODS
    ]
    return [measure_label(label), *cells, float(values["chance"][measure])]


def _neighbours(evaluation: Evaluation) -> list[str]:
    """Let some tracks, evenly spread over all, be heard beside their nearest neighbours."""
    num_tracks = len(evaluation.tracks)
    queries = np.unique(np.linspace(0, num_tracks - 1, NUM_QUERIES).round().astype(int))
    sections = []
    for query in queries.tolist():
        order = np.argsort(evaluation.distance_NN[query], kind="stable").tolist()
        nearest = [i for i in order if i != query][:NUM_NEIGHBOURS]
        sections.append(page.heading(f"Nearest to {evaluation.tracks[query].title}", 3))
        sections.append(
            page.players(
                [
                    _player(evaluation, query, "query"),
                    *(
                        _player(
                            evaluation,
                            i,
                            f"{rank}. distance {evaluation.distance_NN[query, i]:.3f}",
                            query=query,
                        )
                        for rank, i in enumerate(nearest, start=1)
                    ),
                ]
            )
        )
    if any(track.style for track in evaluation.tracks):
        sections.append(page.paragraph("✓: the query's mix style. ✗: another one."))
    return sections


def _player(evaluation: Evaluation, index: int, label: str, query: int | None = None) -> str:
    """Play the first segment of a track, at its own level: that belongs to the mix."""
    track = evaluation.tracks[index]
    caption = f"{label}: {track.title}" + (f" ({track.style})" if track.style else "")
    mark = ""
    if query is not None and track.style:
        mark = "good" if track.style == evaluation.tracks[query].style else "bad"
    return page.player(
        caption,
        read_segment(evaluation.first_segments[index]).sum(0),
        SAMPLE_RATE_HZ,
        max_duration_s=PLAYER_S,
        player_rate_hz=PLAYER_RATE_HZ,
        css_class=mark,
    )
