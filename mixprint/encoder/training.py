"""Contrastive training of the encoder, in one process or under `torchrun`.

Every random choice is derived from the seed, the epoch and the step, never from the history of a
generator, so a run that is resumed after any step goes on exactly as an undisturbed one would.

Shape suffixes: P view, B pair of this rank, G pair or segment of all ranks, S stem, C channel,
T sample, D features, E embedding, Q segment of the validation.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef, read_index, read_row, read_segment
from mixprint.collection.tracks import tracks_of_split
from mixprint.encoder.augment import Chains, apply_chains, draw_chains
from mixprint.encoder.data import (
    NO_PARTNER,
    Batch,
    Epochs,
    Pair,
    SegmentSource,
    chain_partners,
    load_batches,
    whole_songs,
)
from mixprint.encoder.losses import (
    Temperature,
    Views,
    contrastive_loss,
    gather_rows,
    numbered,
    relations,
)
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.outputs import LOGS_FOLDER, STATE_FOLDER, TrainingOutputs, TrainingState
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.validation import retrieval_metrics, style_retrieval_metrics
from mixprint.errors import DataError, TrainingError
from mixprint.features import Standardisation, extract
from mixprint.features.table import read_features
from mixprint.fingerprint import code_version, fingerprint
from mixprint.progress import Progress
from mixprint.training.curves import ScalarLog
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.ranks import (
    barrier,
    of_first_rank,
    process_group,
    rank_and_world,
    rank_device,
    sum_over_ranks,
)
from mixprint.training.schedules import warmed_up_rate
from mixprint.training.state import only_training

log = logging.getLogger("mixprint.encoder")

TABLE_NAME = "features.parquet"
STANDARDISATION_NAME = "standardisation.json"

EpochCallback = Callable[[int, dict[str, float]], None]

# Bounds the memory of feature extraction and of validation.
_ITEMS_AT_ONCE = {"cpu": 4, "cuda": 32}
_NUM_NAMED = 16  # segments in a message
_VIEWS = ("anchor", "positive", "augmented")


@dataclass
class _Progress:
    """What a resumed run needs besides the weights.

    Attributes:
        epoch: number of finished epochs.
        step: number of steps taken.
        loss_sum: of the steps of the epoch under way.
        norm_sum: of their gradients.
        train_s: time that they took.
        best_epoch: the best one by validation so far.
        best_metrics: its metrics.
        best_weights: its weights.
        history: metrics of every finished epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    train_s: float = 0.0
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def is_better(self, metrics: Mapping[str, float]) -> bool:
        """Compare by validation retrieval: of styles, where the training is told them.

        Else of tracks; where that is equal, as it is soon, by the loss.
        """
        return not self.best_metrics or _score(metrics) > _score(self.best_metrics)

    def end_epoch(self, metrics: dict[str, float], encoder: nn.Module) -> None:
        """Count an epoch that has been validated."""
        self.epoch += 1
        self.loss_sum = self.norm_sum = self.train_s = 0.0
        self.history.append({"epoch": self.epoch, **metrics})
        if self.is_better(metrics):
            self.best_epoch, self.best_metrics = self.epoch, metrics
            self.best_weights = {
                name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()
            }


def _score(metrics: Mapping[str, float]) -> tuple[float, float]:
    if "valid_style_mrr" in metrics:
        return metrics["valid_style_mrr"], metrics["valid_style_recall_at_1"]
    return metrics["valid_recall_at_1"], -metrics["valid_loss"]


class Contrastive(nn.Module):
    """The encoder with the temperature of its loss: all that is trained, in one forward."""

    def __init__(self, encoder: MixEncoder, temperature: Temperature) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature

    def forward(self, stems_BSCT: Tensor, features_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding_BE and the scale of the similarities."""
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

    Under `torchrun` the process group is set up from the environment. States are saved every
    `save_steps` steps and after each epoch; if there are some of the same data, parameters and
    code, training goes on from the newest, else it starts anew. The number of processes may change
    in between: the samples stay the same, only the masks of the dropout are each process's own.

    Args:
        config: the section `train`.
        tracks: the catalogue: splits and songs. Styles are never looked at, unless
            `same_style` asks for it.
        stems_dir: stem shards.
        features_dir: `features.parquet` and `standardisation.json`.
        out_dir: receives what `mixprint.encoder.outputs` lists.
        data_fingerprint: of the stems and features, kept in the checkpoint.
        device: `cpu` or `cuda`; ranks take the GPU of their local rank.
        on_epoch: called on rank 0 after each epoch is safe on disk, with its number (from 1)
            and its metrics; not called again for epochs before a resumption.

    Returns:
        the metrics of the best epoch by validation, and `best_epoch`, `num_epochs`.

    Raises:
        TrainingError: there is too little to train on, a loss, gradient or embedding is not
            finite, a state cannot be saved, or another training works in `out_dir`.
        CheckpointError: there are states to go on from, and none of them is whole.
        DataError: shards and features do not fit each other, or a segment cannot be read.
    """
    device = rank_device(torch.device(device))
    gpus = [device] if device.type == "cuda" else []
    with process_group(device), torch.random.fork_rng(devices=gpus), ExitStack() as stack:
        if rank_and_world()[0] == 0:
            stack.enter_context(only_training(out_dir / STATE_FOLDER))
        # One that is just ending may save once more: no rank reads before it is gone.
        barrier()
        trainer = _Trainer(config, tracks, stems_dir, features_dir, device)
        return trainer.run(out_dir, data_fingerprint, on_epoch)


class _Trainer:
    def __init__(
        self,
        config: TrainConfig,
        tracks: Sequence[Track],
        stems_dir: Path,
        features_dir: Path,
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.objective, self.ranges = config.objective(), config.augment_ranges()
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
        self.valid_tracks = whole_songs(self.valid_tracks, config.max_valid_tracks, config.seed)
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
        self.epochs = Epochs(
            self.train_tracks,
            batch_size=config.batch_size,
            siblings_per_batch=config.siblings_per_batch,
            styles_meet=self.objective.knows_styles,
            stored_s=self.stored_s,
            seed=config.seed,
        )
        self.steps_per_epoch = self.epochs.steps_per_epoch
        if self.world_size > min(map(len, self.epochs.plan(1))):
            raise TrainingError(
                f"expected at most as many processes as pairs in a batch, found "
                f"{self.world_size} processes and {len(self.train_tracks)} tracks in "
                f"{self.steps_per_epoch} batches"
            )
        plans = (self.epochs.plan(epoch) for epoch in range(1, config.epochs + 1))
        if not any(self._has_negative(pairs) for plan in plans for pairs in plan):
            raise TrainingError(
                "expected a batch in which something repels (train.negatives: "
                f"{', '.join(self.objective.negatives)}), found none: siblings need several mixes "
                "of a song, songs and shared chains need several songs; there are "
                f"{len(self.train_tracks)} tracks of "
                f"{len({track.song for track in self.train_tracks})} songs"
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

    def run(
        self, out_dir: Path, data_fingerprint: str, on_epoch: EpochCallback | None
    ) -> dict[str, float]:
        config, progress = self.config, self.progress
        outputs = TrainingOutputs(
            out_dir,
            identity=self._identity(data_fingerprint),
            keep_checkpoints=config.keep_checkpoints,
            standardisation=self.standardisation,
            metadata={
                "data_fingerprint": data_fingerprint,
                "train": config.identity(),
                "num_train_tracks": len(self.train_tracks),
                "num_valid_tracks": len(self.valid_tracks),
            },
        )
        self._resume(outputs)
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
        batches = load_batches(
            self.source,
            self.epochs,
            range(progress.step, config.epochs * self.steps_per_epoch),
            rank=self.rank,
            world_size=self.world_size,
            num_workers=config.num_workers,
            pinned=self.device.type == "cuda",
        )
        with ExitStack() as stack:
            recorder = None
            if self.rank == 0:
                scalars = ScalarLog(out_dir / LOGS_FOLDER, progress.step)
                recorder = _Recorder(self, outputs, stack.enter_context(scalars), on_epoch)
                recorder.catch_up()
            while not self._finished():
                metrics = self._run_epoch(forward, batches, recorder)
                progress.end_epoch(metrics, self.model.encoder)
                if recorder is not None:
                    recorder.end_epoch(metrics)
        result = {
            **progress.best_metrics,
            "best_epoch": float(progress.best_epoch),
            "num_epochs": float(progress.epoch),
        }
        if self.rank == 0:
            outputs.write_final(progress.epoch, self.model.encoder, progress.history[-1])
            outputs.write_result(progress.best_epoch, self.best_encoder(), result)
        barrier()
        return result

    def _finished(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        out_of_patience = 0 < self.config.patience <= waited
        return self.progress.epoch >= self.config.epochs or out_of_patience

    def best_encoder(self) -> MixEncoder:
        """Build the encoder of the best epoch so far."""
        encoder = MixEncoder(self.model.encoder.config)
        encoder.load_state_dict(self.progress.best_weights)
        return encoder

    def state(self) -> TrainingState:
        """Return everything that a resumed run needs."""
        return {
            "step": self.progress.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dict(vars(self.progress)),
        }

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

    def _run_epoch(
        self, forward: nn.Module, batches: Iterator[Batch], recorder: "_Recorder | None"
    ) -> dict[str, float]:
        """Take the steps of an epoch that are not taken yet, then validate."""
        progress = self.progress
        plan = self.epochs.plan(progress.epoch + 1)
        first = progress.step - progress.epoch * self.steps_per_epoch
        forward.train()
        with ExitStack() as stack:
            shown = None
            if self.rank == 0:
                total = self.steps_per_epoch - first
                shown = stack.enter_context(
                    Progress(log, f"epoch {progress.epoch + 1}: took", total=total, unit="steps")
                )
            for pairs in plan[first:]:
                started_s = time.monotonic()
                loss, norm = self._step(forward, pairs, next(batches))
                progress.step += 1
                progress.loss_sum += loss
                progress.norm_sum += norm
                progress.train_s += time.monotonic() - started_s
                if shown is not None:
                    shown.advance()
                if recorder is not None:
                    recorder.end_step(loss, norm)
        started_s = time.monotonic()
        validation = self._validate()
        valid_s = time.monotonic() - started_s
        num_segments = self._num_views * sum(map(len, plan))
        return {
            "train_loss": progress.loss_sum / len(plan),
            "gradient_norm": progress.norm_sum / len(plan),
            "learning_rate": self.learning_rate(),
            "temperature": self.temperature(),
            "train_segments_per_s": num_segments / progress.train_s,
            **validation,
            "epoch_s": progress.train_s + valid_s,
        }

    def _step(self, forward: nn.Module, pairs: Sequence[Pair], batch: Batch) -> tuple[float, float]:
        """Do one optimiser step; return the loss of the whole batch and the gradient's norm."""
        config, step = self.config, self.progress.step
        torch.manual_seed(derive_seed(config.seed, "dropout", step, self.rank))
        sizes = [_length(rank_rows(len(pairs), r, self.world_size)) for r in range(self.world_size)]
        rows = rank_rows(len(pairs), self.rank, self.world_size)
        partners = self._partners(pairs)
        chains = self._chains(partners, len(pairs), rows)
        stems_BSCT, features_BD = self._views(batch, chains)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            embedding_BE, scale = forward(stems_BSCT, features_BD)
        # One exchange for all views: rows first, so that ranks can hold different numbers.
        local_BPE = embedding_BE.unflatten(0, (self._num_views, -1)).transpose(0, 1)
        view_PGE = gather_rows(local_BPE, sizes).transpose(0, 1)
        views = Views(
            anchor_GE=view_PGE[0],
            positive_GE=view_PGE[1],
            augmented_GE=view_PGE[2] if self.objective.needs_augmented else None,
            partner_G=None if partners is None else torch.tensor(partners, device=self.device),
            song_G=numbered([pair.track.song for pair in pairs]).to(self.device),
            style_G=numbered([pair.track.style for pair in pairs]).to(self.device),
        )
        loss_B = contrastive_loss(views, rows, scale, self.objective)
        batch_loss = float(sum_over_ranks(loss_B.detach().sum())) / len(pairs)
        self._check_finite(batch_loss, "loss", pairs, view_PGE.detach())
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages the ranks' gradients; this makes that the gradient of the batch's mean.
        (loss_B.sum() * self.world_size / len(pairs)).backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        self._check_finite(norm, "gradient norm", pairs, view_PGE.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.model.temperature.limit()
        return batch_loss, norm

    @property
    def _num_views(self) -> int:
        return len(_VIEWS) if self.objective.needs_augmented else len(_VIEWS) - 1

    def _partners(self, pairs: Sequence[Pair]) -> list[int] | None:
        """Pair those that share a chain; None where no chain is shared."""
        if self.objective.shared_chain_weight == 0:
            return None
        return chain_partners(pairs, same_style=self.objective.knows_styles)

    def _chains(self, partners: Sequence[int] | None, num_pairs: int, rows: slice) -> Chains | None:
        """Draw the chains of the whole batch and take this rank's; partners share the first's."""
        if not self.objective.needs_augmented:
            return None
        seed = derive_seed(self.config.seed, "chains", self.progress.step)
        chains = draw_chains(num_pairs, self.ranges, torch.Generator().manual_seed(seed))
        index_G = torch.arange(num_pairs)
        if partners is not None:
            partner_G = torch.tensor(partners)
            index_G = torch.where(partner_G == NO_PARTNER, index_G, index_G.minimum(partner_G))
        return chains.take(index_G[rows])

    @torch.no_grad()
    def _views(self, batch: Batch, chains: Chains | None) -> tuple[Tensor, Tensor]:
        """Lay all views behind each other: stems and standardised features.

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
            chunks = unknown_BSCT.split(self._items_at_once)
            parts += [extract(chunk, self.sample_rate_hz) for chunk in chunks]
        return stems_PBSCT.flatten(0, 1), self.standardisation.apply(torch.cat(parts))

    @property
    def _items_at_once(self) -> int:
        return _ITEMS_AT_ONCE[self.device.type]

    def _check_finite(
        self, value: float, what: str, pairs: Sequence[Pair], view_PGE: Tensor
    ) -> None:
        """Stop before the optimiser moves, naming the segments whose embeddings are not finite.

        Where all embeddings are finite, it can be any of the batch. Every rank holds the same
        gathered values, so all of them stop.
        """
        if math.isfinite(value):
            return
        bad_PG = ~view_PGE.isfinite().all(dim=-1)
        if not bad_PG.any():
            bad_PG = torch.ones_like(bad_PG)
        bad = [self._describe(pairs[g], p) for p, g in bad_PG.nonzero().tolist()]
        raise TrainingError(
            f"step {self.progress.step}: expected a finite {what}, found {value}; {_listed(bad)}"
        )

    def _describe(self, pair: Pair, view: int) -> str:
        """Name a segment of a batch and where in its track it was heard."""
        is_positive = _VIEWS[view] == "positive"
        reference = pair.track.references[pair.positive if is_positive else pair.anchor]
        crop = pair.positive_crop if is_positive else pair.anchor_crop
        start_s = reference.start_s + crop * (self.stored_s - self.config.segment_s)
        return f"{_segment_name(reference, start_s)} ({_VIEWS[view]})"

    def learning_rate(self) -> float:
        """Return the rate of the step to come."""
        return warmed_up_rate(
            self.progress.step,
            self.config.epochs * self.steps_per_epoch,
            highest=self.config.learning_rate,
            warmup_fraction=self.config.warmup_fraction,
        )

    def temperature(self) -> float:
        """Return the present temperature of the loss."""
        return 1.0 / float(self.model.temperature().detach())

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Embed every segment of the validation tracks, the work divided over the ranks."""
        self.model.eval()
        references = [r for t in self.valid_tracks for r in t.references]
        sizes = [
            _length(rank_rows(len(references), r, self.world_size)) for r in range(self.world_size)
        ]
        own = references[rank_rows(len(references), self.rank, self.world_size)]
        parts = []
        for start in range(0, len(own), self._items_at_once):
            read = [(r, *self.source.stems(r)) for r in own[start : start + self._items_at_once]]
            stems_BSCT = torch.stack([stems for _, stems, _ in read]).to(self.device)
            if all(whole for *_, whole in read):
                features_BD = torch.stack([self.source.features(r) for r, *_ in read])
                features_BD = features_BD.to(self.device)
            else:
                features_BD = extract(stems_BSCT, self.sample_rate_hz)
            parts.append(self.model.encoder(stems_BSCT, self.standardisation.apply(features_BD)))
        dim = self.config.embedding_dim
        own_QE = torch.cat(parts) if parts else torch.empty(0, dim, device=self.device)
        embedding_QE = gather_rows(own_QE, sizes).cpu()
        finite_Q = embedding_QE.isfinite().all(dim=-1)
        if not finite_Q.all():
            numbers = (~finite_Q).nonzero().flatten().tolist()
            bad = [_segment_name(references[q], references[q].start_s) for q in numbers]
            raise TrainingError(
                f"step {self.progress.step}: expected finite embeddings of the segments for "
                f"validation, found others; {_listed(bad)}"
            )
        scale = self.model.temperature().cpu()
        metrics = retrieval_metrics(embedding_QE, self.valid_tracks, self.stored_s, scale)
        if self.objective.knows_styles:
            metrics |= style_retrieval_metrics(embedding_QE, self.valid_tracks)
        # Other processors round in another way, and all ranks have to end after the same epoch.
        return of_first_rank(metrics, self.device)

    def _identity(self, data_fingerprint: str) -> str:
        return fingerprint(
            {
                "config": self.config.identity(),
                "data": data_fingerprint,
                "code": code_version(__name__),
            }
        )

    def _resume(self, outputs: TrainingOutputs) -> None:
        """Go on from the newest state, or begin with an empty folder."""
        if self.rank == 0:
            outputs.remove_leftovers()
        state = outputs.states.load_for_all(self.device)
        if state is None:
            if self.rank == 0:
                outputs.start_anew()
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        log.info(
            "resumed after %d whole epochs, at step %d", self.progress.epoch, self.progress.step
        )


class _Recorder:
    """What the first rank writes while the training goes on."""

    def __init__(
        self,
        trainer: _Trainer,
        outputs: TrainingOutputs,
        scalars: ScalarLog,
        on_epoch: EpochCallback | None,
    ) -> None:
        self._trainer, self._outputs, self._scalars = trainer, outputs, scalars
        self._on_epoch = on_epoch
        self._started_s, self._first_epoch = time.monotonic(), trainer.progress.epoch

    def catch_up(self) -> None:
        """Write what a killed run could not write after its last state."""
        if self._trainer.progress.history:
            self._write_epoch()

    def end_step(self, loss: float, norm: float) -> None:
        """Log a step that was taken, and save the state when it is time."""
        progress, config = self._trainer.progress, self._trainer.config
        if progress.step % config.log_steps == 0:
            values = {
                "train/loss": loss,
                "train/gradient_norm": norm,
                "train/learning_rate": self._trainer.learning_rate(),
                "train/temperature": self._trainer.temperature(),
            }
            self._scalars.add(progress.step, values)
        # The state after an epoch holds its validation, too.
        ends_epoch = progress.step % self._trainer.steps_per_epoch == 0
        if config.save_steps and progress.step % config.save_steps == 0 and not ends_epoch:
            self._save()

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Log and save an epoch that has been validated, and tell of it."""
        progress, config = self._trainer.progress, self._trainer.config
        self._scalars.add(progress.step, {f"epoch/{n}": v for n, v in metrics.items()})
        self._save()
        self._write_epoch()
        epoch_s = (time.monotonic() - self._started_s) / (progress.epoch - self._first_epoch)
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
        if self._on_epoch is not None:
            self._on_epoch(progress.epoch, dict(metrics))

    def _save(self) -> None:
        self._scalars.flush()
        self._outputs.states.save(self._trainer.state())

    def _write_epoch(self) -> None:
        """Write what follows from the state after an epoch; once more does no harm."""
        progress = self._trainer.progress
        if progress.step == progress.epoch * self._trainer.steps_per_epoch:
            encoder = self._trainer.model.encoder
            self._outputs.write_epoch(progress.epoch, encoder, progress.history[-1])
        if progress.best_epoch == progress.epoch:
            best = self._trainer.best_encoder()
            self._outputs.write_best(progress.epoch, best, progress.best_metrics)
        self._outputs.write_history(progress.history)


def _segment_name(reference: SegmentRef, start_s: float) -> str:
    return f"track {reference.track_id} segment {reference.segment} at {start_s:.1f} s"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
