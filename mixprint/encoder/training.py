"""Contrastive training of the encoder, in one process or under `torchrun`.

Every random choice is derived from the seed, the epoch and the step, never from the history of a
generator, so a run that is resumed after any epoch goes on exactly as an undisturbed one would.

Shape suffixes: P view, B pair of this rank, G pair or segment of all ranks, S stem, C channel,
T sample, D features, E embedding, Q segment of the validation.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixprint.atomic import atomic_path, write_json
from mixprint.catalogue import Track
from mixprint.distributed import barrier, process_group, rank_and_world, rank_device, sum_over_ranks
from mixprint.encoder.augment import Chains, apply_chains, draw_chains
from mixprint.encoder.checkpoint import save_checkpoint
from mixprint.encoder.data import (
    NO_PARTNER,
    Batch,
    Pair,
    SegmentSource,
    TrackSegments,
    chain_partners,
    derive_seed,
    load_batches,
    overlapping,
    plan_epoch,
    rank_rows,
    tracks_of_split,
)
from mixprint.encoder.losses import Temperature, Views, contrastive_loss, gather_rows
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import DataError, TrainingError
from mixprint.features import Standardisation, extract
from mixprint.features.table import read_features
from mixprint.fingerprint import code_version, fingerprint
from mixprint.shards import read_index, read_row, read_segment

log = logging.getLogger("mixprint.encoder")

HISTORY_NAME = "history.json"
STATE_NAME = "state/state.pt"
TABLE_NAME = "features.parquet"
STANDARDISATION_NAME = "standardisation.json"

EpochCallback = Callable[[int, dict[str, float]], None]

_TIMES = {"epoch_s", "train_segments_per_s"}
_ITEMS_AT_ONCE = 4  # bounds the memory of feature extraction and of validation
# Parameters that do not change what a run computes: a run may be resumed with others.
_INDIFFERENT = {"num_processes", "num_workers", "cache_gib", "device", "compile"}


@dataclass
class _Progress:
    """What a resumed run needs besides the weights."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def is_better(self, metrics: Mapping[str, float]) -> bool:
        """Compare by validation retrieval; where that is equal, as it is soon, by its loss."""
        return not self.best_metrics or _score(metrics) > _score(self.best_metrics)


def _score(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics["valid_recall_at_1"], -metrics["valid_loss"]


class Contrastive(nn.Module):
    """The encoder with the temperature of its loss: all that is trained, in one forward."""

    def __init__(self, encoder: MixEncoder, temperature: Temperature) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature

    def forward(self, stems_BSCT: Tensor, features_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Give embedding_BE and the scale of the similarities."""
        return self.encoder(stems_BSCT, features_BD), self.temperature()


def train(
    config: TrainConfig,
    *,
    tracks: Sequence[Track],
    stems_dir: Path,
    features_dir: Path,
    out_dir: Path,
    data_fingerprint: str,
    device: torch.device | str = "cpu",
    on_epoch: EpochCallback | None = None,
) -> dict[str, float]:
    """Train an encoder and write the best one; call it on every rank.

    Under `torchrun` the process group is set up from the environment. The state after each epoch
    lies in `out_dir/state`; if it belongs to the same data, parameters and code, training goes
    on from there, else it starts anew.

    Args:
        config: the section `train`.
        tracks: the catalogue: splits and songs. Styles are never looked at.
        stems_dir: stem shards.
        features_dir: `features.parquet` and `standardisation.json`.
        out_dir: receives `weights.safetensors`, `config.json`, `history.json` and the state.
        data_fingerprint: of the stems and features, kept in the checkpoint.
        device: `cpu` or `cuda`; ranks take the GPU of their local rank.
        on_epoch: called on rank 0 after each epoch is safe on disk, with its number (from 1)
            and its metrics; not called again for epochs before a resumption.

    Returns:
        the metrics of the best epoch by validation, and `best_epoch`, `num_epochs`.

    Raises:
        TrainingError: there is too little to train on, or a loss or gradient is not finite.
        DataError: shards and features do not fit each other.
    """
    device = rank_device(torch.device(device))
    gpus = [device] if device.type == "cuda" else []
    with process_group(device), torch.random.fork_rng(devices=gpus):
        trainer = _Trainer(config, tracks, stems_dir, features_dir, out_dir, device)
        return trainer.run(data_fingerprint, on_epoch)


class _Trainer:
    def __init__(
        self,
        config: TrainConfig,
        tracks: Sequence[Track],
        stems_dir: Path,
        features_dir: Path,
        out_dir: Path,
        device: torch.device,
    ) -> None:
        self.config, self.out_dir, self.device = config, out_dir, device
        self.rank, self.world_size = rank_and_world()
        references = read_index(stems_dir)
        self.train_tracks = tracks_of_split(references, tracks, "train")
        self.valid_tracks = tracks_of_split(references, tracks, "valid")
        if len(self.train_tracks) < 2:
            raise TrainingError(
                f"{stems_dir}: expected at least 2 tracks of two segments in the train split, "
                f"found {len(self.train_tracks)}"
            )
        if len(self.valid_tracks) < 2:
            log.warning(
                "expected at least 2 tracks of two segments in the valid split, found %d: "
                "the train split chooses the best epoch",
                len(self.valid_tracks),
            )
            self.valid_tracks = self.train_tracks
        first = self.train_tracks[0].references[0]
        sample_rate_hz = read_row(first)["sample_rate_hz"]
        if not isinstance(sample_rate_hz, int):
            raise DataError(f"{first.shard_path}: sample_rate_hz must be int: {sample_rate_hz!r}")
        self.sample_rate_hz = sample_rate_hz
        self.stored_s = read_segment(first, stems=("vocals",)).shape[-1] / sample_rate_hz
        self.standardisation = Standardisation.load(features_dir / STANDARDISATION_NAME)
        self.source = SegmentSource(
            read_features(features_dir / TABLE_NAME),
            segment_s=config.segment_s,
            sample_rate_hz=sample_rate_hz,
            cache_gib=config.cache_gib,
        )
        torch.manual_seed(derive_seed(config.seed, "weights"))
        encoder = MixEncoder(config.encoder_config(sample_rate_hz))
        temperature = Temperature(config.temperature, learned=config.learn_temperature)
        self.model = Contrastive(encoder, temperature).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.progress = _Progress()
        self.steps_per_epoch = len(self._plan(epoch=1))
        if self.world_size > min(len(batch) for batch in self._plan(epoch=1)):
            raise TrainingError(
                f"expected at most as many processes as pairs in a batch, found "
                f"{self.world_size} processes and {len(self.train_tracks)} tracks in "
                f"{self.steps_per_epoch} batches"
            )

    def run(self, data_fingerprint: str, on_epoch: EpochCallback | None) -> dict[str, float]:
        config, progress = self.config, self.progress
        identity = self._identity(data_fingerprint)
        self._resume(identity)
        forward = self._forward_module()
        num_weights = sum(p.numel() for p in self.model.parameters())
        log.info(
            "training on %d tracks (%d songs), %d processes, %s: %.2f M weights, %d epochs of "
            "%d steps",
            len(self.train_tracks),
            len({track.song for track in self.train_tracks}),
            self.world_size,
            self.device,
            num_weights / 1e6,
            config.epochs,
            self.steps_per_epoch,
        )
        started_s, resumed_at = time.monotonic(), progress.epoch
        while not self._finished():
            metrics = self._run_epoch(forward, progress.epoch + 1)
            progress.epoch += 1
            progress.history.append({"epoch": progress.epoch, **metrics})
            if progress.is_better(metrics):
                progress.best_epoch, progress.best_metrics = progress.epoch, metrics
                progress.best_weights = {
                    name: value.detach().cpu().clone()
                    for name, value in self.model.encoder.state_dict().items()
                }
            if self.rank == 0:
                self._save_state(identity)
                write_json(self.out_dir / HISTORY_NAME, progress.history)
                epoch_s = (time.monotonic() - started_s) / (progress.epoch - resumed_at)
                log.info(
                    "trained %d/%d epochs, loss %.3f, validation loss %.3f, recall@1 %.2f, "
                    "%.0f s left at most",
                    progress.epoch,
                    config.epochs,
                    metrics["train_loss"],
                    metrics["valid_loss"],
                    metrics["valid_recall_at_1"],
                    epoch_s * (config.epochs - progress.epoch),
                )
                if on_epoch is not None:
                    on_epoch(progress.epoch, dict(metrics))
        result = {
            **progress.best_metrics,
            "best_epoch": float(progress.best_epoch),
            "num_epochs": float(progress.epoch),
        }
        if self.rank == 0:
            self._save_best(data_fingerprint, result)
        barrier()
        return result

    def _finished(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        out_of_patience = 0 < self.config.patience <= waited
        return self.progress.epoch >= self.config.epochs or out_of_patience

    def _plan(self, epoch: int) -> list[list[Pair]]:
        return plan_epoch(
            self.train_tracks,
            batch_size=self.config.batch_size,
            stored_s=self.stored_s,
            seed=self.config.seed,
            epoch=epoch,
        )

    def _forward_module(self) -> nn.Module:
        module: nn.Module = self.model
        if self.config.compile:
            module = cast(nn.Module, torch.compile(module))
        if self.world_size > 1:
            gpus = [self.device.index] if self.device.type == "cuda" else None
            module = DistributedDataParallel(
                module,
                device_ids=gpus,
                broadcast_buffers=False,  # they never change
            )
        return module

    def _run_epoch(self, forward: nn.Module, epoch: int) -> dict[str, float]:
        started_s = time.monotonic()
        plan = self._plan(epoch)
        batches = load_batches(
            self.source,
            plan,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=self.config.num_workers,
        )
        forward.train()
        losses, norms = [], []
        for pairs, batch in zip(plan, batches, strict=True):
            loss, norm = self._step(forward, pairs, batch, epoch)
            losses.append(loss)
            norms.append(norm)
        num_views = 3 if self.config.augmented_negatives else 2
        num_segments = num_views * sum(map(len, plan))
        train_s = time.monotonic() - started_s
        return {
            "train_loss": sum(losses) / len(losses),
            "gradient_norm": sum(norms) / len(norms),
            "learning_rate": self._learning_rate(self.progress.step),
            "temperature": 1.0 / float(self.model.temperature().detach()),
            "train_segments_per_s": num_segments / train_s,
            **self._validate(),
            "epoch_s": time.monotonic() - started_s,
        }

    def _step(
        self, forward: nn.Module, pairs: Sequence[Pair], batch: Batch, epoch: int
    ) -> tuple[float, float]:
        """Do one optimiser step; return the loss of the whole batch and the gradient's norm."""
        config, step = self.config, self.progress.step
        torch.manual_seed(derive_seed(config.seed, "dropout", step, self.rank))
        sizes = [_length(rank_rows(len(pairs), r, self.world_size)) for r in range(self.world_size)]
        rows = rank_rows(len(pairs), self.rank, self.world_size)
        partners = chain_partners(pairs) if config.shared_chain_weight > 0 else None
        stems_BSCT, features_BD, num_views = self._views(batch, self._chains(partners, pairs, rows))
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            embedding_BE, scale = forward(stems_BSCT, features_BD)
        # One exchange for all views: rows first, so that ranks can hold different numbers.
        local_BPE = embedding_BE.unflatten(0, (num_views, -1)).transpose(0, 1)
        view_PGE = gather_rows(local_BPE, sizes).transpose(0, 1)
        views = Views(
            anchor_GE=view_PGE[0],
            positive_GE=view_PGE[1],
            augmented_GE=view_PGE[2] if num_views > 2 else None,
            partner_G=None if partners is None else torch.tensor(partners, device=self.device),
        )
        loss_B = contrastive_loss(
            views, rows, scale, shared_chain_weight=config.shared_chain_weight
        )
        batch_loss = float(sum_over_ranks(loss_B.detach().sum())) / len(pairs)
        self._check_finite(batch_loss, "loss", pairs, view_PGE.detach())
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages the ranks' gradients; this makes that the gradient of the batch's mean.
        (loss_B.sum() * self.world_size / len(pairs)).backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        self._check_finite(norm, "gradient norm", pairs, view_PGE.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self.optimizer.step()
        self.progress.step += 1
        log.debug("epoch %d, step %d: loss %.4f", epoch, step, batch_loss)
        return batch_loss, norm

    def _chains(
        self, partners: Sequence[int] | None, pairs: Sequence[Pair], rows: slice
    ) -> Chains | None:
        """Draw the chains of the whole batch and take this rank's; partners share the first's."""
        if not self.config.augmented_negatives:
            return None
        seed = derive_seed(self.config.seed, "chains", self.progress.step)
        generator = torch.Generator().manual_seed(seed)
        chains = draw_chains(len(pairs), self.config.augment_ranges(), generator)
        index_G = torch.arange(len(pairs))
        if partners is not None:
            partner_G = torch.tensor(partners)
            index_G = torch.where(partner_G == NO_PARTNER, index_G, index_G.minimum(partner_G))
        return chains.take(index_G[rows])

    @torch.no_grad()
    def _views(self, batch: Batch, chains: Chains | None) -> tuple[Tensor, Tensor, int]:
        """Lay all views behind each other: stems, standardised features, number of views.

        Features of whole, untouched segments come from the table; those of crops and of augmented
        stems are measured.
        """
        stems_PBSCT = batch.stems_PBSCT.to(self.device, non_blocking=True)
        if chains is not None:
            augmented_BSCT = apply_chains(stems_PBSCT[0], chains, self.sample_rate_hz)
            stems_PBSCT = torch.cat([stems_PBSCT, augmented_BSCT[None]])
        known = 0 if batch.features_PBD is None else len(batch.features_PBD)
        unknown_BSCT = stems_PBSCT[known:].flatten(0, 1)
        parts = []
        if batch.features_PBD is not None:
            parts.append(batch.features_PBD.flatten(0, 1).to(self.device))
        if len(unknown_BSCT):
            chunks = unknown_BSCT.split(_ITEMS_AT_ONCE)
            parts += [extract(chunk, self.sample_rate_hz) for chunk in chunks]
        features_BD = self.standardisation.apply(torch.cat(parts))
        return stems_PBSCT.flatten(0, 1), features_BD, len(stems_PBSCT)

    def _check_finite(
        self, value: float, what: str, pairs: Sequence[Pair], view_PGE: Tensor
    ) -> None:
        """Stop before the optimiser moves, naming the tracks whose embeddings are not finite.

        Every rank holds the same gathered values, so all of them stop.
        """
        if math.isfinite(value):
            return
        bad_G = ~view_PGE.isfinite().all(dim=-1).all(dim=0)
        bad = [pairs[i].track.track_id for i in bad_G.nonzero().flatten().tolist()]
        named = bad or [pair.track.track_id for pair in pairs]
        raise TrainingError(
            f"step {self.progress.step}: {what} is {value}, expected a finite number; "
            f"tracks {named}"
        )

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to zero."""
        total = self.config.epochs * self.steps_per_epoch
        warmup = round(self.config.warmup_fraction * total)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        part = (step - warmup) / max(total - warmup, 1)
        return self.config.learning_rate * (1 + math.cos(math.pi * part)) / 2

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Embed every segment of the validation tracks, the work divided over the ranks."""
        self.model.eval()
        references = [(t, r) for t in self.valid_tracks for r in t.references]
        sizes = [
            _length(rank_rows(len(references), r, self.world_size)) for r in range(self.world_size)
        ]
        own = references[rank_rows(len(references), self.rank, self.world_size)]
        parts = []
        for start in range(0, len(own), _ITEMS_AT_ONCE):
            read = [(r, *self.source.stems(r)) for _, r in own[start : start + _ITEMS_AT_ONCE]]
            stems_BSCT = torch.stack([stems for _, stems, _ in read]).to(self.device)
            if all(whole for *_, whole in read):
                features_BD = torch.stack([self.source.features(r) for r, *_ in read])
                features_BD = features_BD.to(self.device)
            else:
                features_BD = extract(stems_BSCT, self.sample_rate_hz)
            parts.append(self.model.encoder(stems_BSCT, self.standardisation.apply(features_BD)))
        dim = self.config.embedding_dim
        own_QE = torch.cat(parts) if parts else torch.empty(0, dim, device=self.device)
        embedding_QE = gather_rows(own_QE, sizes)
        scale = self.model.temperature()
        return retrieval_metrics(embedding_QE.cpu(), self.valid_tracks, self.stored_s, scale.cpu())

    def _identity(self, data_fingerprint: str) -> str:
        values = {k: v for k, v in asdict(self.config).items() if k not in _INDIFFERENT}
        return fingerprint(
            {
                "config": values,
                "data": data_fingerprint,
                "code": code_version("mixprint.encoder", "mixprint.features"),
            }
        )

    def _save_state(self, identity: str) -> None:
        state = {
            "identity": identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {name: getattr(self.progress, name) for name in vars(self.progress)},
        }
        with atomic_path(self.out_dir / STATE_NAME) as temporary:
            torch.save(state, temporary)

    def _resume(self, identity: str) -> None:
        path = self.out_dir / STATE_NAME
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            log.warning("%s: other data, parameters or code; training starts anew", path)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        log.info("resumed after epoch %d", self.progress.epoch)

    def _save_best(self, data_fingerprint: str, metrics: dict[str, float]) -> None:
        encoder = MixEncoder(self.model.encoder.config)
        encoder.load_state_dict(self.progress.best_weights)
        metadata = {
            # Equal trainings give equal files, so how long they took stays in the history.
            "metrics": {k: v for k, v in metrics.items() if k not in _TIMES},
            "data_fingerprint": data_fingerprint,
            "train": self.config.to_values(),
            "num_train_tracks": len(self.train_tracks),
            "num_valid_tracks": len(self.valid_tracks),
        }
        save_checkpoint(self.out_dir, encoder, self.standardisation, metadata)


def retrieval_metrics(
    embedding_QE: Tensor, tracks: Sequence[TrackSegments], stored_s: float, scale: Tensor
) -> dict[str, float]:
    """Find each segment's track by another segment of it, among the segments of all tracks.

    A segment that shares audio with the query is no candidate. Queries that have no other
    segment of their own track left are compared with the overlapping ones after all.

    Args:
        embedding_QE: embeddings of all segments, in the order of the tracks and their references.
        tracks: what they belong to.
        stored_s: length of the segments.
        scale: 1 / temperature, for the loss.

    Returns:
        `valid_recall_at_1`, `valid_mrr` (mean reciprocal rank of the nearest right segment) and
        `valid_loss` (InfoNCE of the first and the last segment of each track).
    """
    owners = [(i, r) for i, track in enumerate(tracks) for r in track.references]
    similarity_QQ = embedding_QE @ embedding_QE.T
    owner_Q = torch.tensor([i for i, _ in owners])
    same_QQ = owner_Q[:, None] == owner_Q
    shared_QQ = torch.eye(len(owners), dtype=torch.bool)
    for q, (i, query) in enumerate(owners):
        for k, (j, key) in enumerate(owners):
            shared_QQ[q, k] |= i == j and overlapping(query, key, stored_s)
    alone_Q1 = ~(same_QQ & ~shared_QQ).any(dim=1, keepdim=True)
    barred_QQ = torch.where(alone_Q1, torch.eye(len(owners), dtype=torch.bool), shared_QQ)
    allowed_QQ = similarity_QQ.masked_fill(barred_QQ, -torch.inf)
    best_Q1 = allowed_QQ.masked_fill(~same_QQ, -torch.inf).max(dim=1, keepdim=True).values
    # A wrong segment that is just as near counts as nearer: equal embeddings find nothing.
    rank_Q = 1 + ((allowed_QQ >= best_Q1) & ~same_QQ).sum(dim=1)
    ends = torch.tensor([len(track.references) for track in tracks]).cumsum(dim=0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    views = Views(anchor_GE=embedding_QE[starts], positive_GE=embedding_QE[ends - 1])
    loss_G = contrastive_loss(views, slice(None), scale)
    return {
        "valid_recall_at_1": float((rank_Q == 1).float().mean()),
        "valid_mrr": float((1.0 / rank_Q).mean()),
        "valid_loss": float(loss_G.mean()),
    }


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
