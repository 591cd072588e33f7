"""Evaluate an encoder on a collection, beside chance and three baselines.

*Retrieval of effect chains*, on any collection: a mix looks for the mix of another song whose stems
went through the same effects, see `mixprint.evaluation.held_out_chains`.

*Song retrieval*: the last segment of a track looks for the first segment of the same track among
the first segments of all tracks. Other mixes of the same composition are in the pool as wrong
answers.

*Style retrieval*, where the mix styles are known (generated data): a track, as the mean of its
segments' embeddings, looks for tracks of the same style among the other songs; its own song in
other styles is in the pool as a wrong answer, so recognising the song does not help.

*Linear probes*, where they are known: the settings of the console and the style, predicted for
songs that the probe has not met, and the song, predicted for styles that it has not met.

The baselines are the 64 standardised features, the mean log-mel levels of the stems, and an
encoder of the same architecture that was not trained.

Files that are written:
    metrics.json    all figures with their intervals
    details.json    figures of single settings; the encoder's scores for each track and chain
    plots/*.png     see `mixprint.evaluation.plots`
    report.html     all of it, with audio, in one file

Shape suffixes: N segment or track, E embedding, D feature, S stem, C channel, T sample, V value.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixprint import __version__
from mixprint.chains import HELD_OUT
from mixprint.collection.catalogue import Track, read_catalogue
from mixprint.collection.shards import SegmentRef, read_index
from mixprint.errors import DataError
from mixprint.evaluation import plots
from mixprint.evaluation.baselines import log_mel_mean
from mixprint.evaluation.chain_retrieval import MEASURES as CHAIN_MEASURES
from mixprint.evaluation.embedding import (
    DISTANCE_OF,
    ENCODER,
    FEATURES,
    LOG_MEL,
    UNTRAINED,
    Embedder,
    embed_segments,
    standardised_features,
)
from mixprint.evaluation.held_out_chains import ChainRetrieval, ChainTest, retrieve_chains
from mixprint.evaluation.measures import (
    STYLE_OVER_SONG,
    Retrieval,
    numbered,
    song_metrics,
    style_metrics,
    style_task,
)
from mixprint.evaluation.probes import MIN_GROUPS, class_probe, settings_probe
from mixprint.evaluation.report import METHODS, Evaluation, write_report
from mixprint.evaluation.retrieval import DISTANCES, BoolArray, Estimate, FloatArray, IntArray
from mixprint.evaluation.titles import song_titles
from mixprint.evaluation.truth import read_settings
from mixprint.features import Standardisation, extract
from mixprint.storage.atomic import read_json, write_json

log = logging.getLogger("mixprint.evaluation")

METRICS_VERSION = 3
# With fewer songs an interval says nothing, and neither does the mean.
MIN_SONGS = 3
MIN_STYLE_QUERIES = 3
# Tried in turn; the last one holds songs that the encoder was trained on.
SPLITS = (("test",), ("valid", "test"), ("train", "valid", "test"))
ALL_SPLITS = "all"
# Measures at the top level of the metrics, as `style_recall_at_1` with `_low` and `_high`.
HEADLINES = {
    "chain": CHAIN_MEASURES,
    "song": ("recall_at_1", "recall_at_5", "recall_at_10", "mean_rank", "median_rank", "map_at_10"),
    "style": ("recall_at_1", "map", STYLE_OVER_SONG),
}


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

    @property
    def references(self) -> list[SegmentRef]:
        """All segments in a row."""
        return [reference for row in self.segments for reference in row]

    @property
    def songs(self) -> list[str]:
        """The song of each track."""
        return [track.song for track in self.tracks]

    def means(self, values_NV: FloatArray) -> FloatArray:
        """Average rows of segments to rows of tracks."""
        counts = [len(row) for row in self.segments]
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        return np.add.reduceat(values_NV, starts, axis=0) / np.array(counts)[:, np.newaxis]


@dataclass(frozen=True)
class _Bootstrap:
    num_bootstrap: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Task:
    """Figures of a task as metrics.json holds them, and the encoder's retrieval behind them."""

    values: dict[str, Any]
    retrieval: Retrieval | None = None


def evaluate(
    *,
    stems_dir: Path,
    features_dir: Path,
    catalogue_dir: Path,
    encoder: Embedder,
    untrained: Embedder,
    out_dir: Path,
    chain_test: ChainTest,
    num_bootstrap: int,
    seed: int,
    device: torch.device | str = "cpu",
    history_path: Path | None = None,
    known_effects: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate, and write metrics.json, details.json, plots/*.png and report.html.

    Args:
        stems_dir: stem shards.
        features_dir: features.parquet and standardisation.json.
        catalogue_dir: the catalogue.
        encoder: what is evaluated, on `device`.
        untrained: its baseline, likewise: see `mixprint.evaluation.baselines`.
        out_dir: receives the results.
        chain_test: how many chains of effects are looked for.
        num_bootstrap: resamples of the songs for the intervals.
        seed: of the resampling.
        device: where the encoder computes.
        history_path: JSON of the training: a list with a mapping per epoch.
        known_effects: effects of `mixprint.chains` that the encoder was trained with.

    Returns:
        what metrics.json holds. `chain_recall_at_1`, `song_recall_at_1` and `style_recall_at_1` are
        there where the task could be set; otherwise the task's section says why not.

    Raises:
        DataError: an input is missing or broken, or no track has stems and features.
    """
    collection = select_tracks(read_catalogue(catalogue_dir), read_index(stems_dir))
    vectors, segment_s, digest = _all_vectors(collection, encoder, untrained, features_dir, device)
    by_track = {name: collection.means(values) for name, values in vectors.items()}
    resampling = _Bootstrap(num_bootstrap, seed)
    embed = _embedders(encoder, untrained, features_dir, device)
    chains = _chain_retrieval(collection, embed, device, chain_test, known_effects, num_bootstrap)
    song = _song_retrieval(collection, vectors, segment_s, resampling)
    style = _style_retrieval(collection, by_track, resampling)
    probes, settings_r2 = _probes(collection, by_track, resampling)
    metrics: dict[str, Any] = {
        **_described(collection),
        # Equal where the same tracks were evaluated on the same stems, whatever else there is.
        "evaluated_fingerprint": digest,
        "segment_s": segment_s,
        "chain_retrieval": chains.values,
        "song_retrieval": song.values,
        "style_retrieval": style.values,
        "probes": probes,
        "num_bootstrap": num_bootstrap,
        "seed": seed,
        "encoder_fingerprint": encoder.fingerprint,
        "device": str(device),
        **_headlines(chains.values, song.values, style.values, probes),
    }
    figures = _draw(
        out_dir / "plots", collection, vectors, by_track, chains, song, style, probes, history_path
    )
    write_report(
        out_dir / "report.html",
        Evaluation(
            metrics=metrics,
            settings_r2=settings_r2,
            figures=figures,
            tracks=collection.tracks,
            first_segments=[row[0] for row in collection.segments],
            distance_NN=_distances(ENCODER, by_track[ENCODER], by_track[ENCODER]),
        ),
    )
    write_json(out_dir / "details.json", _details(collection, chains, song, style, settings_r2))
    write_json(out_dir / "metrics.json", metrics)
    return metrics


def _described(collection: Collection) -> dict[str, Any]:
    """Say what is evaluated, and by what."""
    return {
        "schema_version": METRICS_VERSION,
        "split_used": collection.split_used,
        "split_reason": collection.split_reason,
        "num_tracks": len(collection.tracks),
        "num_songs": len(set(collection.songs)),
        "num_segments": len(collection.references),
        "sources": sorted({track.source for track in collection.tracks}),
        "versions": {"mixprint": __version__, "torch": torch.__version__},
    }


def _all_vectors(
    collection: Collection,
    encoder: Embedder,
    untrained: Embedder,
    features_dir: Path,
    device: torch.device | str,
) -> tuple[dict[str, FloatArray], float, str]:
    """Turn segments into the vectors that are compared, in the order of `DISTANCE_OF`.

    Returns:
        name -> vector_NE; the length of the longest segment in seconds; a fingerprint of the
        tracks and their stems.
    """
    digest = hashlib.sha256(_listed(collection).encode())

    def note(_row: int, stems_SCT: Tensor) -> Tensor:
        digest.update(stems_SCT.contiguous().numpy().data)
        return stems_SCT

    vectors, segment_s = embed_segments(
        {ENCODER: encoder.embed, UNTRAINED: untrained.embed, LOG_MEL: log_mel_mean},
        collection.references,
        device,
        change=note,
    )
    vectors[FEATURES] = standardised_features(features_dir, collection.references)
    return {name: vectors[name] for name in DISTANCE_OF}, segment_s, digest.hexdigest()


def _embedders(
    encoder: Embedder, untrained: Embedder, features_dir: Path, device: torch.device | str
) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """Return what makes vectors of stems_BSCT, by the names of `DISTANCE_OF`."""
    standardisation = Standardisation.load(features_dir / "standardisation.json").to(device)

    def features(stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        return standardisation.apply(extract(stems_BSCT, sample_rate_hz))

    return {
        ENCODER: encoder.embed,
        FEATURES: features,
        LOG_MEL: log_mel_mean,
        UNTRAINED: untrained.embed,
    }


def _chain_retrieval(
    collection: Collection,
    embedders: Mapping[str, Callable[[Tensor, int], Tensor]],
    device: torch.device | str,
    test: ChainTest,
    known_effects: Sequence[str],
    num_bootstrap: int,
) -> ChainRetrieval:
    """Look for chains of effects that are put on the collection's segments."""
    owners = [
        track
        for track, row in zip(collection.tracks, collection.segments, strict=True)
        for _ in row
    ]
    found = retrieve_chains(
        collection.references,
        [track.song for track in owners],
        [track.style for track in owners],
        embedders,
        test,
        device=device,
        num_bootstrap=num_bootstrap,
    )
    # By effects that an encoder has met it cannot be compared with others.
    found.values["known_effects"] = sorted(set(known_effects) & HELD_OUT)
    return found


def _details(
    collection: Collection,
    chains: ChainRetrieval,
    song: _Task,
    style: _Task,
    settings_r2: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what details.json holds."""
    return {
        "settings_r2": settings_r2,
        "scores": {
            "chain": chains.scores,
            "song": _scores_by_track(collection, song.retrieval),
            "style": _scores_by_track(collection, style.retrieval),
        },
        "songs": {track.track_id: track.song for track in collection.tracks},
    }


def _listed(collection: Collection) -> str:
    """Write down which segments are evaluated, and what is known of their tracks."""
    return json.dumps(
        [
            (track.track_id, track.song, track.style, [r.start_s for r in row])
            for track, row in zip(collection.tracks, collection.segments, strict=True)
        ]
    )


def collect(tracks: Sequence[Track], references: Sequence[SegmentRef]) -> Collection:
    """Find the tracks that have stems, of any split.

    Raises:
        DataError: there is none.
    """
    by_track: dict[str, list[SegmentRef]] = {}
    for reference in references:
        by_track.setdefault(reference.track_id, []).append(reference)
    with_stems = sorted((t for t in tracks if t.track_id in by_track), key=lambda t: t.track_id)
    if not with_stems:
        raise DataError(f"evaluation: expected tracks with stems, found none of {len(tracks)}")
    segments = [sorted(by_track[t.track_id], key=lambda r: r.segment) for t in with_stems]
    return Collection(with_stems, segments, ALL_SPLITS, "")


def select_tracks(tracks: Sequence[Track], references: Sequence[SegmentRef]) -> Collection:
    """Choose the tracks that are evaluated: the test split if it has enough songs.

    Otherwise validation songs are added, then the training songs; `split_used` says so.

    Raises:
        DataError: no track has stems.
    """
    found = collect(tracks, references)
    reasons: list[str] = []
    for splits in SPLITS:
        chosen = [i for i, track in enumerate(found.tracks) if track.split in splits]
        name = ALL_SPLITS if splits == SPLITS[-1] else "+".join(splits)
        lack = _lack([found.tracks[i] for i in chosen])
        if not lack or name == ALL_SPLITS:
            break
        reasons.append(f"{name}: {lack}")
    if name == ALL_SPLITS:
        reasons.append("all songs are used, those of the training too, so the figures flatter")
        log.warning("evaluation on all songs: %s", "; ".join(reasons))
    return Collection(
        [found.tracks[i] for i in chosen],
        [found.segments[i] for i in chosen],
        name,
        "; ".join(reasons) or "held out from the training",
    )


def _lack(tracks: Sequence[Track]) -> str:
    """Say what keeps a set of tracks from being evaluated; empty if nothing does."""
    num_songs = len({track.song for track in tracks})
    if num_songs < MIN_SONGS:
        return f"{num_songs} songs, at least {MIN_SONGS} are needed"
    if any(track.style for track in tracks):
        num_queries = int(_answerable(tracks).sum())
        if num_queries < MIN_STYLE_QUERIES:
            return f"{num_queries} style queries, at least {MIN_STYLE_QUERIES} are needed"
    return ""


def _distances(name: str, a: FloatArray, b: FloatArray) -> FloatArray:
    return DISTANCES[DISTANCE_OF[name]](a, b)


def _headlines(
    chains: Mapping[str, Any],
    song: Mapping[str, Any],
    style: Mapping[str, Any],
    probes: Mapping[str, Any],
) -> dict[str, float]:
    """Lift the encoder's main figures, with their intervals, to the top of the metrics."""
    chosen = {
        measure if measure.startswith(task) else f"{task}_{measure}": values[ENCODER][measure]
        for task, values in (("chain", chains), ("song", song), ("style", style))
        for measure in HEADLINES[task]
        if ENCODER in values and measure in values[ENCODER]
    }
    for task, measure in (("settings", "mean_r2"), ("song", "accuracy"), ("style", "accuracy")):
        if ENCODER in probes[task]:
            chosen[f"probe_{task}_{measure}"] = probes[task][ENCODER][measure]
    return {
        f"{name}{end}": estimate[key]
        for name, estimate in chosen.items()
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _song_retrieval(
    collection: Collection,
    vectors: Mapping[str, FloatArray],
    segment_s: float,
    resampling: _Bootstrap,
) -> _Task:
    """Look for the first segment of the track that a last segment belongs to."""
    counts = [len(row) for row in collection.segments]
    first_N = np.concatenate(([0], np.cumsum(counts)[:-1]))
    last_N = np.cumsum(counts) - 1
    # A query that shares samples with its answer would be found by them.
    apart_N = np.array(
        [row[-1].start_s - row[0].start_s >= segment_s - 1e-6 for row in collection.segments]
    )
    num_tracks, num_queries = len(collection.tracks), int(apart_N.sum())
    if not num_queries or num_tracks < 2:
        return _Task(
            {
                "absent": f"expected at least 2 tracks and one of two segments "
                f"({2 * segment_s:g} s) that do not overlap, found {num_tracks} tracks, "
                f"{num_queries} so long"
            }
        )
    query_Q = np.flatnonzero(apart_N)
    found = {
        name: song_metrics(
            values[last_N[query_Q]],
            values[first_N],
            query_Q.tolist(),
            [collection.songs[i] for i in query_Q],
            distance=DISTANCE_OF[name],
            **asdict(resampling),
        )
        for name, values in vectors.items()
    }
    encoder = found[ENCODER]
    return _Task(
        {
            "num_queries": num_queries,
            "num_too_short": num_tracks - num_queries,
            "pool_size": num_tracks,
            "chance": encoder.chance,
            **{name: retrieval.to_values() for name, retrieval in found.items()},
        },
        replace(encoder, query_Q=query_Q[encoder.query_Q]),
    )


def _styled(tracks: Sequence[Track]) -> IntArray:
    """Return the numbers of the tracks whose style is known."""
    return np.array([i for i, track in enumerate(tracks) if track.style], dtype=np.int64)


def _answerable(tracks: Sequence[Track]) -> BoolArray:
    """Tell which tracks of known style can be queries of the style retrieval."""
    chosen = [tracks[i] for i in _styled(tracks)]
    return style_task([t.style for t in chosen], [t.song for t in chosen]).answerable


def _style_retrieval(
    collection: Collection, by_track: Mapping[str, FloatArray], resampling: _Bootstrap
) -> _Task:
    """Look for the same style in other songs."""
    chosen = _styled(collection.tracks)
    if not len(chosen):
        return _Task({"absent": "the mix styles of these songs are not known"})
    if not _answerable(collection.tracks).any():
        return _Task({"absent": "no style occurs in two songs beside another style"})
    styles = [collection.tracks[i].style for i in chosen]
    found = {
        name: style_metrics(
            values[chosen],
            styles,
            [collection.songs[i] for i in chosen],
            distance=DISTANCE_OF[name],
            **asdict(resampling),
        )
        for name, values in by_track.items()
    }
    encoder = found[ENCODER]
    return _Task(
        {
            "num_queries": len(encoder.query_Q),
            "num_unanswerable": encoder.num_unanswerable,
            "num_styles": len(set(styles)),
            "chance": encoder.chance,
            **{name: retrieval.to_values() for name, retrieval in found.items()},
        },
        replace(encoder, query_Q=chosen[encoder.query_Q], nearest_Q=chosen[encoder.nearest_Q]),
    )


def _probes(
    collection: Collection, by_track: Mapping[str, FloatArray], resampling: _Bootstrap
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read settings, style and song out of the embeddings by linear regression.

    Returns:
        the figures of the three probes, and R2 by method and single setting.
    """
    tracks, songs = collection.tracks, collection.songs
    styles = [track.style for track in tracks]
    probes: dict[str, Any] = {}
    settings_r2: dict[str, Any] = {}
    try:
        probes["settings"], settings_r2 = _settings_probe(tracks, by_track, resampling)
    except DataError as error:
        probes["settings"] = {"absent": str(error)}
    for task, classes, groups in (("style", styles, songs), ("song", songs, styles)):
        found = {
            name: class_probe(values, classes, groups, songs, **asdict(resampling))
            for name, values in by_track.items()
            if all(styles)
        }
        kept = {name: probe for name, probe in found.items() if probe is not None}
        probes[task] = {
            "absent": f"expected at least {MIN_GROUPS} songs and {MIN_GROUPS} known styles, each "
            "song in several styles and each style on several songs"
        }
        if kept:
            probes[task] = {
                "num_tracks": kept[ENCODER].num_mixes,
                "chance": {"accuracy": kept[ENCODER].chance},
                **{name: {"accuracy": asdict(probe.accuracy)} for name, probe in kept.items()},
            }
    return probes, settings_r2


def _settings_probe(
    tracks: Sequence[Track], by_track: Mapping[str, FloatArray], resampling: _Bootstrap
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predict the console settings.

    Raises:
        DataError: they are not known, or there are too few songs.
    """
    songs = [track.song for track in tracks]
    if len(set(songs)) < MIN_GROUPS:
        raise DataError(f"expected at least {MIN_GROUPS} songs, found {len(set(songs))}")
    truth = read_settings(tracks)
    found = {
        name: settings_probe(
            values, truth.values_NV, truth.names, truth.families, songs, **asdict(resampling)
        )
        for name, values in by_track.items()
    }
    figures: dict[str, Any] = {
        name: {"mean_r2": asdict(probe.mean_r2), "by_family": _plain(probe.by_family)}
        for name, probe in found.items()
    }
    figures |= {"num_settings": len(truth.names), "chance": {"mean_r2": 0.0}}
    return figures, {name: _plain(probe.by_setting) for name, probe in found.items()}


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _scores_by_track(
    collection: Collection, retrieval: Retrieval | None
) -> dict[str, dict[str, float]]:
    """Return the encoder's score of each query: measure -> track -> score."""
    if retrieval is None:
        return {}
    ids = [collection.tracks[i].track_id for i in retrieval.query_Q]
    return {
        name: dict(zip(ids, values_Q.tolist(), strict=True))
        for name, values_Q in retrieval.scores.items()
    }


def _draw(
    folder: Path,
    collection: Collection,
    vectors: Mapping[str, FloatArray],
    by_track: Mapping[str, FloatArray],
    chains: ChainRetrieval,
    song: _Task,
    style: _Task,
    probes: Mapping[str, Any],
    history_path: Path | None,
) -> dict[str, Path]:
    """Draw what there is to draw.

    Returns:
        description -> PNG.
    """
    figures = _draw_recall(folder, chains, song, style)
    tracks = collection.tracks
    # One point per segment; the segments of a track share its style and its song.
    owner_N = np.repeat(np.arange(len(tracks)), [len(row) for row in collection.segments])
    titles = song_titles(tracks)
    groupings = {"song": [titles[tracks[i].song] for i in owner_N]}
    if any(track.style for track in tracks):
        groupings = {"style": [tracks[i].style or "unknown" for i in owner_N]} | groupings
    path = folder / "projection.png"
    plots.plot_projection(path, vectors[ENCODER], groupings)
    figures[
        "Embeddings of the segments in two dimensions (t-SNE): only who is near whom counts"
    ] = path
    if style.retrieval is not None:
        path = folder / "confusion.png"
        found = style.retrieval
        plots.plot_confusion(
            path,
            [tracks[i].style for i in found.query_Q],
            [tracks[i].style for i in found.nearest_Q],
        )
        figures["Style of the nearest track (columns) for each style that is looked for"] = path
    if ENCODER in probes["settings"]:
        path = folder / "probes.png"
        plots.plot_probes(
            path,
            {
                label: {k: Estimate(**v) for k, v in probes["settings"][name]["by_family"].items()}
                for name, label in METHODS.items()
            },
        )
        figures["Console settings predicted for unseen songs: R2 by kind of setting"] = path
    changes = _feature_changes(collection, by_track[FEATURES])
    if changes:
        path = folder / "features.png"
        plots.plot_feature_changes(path, changes)
        figures["How far the 64 features lie apart, in standard deviations of the training"] = path
    history = read_history(history_path)
    if history:
        path = folder / "training.png"
        plots.plot_training(path, history)
        figures["Training and validation over the epochs"] = path
    _remove_others(folder, set(figures.values()))
    return figures


def _draw_recall(
    folder: Path, chains: ChainRetrieval, song: _Task, style: _Task
) -> dict[str, Path]:
    """Draw how much each task finds: description -> PNG."""
    tasks = {
        name: values
        for name, values in (
            ("retrieval of effect chains", chains.values),
            ("style retrieval", style.values),
            ("song retrieval", song.values),
        )
        if "absent" not in values
    }
    figures: dict[str, Path] = {}
    if "absent" not in chains.values:
        path = folder / "chains.png"
        plots.plot_recall_by_length(
            path,
            {
                label: {
                    int(length): Estimate(**found[name]["recall_at_1"])
                    for length, found in chains.values["by_length"].items()
                }
                for name, label in METHODS.items()
            },
            chains.values["chance"]["recall_at_1"],
        )
        figures["Effect chains found at once, by the number of effects on each stem"] = path
    if tasks:
        path = folder / "recall.png"
        plots.plot_recall(
            path,
            {
                task: {
                    label: {k: Estimate(**v) for k, v in values[name].items()}
                    for name, label in METHODS.items()
                }
                for task, values in tasks.items()
            },
            {task: values["chance"] for task, values in tasks.items()},
        )
        figures["Recall with 95 % intervals, beside the baselines and chance"] = path
    return figures


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove figures of an earlier evaluation that could not be drawn this time."""
    for path in folder.glob("*.png"):
        if path not in kept:
            path.unlink()


def _feature_changes(collection: Collection, feature_ND: FloatArray) -> dict[str, FloatArray]:
    """Measure each feature's RMS difference between mixes of one song, and between songs.

    Returns:
        description -> change_D; only those of which there are pairs.
    """
    song_N, style_N = (
        numbered([getattr(track, name) for track in collection.tracks])
        for name in ("song", "style")
    )
    same_song_NN = song_N[:, np.newaxis] == song_N
    same_style_NN = style_N[:, np.newaxis] == style_N
    changes = {}
    for name, pairs_NN in (
        ("the same song in another style", same_song_NN & ~same_style_NN),
        ("the same style in another song", same_style_NN & ~same_song_NN),
    ):
        if pairs_NN.any() and any(track.style for track in collection.tracks):
            # Sum over pairs of (a - b)^2, without a list of the pairs; each is counted twice.
            squares_D = pairs_NN.sum(axis=0) @ feature_ND**2
            products_D = (feature_ND * (pairs_NN @ feature_ND)).sum(axis=0)
            changes[name] = np.sqrt(2 * (squares_D - products_D).clip(0) / pairs_NN.sum())
    return changes


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
