"""The evaluation's page: numbers, figures and neighbours to listen to, all in one HTML file.

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixprint.catalogue import Track
from mixprint.evaluation import page
from mixprint.evaluation.retrieval import FloatArray
from mixprint.shards import SegmentRef, read_segment
from mixprint.stems import SAMPLE_RATE_HZ

# 16 players of 4 s in stereo at half the rate of a CD make about 4 MB of text.
NUM_QUERIES = 4
NUM_NEIGHBOURS = 3
PLAYER_S = 4.0
PLAYER_RATE_HZ = 22_050
METHODS = (("encoder", "encoder"), ("features", "64 standardised features"))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the page shows.

    Attributes:
        metrics: what metrics.json holds.
        figures: description -> PNG.
        tracks: the tracks that were evaluated.
        first_segments: the first segment of each.
        distance_NN: distances of the tracks' embeddings.
    """

    metrics: Mapping[str, Any]
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
            f"{metrics['split_used']} ({metrics['split_reason']}).",
            note=metrics["split_used"] != "test",
        )
    ]
    for key, title, text in (
        (
            "style_retrieval",
            "Finding the same mix style in other songs",
            "Each track looks for its style among other songs, with its own song in other styles "
            "as distractors.",
        ),
        (
            "song_retrieval",
            "Finding the same song",
            "The end of each track looks for its beginning among the beginnings of all tracks.",
        ),
    ):
        sections += [page.heading(title), page.paragraph(text), *_task(metrics[key])]
    sections.append(page.heading("Figures"))
    for description, figure in evaluation.figures.items():
        sections += [page.image(figure, description), page.paragraph(description)]
    sections += [page.heading("Neighbours to listen to"), *_neighbours(evaluation)]
    details = {
        name: metrics[name] for name in ("encoder_fingerprint", "device", "num_bootstrap", "seed")
    }
    sections += [page.heading("Run"), page.definitions(details | dict(metrics["versions"]))]
    page.write_page(path, "Evaluation of the mixing-style encoder", sections)


def _task(values: Mapping[str, Any]) -> list[str]:
    """Make the table of one task, or say why there is none."""
    if "absent" in values:
        return [page.paragraph(f"Not measured: {values['absent']}.", note=True)]
    rows: list[list[object]] = []
    for name, level in values["chance"].items():
        cells = [_interval(values[method][name]) for method, _ in METHODS]
        rows.append([name.replace("_", " "), *cells, float(level)])
    ratios = values.get("style_over_song_ratio")
    if ratios:
        cells = ["" if ratios[m] is None else _interval(ratios[m]) for m, _ in METHODS]
        rows.append(["style over song ratio", *cells, ""])
    return [
        page.table(["measure", *(label for _, label in METHODS), "chance"], rows),
        page.paragraph(
            f"{values['num_queries']} queries; in brackets the 95 % bootstrap interval over songs."
            + (
                " The ratio is how much farther the same song in other styles lies than the same "
                "style in other songs; above 1 the mix counts more than the song."
                if ratios
                else ""
            )
        ),
    ]


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


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
