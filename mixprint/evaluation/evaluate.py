"""Evaluate an encoder on a collection: song and style retrieval beside chance and a baseline.

*Song retrieval*: the last segment of a track looks for the first segment of the same track among
the first segments of all tracks. Other mixes of the same composition are in the pool as wrong
answers.

*Style retrieval*, where the mix styles are known (generated data): a track, as the mean of its
segments' embeddings, looks for tracks of the same style among the other songs; its own song in
other styles is in the pool as a wrong answer, so recognising the song does not help.

Shape suffixes: N segment or track, E embedding, D feature, S stem, C channel, T sample.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mixprint import __version__
from mixprint.atomic import read_json, write_json
from mixprint.catalogue import Track, read_catalogue
from mixprint.errors import DataError
from mixprint.evaluation import plots
from mixprint.evaluation.report import Evaluation, write_report
from mixprint.evaluation.retrieval import (
    Estimate,
    FloatArray,
    Task,
    chance,
    cosine_distance,
    measure,
    rms_distance,
    style_contrast,
    style_over_song_ratio,
)
from mixprint.features import Standardisation
from mixprint.features.table import read_features
from mixprint.progress import Progress
from mixprint.shards import SegmentRef, read_index, read_segment
from mixprint.stems import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

log = logging.getLogger("mixprint.evaluation")

METRICS_VERSION = 1
BATCH_SIZE = 4
# With fewer songs an interval says nothing, and neither does the mean.
MIN_SONGS = 3
MIN_STYLE_QUERIES = 3
# Tried in turn; the last one holds songs that the encoder was trained on.
SPLITS = (("test",), ("valid", "test"), ("train", "valid", "test"))
ALL_SPLITS = "all"
ENCODER, BASELINE = "encoder", "features"


@dataclass(frozen=True, eq=False)
class Collection:
    """The tracks that are evaluated, with their segments; all in one order.

    Attributes:
        tracks: by track_id.
        segments: per track, its segments by number.
        split_used: `test`, `valid+test` or `all`.
        split_reason: why that one.
    """

    tracks: list[Track]
    segments: list[list[SegmentRef]]
    split_used: str
    split_reason: str


def evaluate(
    *,
    stems_dir: Path,
    features_dir: Path,
    catalogue_dir: Path,
    encoder: "Encoder",
    out_dir: Path,
    num_bootstrap: int,
    seed: int,
    device: torch.device | str = "cpu",
    history_path: Path | None = None,
) -> dict[str, Any]:
    """Evaluate, and write metrics.json, plots/*.png and report.html.

    Args:
        stems_dir: stem shards.
        features_dir: features.parquet and standardisation.json.
        catalogue_dir: the catalogue.
        encoder: what is evaluated, on `device`.
        out_dir: receives the results.
        num_bootstrap: resamples of the songs for the intervals.
        seed: of the resampling.
        device: where the encoder computes.
        history_path: JSON of the training: a list with a mapping per epoch.

    Returns:
        what metrics.json holds. `song_recall_at_1` and `style_recall_at_1` are there where the
        task could be set; otherwise the task's section says why not.

    Raises:
        DataError: an input is missing or broken, or no track has stems and features.
    """
    collection = select_tracks(read_catalogue(catalogue_dir), read_index(stems_dir))
    references = [reference for row in collection.segments for reference in row]
    embedding_NE, segment_s = _embed(encoder, references, device)
    feature_ND = _standardised_features(features_dir, references)
    vectors = {ENCODER: embedding_NE, BASELINE: feature_ND}

    song = _song_retrieval(collection, vectors, segment_s, num_bootstrap, seed)
    by_track = {name: _track_means(collection, values) for name, values in vectors.items()}
    style = _style_retrieval(collection, by_track, num_bootstrap, seed)

    metrics: dict[str, Any] = {
        "schema_version": METRICS_VERSION,
        "split_used": collection.split_used,
        "split_reason": collection.split_reason,
        "num_tracks": len(collection.tracks),
        "num_songs": len({track.song for track in collection.tracks}),
        "num_segments": len(references),
        "segment_s": segment_s,
        "song_retrieval": song,
        "style_retrieval": style,
        "num_bootstrap": num_bootstrap,
        "seed": seed,
        "encoder_fingerprint": encoder.fingerprint,
        "device": str(device),
        "versions": {"mixprint": __version__, "torch": torch.__version__},
    }
    for task, values in (("song", song), ("style", style)):
        if ENCODER in values:
            for name, estimate in values[ENCODER].items():
                metrics[f"{task}_{name}"] = estimate["value"]
    ratio = style.get("style_over_song_ratio", {}).get(ENCODER)
    if ratio is not None:
        metrics["style_over_song_ratio"] = ratio["value"]

    figures = _draw(out_dir / "plots", collection, by_track[ENCODER], song, style, history_path)
    write_report(
        out_dir / "report.html",
        Evaluation(
            metrics=metrics,
            figures=figures,
            tracks=collection.tracks,
            first_segments=[row[0] for row in collection.segments],
            distance_NN=cosine_distance(by_track[ENCODER], by_track[ENCODER]),
        ),
    )
    write_json(out_dir / "metrics.json", metrics)
    return metrics


def select_tracks(tracks: Sequence[Track], references: Sequence[SegmentRef]) -> Collection:
    """Choose the tracks that are evaluated: the test split if it has enough songs.

    Otherwise validation songs are added, then the training songs; `split_used` says so.

    Raises:
        DataError: no track has stems.
    """
    by_track: dict[str, list[SegmentRef]] = {}
    for reference in references:
        by_track.setdefault(reference.track_id, []).append(reference)
    with_stems = sorted((t for t in tracks if t.track_id in by_track), key=lambda t: t.track_id)
    if not with_stems:
        raise DataError(f"evaluation: expected tracks with stems, found none of {len(tracks)}")
    reasons: list[str] = []
    for splits in SPLITS:
        chosen = [track for track in with_stems if track.split in splits]
        name = ALL_SPLITS if splits == SPLITS[-1] else "+".join(splits)
        lack = _lack(chosen)
        if not lack or name == ALL_SPLITS:
            break
        reasons.append(f"{name}: {lack}")
    if name == ALL_SPLITS:
        reasons.append("all songs are used, those of the training too, so the figures flatter")
        log.warning("evaluation on all songs: %s", "; ".join(reasons))
    segments = [sorted(by_track[t.track_id], key=lambda r: r.segment) for t in chosen]
    return Collection(chosen, segments, name, "; ".join(reasons) or "held out from the training")


def _lack(tracks: Sequence[Track]) -> str:
    """Say what keeps a set of tracks from being evaluated; empty if nothing does."""
    num_songs = len({track.song for track in tracks})
    if num_songs < MIN_SONGS:
        return f"{num_songs} songs, at least {MIN_SONGS} are needed"
    if any(track.style for track in tracks):
        num_queries = int(_style_task(tracks)[0].answerable.sum())
        if num_queries < MIN_STYLE_QUERIES:
            return f"{num_queries} style queries, at least {MIN_STYLE_QUERIES} are needed"
    return ""


def _batches(references: Sequence[SegmentRef]) -> Iterator[torch.Tensor]:
    """Read segments in batches of equal length."""
    batch: list[torch.Tensor] = []
    for reference in references:
        stems_SCT = read_segment(reference)
        if batch and (len(batch) == BATCH_SIZE or batch[0].shape != stems_SCT.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(stems_SCT)
    if batch:
        yield torch.stack(batch)


def _embed(
    encoder: "Encoder", references: Sequence[SegmentRef], device: torch.device | str
) -> tuple[FloatArray, float]:
    """Embed all segments; also gives the length of a segment in seconds."""
    parts = []
    num_samples = 0
    with (
        torch.inference_mode(),
        Progress(log, "embedded", total=len(references), unit="segments") as progress,
    ):
        for stems_BSCT in _batches(references):
            num_samples = max(num_samples, stems_BSCT.shape[-1])
            parts.append(encoder.embed(stems_BSCT.to(device), SAMPLE_RATE_HZ).float().cpu())
            progress.advance(len(stems_BSCT))
    embedding_NE = torch.cat(parts).double().numpy()
    if not np.isfinite(embedding_NE).all():
        bad = references[int(np.argmin(np.isfinite(embedding_NE).all(axis=1)))]
        raise DataError(f"track {bad.track_id}, segment {bad.segment}: expected a finite embedding")
    return embedding_NE, num_samples / SAMPLE_RATE_HZ


def _standardised_features(features_dir: Path, references: Sequence[SegmentRef]) -> FloatArray:
    """Find the features of the segments, in their order."""
    path = features_dir / "features.parquet"
    table = read_features(path)
    rows = {key: i for i, key in enumerate(zip(table.track_ids, table.segments, strict=True))}
    missing = [(r.track_id, r.segment) for r in references if (r.track_id, r.segment) not in rows]
    if missing:
        raise DataError(f"{path}: expected features of every segment, found none of {missing[:3]}")
    standardisation = Standardisation.load(features_dir / "standardisation.json")
    chosen = torch.tensor([rows[r.track_id, r.segment] for r in references])
    features_ND = standardisation.apply(table.features_BD[chosen])
    return features_ND.double().numpy()


def _track_means(collection: Collection, values_NV: FloatArray) -> FloatArray:
    """Average the segments of each track."""
    counts = [len(row) for row in collection.segments]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    return np.add.reduceat(values_NV, starts, axis=0) / np.array(counts)[:, np.newaxis]


def _distances(name: str, a: FloatArray, b: FloatArray) -> FloatArray:
    """Measure embeddings by the angle, standardised features by their RMS difference."""
    return cosine_distance(a, b) if name == ENCODER else rms_distance(a, b)


def _numbers(labels: Sequence[str]) -> np.ndarray:
    """Number labels from 0 in sorted order."""
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _song_retrieval(
    collection: Collection,
    vectors: Mapping[str, FloatArray],
    segment_s: float,
    num_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Look for the first segment of the track that a last segment belongs to."""
    counts = [len(row) for row in collection.segments]
    first_N = np.concatenate(([0], np.cumsum(counts)[:-1]))
    last_N = np.cumsum(counts) - 1
    # A query that shares samples with its answer would be found by them.
    apart_N = np.array(
        [row[-1].start_s - row[0].start_s >= segment_s - 1e-6 for row in collection.segments]
    )
    num_tracks = len(collection.tracks)
    if not apart_N.any() or num_tracks < 2:
        return {
            "absent": f"expected at least 2 tracks and one of two segments ({2 * segment_s:g} s) "
            f"that do not overlap, found {num_tracks} tracks, {int(apart_N.sum())} so long"
        }
    task = Task(
        relevant_QP=np.eye(num_tracks, dtype=np.bool_)[apart_N],
        eligible_QP=np.ones((int(apart_N.sum()), num_tracks), dtype=np.bool_),
        song_Q=_numbers([track.song for track in collection.tracks])[apart_N],
    )
    result: dict[str, Any] = {
        "num_queries": int(apart_N.sum()),
        "num_too_short": int((~apart_N).sum()),
        "pool_size": num_tracks,
        "chance": chance(task),
    }
    for name, values in vectors.items():
        distance_QP = _distances(name, values[last_N[apart_N]], values[first_N])
        result[name] = _plain(measure(distance_QP, task, num_bootstrap=num_bootstrap, seed=seed))
    return result


def _style_task(tracks: Sequence[Track]) -> tuple[Task, np.ndarray]:
    """Set the style task for tracks with a style; also gives their numbers among all tracks."""
    chosen = np.array([i for i, track in enumerate(tracks) if track.style], dtype=np.int64)
    song_N = _numbers([tracks[i].song for i in chosen])
    style_N = _numbers([tracks[i].style for i in chosen])
    same_song_NN = song_N[:, np.newaxis] == song_N
    same_style_NN = style_N[:, np.newaxis] == style_N
    task = Task(
        relevant_QP=same_style_NN & ~same_song_NN,
        # The same song in the same style is neither right nor wrong; it includes the query.
        eligible_QP=~(same_song_NN & same_style_NN),
        song_Q=song_N,
    )
    return task, chosen


def _style_retrieval(
    collection: Collection,
    by_track: Mapping[str, FloatArray],
    num_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Look for the same style in other songs."""
    if not any(track.style for track in collection.tracks):
        return {"absent": "the mix styles of these songs are not known"}
    task, chosen = _style_task(collection.tracks)
    if not task.answerable.any():
        return {"absent": "no style occurs in two songs beside another style"}
    styles = [collection.tracks[i].style for i in chosen]
    song_N, style_N = task.song_Q, _numbers(styles)
    result: dict[str, Any] = {
        "num_queries": int(task.answerable.sum()),
        "num_unanswerable": int((~task.answerable).sum()),
        "num_styles": len(set(styles)),
        "chance": chance(task),
        "style_over_song_ratio": {},
    }
    for name, values in by_track.items():
        distance_NN = _distances(name, values[chosen], values[chosen])
        result[name] = _plain(measure(distance_NN, task, num_bootstrap=num_bootstrap, seed=seed))
        ratio = style_over_song_ratio(
            style_contrast(distance_NN, song_N, style_N), num_bootstrap=num_bootstrap, seed=seed
        )
        result["style_over_song_ratio"][name] = None if ratio is None else asdict(ratio)
    return result


def _draw(
    folder: Path,
    collection: Collection,
    embedding_NE: FloatArray,
    song: Mapping[str, Any],
    style: Mapping[str, Any],
    history_path: Path | None,
) -> dict[str, Path]:
    """Draw what there is to draw.

    Returns:
        description -> PNG.
    """
    figures: dict[str, Path] = {}
    tasks = {
        name: values
        for name, values in (("song retrieval", song), ("style retrieval", style))
        if ENCODER in values
    }
    if tasks:
        path = folder / "recall.png"
        plots.plot_recall(
            path,
            {
                task: {
                    label: {k: Estimate(**v) for k, v in values[name].items()}
                    for name, label in ((ENCODER, "encoder"), (BASELINE, "64 features"))
                }
                for task, values in tasks.items()
            },
            {task: values["chance"] for task, values in tasks.items()},
        )
        figures["Recall with 95 % intervals, beside the plain features and chance"] = path
    groupings = {"song": [track.song[:12] for track in collection.tracks]}
    if any(track.style for track in collection.tracks):
        groupings = {"style": [t.style or "unknown" for t in collection.tracks]} | groupings
    path = folder / "projection.png"
    plots.plot_projection(path, embedding_NE, groupings)
    figures["Embeddings of the tracks in two dimensions (principal components)"] = path
    history = read_history(history_path)
    if history:
        path = folder / "training.png"
        plots.plot_training(path, history)
        figures["Training and validation over the epochs"] = path
    return figures


def read_history(path: Path | None) -> list[dict[str, float]]:
    """Read the training's history; empty where there is none.

    Raises:
        DataError: the file is no list of mappings with an epoch.
    """
    if path is None or not path.is_file():
        return []
    history = read_json(path)
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise DataError(f"{path}: expected a list with a mapping per epoch, found another value")
    if any("epoch" not in row for row in history):
        raise DataError(f"{path}: expected the key 'epoch' in every row, found one without")
    return [
        {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for row in history
    ]
