"""Training of an SCNet on songs with true stems, in one process or under `torchrun`.

Every random choice is derived from the seed, the step and the number of the example in the batch:
a training that is resumed goes on as an undisturbed one would have, and several processes learn
together what one would have learned.

Shape suffixes: B batch of this rank, S stem, C channel, T sample, F frequency row, N frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from mixprint.checkpoints.form import WEIGHTS_SUFFIX, load_weights
from mixprint.errors import CheckpointError
from mixprint.machine.device import training_device
from mixprint.schema import WithOthers, as_record
from mixprint.separation.loading import load_separator
from mixprint.separation.material.sources import found_or_made
from mixprint.separation.scnet.architecture import SCNetConfig, Variant
from mixprint.separation.scnet.checkpoint import export_separator
from mixprint.separation.scnet.data import Examples
from mixprint.separation.scnet.model import SCNet, build_scnet, deepened
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.scnet.settings import (
    DEFAULT_MODEL,
    DEFAULT_VARIANT,
    SCNetTrainingConfig,
    SeparatorTrainConfig,
)
from mixprint.separation.scnet.validation import SCORED, Validation
from mixprint.separation.separator import Separator
from mixprint.separation.training.losses import spectral_rmse
from mixprint.separation.training.task import (
    NETWORK,
    SONGS_FOLDER,
    Batch,
    SongTask,
    all_outputs,
    identities_of_states,
    model_files,
)
from mixprint.separation.training.validation import check_names
from mixprint.training.engine import train
from mixprint.training.pool import SongWriter
from mixprint.training.ranks import sum_over_ranks
from mixprint.training.recorder import MetricsCallback
from mixprint.training.updates import Update

EXPORT_NAME = "separator"
WEIGHTS_FILE = f"{EXPORT_NAME}{WEIGHTS_SUFFIX}"
MODEL_FILES = model_files(EXPORT_NAME)
OUTPUTS = all_outputs(EXPORT_NAME)


@dataclass(frozen=True, kw_only=True)
class _Identity(WithOthers):
    """The part of a saved training's identity that says what is trained."""

    variant: Variant
    model: SCNetConfig


class SeparatorTask(SongTask[SCNet]):
    """An SCNet that learns to separate."""

    name = "separator"
    export_name = EXPORT_NAME
    kept = ("variant", "model", "remix")
    validation, scored = Validation, SCORED
    _training: SCNetTrainingConfig
    _validation: Validation | None

    def examples(self) -> Dataset[Batch]:
        """See `Task`."""
        network = self._network.config
        return Examples(self._remixer, self._rows, network.num_bins, network.sources)

    def learn(self, step: int, batch: Batch, update: Update) -> Mapping[str, float]:
        """See `Task`.

        Returns:
            the loss, and the loss divided by that of an estimate of silence.
        """
        self._made_up_to(step)
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
        total = update.step(NETWORK)
        return {"loss": total, "relative_loss": total / (silence.item() / self.world_size)}

    def summary(self) -> str:
        """See `Task`."""
        return f"{self._material.num_songs} songs, a {self._network.variant} SCNet"

    def _measured(self, network: nn.Module) -> Mapping[str, float]:
        assert isinstance(network, SCNet)
        assert self._validation is not None
        trained = TrainedSCNet(network, window_s=self._training.segment_s)
        return self._validation.measure(Separator(trained), self._training.valid_s or None)

    def _write(self, network: SCNet, folder: Path, name: str, training: dict[str, Any]) -> None:
        window_s = self._training.segment_s
        export_separator(network, folder, window_s=window_s, name=name, training=training)


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
        device: see `mixprint.machine.device.training_device`; ranks take the GPU of their number.
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
        states = identities_of_states(out_dir, rank_device)
        complete, network = _network(config, states, initial, initial_config)
        material = found_or_made(data_dir, out_dir / SONGS_FOLDER, complete, writer)
        return SeparatorTask(complete, network.to(rank_device), material, extra_valid)

    train(build, out_dir, device=training_device(device), on_metrics=on_metrics)
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
