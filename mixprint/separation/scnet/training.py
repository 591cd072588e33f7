"""Training of an SCNet on songs with true stems, in one process or under `torchrun`.

Every random choice is derived from the seed, the step and the number of the example in the batch:
a training that is resumed goes on as an undisturbed one would have, and several processes learn
together what one would have learned.

Shape suffixes: B batch of this rank, S stem, C channel, T sample, F frequency row, N frame.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from mixprint.checkpoints.form import WEIGHTS_SUFFIX, CheckpointFiles, load_weights
from mixprint.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MixprintError,
    TrainingError,
)
from mixprint.fingerprint import fingerprint
from mixprint.machine.device import resolve_device
from mixprint.progress import progress
from mixprint.schema import checked_mapping, parse_json
from mixprint.separation.loading import load_separator
from mixprint.separation.material.pool import (
    FixedPool,
    MadePool,
    MakingAhead,
    SongPool,
    SongWriter,
    SynthesisWriter,
)
from mixprint.separation.material.remix import Remixer
from mixprint.separation.material.songs import (
    Song,
    check_bad_songs,
    find_songs,
    long_enough,
    read_song,
    training_songs,
)
from mixprint.separation.metrics import (
    MUSEVAL_SDR,
    UTTERANCE_SDR,
    Scores,
    mean_sdr,
    median_sdr,
    score_separator,
)
from mixprint.separation.scnet.checkpoint import export_separator
from mixprint.separation.scnet.model import SCNet, SCNetConfig, build_scnet, deepened
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.scnet.settings import (
    DEFAULT_MODEL,
    DEFAULT_VARIANT,
    SeparatorTrainConfig,
    TrainingConfig,
)
from mixprint.separation.separator import Separator
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import write_json
from mixprint.training.muon import Muon, split_parameters
from mixprint.training.ranks import (
    barrier,
    of_first_rank,
    process_group,
    rank_and_world,
    rank_device,
    sum_over_ranks,
)
from mixprint.training.state import StateFiles, only_training

log = logging.getLogger("mixprint.separation.training")

STATE_FOLDER = "state"
SONGS_FOLDER = "songs"
HISTORY_FILE = "history.json"
# The averaged weights of the best validation, and those of the last step.
EXPORT_NAME, LAST_NAME = "separator", "separator-last"
WEIGHTS_FILE, LAST_FILE = f"{EXPORT_NAME}{WEIGHTS_SUFFIX}", f"{LAST_NAME}{WEIGHTS_SUFFIX}"
MODEL_FILES = (
    *map(str, CheckpointFiles.named(Path(), EXPORT_NAME)),
    *map(str, CheckpointFiles.named(Path(), LAST_NAME)),
    HISTORY_FILE,
)
# What a training writes beside its states.
OUTPUTS = (*MODEL_FILES, SONGS_FOLDER)
HELD_OUT = "held_out"
# What an entry of the history holds beside the songs of `extra_valid`.
NO_SONGS = ("step", "minutes")
RESERVED_NAMES = (*NO_SONGS, HELD_OUT)
# What a resumption may not change of the recipe.
RECIPE_KEPT = ("variant", "model", "remix")
METRIC_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # MLflow refuses some other characters
# Keeps the gradient of a root finite where estimate and target are equal; -80 dB of full scale.
ERROR_FLOOR = 1e-8
SECONDS_PER_MINUTE = 60.0
# The other ranks wait while the first one validates on full songs. One that dies is noticed by
# `torchrun`, not by waiting.
RANK_TIMEOUT = timedelta(hours=12)

# Called on the first rank with a step and what was measured there: `train.*` and `valid.*`.
MetricsCallback = Callable[[int, Mapping[str, float]], None]
# stems_BSCT and gain_BSF of one rank.
Batch = tuple[Tensor, Tensor]


class TrainingState(TypedDict):
    """Everything that a training needs to go on.

    Attributes:
        recipe: as JSON.
        data: fingerprint of the songs.
        model: weights of the network.
        average: the averaged weights.
        optimisers: their states.
        step: how many steps were taken.
        elapsed_s: time of work so far.
        history: of validations, as JSON.
        best: the averaged weights of the best validation so far; empty before the first.
        best_entry: its place in the history, as JSON: its entry, or null.
        best_songs: what it was validated on: figures on other songs are not compared.
    """

    recipe: str
    data: str
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimisers: list[dict[str, Any]]
    step: int
    elapsed_s: float
    history: str
    best: dict[str, Tensor]
    best_entry: str
    best_songs: str


class _Clock:
    """Seconds of work, those of earlier runs included."""

    def __init__(self, spent_s: float) -> None:
        self._spent_s = spent_s
        self._start_s = time.monotonic()

    def elapsed_s(self) -> float:
        return self._spent_s + time.monotonic() - self._start_s


class _Estimator(nn.Module):
    """The network as it is trained: from spectrum to spectra, in one forward."""

    def __init__(self, network: SCNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, mixture_BCFN: Tensor) -> Tensor:
        return self.network.estimate(mixture_BCFN)


class _Examples(Dataset[Batch | MixprintError]):
    """What a rank learns from, by the number of the step."""

    def __init__(
        self, remixer: Remixer, rows: range, num_bins: int, sources: Sequence[str]
    ) -> None:
        self._remixer, self._rows, self._num_bins = remixer, rows, num_bins
        self._order = [STEMS.index(stem) for stem in sources]

    def __getitem__(self, step: int) -> Batch | MixprintError:
        size, first = len(self._rows), self._rows.start
        try:
            stems_BSCT = self._remixer.batch(step, size, first)
            gain_BSF = self._remixer.equalisers(step, size, self._num_bins, first)
        except MixprintError as error:
            # Raised in a worker it would come out with the worker's traceback for a message.
            return error
        return stems_BSCT[:, self._order], gain_BSF[:, self._order]


@dataclass(frozen=True)
class _Material:
    """What is learned from.

    Attributes:
        pool: songs to draw from.
        held_out: gives the songs to validate on.
        fingerprint: tells other songs apart.
        num_songs: so many are trained on, or made at a time.
        made: the pool, when it makes its songs.
        ahead: what makes them, on the first rank of a machine.
    """

    pool: SongPool
    held_out: Callable[[], list[Song]]
    fingerprint: str
    num_songs: int
    made: MadePool | None = None
    ahead: MakingAhead | None = None


class _Run:
    """A training under way: all that changes from step to step."""

    def __init__(self, recipe: SeparatorTrainConfig, device: torch.device) -> None:
        assert recipe.model is not None
        assert recipe.variant is not None
        config = recipe.training
        torch.manual_seed(config.seed)
        self.recipe = recipe
        self.device = device
        self.rank, self.world_size = rank_and_world()
        self.model = build_scnet(recipe.model, recipe.variant).to(device)
        self.average = build_scnet(recipe.model, recipe.variant).to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimisers = _optimisers(self.model, config)
        self._forward: nn.Module | None = None
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_entry: dict[str, Any] | None = None
        self.best_songs = ""
        self.clock = _Clock(0.0)

    def progress(self) -> float:
        """How much of the training is done, 0 to 1 and beyond; the same on every rank."""
        config = self.recipe.training
        by_steps = self.step / config.max_steps if config.max_steps > 0 else 0.0
        limit_s = config.max_minutes * SECONDS_PER_MINUTE
        if limit_s <= 0:
            return by_steps
        return max(by_steps, of_first_rank(self.clock.elapsed_s(), self.device) / limit_s)

    def set_learning_rate(self, done: float) -> float:
        """Set the rate of the step to come: a linear rise, then half a cosine."""
        config = self.recipe.training
        rise = min((self.step + 1) / max(config.warmup_steps, 1), 1.0)
        fall = (1 + math.cos(math.pi * min(done, 1.0))) / 2
        rate = rise * (config.final_fraction + (1 - config.final_fraction) * fall)
        rate *= config.learning_rate
        for optimiser in self.optimisers:
            factor = config.muon_factor if isinstance(optimiser, Muon) else 1.0
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        return rate

    def train_step(self, stems_BSCT: Tensor, gain_BSF: Tensor) -> float:
        """Learn from one batch.

        Args:
            stems_BSCT: true stems in the network's order, this rank's part.
            gain_BSF: gains for their spectra.

        Returns:
            the loss of the whole batch divided by that of an estimate of silence.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        config = self.recipe.training
        length = stems_BSCT.shape[-1]
        with torch.no_grad():
            target = self.model.analyse(stems_BSCT.to(self.device, non_blocking=True))
            target *= gain_BSF.to(self.device, non_blocking=True)[:, :, None, :, None]
            mixture = target.sum(dim=1)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            estimate = self._estimator()(mixture)
        loss = spectral_rmse(estimate, target)
        if config.waveform_weight:
            difference_BSCT = self.model.synthesise(estimate - target, length)
            loss = loss + config.waveform_weight * difference_BSCT.abs().mean()
        # Ranks have equally many examples, so the mean over ranks is that of the batch; of the
        # gradients DDP takes it too.
        with torch.no_grad():
            silence = spectral_rmse(torch.zeros_like(target), target)
            sums = sum_over_ranks(torch.stack([loss.detach(), silence]).double())
        total, total_silence = (sums / self.world_size).tolist()
        if not math.isfinite(total):
            raise TrainingError(f"step {self.step}: expected a finite loss, found {total}")
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingError(f"step {self.step}: expected a finite gradient, found norm {norm}")
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        self._update_average()
        return float(total / total_silence)

    def _estimator(self) -> nn.Module:
        """Wrap the network when it is first used, with the weights that it starts from."""
        if self._forward is None:
            module: nn.Module = _Estimator(self.model)
            if self.world_size > 1:
                gpus = [self.device.index] if self.device.type == "cuda" else None
                # The one buffer is the window of the STFT, which never changes.
                module = DistributedDataParallel(module, device_ids=gpus, broadcast_buffers=False)
            self._forward = module
        return self._forward

    def _update_average(self) -> None:
        # Early on a long average would be an average with the random start.
        decay = min(self.recipe.training.ema_decay, 1 - 1 / (self.step / 10 + 1))
        averages: list[Tensor] = list(self.average.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)

    def state(self, data_fingerprint: str) -> TrainingState:
        """Return everything that the next run needs to go on."""
        return {
            "recipe": json.dumps(self.recipe.identity()),
            "data": data_fingerprint,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "elapsed_s": self.clock.elapsed_s(),
            "history": json.dumps(self.history),
            "best": self.best,
            "best_entry": json.dumps(self.best_entry),
            "best_songs": self.best_songs,
        }

    def keep_best(self, entry: dict[str, Any], songs: str) -> None:
        """Keep the averaged weights if no validation on the same songs was better.

        Args:
            entry: of the history.
            songs: tells what was validated on from other songs.
        """
        score = _score(entry)
        known = _score(self.best_entry) if self.best_songs == songs else None
        if score is None or (known is not None and score < known):
            return
        self.best = {key: value.cpu().clone() for key, value in self.average.state_dict().items()}
        self.best_entry, self.best_songs = entry, songs

    def restore(self, state: TrainingState, where: Path) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: it is one of another model or other examples.
        """
        found = _known_recipe(state, where)
        # The length may change between runs; what is learned, and from what, may not.
        for section in RECIPE_KEPT:
            expected = self.recipe.identity()[section]
            if found[section] != expected:
                raise CheckpointError(
                    f"{where}: expected a state of {section} {expected}, found {found[section]}"
                )
        load_weights(self.model, state["model"], where)
        load_weights(self.average, state["average"], where)
        try:
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{where}: expected a state of {self.recipe.training.optimiser}, found: {error!r}"
            ) from error
        self.step = state["step"]
        self.history = parse_json(state["history"], where, CheckpointError)
        self.best = state["best"]
        self.best_entry = parse_json(state["best_entry"], where, CheckpointError)
        self.best_songs = state["best_songs"]
        self.clock = _Clock(state["elapsed_s"])


def _score(entry: Mapping[str, Any] | None) -> float | None:
    """Return the figure that validations are compared by: that of held-out songs if possible.

    Returns:
        the mean of the average utterance SDR in dB; None where no song has one.
    """
    measured = {name: value for name, value in (entry or {}).items() if name not in NO_SONGS}
    if HELD_OUT in measured:
        measured = {HELD_OUT: measured[HELD_OUT]}
    averages = [by_stem[UTTERANCE_SDR].get("average", math.nan) for by_stem in measured.values()]
    known = [average for average in averages if not math.isnan(average)]
    return sum(known) / len(known) if known else None


def _optimisers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Make what moves the weights; Muon first where it takes part."""
    matrices: list[dict[str, Any]] = []
    others = list(model.parameters())
    if config.optimiser == "muon":
        matrices, others = split_parameters(model)
    decay = config.weight_decay
    adamw = torch.optim.AdamW(
        others, lr=config.learning_rate, betas=config.betas, weight_decay=decay, fused=True
    )
    muon = [Muon(matrices, lr=config.learning_rate, weight_decay=decay)] if matrices else []
    return [*muon, adamw]


def spectral_rmse(estimate: Tensor, target: Tensor) -> Tensor:
    """Measure the distance of complex spectra: the RMSE of each stem, then the mean.

    Args:
        estimate: estimate_BSCFN, complex.
        target: target_BSCFN, complex.

    Source: Tong et al., arXiv 2401.13276, training objective.
    """
    error = torch.view_as_real(estimate - target)
    power_BS = error.square().mean(dim=(2, 3, 4, 5))
    return (power_BS + ERROR_FLOOR).sqrt().mean()


def train_separator(
    data_dir: str | Path | None,
    out_dir: str | Path,
    recipe: SeparatorTrainConfig,
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
            the best validation), `separator-last.*` (those of the last step), the states to
            resume from, the history of validations, and the songs that are made.
        recipe: the training.
        device: see `mixprint.machine.device.resolve_device`; ranks take the GPU of their number.
        extra_valid: name -> folder of more songs to validate on, for example real recordings.
        initial: a checkpoint to start from, see `load_separator`. A model that the recipe names
            must be the checkpoint's, but may have more dual-path layers, see `scnet.deepened`. It
            is not read when a training is resumed.
        initial_config: the configuration that goes with `initial`.
        writer: makes the songs when there is no `data_dir`; by default `mixprint.synthesis`.
        on_metrics: called on the first rank with every line of the log and every validation.

    Returns:
        path of the exported weights.

    Raises:
        DataError: there are too few songs, or too many that cannot be used.
        ConfigError: the batch cannot be divided among the ranks, what makes songs is not
            installed, or a name in `extra_valid` cannot be used.
        TrainingError: a loss or gradient is not finite, a state cannot be saved, or another
            training works in `out_dir`.
        CheckpointError: the state in `out_dir`, or `initial`, does not fit.
    """
    out_dir = Path(out_dir)
    _check_names(extra_valid or {})
    resolved = rank_device(resolve_device(device))
    gpus = [resolved] if resolved.type == "cuda" else []
    with (
        process_group(resolved, RANK_TIMEOUT),
        torch.random.fork_rng(devices=gpus),
        ExitStack() as stack,
    ):
        states = StateFiles(out_dir / STATE_FOLDER, TrainingState)
        if rank_and_world()[0] == 0:
            stack.enter_context(only_training(states.folder))
        # A training that is just ending may save once more: no rank reads before it is gone.
        barrier()
        state = states.load_for_all(resolved)
        run = _start(recipe, state, resolved, states.folder, initial, initial_config)
        if data_dir is None:
            material = _made_songs(out_dir / SONGS_FOLDER, run, writer, stack)
        else:
            material = _songs_of_folder(Path(data_dir), recipe)
        if state is not None and state["data"] != material.fingerprint:
            log.warning(
                "%s: the songs are others than before: it goes on, but not as an undisturbed "
                "training would have",
                states.folder,
            )
        bad = run.recipe.training.max_bad_fraction
        extra = {
            name: find_songs(Path(folder), max_bad_fraction=bad)
            for name, folder in (extra_valid or {}).items()
        }
        return _Trainer(run, material, states, out_dir, on_metrics).run_to_the_end(extra)


def _check_names(names: Iterable[str]) -> None:
    """Refuse names of validation songs that the history or a metric cannot have."""
    for name in names:
        if name in RESERVED_NAMES or not METRIC_NAME.fullmatch(name):
            raise ConfigError(
                f"extra_valid: expected names of letters, digits, `_`, `-` and `.`, other than "
                f"{', '.join(RESERVED_NAMES)}, found {name!r}"
            )


def _start(
    recipe: SeparatorTrainConfig,
    state: TrainingState | None,
    device: torch.device,
    where: Path,
    initial: str | Path | None,
    initial_config: str | Path | None,
) -> _Run:
    """Begin with fresh weights, those of a checkpoint, or a saved state."""
    if state is not None:
        known = _known_recipe(state, where)
        try:
            model = SCNetConfig.from_values(known["model"])
        except ConfigError as error:
            raise CheckpointError(f"{where}: expected a model of mixprint, {error}") from error
        recipe = recipe.completed(known["variant"], model)
        run = _Run(recipe, device)
        run.restore(state, where)
        log.info("goes on from step %d, %.1f min", run.step, run.clock.elapsed_s() / 60)
        return run
    if initial is None:
        return _Run(recipe.completed(DEFAULT_VARIANT, DEFAULT_MODEL), device)
    trained = load_separator(initial, initial_config).network
    if not isinstance(trained, TrainedSCNet):
        raise CheckpointError(f"{initial}: expected an SCNet to start from, found another kind")
    network = trained.model
    if recipe.model is not None and recipe.model.num_dplayer > network.config.num_dplayer:
        torch.manual_seed(recipe.training.seed)
        network = deepened(network, recipe.model.num_dplayer)
    run = _Run(recipe.completed(network.variant, network.config), device)
    load_weights(run.model, network.state_dict(), initial)
    load_weights(run.average, network.state_dict(), initial)
    return run


def _known_recipe(state: TrainingState, where: Path) -> dict[str, Any]:
    """Return the recipe of a saved state, as plain values.

    Raises:
        CheckpointError: a section is missing, for example because another version wrote it.
    """
    values = checked_mapping("recipe", parse_json(state["recipe"], where, CheckpointError))
    if missing := [section for section in RECIPE_KEPT if section not in values]:
        raise CheckpointError(
            f"{where}: expected a recipe with {', '.join(RECIPE_KEPT)}, found none of "
            f"{', '.join(missing)}"
        )
    return values


def _songs_of_folder(data_dir: Path, recipe: SeparatorTrainConfig) -> _Material:
    config = recipe.training
    songs, held_out = training_songs(
        data_dir, config.num_valid, max_bad_fraction=config.max_bad_fraction
    )
    num_samples = round(config.segment_s * SAMPLE_RATE_HZ)
    songs = long_enough(songs, recipe.remix.longest_clip(num_samples))
    # By names and lengths: hashing hours of audio would take minutes.
    names = [[str(song.path.relative_to(data_dir)), song.num_samples] for song in songs]
    return _Material(FixedPool(songs), lambda: held_out, fingerprint(names), len(songs))


def _made_songs(folder: Path, run: _Run, writer: SongWriter | None, stack: ExitStack) -> _Material:
    config = run.recipe.songs
    num_valid = run.recipe.training.num_valid
    if writer is None:
        from mixprint.synthesis.training_songs import SongSource

        source = SongSource(seed=config.seed, duration_s=config.duration_s, sampled=config.sampled)
        writer = SynthesisWriter(source, num_valid)
        writer.check_installed()
    pool = MadePool(folder, writer, config, first_number=num_valid)
    ahead = None
    if config.num_generators and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        ahead = stack.enter_context(MakingAhead(pool, config.num_generators, run.step))

    def held_out() -> list[Song]:
        numbers = progress(range(num_valid), num_valid, "made", "songs to validate on", log)
        return [read_song(pool.make(number)) for number in numbers]

    known = [writer.fingerprint, config.pool_size, config.refresh_steps, config.new_songs]
    return _Material(pool, held_out, fingerprint(known), config.pool_size, pool, ahead)


class _ValidSongs:
    """Songs to validate on; one that turns out to be broken is left out from then on."""

    def __init__(
        self, songs: Sequence[Song], max_duration_s: float | None, max_bad_fraction: float
    ) -> None:
        self._songs, self._num_found = list(songs), len(songs)
        self._max_duration_s, self._max_bad_fraction = max_duration_s, max_bad_fraction
        self._reasons: list[str] = []

    @property
    def num_songs(self) -> int:
        """How many are left."""
        return len(self._songs)

    def score(self, separator: Separator) -> Scores:
        """Score like `score_separator`, without the songs that cannot be read.

        Raises:
            DataError: these are too many.
        """
        readable: list[Song] = []
        per_song: list[Scores] = []
        for song in self._songs:
            try:
                scores = score_separator(
                    separator, [song.path], max_duration_s=self._max_duration_s
                )
            except DataError as error:
                self._reasons.append(str(error))
                check_bad_songs(self._reasons, self._num_found, self._max_bad_fraction)
                log.warning("leaves out a song to validate on: %s", error)
                continue
            readable.append(song)
            per_song.append(scores)
        self._songs = readable
        # A stem that is silent has no figure; the summaries want to see that.
        silent = dict.fromkeys(STEMS, math.nan)
        return {
            measure: summary([silent | scores[measure] for scores in per_song])
            for measure, summary in ((UTTERANCE_SDR, mean_sdr), (MUSEVAL_SDR, median_sdr))
        }


class _Trainer:
    """Takes a run to its end; the first rank validates, saves, reports and exports."""

    def __init__(
        self,
        run: _Run,
        material: _Material,
        states: StateFiles[TrainingState],
        out_dir: Path,
        on_metrics: MetricsCallback | None,
    ) -> None:
        self._run, self._material, self._states = run, material, states
        self._out_dir, self._on_metrics = out_dir, on_metrics
        self._is_first = run.rank == 0
        self._valid: dict[str, _ValidSongs] = {}
        self._songs = ""

    def run_to_the_end(self, extra_valid: Mapping[str, Sequence[Song]]) -> Path:
        run, config = self._run, self._run.recipe.training
        if self._is_first:
            held_out = self._material.held_out()[: config.max_valid_songs]
            named = {**({HELD_OUT: held_out} if held_out else {}), **extra_valid}
            self._valid = {
                name: _ValidSongs(songs, config.valid_s or None, config.max_bad_fraction)
                for name, songs in named.items()
            }
            self._songs = fingerprint(
                {
                    "valid_s": config.valid_s,
                    **{name: [song.path.name for song in songs] for name, songs in named.items()},
                }
            )
        log.info(
            "trains a %s SCNet of %d parameters on %d songs, rank %d of %d, %s",
            run.model.variant,
            sum(p.numel() for p in run.model.parameters()),
            self._material.num_songs,
            run.rank,
            run.world_size,
            run.device,
        )
        self._take_steps()
        if self._is_first:
            # A run that had nothing left to do keeps its state.
            if self._states.newest_step != run.step:
                self._save()
            if not run.history or run.history[-1]["step"] != run.step:
                self._validate()
                self._save()
            self._export()
        barrier()
        return self._out_dir / WEIGHTS_FILE

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Make this rank's batches from the present step on."""
        run, config = self._run, self._run.recipe.training
        if config.batch_size % run.world_size:
            raise ConfigError(
                f"training.batch_size: expected a multiple of {run.world_size} processes, found "
                f"{config.batch_size}"
            )
        size = config.batch_size // run.world_size
        remixer = Remixer(
            self._material.pool,
            run.recipe.remix,
            num_samples=round(config.segment_s * SAMPLE_RATE_HZ),
            seed=config.seed,
            max_bad_fraction=config.max_bad_fraction,
        )
        rows = range(run.rank * size, (run.rank + 1) * size)
        network = run.model.config
        steps: Iterable[int] = count(run.step)
        if config.max_steps > 0:
            steps = range(run.step, config.max_steps)
        batches = DataLoader(
            _Examples(remixer, rows, network.num_bins, network.sources),
            sampler=steps,
            batch_size=None,
            num_workers=config.num_workers,
            collate_fn=_as_it_is,
            pin_memory=run.device.type == "cuda",
        )
        for batch in batches:
            if isinstance(batch, MixprintError):
                raise batch
            yield batch

    def _take_steps(self) -> None:
        """Take steps until the training is as long as it should be."""
        run, config = self._run, self._run.recipe.training
        batches = self._batches()
        losses: list[float] = []
        last_s = time.monotonic()
        while (done := run.progress()) < 1:
            if self._material.ahead is not None:
                self._material.ahead.reached(run.step)
            rate = run.set_learning_rate(done)
            losses.append(run.train_step(*next(batches)))
            if not self._is_first:
                continue
            if run.step % config.log_steps == 0:
                step_s = (time.monotonic() - last_s) / len(losses)
                self._log(done, sum(losses) / len(losses), rate, step_s)
                losses.clear()
                last_s = time.monotonic()
            if run.step % config.valid_steps == 0:
                self._validate()
                losses.clear()
                last_s = time.monotonic()
            if run.step % config.save_steps == 0:
                self._save()

    def _log(self, done: float, loss: float, rate: float, step_s: float) -> None:
        run = self._run
        log.info(
            "step %d, %.1f min, %.0f %%: relative loss %.4f, rate %.1e, %.2f s/step",
            run.step,
            run.clock.elapsed_s() / SECONDS_PER_MINUTE,
            100 * done,
            loss,
            rate,
            step_s,
        )
        self._report(
            {"train.relative_loss": loss, "train.learning_rate": rate, "train.step_s": step_s}
        )

    def _report(self, metrics: Mapping[str, float]) -> None:
        if self._on_metrics is not None and metrics:
            self._on_metrics(self._run.step, metrics)

    def _validate(self) -> None:
        """Measure the averaged weights on songs that were held out, and note the figures."""
        run, config = self._run, self._run.recipe.training
        separator = Separator(TrainedSCNet(run.average, window_s=config.segment_s))
        minutes = round(run.clock.elapsed_s() / SECONDS_PER_MINUTE, 2)
        entry: dict[str, Any] = {"step": run.step, "minutes": minutes}
        reported: dict[str, float] = {}
        for name, songs in self._valid.items():
            scores = songs.score(separator)
            entry[name] = {
                measure: {stem: round(value, 3) for stem, value in by_stem.items()}
                for measure, by_stem in scores.items()
            }
            for measure, by_stem in scores.items():
                text = ", ".join(f"{stem} {value:.2f}" for stem, value in by_stem.items())
                log.info(
                    "step %d, %s in dB on %d %s songs: %s",
                    run.step,
                    measure,
                    songs.num_songs,
                    name,
                    text,
                )
                reported |= {
                    f"valid.{name}.{measure}.{stem}": value for stem, value in by_stem.items()
                }
        run.history.append(entry)
        run.keep_best(entry, self._songs)
        write_json(self._out_dir / HISTORY_FILE, run.history)
        self._report(reported)

    def _save(self) -> None:
        run = self._run
        self._states.save(run.state(self._material.fingerprint))
        if self._material.made is not None:
            # A resumption may start from the older of the two states.
            self._material.made.forget_before(self._states.oldest_step)

    def _export(self) -> None:
        """Write the weights of the last step, and those of the best validation if there was one."""
        run = self._run
        self._export_average(LAST_NAME, run.history[-1])
        best = run.best_entry
        if best is None or run.best_songs != self._songs:
            best = run.history[-1]
        else:
            run.average.load_state_dict(run.best)
        log.info("exports the weights of step %d of %d", best["step"], run.step)
        self._export_average(EXPORT_NAME, best)

    def _export_average(self, name: str, entry: Mapping[str, Any]) -> None:
        run = self._run
        export_separator(
            run.average,
            self._out_dir,
            window_s=run.recipe.training.segment_s,
            name=name,
            training={
                "recipe": run.recipe.identity(),
                "steps": entry["step"],
                "minutes": entry["minutes"],
                "songs": self._material.num_songs,
                "data_fingerprint": self._material.fingerprint,
                "validation": entry,
            },
        )


def _as_it_is(batch: Any) -> Any:
    return batch
