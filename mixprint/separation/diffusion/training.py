"""Training of a diffusion separator on songs with true stems, in one process or under `torchrun`.

Shape suffixes: B batch of this rank, S stem, C channel, T sample, F frequency row, N frame.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mixprint.checkpoints.form import WEIGHTS_SUFFIX, CheckpointFiles, load_weights
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.machine import xla
from mixprint.machine.device import training_device
from mixprint.schema import WithOthers, as_record
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.data import (
    Examples,
    drawn_noise,
    spread_draws,
    uniform_draws,
)
from mixprint.separation.diffusion.losses import (
    Losses,
    denoising_losses,
    means_by_time,
    sums_by_time,
)
from mixprint.separation.diffusion.model import (
    VOCALS,
    Denoiser,
    Prior,
    denoised_examples,
    from_scnet,
    is_new,
)
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import DiffusionConfig
from mixprint.separation.diffusion.spectrum import fitted_scales
from mixprint.separation.diffusion.training_settings import (
    DiffusionTrainConfig,
    DiffusionTrainingConfig,
)
from mixprint.separation.diffusion.validation import SCORED, Validation, validated
from mixprint.separation.loading import DEFAULT, load_separator
from mixprint.separation.material.sources import Material, found_or_made
from mixprint.separation.network import DEFAULT_WEIGHTS
from mixprint.separation.scnet.model import analysed
from mixprint.separation.scnet.network import TrainedSCNet
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
from mixprint.stems import STEMS
from mixprint.storage.atomic import atomic_path
from mixprint.training.engine import train
from mixprint.training.outputs import known_identities
from mixprint.training.pool import SongWriter
from mixprint.training.ranks import sum_over_ranks
from mixprint.training.recorder import MetricsCallback
from mixprint.training.updates import Update

EXPORT_NAME = "diffusion"
WEIGHTS_FILE = f"{EXPORT_NAME}{WEIGHTS_SUFFIX}"
# A prior that is not the shipped SCNet lies beside the weights.
PRIOR_NAME = "prior"
PRIOR_FILES = tuple(map(str, CheckpointFiles.named(Path(), PRIOR_NAME)))
MODEL_FILES = (*model_files(EXPORT_NAME), *PRIOR_FILES)
OUTPUTS = (*all_outputs(EXPORT_NAME), *PRIOR_FILES)
NUM_FITTED = 16  # examples that the scales of spectra are fitted to
_VOCALS = STEMS.index(VOCALS)


@dataclass(frozen=True, kw_only=True)
class _Identity(WithOthers):
    """The part of a saved training's identity that says what is trained."""

    model: DiffusionConfig


@dataclass(frozen=True)
class TrainingPrior:
    """An SCNet whose instrumentals a separator learns to make use of.

    Attributes:
        network: the SCNet.
        path: of its weights.
    """

    network: TrainedSCNet
    path: Path

    @classmethod
    def load(cls, checkpoint: str, device: torch.device) -> "TrainingPrior":
        """Load it; see `DiffusionTrainConfig.prior`.

        Raises:
            ConfigError: it is no SCNet, or not in mixprint's own format.
            CheckpointError: it cannot be loaded.
        """
        path = DEFAULT_WEIGHTS if checkpoint == DEFAULT else Path(checkpoint)
        if path.suffix != WEIGHTS_SUFFIX:
            raise ConfigError(
                f"diffusion.prior: expected a checkpoint of mixprint's own ({WEIGHTS_SUFFIX}), "
                f"found {path}"
            )
        network = load_separator(path, device=device).network
        if not isinstance(network, TrainedSCNet):
            raise ConfigError(f"diffusion.prior: expected an SCNet, found another kind in {path}")
        sha256 = network.fingerprint["checkpoint_sha256"]
        named = TrainedSCNet(
            network.model,
            window_s=network.window_s,
            weights={"model": PRIOR_NAME, "checkpoint_sha256": sha256},
            sample_rate_hz=network.sample_rate_hz,
            normalised=network.normalised,
        )
        return cls(named, path)

    def copy_to(self, folder: Path) -> None:
        """Copy its files, unless it is shipped."""
        if self.path == DEFAULT_WEIGHTS:
            return
        source = CheckpointFiles.named(self.path.parent, self.path.stem)
        for file, copied in zip(source, CheckpointFiles.named(folder, PRIOR_NAME), strict=True):
            with atomic_path(copied) as temporary:
                shutil.copyfile(file, temporary)


class DiffusionTask(SongTask[Denoiser]):
    """A denoiser that learns to tell instrumentals from noise, for mixtures that it is shown."""

    name = "diffusion"
    export_name = EXPORT_NAME
    kept = ("model", "remix")
    on_xla = True
    validation, scored = Validation, SCORED
    _training: DiffusionTrainingConfig
    _validation: Validation | None

    def __init__(
        self,
        config: DiffusionTrainConfig,
        network: Denoiser,
        material: Material,
        extra_valid: Mapping[str, str | Path],
        prior: TrainingPrior | None = None,
    ) -> None:
        """Prepare it; see `SongTask`.

        Args:
            config: parameters, complete: `config.model` is the network's.
            network: see `SongTask`.
            material: see `SongTask`.
            extra_valid: see `SongTask`.
            prior: on the device of the network; on the CPU where that is an XLA device.

        Raises:
            ConfigError: the batch cannot be divided among the ranks, or sampling, prior and
                network do not fit together.
        """
        self._training, self._sampling, self._prior = config.training, config.sampling, prior
        self._device = network.stft_window.device
        self._host = xla.host_of(self._device)
        self._window_T = network.stft_window.to(self._host)
        # Before songs to validate on are made, which takes long.
        validated(self._separator(network), self._training)
        super().__init__(config, network, material, extra_valid)
        if self._training.learned == "presence":
            network.requires_grad_(False)
            network.presence.requires_grad_(True)

    def identity(self) -> Mapping[str, Any]:
        """See `SongTask`; the prior may not change either."""
        prior = None if self._prior is None else self._prior.network.fingerprint
        return {**super().identity(), "prior": prior and prior["checkpoint_sha256"]}

    def examples(self) -> Dataset[Batch]:
        """See `Task`."""
        return self._examples(self._rows, self._training)

    def _examples(self, rows: range, training: DiffusionTrainingConfig) -> Examples:
        config = self._network.config
        return Examples(self._remixer, rows, config.blocks.num_bins, config.level_dbfs, training)

    def _rated(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """See `SongTask`: what an SCNet does not have has a rate of its own."""
        new = {id(own) for name, own in self._network.named_parameters() if is_new(name)}
        factors = {False: 1.0, True: self._training.new_factor}
        groups = [
            {"params": [each for each in parameters if (id(each) in new) == kind], "lr": factor}
            for kind, factor in factors.items()
        ]
        return [group for group in groups if group["params"]]

    def fit_scales(self) -> None:
        """Fit the scales of the network's spectra to the first examples.

        Raises:
            DataError: their instrumentals are silent.
        """
        size = self._training.batch_size
        whole = replace(self._training, no_vocal_fraction=0.0, vocal_only_fraction=0.0)
        examples = self._examples(range(size), whole)

        def instrumentals() -> Iterator[Tensor]:
            for step in range(-(-NUM_FITTED // size)):
                spectra_BSCFN = self._analysed(examples[step])
                yield spectra_BSCFN.sum(dim=1) - spectra_BSCFN[:, _VOCALS]

        compression = self._network.compression
        try:
            scales_F = fitted_scales(instrumentals(), compression.power)
        except ValueError as error:
            raise DataError(f"instrumentals of the first {NUM_FITTED} examples: {error}") from error
        compression.scales_F.copy_(scales_F)

    def learn(self, step: int, batch: Batch, update: Update) -> Mapping[str, float]:
        """See `Task`.

        Returns:
            the loss; the errors of instrumental and vocals, both compressed; the likelihood of the
            errors of masks, and of which frames have vocals; and the loss by ranges of time.
        """
        self._made_up_to(step)
        config, network = self._training, self._network
        stems_BSCFN = self._analysed(batch)
        mixture_BCFN = stems_BSCFN.sum(dim=1)
        instrumental_BCFN = mixture_BCFN - stems_BSCFN[:, _VOCALS]
        time_B = self._times(step).to(self._host)
        noise_BCFN = self._noise(step, tuple(mixture_BCFN.shape[1:]))
        prior = self._shown_prior(step, mixture_BCFN, instrumental_BCFN, update)
        with update.autocast():
            parts = denoised_examples(
                network,
                self._sent(mixture_BCFN),
                self._sent(instrumental_BCFN),
                self._sent(time_B),
                self._sent(noise_BCFN),
                prior,
            )
        losses = denoising_losses(network, parts, config.weights)
        update.inspect(losses.total_B)
        losses_LB = torch.stack(losses).detach()
        # Ranks have equally many examples, so the mean over ranks is that of the batch.
        update.backward(losses.total_B.mean() / self.world_size)
        loss = update.step(NETWORK)
        told = Losses(*losses_LB.to(self._host))
        parts_B = (told.instrumental_B, told.vocals_B, told.variance_B, told.presence_B)
        errors = torch.stack([part_B.sum() for part_B in parts_B]).double()
        by_time = sums_by_time(time_B, told.total_B)
        sums = sum_over_ranks(torch.cat([errors, by_time]))
        instrumental, vocals, variance, presence = (sums[:4] / config.batch_size).tolist()
        return {
            "loss": loss,
            "instrumental_error": instrumental,
            "vocals_error": vocals,
            "variance_nll": variance,
            "presence_nll": presence,
            **{f"loss_{name}": value for name, value in means_by_time(sums[4:]).items()},
        }

    def _sent(self, prepared: Tensor) -> Tensor:
        return xla.sent(prepared, self._device)

    @torch.no_grad()
    def _analysed(self, batch: Batch) -> Tensor:
        """Return the stems' spectra, equalised."""
        stems_BSCT, gain_BSF = batch
        stems_BSCT = stems_BSCT.to(self._host, non_blocking=True)
        stems_BSCFN = analysed(stems_BSCT, self._network.config.blocks, self._window_T)
        return stems_BSCFN * gain_BSF.to(self._host, non_blocking=True)[:, :, None, :, None]

    def _own(self, numbers_B: Tensor) -> Tensor:
        """Take those of this rank out of a batch's."""
        return numbers_B[self._rows.start : self._rows.stop]

    def _times(self, step: int) -> Tensor:
        """Draw times for this rank's examples; what lies beyond the end of time is the end."""
        config = self._training
        uniform_B = spread_draws(config.batch_size, config.seed, "time", step)
        uniform_B = (uniform_B / (1 - config.noise_only_fraction)).clamp_max(1)
        return self._own(self._network.schedule.times(uniform_B))

    def _noise(self, step: int, shape: tuple[int, ...]) -> Tensor:
        seed = self._training.seed
        return torch.stack(
            [drawn_noise(shape, self._host, seed, "noise", step, row) for row in self._rows]
        )

    @torch.no_grad()
    def _shown_prior(
        self, step: int, mixture_BCFN: Tensor, instrumental_BCFN: Tensor, update: Update
    ) -> Prior | None:
        """Have the prior separate some of the mixtures, and make its errors louder."""
        if self._prior is None:
            return None
        config, network = self._training, self._prior.network
        drawn_B = self._own(spread_draws(config.batch_size, config.seed, "prior", step))
        given_B = (drawn_B > config.prior_dropout).to(mixture_BCFN.device)
        shown_BCFN = torch.zeros_like(mixture_BCFN)
        if given_B.any():
            with update.autocast():
                stems_BSCFN = network.model.estimate(mixture_BCFN[given_B])
            vocals_BCFN = stems_BSCFN[:, network.stems.index(VOCALS)]
            error_BCFN = mixture_BCFN[given_B] - vocals_BCFN - instrumental_BCFN[given_B]
            error_db = uniform_draws(config.batch_size, config.seed, "prior error", step)
            gain_B = 10 ** (self._own(error_db) * config.prior_error_db / 20)
            gain_B = gain_B.to(mixture_BCFN.device)[given_B].float()
            louder_BCFN = gain_B[:, None, None, None] * error_BCFN
            shown_BCFN[given_B] = instrumental_BCFN[given_B] + louder_BCFN
        return Prior(self._sent(shown_BCFN), self._sent(given_B))

    def summary(self) -> str:
        """See `Task`."""
        return f"{self._material.num_songs} songs, a denoiser of {self._network.config.backbone}"

    def _separator(self, network: Denoiser) -> DiffusionSeparator:
        return DiffusionSeparator(
            network,
            window_s=self._training.segment_s,
            sampling=self._sampling,
            prior=None if self._prior is None else self._prior.network,
        )

    def _measured(self, network: nn.Module) -> Mapping[str, float]:
        assert isinstance(network, Denoiser)
        assert self._validation is not None
        return self._validation.measure(self._separator(network), self._training)

    def _write(self, network: Denoiser, folder: Path, name: str, training: dict[str, Any]) -> None:
        if self._prior is not None:
            self._prior.copy_to(folder)
        # A description is written last: where there is one, all that it names is there.
        export_diffusion(self._separator(network), folder, name=name, training=training)


def train_diffusion(
    data_dir: str | Path | None,
    out_dir: str | Path,
    config: DiffusionTrainConfig,
    *,
    device: str = "auto",
    extra_valid: Mapping[str, str | Path] | None = None,
    writer: SongWriter | None = None,
    on_metrics: MetricsCallback | None = None,
) -> Path:
    """Train a diffusion separator, or go on where a killed training left off; on every rank.

    Args:
        data_dir: see `mixprint.separation.scnet.training.train_separator`.
        out_dir: receives `diffusion.safetensors` and `diffusion.json` (the averaged weights of the
            best validation), `diffusion-last.*` (those of the last step), `prior.*` where the prior
            is not the shipped SCNet, the songs that are made, and what `mixprint.training.outputs`
            lists.
        config: parameters of the training. What it starts from is not read when it is resumed.
        device: see `mixprint.machine.device.training_device`; ranks take the GPU of their number.
        extra_valid: see `train_separator`.
        writer: see `train_separator`.
        on_metrics: see `mixprint.training.engine.train`.

    Returns:
        path of the exported weights.

    Raises:
        DataError: there are too few songs, or too many that cannot be used.
        ConfigError: the batch cannot be divided among the ranks, what makes songs is not
            installed, parameters, prior and what it starts from do not fit together, or a name in
            `extra_valid` cannot be used.
        TrainingError: see `mixprint.training.engine.train`.
        CheckpointError: the state in `out_dir` does not fit, or a checkpoint cannot be loaded.
    """
    out_dir, extra_valid = Path(out_dir), extra_valid or {}
    check_names(extra_valid)

    def build(rank_device: torch.device) -> DiffusionTask:
        states = identities_of_states(out_dir, rank_device)
        complete, network, is_fitted = _network(config, states)
        material = found_or_made(data_dir, out_dir / SONGS_FOLDER, complete, writer)
        prior = TrainingPrior.load(config.prior, xla.host_of(rank_device)) if config.prior else None
        task = DiffusionTask(complete, network.to(rank_device), material, extra_valid, prior)
        # The other ranks are given the weights of the first one, and a state has its own.
        if task.rank == 0 and not is_fitted and not _has_state(out_dir):
            task.fit_scales()
        return task

    train(build, out_dir, device=training_device(device), on_metrics=on_metrics)
    return out_dir / WEIGHTS_FILE


def _has_state(out_dir: Path) -> bool:
    return any(any(folder.glob("*.pt")) for folder in known_identities(out_dir))


def _network(
    config: DiffusionTrainConfig, states: Sequence[Mapping[str, Any]]
) -> tuple[DiffusionTrainConfig, Denoiser, bool]:
    """Build the network with fresh weights or those of a checkpoint, and complete the parameters.

    Args:
        config: may leave the blocks to a saved state, or to the checkpoint.
        states: identities of trainings in the folder.

    Returns:
        the parameters, the network, and whether its spectra have their scales.
    """
    torch.manual_seed(config.training.seed)
    if states:
        known = as_record(states[0], "state", _Identity, CheckpointError).model
        network, is_fitted = Denoiser(config.architecture(known.blocks)), False
    elif config.initial:
        network, is_fitted = _started(config)
    else:
        network, is_fitted = Denoiser(config.architecture()), False
    return config.completed(network.config), network, is_fitted


def _started(config: DiffusionTrainConfig) -> tuple[Denoiser, bool]:
    """Build the network with the weights of `config.initial`.

    Returns:
        the network, and whether its spectra have their scales.

    Raises:
        ConfigError: the parameters ask for another network.
    """
    start = load_separator(config.initial).network
    if isinstance(start, DiffusionSeparator):
        network, is_fitted = Denoiser(start.denoiser.config), True
        load_weights(network, start.denoiser.state_dict(), config.initial)
    elif isinstance(start, TrainedSCNet):
        known = config.architecture(start.model.config)
        if start.normalised and known.level_dbfs != 0:
            raise ConfigError(
                f"diffusion.model.level_dbfs: expected 0, the level of {config.initial}, found "
                f"{known.level_dbfs:g}"
            )
        network, is_fitted = from_scnet(start.model, known), False
    else:
        raise CheckpointError(f"{config.initial}: expected a separator of a known kind")
    wanted, found = (
        each.to_values() for each in (config.architecture(network.config.blocks), network.config)
    )
    if different := [name for name, value in wanted.items() if found[name] != value]:
        raise ConfigError(
            f"diffusion.model: expected {', '.join(different)} as in {config.initial}: "
            f"{ {name: found[name] for name in different} }, found "
            f"{ {name: wanted[name] for name in different} }"
        )
    return network, is_fitted
