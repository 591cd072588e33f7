"""Contrastive training of the encoder: a task for `mixprint.training.engine`.

Shape suffixes: P view, B pair of this rank, G pair or segment of all ranks, S stem, C channel,
T sample, D features, E embedding, Q segment of the validation.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from mixprint.chains import Chains as EffectChains
from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef
from mixprint.encoder.augmentation import AnyChains, is_changed
from mixprint.encoder.data import (
    NO_PARTNER,
    Batch,
    BatchReader,
    Epochs,
    Pair,
    chain_partners,
)
from mixprint.encoder.descriptor_training import DescriptorTask
from mixprint.encoder.losses import (
    Views,
    contrastive_loss,
    gather_rows,
    numbered,
    relations,
)
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.task import (
    VALID_CHAIN_S,
    EncoderTask,
    TrainingData,
    length,
    segment_name,
)
from mixprint.errors import TrainingError
from mixprint.features import extract
from mixprint.training import engine
from mixprint.training.engine import Outcome
from mixprint.training.recorder import MetricsCallback, rank_progress
from mixprint.training.updates import Update

log = logging.getLogger("mixprint.encoder")

# Bounds the memory of feature extraction and of validation.
_ITEMS_AT_ONCE = {"cpu": 4, "cuda": 32}


def train(
    config: TrainConfig,
    *,
    tracks: Sequence[Track],
    stems_dir: Path,
    features_dir: Path,
    out_dir: Path,
    data_fingerprint: str,
    device: torch.device | str = "cpu",
    on_metrics: MetricsCallback | None = None,
) -> Outcome:
    """Train an encoder and write the best one; see `mixprint.training.engine.train`.

    Args:
        config: the section `train`.
        tracks: the catalogue: splits and songs. Styles are never looked at, unless
            `same_style` asks for it.
        stems_dir: stem shards.
        features_dir: `features.parquet` and `standardisation.json`.
        out_dir: receives what `mixprint.training.outputs` lists.
        data_fingerprint: of the stems and features, kept in the checkpoint.
        device: `cpu` or `cuda`; ranks take the GPU of their local rank.
        on_metrics: see the engine.

    Raises:
        TrainingError: there is too little to train on, a loss, gradient or embedding is not
            finite, a state cannot be saved, or another training works in `out_dir`.
        CheckpointError: there are states to go on from, and none of them is whole.
        DataError: shards and features do not fit each other, or a segment cannot be read.
    """
    data = TrainingData(
        tracks=tracks,
        stems_dir=stems_dir,
        features_dir=features_dir,
        fingerprint=data_fingerprint,
    )

    def build(device: torch.device) -> EncoderTask[Any]:
        if config.backbone == "descriptors":
            return DescriptorTask(config, data, device, out_dir)
        return BandTask(config, data, device)

    return engine.train(build, out_dir, device=device, on_metrics=on_metrics)


class BandTask(EncoderTask[Batch]):
    """Segments of one mix attract each other, and what the objective names repels."""

    def __init__(self, config: TrainConfig, data: TrainingData, device: torch.device) -> None:
        super().__init__(config, data, device)
        self.epochs = Epochs(
            self.train_tracks,
            batch_size=config.batch_size,
            siblings_per_batch=config.siblings_per_batch,
            styles_meet=self.objective.knows_styles,
            stored_s=self.stored_s,
            seed=config.seed,
        )
        self._check_batches()
        self.plan = self.plan_of(
            steps=config.epochs * self.epochs.steps_per_epoch,
            steps_per_epoch=self.epochs.steps_per_epoch,
        )

    def _check_batches(self) -> None:
        """Refuse batches that cannot be divided, and those from which nothing is learned."""
        if self.world_size > min(map(len, self.epochs.plan(1))):
            raise TrainingError(
                f"expected at most as many processes as pairs in a batch, found "
                f"{self.world_size} processes and {len(self.train_tracks)} tracks in "
                f"{self.epochs.steps_per_epoch} batches"
            )
        if self.config.contrast_weight == 0:
            return
        plans = (self.epochs.plan(epoch) for epoch in range(1, self.config.epochs + 1))
        if not any(self._has_negative(pairs) for plan in plans for pairs in plan):
            raise TrainingError(
                "expected a batch in which something repels (train.negatives: "
                f"{', '.join(self.objective.negatives)}), found none: siblings need several mixes "
                "of a song, songs and shared chains need several songs; there are "
                f"{self.summary()}"
            )

    def _has_negative(self, pairs: Sequence[Pair]) -> bool:
        """Tell whether any pair of a batch has a negative: without one nothing is learned."""
        objective = self.objective
        # What partners do not share, the untreated content, is their negative.
        if any(partner != NO_PARTNER for partner in self._partners(pairs) or ()):
            return True
        if objective.segment_weight == 0:
            return False
        if "augmented" in objective.negatives:
            return True
        nothing_GE = torch.empty(len(pairs), 0, device=self.device)
        views = Views(
            anchor_GE=nothing_GE,
            positive_GE=nothing_GE,
            song_G=numbered([pair.track.song for pair in pairs]).to(self.device),
            style_G=numbered([pair.track.style for pair in pairs]).to(self.device),
        )
        positive_GG, candidate_GG = relations(views, slice(None), objective)
        return bool((candidate_GG & ~positive_GG).any())

    @override
    def examples(self) -> BatchReader:
        return BatchReader(self.source, self.epochs, self.rank, self.world_size)

    @override
    def learn(self, step: int, batch: Batch, update: Update) -> Mapping[str, float]:
        pairs = self.epochs.batch(step)
        rows = self._rows(len(pairs), self.rank)
        sizes = [length(self._rows(len(pairs), rank)) for rank in range(self.world_size)]
        partners = self._partners(pairs)
        chains = None
        if "augmented" in self.config.views:
            chains = self.augmentation.draw(step, len(pairs), partners)
        stems_BSCT, features_BD = self._views(batch, chains, rows)
        with update.autocast():
            embedding_BE, scale = self.model(stems_BSCT, features_BD)
        update.inspect(embedding_BE)
        local_PBE = embedding_BE.unflatten(0, (len(self.config.views), -1))
        losses: dict[str, Tensor] = {}
        if self.config.contrast_weight > 0:
            views = self._gathered(local_PBE, sizes, pairs, partners, chains)
            loss_B = contrastive_loss(views, rows, scale, self.objective)
            losses["contrast_loss"] = loss_B.sum() / len(pairs)
        if self.model.head is not None and isinstance(chains, EffectChains):
            losses |= self.predicted(self.model.head, local_PBE[0], local_PBE[-1], chains, rows)
        return self.moved(update, losses)

    def _gathered(
        self,
        local_PBE: Tensor,
        sizes: Sequence[int],
        pairs: Sequence[Pair],
        partners: Sequence[int] | None,
        chains: AnyChains | None,
    ) -> Views:
        """Join the embeddings of all ranks, with what attracts and repels."""
        # One exchange for all views: rows first, so that ranks can hold different numbers.
        view_PGE = gather_rows(local_PBE.transpose(0, 1), sizes).transpose(0, 1)
        is_changed_G = None if chains is None else is_changed(chains)
        return Views(
            anchor_GE=view_PGE[0],
            positive_GE=view_PGE[1],
            augmented_GE=view_PGE[2] if self.objective.needs_augmented else None,
            partner_G=None if partners is None else torch.tensor(partners, device=self.device),
            song_G=numbered([pair.track.song for pair in pairs]).to(self.device),
            style_G=numbered([pair.track.style for pair in pairs]).to(self.device),
            is_changed_G=None if is_changed_G is None else is_changed_G.to(self.device),
        )

    @override
    def describe(self, step: int, batch: Batch) -> Sequence[str]:
        pairs = self.epochs.batch(step)
        own = pairs[self._rows(len(pairs), self.rank)]
        return [self._describe_view(pair, view) for view in self.config.views for pair in own]

    def _describe_view(self, pair: Pair, view: str) -> str:
        """Name a segment of a batch and where in its track it was heard."""
        is_positive = view == "positive"
        reference = pair.track.references[pair.positive if is_positive else pair.anchor]
        crop = pair.positive_crop if is_positive else pair.anchor_crop
        start_s = reference.start_s + crop * (self.stored_s - self.config.segment_s)
        return f"{segment_name(reference, start_s)} ({view})"

    def _partners(self, pairs: Sequence[Pair]) -> list[int] | None:
        """Pair those that share a chain; None where no chain is shared."""
        if self.config.contrast_weight == 0 or self.objective.shared_chain_weight == 0:
            return None
        return chain_partners(pairs, same_style=self.objective.knows_styles)

    @torch.no_grad()
    def _views(self, batch: Batch, chains: AnyChains | None, rows: slice) -> tuple[Tensor, Tensor]:
        """Lay all views behind each other: stems and standardised features.

        Features of whole, untouched segments come from the table; those of crops and of augmented
        stems are measured.
        """
        untouched = slice(2 if "positive" in self.config.views else 1)
        stems_PBSCT = batch.stems_PBSCT[untouched].to(self.device, non_blocking=True)
        if chains is not None:
            own = chains.take(torch.arange(len(chains))[rows])
            augmented_BSCT = self.augmentation.apply(stems_PBSCT[0], own, self.sample_rate_hz)
            stems_PBSCT = torch.cat([stems_PBSCT, augmented_BSCT[None]])
        features_PBD = None if batch.features_PBD is None else batch.features_PBD[untouched]
        known = 0 if features_PBD is None else len(features_PBD)
        unknown_BSCT = stems_PBSCT[known:].flatten(0, 1)
        parts = []
        if features_PBD is not None:
            parts.append(features_PBD.flatten(0, 1).to(self.device))
        if len(unknown_BSCT):
            chunks = unknown_BSCT.split(self._items_at_once)
            parts += [extract(chunk, self.sample_rate_hz) for chunk in chunks]
        return stems_PBSCT.flatten(0, 1), self.standardisation.apply(torch.cat(parts))

    @property
    def _items_at_once(self) -> int:
        return _ITEMS_AT_ONCE[self.device.type]

    @override
    def _embed(self, references: Sequence[SegmentRef], chains: AnyChains | None) -> Tensor:
        sizes = [length(self._rows(len(references), rank)) for rank in range(self.world_size)]
        own = range(len(references))[self._rows(len(references), self.rank)]
        parts = [torch.empty(0, self.config.embedding_dim, device=self.device)]
        with rank_progress(log, "embedded", len(own), "segments", has_lines=False) as shown:
            for start in range(0, len(own), self._items_at_once):
                some = own[start : start + self._items_at_once]
                some_chains = None if chains is None else chains.take(torch.tensor(some))
                parts.append(self._embed_some([references[q] for q in some], some_chains))
                shown.advance(len(some))
        return gather_rows(torch.cat(parts), sizes).cpu()

    def _embed_some(self, references: Sequence[SegmentRef], chains: AnyChains | None) -> Tensor:
        read = [(r, *self.source.stems(r)) for r in references]
        stems_BSCT = torch.stack([stems for _, stems, _ in read]).to(self.device)
        if chains is not None:
            start_BSCT = stems_BSCT[..., : round(VALID_CHAIN_S * self.sample_rate_hz)]
            stems_BSCT = self.augmentation.apply(start_BSCT, chains, self.sample_rate_hz)
        if chains is None and all(whole for *_, whole in read):
            features_BD = torch.stack([self.source.features(r) for r, *_ in read])
            features_BD = features_BD.to(self.device)
        else:
            features_BD = extract(stems_BSCT, self.sample_rate_hz)
        embedding_BE: Tensor = self.model.encoder(
            stems_BSCT, self.standardisation.apply(features_BD)
        )
        return embedding_BE
