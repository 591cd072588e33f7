"""Training of an SCNet on songs with true stems, in one process or under `torchrun`.

Every random choice is derived from the seed, the step and the number of the example in the batch:
a training that is resumed goes on as an undisturbed one would have, and several processes learn
together what one would have learned.

Shape suffixes: B batch of this rank, S stem, C channel, T sample, F frequency row, N frame.
"""

import copy
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from mixprint.checkpoints.form import WEIGHTS_SUFFIX, CheckpointFiles, load_weights
from mixprint.errors import CheckpointError, ConfigError
from mixprint.machine.device import resolve_device
from mixprint.schema import WithOthers, as_record
from mixprint.separation.loading import load_separator
from mixprint.separation.material.pool import MadePool
from mixprint.separation.material.remix import Remixer
from mixprint.separation.scnet.architecture import SCNetConfig, Variant
from mixprint.separation.scnet.checkpoint import export_separator
from mixprint.separation.scnet.data import (
    Batch,
    Examples,
    Material,
    made_songs,
    songs_of_folder,
)
from mixprint.separation.scnet.model import SCNet, build_scnet, deepened
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.scnet.settings import (
    DEFAULT_MODEL,
    DEFAULT_VARIANT,
    SeparatorTrainConfig,
)
from mixprint.separation.scnet.validation import Validation, check_names, described, mean_score
from mixprint.separation.separator import Separator
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.engine import train
from mixprint.training.muon import Muon, split_parameters
from mixprint.training.outputs import (
    BEST_FOLDER,
    FINAL_FOLDER,
    HISTORY_NAME,
    LOGS_FOLDER,
    known_identities,
)
from mixprint.training.pool import MakingAhead, SongWriter
from mixprint.training.ranks import of_first_rank, rank_and_world, sum_over_ranks
from mixprint.training.recorder import MetricsCallback
from mixprint.training.task import Length, Plan, Task, Weights
from mixprint.training.updates import Update

log = logging.getLogger("mixprint.separation.training")

SONGS_FOLDER = "songs"
# The averaged weights of the best validation, and those of the last step.
EXPORT_NAME, LAST_NAME = "separator", "separator-last"
WEIGHTS_FILE = f"{EXPORT_NAME}{WEIGHTS_SUFFIX}"
MODEL_FILES = (
    *map(str, CheckpointFiles.named(Path(), EXPORT_NAME)),
    *map(str, CheckpointFiles.named(Path(), LAST_NAME)),
    HISTORY_NAME,
)
# What a training writes beside its states.
OUTPUTS = (*MODEL_FILES, SONGS_FOLDER, BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER)
# What a resumption may not change of the parameters, beside the optimiser.
KEPT = ("variant", "model", "remix")
# Keeps the gradient of a root finite where estimate and target are equal; -80 dB of full scale.
ERROR_FLOOR = 1e-8
_NETWORK = "network"


def spectral_rmse(estimate: Tensor, target: Tensor) -> Tensor:
    """Distance of complex spectra: the RMSE of each stem.

    Args:
        estimate: estimate_BSCFN, complex.
        target: target_BSCFN, complex.

    Returns:
        rmse_BS.

    Source: Tong et al., arXiv 2401.13276, training objective.
    """
    error = torch.view_as_real(estimate - target)
    power_BS = error.square().mean(dim=(2, 3, 4, 5))
    return (power_BS + ERROR_FLOOR).sqrt()


@dataclass(frozen=True, kw_only=True)
class _Identity(WithOthers):
    """The part of a saved training's identity that says what is trained."""

    variant: Variant
    model: SCNetConfig


class SeparatorTask(Task[Batch]):
    """An SCNet that learns to separate."""

    name = "separator"

    def __init__(
        self,
        config: SeparatorTrainConfig,
        network: SCNet,
        material: Material,
        extra_valid: Mapping[str, str | Path],
    ) -> None:
        """Prepare it; songs to validate on are found, or made, on the first rank.

        Raises:
            ConfigError: the batch cannot be divided among the ranks.
        """
        self._config, self._training = config, config.training
        self._network, self._material = network, material
        self.rank, self.world_size = rank_and_world()
        size, left = divmod(self._training.batch_size, self.world_size)
        if left:
            raise ConfigError(
                f"training.batch_size: expected a multiple of {self.world_size} processes, found "
                f"{self._training.batch_size}"
            )
        self._rows = range(self.rank * size, (self.rank + 1) * size)
        self._remixer = Remixer(
            material.pool,
            config.remix,
            num_samples=round(self._training.segment_s * SAMPLE_RATE_HZ),
            seed=self._training.seed,
            max_bad_fraction=self._training.max_bad_fraction,
        )
        self.parts = {_NETWORK: network}
        self.averaged = {_NETWORK: self._training.ema_decay}
        self.plan = Plan(
            length=Length(
                steps=max(self._training.max_steps, 0), minutes=self._training.max_minutes
            ),
            valid_steps=self._training.valid_steps,
            seed=self._training.seed,
            max_grad_norm=self._training.max_grad_norm,
            save_steps=self._training.save_steps,
            log_steps=self._training.log_steps,
            num_workers=self._training.num_workers,
            precision=self._training.precision,
        )
        self._ahead: MakingAhead | None = None
        self._validation: Validation | None = None
        self._validated_step = 0
        if self.rank == 0:
            self._validation = Validation(material.held_out(), extra_valid, self._training)

    def identity(self) -> Mapping[str, Any]:
        """See `Task`; length, rates and songs may change between runs."""
        values = self._config.identity()
        kept = {name: values[name] for name in KEPT}
        return {**kept, "optimiser": self._training.optimiser}

    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        """See `Task`; Muon comes first where it takes part."""
        config = self._training
        matrices: list[dict[str, Any]] = []
        others = list(self._network.parameters())
        if config.optimiser == "muon":
            matrices, others = split_parameters(self._network)
        decay = config.weight_decay
        adamw = torch.optim.AdamW(
            others, lr=1.0, betas=config.betas, weight_decay=decay, fused=True
        )
        muon = [Muon(matrices, lr=config.muon_factor, weight_decay=decay)] if matrices else []
        return {_NETWORK: [*muon, adamw]}

    def rate(self, part: str, step: int, done: float) -> float:
        """See `Task`: a linear rise, then half a cosine."""
        del part
        config = self._training
        rise = min((step + 1) / max(config.warmup_steps, 1), 1.0)
        fall = (1 + math.cos(math.pi * min(done, 1.0))) / 2
        rate = rise * (config.final_fraction + (1 - config.final_fraction) * fall)
        return rate * config.learning_rate

    def examples(self) -> Dataset[Batch]:
        """See `Task`."""
        network = self._network.config
        return Examples(self._remixer, self._rows, network.num_bins, network.sources)

    def learn(self, step: int, batch: Batch, update: Update) -> Mapping[str, float]:
        """See `Task`.

        Returns:
            the loss, and the loss divided by that of an estimate of silence.
        """
        if self._ahead is not None:
            self._ahead.reached(step)
        stems_BSCT, gain_BSF = batch
        length, device = stems_BSCT.shape[-1], self._network.stft_window.device
        with torch.no_grad():
            target = self._network.analyse(stems_BSCT.to(device, non_blocking=True))
            target *= gain_BSF.to(device, non_blocking=True)[:, :, None, :, None]
            mixture = target.sum(dim=1)
        with update.autocast():
            estimate = self._network.estimate(mixture)
        rmse_BS = spectral_rmse(estimate, target)
        update.inspect(rmse_BS)
        loss = rmse_BS.mean()
        if self._training.waveform_weight:
            difference_BSCT = self._network.synthesise(estimate - target, length)
            loss = loss + self._training.waveform_weight * difference_BSCT.abs().mean()
        with torch.no_grad():
            silence_BS = spectral_rmse(torch.zeros_like(target), target)
            silence = sum_over_ranks(silence_BS.mean().double())
        # Ranks have equally many examples, so the mean over ranks is that of the batch.
        update.backward(loss / self.world_size)
        total = update.step(_NETWORK)
        return {"loss": total, "relative_loss": total / (silence.item() / self.world_size)}

    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        """See `Task`; the first rank does it."""
        self._validated_step = step
        if self._validation is None:
            return {}
        network = parts[_NETWORK]
        assert isinstance(network, SCNet)
        trained = TrainedSCNet(network, window_s=self._training.segment_s)
        return self._validation.measure(Separator(trained))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """See `Task`; of equal ones the later is better."""
        mean = mean_score(metrics)
        return None if mean is None else (mean, float(self._validated_step))

    def basis(self) -> str:
        """See `Task`."""
        return "" if self._validation is None else self._validation.basis

    def describe(self, step: int, batch: Batch) -> Sequence[str]:
        """See `Task`."""
        del batch
        return [self._remixer.describe(step, row) for row in self._rows]

    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """See `Task`."""
        self._export(folder, EXPORT_NAME, weights, entry)

    def export_last(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """See `Task`."""
        self._export(folder, LAST_NAME, weights, entry)

    def _export(
        self, folder: Path, name: str, weights: Weights, entry: Mapping[str, float]
    ) -> None:
        network = copy.deepcopy(self._network)
        network.load_state_dict(weights[_NETWORK])
        export_separator(
            network,
            folder,
            window_s=self._training.segment_s,
            name=name,
            training={
                "recipe": self._config.identity(),
                "steps": entry["step"],
                "minutes": entry["minutes"],
                "songs": self._material.num_songs,
                "data_fingerprint": self._material.fingerprint,
                "validation": described(entry),
            },
        )

    def summary(self) -> str:
        """See `Task`."""
        return f"{self._material.num_songs} songs, a {self._network.variant} SCNet"

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """See `Task`; on each machine processes make songs ahead, where songs are made."""
        pool, number = self._material.pool, self._config.songs.num_generators
        if not isinstance(pool, MadePool) or not number or os.environ.get("LOCAL_RANK", "0") != "0":
            yield
            return
        with MakingAhead(pool, number, step) as self._ahead:
            yield

    def saved(self, oldest_step: int) -> None:
        """See `Task`."""
        if isinstance(self._material.pool, MadePool):
            self._material.pool.forget_before(oldest_step)

    def memory(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"data": self._material.fingerprint}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Task`."""
        if memory["data"] != self._material.fingerprint:
            log.warning(
                "the songs are others than before: it goes on, but not as an undisturbed "
                "training would have"
            )

    def replace(self, others: Mapping[Path, Mapping[str, Any]]) -> None:
        """See `Task`; a training of hours is never replaced.

        Raises:
            CheckpointError: there is another one.
        """
        for folder, known in others.items():
            for name, expected in self.identity().items():
                if known.get(name) != expected:
                    raise CheckpointError(
                        f"{folder}: expected a state of {name} {expected}, found {known.get(name)}"
                    )


def train_separator(
    data_dir: str | Path | None,
    out_dir: str | Path,
    config: SeparatorTrainConfig,
    *,
    device: str = "auto",
    extra_valid: Mapping[str, str | Path] | None = None,
    initial: str | Path | None = None,
    initial_config: str | Path | None = None,
    writer: SongWriter | None = None,
    on_metrics: MetricsCallback | None = None,
) -> Path:
    """Train an SCNet, or go on where a killed training left off; call it on every rank.

    Args:
        data_dir: songs in MUSDB18-HQ's layout, see `songs.training_songs`; a `settings.json` with
            `song` names the composition, of which a song may be one of several mixes. None:
            songs are made while the training goes on.
        out_dir: receives `separator.safetensors` and `separator.json` (the averaged weights of
            the best validation), `separator-last.*` (those of the last step), the songs that are
            made, and what `mixprint.training.outputs` lists.
        config: parameters of the training.
        device: see `mixprint.machine.device.resolve_device`; ranks take the GPU of their number.
        extra_valid: name -> folder of more songs to validate on, for example real recordings.
        initial: a checkpoint to start from, see `load_separator`. A model that the parameters name
            must be the checkpoint's, but may have more dual-path layers, see `scnet.deepened`. It
            is not read when a training is resumed.
        initial_config: the configuration that goes with `initial`.
        writer: makes the songs when there is no `data_dir`; by default `mixprint.synthesis`.
        on_metrics: see `mixprint.training.engine.train`.

    Returns:
        path of the exported weights.

    Raises:
        DataError: there are too few songs, or too many that cannot be used.
        ConfigError: the batch cannot be divided among the ranks, what makes songs is not
            installed, or a name in `extra_valid` cannot be used.
        TrainingError: see `mixprint.training.engine.train`.
        CheckpointError: the state in `out_dir`, or `initial`, does not fit.
    """
    out_dir, extra_valid = Path(out_dir), extra_valid or {}
    check_names(extra_valid)

    def build(rank_device: torch.device) -> SeparatorTask:
        known = known_identities(out_dir) if rank_and_world()[0] == 0 else {}
        states = of_first_rank([dict(each) for each in known.values()], rank_device)
        complete, network = _network(config, states, initial, initial_config)
        material = (
            made_songs(out_dir / SONGS_FOLDER, complete, writer)
            if data_dir is None
            else songs_of_folder(Path(data_dir), complete)
        )
        return SeparatorTask(complete, network.to(rank_device), material, extra_valid)

    train(build, out_dir, device=resolve_device(device), on_metrics=on_metrics)
    return out_dir / WEIGHTS_FILE


def _network(
    config: SeparatorTrainConfig,
    states: Sequence[Mapping[str, Any]],
    initial: str | Path | None,
    initial_config: str | Path | None,
) -> tuple[SeparatorTrainConfig, SCNet]:
    """Build the network with fresh weights or those of a checkpoint, and complete the parameters.

    Args:
        config: may leave the model to a saved state, or to the checkpoint.
        states: identities of trainings in the folder.
        initial: see `train_separator`.
        initial_config: likewise.
    """
    start: SCNet | None = None
    if states:
        known = as_record(states[0], "state", _Identity, CheckpointError)
        config = config.completed(known.variant, known.model)
    elif initial is not None:
        trained = load_separator(initial, initial_config).network
        if not isinstance(trained, TrainedSCNet):
            raise CheckpointError(f"{initial}: expected an SCNet to start from, found another kind")
        start = trained.model
        if config.model is not None and config.model.num_dplayer > start.config.num_dplayer:
            torch.manual_seed(config.training.seed)
            start = deepened(start, config.model.num_dplayer)
        config = config.completed(start.variant, start.config)
    config = config.completed(DEFAULT_VARIANT, DEFAULT_MODEL)
    assert config.model is not None
    assert config.variant is not None
    torch.manual_seed(config.training.seed)
    network = build_scnet(config.model, config.variant)
    if start is not None:
        load_weights(network, start.state_dict(), str(initial))
    return config, network
