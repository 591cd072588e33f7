"""Training of an encoder on descriptors: from blocks of views that are measured once.

Measuring takes nearly all of the time, so steps have hundreds of pairs, and every other pair of the
batch repels.

Shape suffixes: N pair of this rank, G pair of all ranks, V view of all ranks, S stem, D number of a
description, E embedding, Q segment of the validation.

Sources: see `mixprint.encoder.losses` and `mixprint.encoder.prediction`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from mixprint.checkpoints.torchfile import write_tensors
from mixprint.collection.shards import SegmentRef
from mixprint.encoder.augmentation import AnyChains
from mixprint.encoder.blocks import (
    BlockMaker,
    Pairs,
    chains_of,
    described_views,
    draw_pairs,
    measure_blocks,
    plan_blocks,
)
from mixprint.encoder.descriptor_model import NUM_INPUTS, DescriptorEncoder
from mixprint.encoder.losses import gather_rows, info_nce
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.task import (
    VALID_CHAIN_S,
    EncoderTask,
    TrainingData,
    length,
    segment_name,
)
from mixprint.fingerprint import code_version, fingerprint
from mixprint.stems import NUM_STEMS
from mixprint.training.loading import derive_seed
from mixprint.training.measured import MEASURED_FOLDER, read_measured
from mixprint.training.outputs import STATE_FOLDER
from mixprint.training.ranks import barrier
from mixprint.training.updates import Update

_IDENTITY_DIGITS = 16
# Blocks that tell what usual descriptions are.
_STANDARD_BLOCKS = 64
# Parameters that measured views follow from, beside the ranges of the fixed chain.
_MEASURED_WITH = (
    "augmentation",
    "block_chains",
    "block_songs",
    "chain_lengths",
    "held_out_effects",
    "same_style",
    "seed",
    "segment_s",
)


class DescriptorTask(EncoderTask[Tensor]):
    """Songs behind the same chains attract each other, and all other views of the batch repel."""

    def __init__(
        self, config: TrainConfig, data: TrainingData, device: torch.device, out_dir: Path
    ) -> None:
        super().__init__(config, data, device)
        assert isinstance(self.model.encoder, DescriptorEncoder)
        self.encoder = self.model.encoder
        self._measured_folder = out_dir / STATE_FOLDER / MEASURED_FOLDER / self._measured_identity()
        self.segments = plan_blocks(
            self.train_tracks,
            num_blocks=config.num_blocks,
            num_songs=config.block_songs,
            styles_meet=self.objective.knows_styles,
            seed=config.seed,
        )
        maker = BlockMaker(
            self.source,
            self.augmentation,
            self.encoder,
            num_mixes=config.block_chains,
            sample_rate_hz=self.sample_rate_hz,
            device=device,
        )
        self.blocks = measure_blocks(self.segments, maker, self._measured_folder)
        usual_NSD = self.blocks.measured.described_ICSD[:_STANDARD_BLOCKS].flatten(0, 2)
        self.encoder.standardise(usual_NSD.flatten(0, 1).float().to(device))
        self._described: dict[bool, Tensor] = {}
        self.plan = self.plan_of(
            steps=config.epochs * config.steps_per_epoch, steps_per_epoch=config.steps_per_epoch
        )

    def _measured_identity(self) -> str:
        values = self.config.to_values()
        ranges = {name: value for name, value in values.items() if name.startswith("augment_")}
        made_with = {
            "data": self.data_fingerprint,
            "config": {name: values[name] for name in _MEASURED_WITH} | ranges,
            "code": code_version("mixprint.encoder.blocks"),
        }
        return fingerprint(made_with)[:_IDENTITY_DIGITS]

    def pairs(self, step: int) -> Pairs:
        """Draw the pairs of a step."""
        config, augmentation = self.config, self.augmentation
        is_random = augmentation.is_random(step)
        mixes = range(1, config.block_chains)
        return draw_pairs(
            self.blocks,
            config.batch_size,
            [mix for mix in mixes if augmentation.is_random(mix) == is_random],
            styles_meet=self.objective.knows_styles,
            generator=torch.Generator().manual_seed(derive_seed(config.seed, "pairs", step)),
        )

    @override
    def examples(self) -> "DescribedPairs":
        return DescribedPairs(self)

    @override
    def learn(self, step: int, batch: Tensor, update: Update) -> Mapping[str, float]:
        pairs = self.pairs(step)
        rows = self._rows(self.config.batch_size, self.rank)
        with update.autocast():
            seen_VNSD = batch[: self._num_views(step)].to(self.device)
            embedding_NE = self.encoder.embed_described(seen_VNSD.flatten(0, 1))
        update.inspect(embedding_NE)
        embedding_VNE = embedding_NE.unflatten(0, seen_VNSD.shape[:2])
        losses: dict[str, Tensor] = {}
        if self.config.contrast_weight > 0:
            losses["contrast_loss"] = self._contrast(embedding_VNE[:2], pairs, rows)
        if self.model.head is not None and len(embedding_VNE) > 2:
            chains = chains_of(self.blocks, pairs, self.augmentation.effects)
            first_NE, _, untreated_NE = embedding_VNE
            losses |= self.predicted(self.model.head, untreated_NE, first_NE, chains, rows)
        return self.moved(update, losses)

    def _num_views(self, step: int) -> int:
        """Count the views that are seen: untreated ones only where chains are predicted."""
        return 3 if self.model.head is not None and self.augmentation.is_random(step) else 2

    def _contrast(self, embedding_2NE: Tensor, pairs: Pairs, rows: slice) -> Tensor:
        """Find each view's partner among the views of all pairs: this rank's share of the mean."""
        num_pairs = self.config.batch_size
        sizes = [length(self._rows(num_pairs, rank)) for rank in range(self.world_size)]
        view_2GE = gather_rows(embedding_2NE.transpose(0, 1), sizes).transpose(0, 1)
        query_LE, keys_VE = embedding_2NE.flatten(0, 1), view_2GE.flatten(0, 1)
        number_2G = torch.arange(2 * num_pairs).view(2, num_pairs)
        own_L, partner_L = (x_2G[:, rows].flatten() for x_2G in (number_2G, number_2G.flip(0)))
        identity_V = pairs.identity_N.repeat(2)
        song_V = self.blocks.song_BI[pairs.block_N, pairs.place_2N].flatten()
        positive_LV = partner_L[:, None] == number_2G.flatten()
        same_song_LV = song_V[own_L, None] == song_V
        candidate_LV = identity_V[own_L, None] != identity_V
        negatives = self.objective.negatives
        if "songs" not in negatives:
            candidate_LV &= same_song_LV
        if not {"siblings", "augmented"} & set(negatives):
            candidate_LV &= ~same_song_LV
        candidate_LV |= positive_LV
        scale = self.model.temperature()
        masks = (positive_LV.to(self.device), candidate_LV.to(self.device))
        loss = info_nce(query_LE, keys_VE, *masks, scale, None).sum()
        if self.config.style_weight > 0:
            style_V = self.blocks.style_B[pairs.block_N].repeat(2)
            same_style_LV = (style_V[own_L, None] == style_V) & ~same_song_LV
            # Partners at least have the style of each view.
            masks = (same_style_LV.to(self.device), (~same_song_LV).to(self.device))
            scale = torch.tensor(1 / self.config.style_temperature, device=self.device)
            style_loss = info_nce(query_LE, keys_VE, *masks, scale, None).sum()
            loss = loss + self.config.style_weight * style_loss
        return loss / (2 * num_pairs)

    @override
    def describe(self, step: int, batch: Tensor) -> Sequence[str]:
        pairs, rows = self.pairs(step), self._rows(self.config.batch_size, self.rank)
        names = []
        for place_N in (*pairs.place_2N, pairs.place_2N[0])[: self._num_views(step)]:
            for block, place in zip(
                pairs.block_N[rows].tolist(), place_N[rows].tolist(), strict=True
            ):
                segment = self.segments[block][place]
                reference = segment.track.references[segment.number]
                start_s = reference.start_s + segment.crop * (self.stored_s - self.config.segment_s)
                names.append(f"{segment_name(reference, start_s)} (block {block})")
        return names

    @override
    @torch.no_grad()
    def _embed(self, references: Sequence[SegmentRef], chains: AnyChains | None) -> Tensor:
        is_processed = chains is not None
        if is_processed not in self._described:
            self._described[is_processed] = self._measured(references, chains)
        return self.encoder.embed_described(self._described[is_processed].to(self.device)).cpu()

    def _measured(self, references: Sequence[SegmentRef], chains: AnyChains | None) -> Tensor:
        """Describe the segments of the validation, or read what was measured before."""
        name = f"valid-{self.config.max_valid_tracks}-tracks"
        if chains is not None:
            name += f"-{self.config.valid_chains}-chains"
        path = self._measured_folder / f"{name}.safetensors"
        if not path.exists():
            own = range(len(references))[self._rows(len(references), self.rank)]
            parts = [torch.zeros(0, NUM_STEMS, NUM_INPUTS, dtype=torch.half, device=self.device)]
            for number in own:
                stems_1SCT = self.source.stems(references[number])[0][None].to(self.device)
                if chains is not None:
                    stems_1SCT = stems_1SCT[..., : round(VALID_CHAIN_S * self.sample_rate_hz)]
                    one = chains.take(torch.tensor([number]))
                    stems_1SCT = self.augmentation.apply(stems_1SCT, one, self.sample_rate_hz)
                parts.append(self.encoder.describe(stems_1SCT).half())
            sizes = [length(self._rows(len(references), rank)) for rank in range(self.world_size)]
            described_QSD = gather_rows(torch.cat(parts), sizes).cpu()
            if self.rank == 0:
                write_tensors(path, {"described_QSD": described_QSD})
            barrier()
        return read_measured(path, ["described_QSD"])["described_QSD"]


class DescribedPairs(Dataset[Tensor]):
    """Views of pairs for readers: an item is this rank's part of the batch of a step."""

    def __init__(self, task: DescriptorTask) -> None:
        self._task = task

    def __getitem__(self, step: int) -> Tensor:
        task = self._task
        rows = task._rows(task.config.batch_size, task.rank)
        return described_views(task.blocks, task.pairs(step), rows)
