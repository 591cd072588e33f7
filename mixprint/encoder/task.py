"""Common parts of the trainings of both encoders: songs, validation, score, checkpoint.

Shape suffixes: B segment, S stem, C channel, T sample, D features, E embedding, Q segment of the
validation.
"""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from mixprint.chains import Chains as EffectChains
from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef, read_index, read_row, read_segment
from mixprint.collection.tracks import TrackSegments, tracks_of_split
from mixprint.encoder.augmentation import AnyChains, Augmentation
from mixprint.encoder.building import AnyEncoder, build_encoder
from mixprint.encoder.checkpoint import save_checkpoint
from mixprint.encoder.data import SegmentSource, whole_songs
from mixprint.encoder.losses import Temperature
from mixprint.encoder.prediction import PredictionHead, prediction_losses
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.validation import (
    chain_retrieval_metrics,
    pairs_to_chain,
    retrieval_metrics,
    style_retrieval_metrics,
)
from mixprint.errors import DataError, TrainingError
from mixprint.features import Standardisation
from mixprint.features.table import read_features
from mixprint.fingerprint import code_version
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.ranks import rank_and_world, sum_over_ranks
from mixprint.training.recorder import TIMES
from mixprint.training.schedules import warmed_up_rate
from mixprint.training.task import Length, Plan, Task, Weights
from mixprint.training.updates import Update, listed

log = logging.getLogger("mixprint.encoder")

TABLE_NAME = "features.parquet"
STANDARDISATION_NAME = "standardisation.json"
# A chain costs more than an embedding, so that short segments have to do.
VALID_CHAIN_S = 5.0
# What all of a training follows from.
_CODE = "mixprint.encoder.training"

Batch = TypeVar("Batch")


class Contrastive(nn.Module):
    """The encoder with the temperature of its loss: all that is trained, in one forward.

    Attributes:
        head: what reads embeddings of pairs beside that; None where nothing is predicted.
    """

    def __init__(
        self, encoder: AnyEncoder, temperature: Temperature, head: PredictionHead | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.temperature, self.head = encoder, temperature, head

    def forward(self, stems_BSCT: Tensor, features_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding_BE and the scale of the similarities."""
        return self.encoder(stems_BSCT, features_BD), self.temperature()


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Separated and measured songs that an encoder learns from.

    Attributes:
        tracks: the catalogue: splits and songs. Styles are never looked at, unless `same_style`
            asks for it.
        stems_dir: stem shards.
        features_dir: `features.parquet` and `standardisation.json`.
        fingerprint: of the stems and features, kept in the checkpoint.
    """

    tracks: Sequence[Track]
    stems_dir: Path
    features_dir: Path
    fingerprint: str


class EncoderTask(Task[Batch]):
    """A training of an encoder, whatever it learns from."""

    name = "encoder"

    def __init__(self, config: TrainConfig, data: TrainingData, device: torch.device) -> None:
        self.config, self.device = config, device
        self.data_fingerprint = data.fingerprint
        self.objective, self.augmentation = config.objective(), Augmentation(config)
        self.rank, self.world_size = rank_and_world()
        references = read_index(data.stems_dir)
        self.train_tracks = tracks_of_split(references, data.tracks, "train")
        self.valid_tracks = self._tracks_to_validate(references, data.tracks)
        if len(self.train_tracks) < 2:
            raise TrainingError(
                f"{data.stems_dir}: expected at least 2 tracks of two segments in the train split, "
                f"found {len(self.train_tracks)}"
            )
        first = self.train_tracks[0].references[0]
        sample_rate_hz = read_row(first)["sample_rate_hz"]
        if not isinstance(sample_rate_hz, int):
            raise DataError(f"{first.shard_path}: sample_rate_hz must be int: {sample_rate_hz!r}")
        self.sample_rate_hz = sample_rate_hz
        self.stored_s = read_segment(first, stems=("vocals",)).shape[-1] / sample_rate_hz
        self.standardisation = Standardisation.load(data.features_dir / STANDARDISATION_NAME)
        self.source = SegmentSource(
            read_features(data.features_dir / TABLE_NAME),
            segment_s=config.segment_s,
            sample_rate_hz=sample_rate_hz,
            cache_gib=config.cache_gib,
        )
        torch.manual_seed(derive_seed(config.seed, "weights"))
        encoder = build_encoder(config.encoder_config(sample_rate_hz))
        temperature = Temperature(config.temperature, learned=config.learn_temperature)
        head = None
        if config.prediction_weight > 0:
            effects, presence = self.augmentation.effects, self.augmentation.mean_presence
            head = PredictionHead(config.embedding_dim, effects, presence)
        self.model = Contrastive(encoder, temperature, head).to(device)
        self.parts = {"encoder": self.model}

    def plan_of(self, *, steps: int, steps_per_epoch: int) -> Plan:
        """Plan a training of so many steps, as the configuration says."""
        config = self.config
        return Plan(
            length=Length(steps=steps, patience=config.patience),
            valid_steps=steps_per_epoch,
            seed=config.seed,
            max_grad_norm=config.max_grad_norm,
            save_steps=config.save_steps,
            log_steps=config.log_steps,
            keep_checkpoints=config.keep_checkpoints,
            num_workers=config.num_workers,
            precision=config.precision,
            compile=config.compile,
        )

    def _tracks_to_validate(
        self, references: Iterable[SegmentRef], tracks: Sequence[Track]
    ) -> list[TrackSegments]:
        found = tracks_of_split(references, tracks, "valid")
        if len(found) < 2:
            log.warning(
                "expected at least 2 tracks of two segments in the valid split, found %d: "
                "the train split chooses the best epoch",
                len(found),
            )
            found = self.train_tracks
        return whole_songs(found, self.config.max_valid_tracks, self.config.seed)

    @override
    def identity(self) -> Mapping[str, Any]:
        return {
            "config": self.config.identity(),
            "data": self.data_fingerprint,
            "code": code_version(_CODE),
        }

    @override
    def summary(self) -> str:
        songs = {track.song for track in self.train_tracks}
        return f"{len(self.train_tracks)} tracks of {len(songs)} songs"

    @override
    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        weights, decay = self.model.parameters(), self.config.weight_decay
        return {"encoder": [torch.optim.AdamW(weights, lr=1.0, weight_decay=decay)]}

    @override
    def rate(self, part: str, step: int, done: float) -> float:
        return warmed_up_rate(
            step,
            self.plan.length.steps,
            highest=self.config.learning_rate,
            warmup_fraction=self.config.warmup_fraction,
        )

    def predicted(
        self,
        head: PredictionHead,
        original_BE: Tensor,
        processed_BE: Tensor,
        chains: EffectChains,
        rows: slice,
    ) -> dict[str, Tensor]:
        """Predict what was done to this rank's pairs: its shares of the losses."""
        presence, parameter = prediction_losses(head, head(original_BE, processed_BE), chains, rows)
        return {
            "presence_loss": presence,
            "parameter_loss": parameter,
            "prediction_loss": presence + parameter,
        }

    def moved(self, update: Update, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Move the weights by this rank's losses: figures over all ranks."""
        total = torch.zeros((), device=self.device)
        if "contrast_loss" in losses:
            total = total + self.config.contrast_weight * losses["contrast_loss"]
        if "prediction_loss" in losses:
            total = total + self.config.prediction_weight * losses["prediction_loss"]
        update.backward(total)
        loss = update.step("encoder")
        self.model.temperature.limit()
        figures = {"loss": loss, "temperature": 1.0 / float(self.model.temperature().detach())}
        if "prediction_loss" in losses:
            sums = sum_over_ranks(torch.stack([each.detach() for each in losses.values()]))
            figures |= dict(zip(losses, sums.tolist(), strict=True))
        return figures

    def _rows(self, size: int, rank: int) -> slice:
        return rank_rows(size, rank, self.world_size)

    @override
    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        """Embed every segment of the validation tracks, the work divided over the ranks."""
        references = [r for t in self.valid_tracks for r in t.references]
        embedding_QE = self._embedded(step, references)
        scale = self.model.temperature().cpu()
        metrics = retrieval_metrics(embedding_QE, self.valid_tracks, self.stored_s, scale)
        if self.objective.knows_styles:
            metrics |= style_retrieval_metrics(embedding_QE, self.valid_tracks)
        if self.config.draws_chains:
            found = pairs_to_chain(self.valid_tracks, self.config.valid_chains)
            number_Q = torch.arange(len(found)).repeat(2)
            chains = self.augmentation.draw_effects(len(found), number_Q, "valid chains")
            processed = [pair[place] for place in (0, 1) for pair in found]
            metrics |= chain_retrieval_metrics(self._embedded(step, processed, chains))
        return metrics

    def _embedded(
        self, step: int, references: Sequence[SegmentRef], chains: AnyChains | None = None
    ) -> Tensor:
        """Embed segments, and check that the result is finite.

        Raises:
            TrainingError: an embedding is not finite.
        """
        embedding_QE = self._embed(references, chains)
        finite_Q = embedding_QE.isfinite().all(dim=-1)
        if not finite_Q.all():
            numbers = (~finite_Q).nonzero().flatten().tolist()
            bad = [segment_name(references[q], references[q].start_s) for q in numbers]
            raise TrainingError(
                f"step {step}: expected finite embeddings of the segments for validation, found "
                f"others; {listed(bad)}"
            )
        return embedding_QE

    @abstractmethod
    def _embed(self, references: Sequence[SegmentRef], chains: AnyChains | None) -> Tensor:
        """Embed whole segments, or the starts of some behind a chain each; ranks share the work.

        Returns:
            embedding_QE, on the CPU.
        """

    @override
    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Compare by retrieval of styles, where the training is told them, and of chains.

        Where it draws both, by the mean of the two; without either by retrieval of tracks, and
        where that is equal, as it is soon, by the loss.
        """
        found = [name for name in ("style", "chain") if f"{name}_mrr" in metrics]
        if found:
            return tuple(
                sum(metrics[f"{name}_{measure}"] for name in found) / len(found)
                for measure in ("mrr", "recall_at_1")
            )
        return metrics["recall_at_1"], -metrics["loss"]

    @override
    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        encoder = build_encoder(self.model.encoder.config)
        prefix = "encoder."
        named = weights["encoder"].items()
        encoder.load_state_dict(
            {name.removeprefix(prefix): v for name, v in named if name.startswith(prefix)}
        )
        # Equal trainings give equal files, so how long they took stays in the history.
        measured = {n: v for n, v in entry.items() if "." in n and n not in TIMES}
        metadata = {
            "data_fingerprint": self.data_fingerprint,
            "train": self.config.identity(),
            "num_train_tracks": len(self.train_tracks),
            "num_valid_tracks": len(self.valid_tracks),
            "epoch": entry["epoch"],
            "metrics": measured,
        }
        if self.augmentation.effects:
            metadata["effects"] = list(self.augmentation.effects)
        save_checkpoint(folder, encoder, self.standardisation, metadata)


def segment_name(reference: SegmentRef, start_s: float) -> str:
    """Name a segment and where in its track it was heard."""
    return f"track {reference.track_id} segment {reference.segment} at {start_s:.1f} s"


def length(rows: slice) -> int:
    """Count the rows of a rank."""
    return int(rows.stop - rows.start)
