"""Quality regression: the encoder stays as it is, and a small head learns scores of mixes.

Scores come from a table (`read_scores`), for example of a listening test. Without one,
`degraded_mixes` damages mixes by known amounts, so that the method can be tried and measured.

Shape suffixes: N mix, E embedding, S stem, C channel, T sample.
"""

import csv
import logging
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from mixprint.checkpoints.form import CheckpointFiles, Form
from mixprint.collection.catalogue import Track
from mixprint.collection.shards import list_shards, read_index, recipe_of
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.evaluation.baselines import log_mel_mean, untrained_encoder
from mixprint.evaluation.degradations import DEGRADATIONS, degrade
from mixprint.evaluation.embedding import ENCODER, FEATURES, LOG_MEL, UNTRAINED, embed_segments
from mixprint.evaluation.evaluate import Collection, collect
from mixprint.evaluation.measures import numbered
from mixprint.evaluation.probes import MIN_GROUPS, parts
from mixprint.evaluation.retrieval import (
    Estimate,
    FloatArray,
    bootstrap,
    bootstrap_r2,
    interval,
)
from mixprint.features import extract
from mixprint.fingerprint import code_version, file_sha256, fingerprint
from mixprint.schema import Range, WithOthers, shortened
from mixprint.storage.atomic import read_json, write_json
from mixprint.storage.outputs import (
    Kind,
    check_folder,
    check_place,
    remove_result,
    reserved,
    result_in,
)
from mixprint.text import shown

log = logging.getLogger("mixprint.quality")

COLUMNS = ("track", "score")
HEAD_NAME, RESULTS_NAME = "head", "quality.json"
# The first heads did not say their version.
FORM = Form("mixprint-quality-head", unstated={"format_version": 1})
QUALITY = Kind(
    noun="a regression of quality",
    marker=RESULTS_NAME,
    keys=frozenset({"num_mixes", "num_songs", "labels", "encoder_fingerprint"}),
    names=(*map(str, CheckpointFiles.named(Path(), HEAD_NAME)), RESULTS_NAME),
)
MAX_VARIANTS = 10_000
MAX_BOOTSTRAP = 1_000_000
MAX_SEED = 2**32 - 1
HIDDEN, DROPOUT = 64, 0.2
NUM_STEPS, LEARNING_RATE, WEIGHT_DECAY = 200, 1e-3, 0.1
_NUM_SHOWN = 20


def read_scores(path: Path, tracks: Sequence[Track]) -> dict[str, float]:
    """Read a table of scores.

    Args:
        path: CSV with the header `track,score`; a track is its `track_id`, or its title where no
            other track has that.
        tracks: the catalogue.

    Returns:
        track_id -> score.

    Raises:
        DataError: the table cannot be read, has another header or no row; or rows are bad: an
            unknown or ambiguous track, a score that is no finite number, a track that was listed
            before. All bad rows are listed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(path)}: expected a readable CSV, found: {error}") from error
    header = tuple(cell.strip() for cell in lines[0]) if lines else ()
    if header != COLUMNS:
        raise DataError(
            f"{shown(path)}: expected the header {','.join(COLUMNS)!r}, found {','.join(header)!r}"
        )
    named: dict[str, set[str]] = {}
    for track in tracks:
        for name in (track.track_id, track.title):
            named.setdefault(_plain(name), set()).add(track.track_id)
    scores: dict[str, float] = {}
    line_of: dict[str, int] = {}
    problems = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        problem, track_id, score = _row(cells, named)
        if not problem and track_id in line_of:
            problem = f"{cells[0].strip()!r} was scored in line {line_of[track_id]} already"
        if problem:
            problems.append(f"line {number}: {problem}")
        else:
            scores[track_id], line_of[track_id] = score, number
    if problems:
        more = [f"and {len(problems) - _NUM_SHOWN} more"] if len(problems) > _NUM_SHOWN else []
        raise DataError(
            f"{shown(path)}: expected a known track and a number in each row, found "
            f"{len(problems)} bad rows:\n  " + "\n  ".join([*problems[:_NUM_SHOWN], *more])
        )
    if not scores:
        raise DataError(f"{shown(path)}: expected scores of tracks, found no row")
    return scores


def _plain(name: str) -> str:
    """Write a name in one way: accents are part of a letter or follow it, as programs like."""
    return unicodedata.normalize("NFC", name)


def _row(cells: Sequence[str], named: Mapping[str, set[str]]) -> tuple[str, str, float]:
    """Read a row; gives what is wrong with it, or nothing, the track and the score."""
    if len(cells) != len(COLUMNS):
        return f"expected {len(COLUMNS)} values, found {len(cells)}", "", 0.0
    name, text = (cell.strip() for cell in cells)
    ids = named.get(_plain(name), set())
    if len(ids) != 1:
        found = "unknown track" if not ids else f"{len(ids)} tracks have the title"
        return f"{found} {name!r}", "", 0.0
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        return f"expected a finite number as the score of {name!r}, found {text!r}", "", 0.0
    return "", next(iter(ids)), score


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """The part of a head's description that is read."""

    embedding_dim: Annotated[int, Range(1, 1 << 14)]
    encoder: str


class QualityHead(nn.Module):
    """Two layers from an embedding to a score; it standardises both by what it was fitted on."""

    mean_E: Tensor
    std_E: Tensor
    score_2: Tensor

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embedding_dim, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 1)
        )
        self.register_buffer("mean_E", torch.zeros(embedding_dim))
        self.register_buffer("std_E", torch.ones(embedding_dim))
        self.register_buffer("score_2", torch.tensor([0.0, 1.0]))

    def forward(self, embedding_NE: Tensor) -> Tensor:
        """Predict score_N."""
        standard_NE = (embedding_NE - self.mean_E) / self.std_E
        mean, std = self.score_2
        score_N: Tensor = self.layers(standard_NE).squeeze(-1) * std + mean
        return score_N

    @classmethod
    def fit(
        cls, embedding_NE: FloatArray, score_N: FloatArray, songs: Sequence[str], *, seed: int
    ) -> Self:
        """Fit a head on labelled mixes.

        How many steps are taken is chosen on a fifth of the songs, or a half of two, that a first
        head does not see; the head that is given back is fitted on all for so many steps.

        Args:
            embedding_NE: one row per mix.
            score_N: their scores.
            songs: the song of each mix, at least two.
            seed: of the weights and the dropout; equal seeds give equal heads on one machine.

        Returns:
            the head, in evaluation mode.
        """
        x_NE = torch.from_numpy(embedding_NE).float()
        y_N = torch.from_numpy(score_N).float()
        watched_N = torch.from_numpy(parts(numbered(songs))[0])
        errors: list[float] = []

        def watch(head: Self) -> None:
            errors.append(float((head(x_NE[watched_N]) - y_N[watched_N]).square().mean()))

        cls._fitted(x_NE[~watched_N], y_N[~watched_N], NUM_STEPS, seed, watch)
        num_steps = 1 + int(np.argmin(errors))
        return cls._fitted(x_NE, y_N, num_steps, seed).eval().requires_grad_(False)

    @classmethod
    def _fitted(
        cls,
        x_NE: Tensor,
        y_N: Tensor,
        num_steps: int,
        seed: int,
        watch: Callable[[Self], None] | None = None,
    ) -> Self:
        """Take steps; `watch` sees the head after each of them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = cls(x_NE.shape[1])
            head.mean_E, head.std_E = x_NE.mean(dim=0), _spread(x_NE)
            head.score_2 = torch.stack((y_N.mean(), _spread(y_N)))
            optimizer = torch.optim.AdamW(
                head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
            )
            for _ in range(num_steps):
                head.train()
                optimizer.zero_grad(set_to_none=True)
                # In units of the scores' spread, so that their scale does not set the step.
                ((head(x_NE) - y_N) / head.score_2[1]).square().mean().backward()
                optimizer.step()
                if watch is not None:
                    with torch.inference_mode():
                        watch(head.eval())
        return head

    def predict(self, embedding_NE: FloatArray) -> FloatArray:
        """Predict the scores of mixes."""
        with torch.inference_mode():
            return self(torch.from_numpy(embedding_NE).float()).double().numpy()

    def save(self, folder: Path, encoder_fingerprint: str, results: Mapping[str, Any]) -> None:
        """Write the weights, and beside them what they were fitted to.

        Args:
            folder: receives `head.safetensors` and `head.json`.
            encoder_fingerprint: of the encoder whose embeddings the head takes.
            results: how good it is.
        """
        FORM.write(
            CheckpointFiles.named(folder, HEAD_NAME),
            self.state_dict(),
            {
                "embedding_dim": len(self.mean_E),
                "encoder": encoder_fingerprint,
                "results": dict(results),
            },
        )

    @classmethod
    def load(cls, folder: Path, encoder_fingerprint: str) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is no head, is damaged, or was fitted to another encoder.
        """
        checkpoint = FORM.read(CheckpointFiles.named(folder, HEAD_NAME))
        known = checkpoint.described(_Description)
        if known.encoder != encoder_fingerprint:
            raise CheckpointError(
                f"{folder}: the head takes embeddings of the encoder {shortened(known.encoder)}, "
                f"got those of {encoder_fingerprint}"
            )
        head = checkpoint.restored(lambda: cls(known.embedding_dim))
        return head.eval().requires_grad_(False)


def _spread(values: Tensor) -> Tensor:
    """Return the standard deviation along the first axis, 1 where nothing varies."""
    std = values.std(dim=0, correction=0)
    return torch.where(std > 1e-6, std, torch.ones_like(std))


@dataclass(frozen=True, eq=False)
class QualityResult:
    """Quality of predicted scores, for mixes whose song the head has not met.

    Attributes:
        r2: 1 less the squared error over that of the mean of the fitted mixes; knowing nothing
            gives 0.
        kendall_tau: rank correlation of predicted and true scores (tau-b), -1 to 1.
        predicted_N: the prediction for each mix.
    """

    r2: Estimate
    kendall_tau: Estimate
    predicted_N: FloatArray

    def to_values(self) -> dict[str, dict[str, float]]:
        """Return the figures as plain values, for JSON."""
        return {"r2": asdict(self.r2), "kendall_tau": asdict(self.kendall_tau)}


def cross_validate(
    embedding_NE: FloatArray,
    score_N: FloatArray,
    songs: Sequence[str],
    *,
    num_bootstrap: int = 1000,
    seed: int = 1,
) -> QualityResult:
    """Predict every mix by a head that has not met its song.

    Args:
        embedding_NE: one row per mix.
        score_N: the scores.
        songs: the song of each mix; dealt to at most five parts, each of which is predicted by a
            head that was fitted on the others.
        num_bootstrap: resamples of the songs.
        seed: of the heads and the resampling.

    Raises:
        DataError: there are fewer than three songs, or all scores are equal.
    """
    song_N = numbered(songs)
    num_songs = len(set(songs))
    if num_songs < MIN_GROUPS or not np.ptp(score_N) > 0:
        raise DataError(
            f"quality: expected scores that differ, of at least {MIN_GROUPS} songs, found "
            f"{len(set(score_N.tolist()))} different scores of {num_songs} songs"
        )
    predicted_N, mean_N = np.empty_like(score_N), np.empty_like(score_N)
    for held_out_N in parts(song_N):
        fitted_N = ~held_out_N
        fitted_songs = [song for song, is_fitted in zip(songs, fitted_N, strict=True) if is_fitted]
        head = QualityHead.fit(embedding_NE[fitted_N], score_N[fitted_N], fitted_songs, seed=seed)
        predicted_N[held_out_N] = head.predict(embedding_NE[held_out_N])
        mean_N[held_out_N] = score_N[fitted_N].mean()
    error_N1, spread_N1 = ((score_N - x_N)[:, np.newaxis] ** 2 for x_N in (predicted_N, mean_N))
    r2_1, r2_R1 = bootstrap_r2(error_N1, spread_N1, song_N, num_bootstrap, seed)
    pairs_N2 = np.stack((predicted_N, score_N), axis=1)
    return QualityResult(
        r2=interval(float(r2_1[0]), r2_R1[:, 0]),
        kendall_tau=bootstrap(pairs_N2, song_N, _tau, num_bootstrap, seed),
        predicted_N=predicted_N,
    )


def _tau(pairs_N2: FloatArray) -> float:
    tau = float(kendalltau(pairs_N2[:, 0], pairs_N2[:, 1]).statistic)
    # Where one side does not vary there is no order, so none is predicted.
    return tau if math.isfinite(tau) else 0.0


@dataclass(frozen=True, eq=False)
class LabelledMixes:
    """Mixes with scores, as every representation sees them.

    Attributes:
        vectors: representation -> one row per mix.
        score_N: the scores.
        songs: the song of each mix.
        kinds: what was done to each mix; empty where nothing was.
    """

    vectors: dict[str, FloatArray]
    score_N: FloatArray
    songs: list[str]
    kinds: list[str]


def scored_mixes(
    collection: Collection,
    scores: Mapping[str, float],
    encoder: Encoder,
    *,
    seed: int,
    device: torch.device | str,
) -> LabelledMixes:
    """Embed the tracks that have a score; a track is the mean of its segments.

    Raises:
        DataError: a scored track has no stems.
    """
    chosen = [i for i, track in enumerate(collection.tracks) if track.track_id in scores]
    tracks = [collection.tracks[i] for i in chosen]
    if missing := scores.keys() - {track.track_id for track in tracks}:
        raise DataError(f"quality: expected stems of every scored track, none of {sorted(missing)}")
    part = Collection(tracks, [collection.segments[i] for i in chosen], "", "")
    vectors, _ = embed_segments(_embedders(encoder, seed), part.references, device)
    return LabelledMixes(
        vectors={name: part.means(values) for name, values in vectors.items()},
        score_N=np.array([scores[track.track_id] for track in tracks]),
        songs=part.songs,
        kinds=[""] * len(tracks),
    )


def degraded_mixes(
    collection: Collection,
    encoder: Encoder,
    *,
    num_variants: int,
    seed: int,
    device: torch.device | str,
) -> LabelledMixes:
    """Damage the first segment of each track, several times by known amounts, and embed it.

    The kinds of damage take turns, the severity is drawn evenly from 0 to 1, and the score is
    what is left: 1 - severity.

    Args:
        collection: the tracks.
        encoder: on `device`.
        num_variants: how many damaged mixes each track gives.
        seed: of the severities, the noise and the untrained baseline.
        device: where the encoder computes.
    """
    references = [row[0] for row in collection.segments for _ in range(num_variants)]
    kinds = [list(DEGRADATIONS)[i % len(DEGRADATIONS)] for i in range(len(references))]
    severity_N = np.random.default_rng(seed).random(len(references))

    def damage(row: int, stems_SCT: Tensor) -> Tensor:
        return degrade(stems_SCT, kinds[row], float(severity_N[row]), seed=seed + row)

    vectors, _ = embed_segments(_embedders(encoder, seed), references, device, change=damage)
    songs = [song for song in collection.songs for _ in range(num_variants)]
    return LabelledMixes(vectors, 1 - severity_N, songs, kinds)


def _embedders(encoder: Encoder, seed: int) -> dict[str, Callable[[Tensor, int], Tensor]]:
    standardisation = encoder.standardisation

    def features(stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        return standardisation.apply(extract(stems_BSCT, sample_rate_hz))

    return {
        ENCODER: encoder.embed,
        FEATURES: features,
        LOG_MEL: log_mel_mean,
        UNTRAINED: untrained_encoder(encoder, seed).embed,
    }


def regress_quality(
    *,
    tracks: Sequence[Track],
    stems_dir: Path,
    encoder: Encoder,
    out_dir: Path,
    scores_path: Path | None,
    num_variants: int,
    num_bootstrap: int,
    seed: int,
    device: torch.device | str = "cpu",
    overwrite: bool = True,
) -> dict[str, Any]:
    """Measure by cross-validation how well the encoder tells quality, and write a head.

    What was made of the same before is left as it is.

    Args:
        tracks: the catalogue.
        stems_dir: stem shards.
        encoder: on `device`; its weights do not change.
        out_dir: receives `quality.json`, and the head that was fitted on all mixes.
        scores_path: see `read_scores`; None damages the mixes by known amounts instead.
        num_variants: damaged mixes of each track.
        num_bootstrap: resamples of the songs.
        seed: of everything that is drawn.
        device: where the encoder computes.
        overwrite: replace another result there; nothing else is ever replaced.

    Returns:
        what quality.json holds: R2 and Kendall's tau of the encoder and of the baselines.

    Raises:
        ConfigError: a number is out of range.
        DataError: see `read_scores`, `scored_mixes` and `cross_validate`; the folder cannot be
            written, or holds something that is not to be replaced.
    """
    _check_numbers(variants=num_variants, bootstrap=num_bootstrap, seed=seed)
    check_place(out_dir, is_folder=True)
    scores = None if scores_path is None else read_scores(scores_path, tracks)
    made_of = fingerprint(
        {
            "tracks": [asdict(track) for track in tracks],
            "stems": [recipe_of(path) for path in list_shards(stems_dir)],
            "encoder": encoder.fingerprint,
            "scores": None if scores_path is None else file_sha256(scores_path),
            "num_variants": num_variants,
            "num_bootstrap": num_bootstrap,
            "seed": seed,
            "code": code_version(__name__),
        }
    )
    with reserved(out_dir, "a regression of quality"):
        if QUALITY.is_whole(out_dir) and len(QUALITY.files(out_dir)) == len(QUALITY.names):
            earlier: dict[str, Any] = read_json(out_dir / RESULTS_NAME)
            if earlier.get("made_of") == made_of:
                log.info("%s: was there already", shown(out_dir))
                return earlier
        inputs = [] if scores_path is None else [scores_path]
        check_folder(out_dir, QUALITY, inputs=inputs, overwrite=overwrite)
        results, head = _regress(
            tracks,
            stems_dir,
            encoder,
            scores,
            num_variants=num_variants,
            num_bootstrap=num_bootstrap,
            seed=seed,
            device=device,
        )
        if scores_path is not None:
            results["labels"] = shown(scores_path.name)
        results["made_of"] = made_of
        remove_result(out_dir, QUALITY)
        with result_in(out_dir, QUALITY):
            head.save(out_dir, encoder.fingerprint, results)
            write_json(out_dir / RESULTS_NAME, results)
    return results


def _check_numbers(**values: int) -> None:
    """Refuse a number that is out of range."""
    limits = {"variants": (1, MAX_VARIANTS), "bootstrap": (1, MAX_BOOTSTRAP), "seed": (0, MAX_SEED)}
    for name, value in values.items():
        least, most = limits[name]
        if not least <= value <= most:
            raise ConfigError(f"{name}: expected {least} to {most}, got {value}")


def _regress(
    tracks: Sequence[Track],
    stems_dir: Path,
    encoder: Encoder,
    scores: Mapping[str, float] | None,
    *,
    num_variants: int,
    num_bootstrap: int,
    seed: int,
    device: torch.device | str,
) -> tuple[dict[str, Any], QualityHead]:
    """Do the work of `regress_quality`: give the results, and the head that is fitted on all."""
    collection = collect(tracks, read_index(stems_dir))
    if scores is not None:
        labelled = scored_mixes(collection, scores, encoder, seed=seed, device=device)
    else:
        labelled = degraded_mixes(
            collection, encoder, num_variants=num_variants, seed=seed, device=device
        )
    found = {
        name: cross_validate(
            values, labelled.score_N, labelled.songs, num_bootstrap=num_bootstrap, seed=seed
        )
        for name, values in labelled.vectors.items()
    }
    results: dict[str, Any] = {
        "num_mixes": len(labelled.songs),
        "num_songs": len(set(labelled.songs)),
        # The head has not met the songs that it is tested on, but the encoder may have.
        "num_training_songs": len(
            set(labelled.songs) & {track.song for track in tracks if track.split == "train"}
        ),
        "labels": "generated degradations",
        "chance": {"r2": 0.0, "kendall_tau": 0.0},
        "encoder_fingerprint": encoder.fingerprint,
        "num_bootstrap": num_bootstrap,
        "seed": seed,
        **{name: result.to_values() for name, result in found.items()},
    }
    if kinds := [kind for kind in DEGRADATIONS if kind in labelled.kinds]:
        results["encoder_kendall_tau_by_kind"] = {
            kind: _tau_of_kind(labelled, found[ENCODER], kind, num_bootstrap, seed)
            for kind in kinds
        }
    head = QualityHead.fit(labelled.vectors[ENCODER], labelled.score_N, labelled.songs, seed=seed)
    return results, head


def _tau_of_kind(
    labelled: LabelledMixes, result: QualityResult, kind: str, num_bootstrap: int, seed: int
) -> dict[str, float]:
    is_kind_N = np.array([other == kind for other in labelled.kinds])
    pairs_N2 = np.stack((result.predicted_N, labelled.score_N), axis=1)[is_kind_N]
    song_N = numbered(labelled.songs)[is_kind_N]
    return asdict(bootstrap(pairs_N2, song_N, _tau, num_bootstrap, seed))
