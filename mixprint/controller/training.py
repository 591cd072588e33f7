"""Training of a controller: a task for `mixprint.training.engine`.

Examples are drawn and measured once: descriptors of the dry tracks and of the reference, the true
settings, and how much each is heard. Phases of likelihood learn from these alone, thousands of
steps in minutes, and from levels that are estimated without audio (`mixprint.controller.levels`).
Phases of audio (`mixprint.controller.settings.Objective`) send the predicted
settings through the differentiable console and compare what it makes: with the truth, with the
second half of the same song (Diff-MST's method 1), or by audio features with the mix of another
song (method 2), held by the prior.

Shape suffixes: B example of this rank, N track, C channel, T sample, M observed strip, K field.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from mixprint.controller.checkpoint import Controller, save_controller
from mixprint.controller.data import Batch, ExampleReader, Heard
from mixprint.controller.heads import StripPrediction
from mixprint.controller.losses import (
    console_mix,
    level_loss,
    prior_loss,
    reference_loss,
    soft_targets,
    truth_loss,
)
from mixprint.controller.measured import (
    MeasuredExamples,
    Source,
    Strips,
    master_strips,
    measure_examples,
    track_strips,
)
from mixprint.controller.model import ControllerNetwork, Inputs, Outputs
from mixprint.controller.prior import Prior
from mixprint.controller.references import MeasuredReferences, measure_references
from mixprint.controller.roles import ROLES
from mixprint.controller.settings import ControllerTrainConfig, Phase, TrainParameters
from mixprint.controller.targets import Targets
from mixprint.controller.validation import Validation
from mixprint.dsp.spectral_distance import RESOLUTIONS
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import ConfigError, TrainingError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training import engine
from mixprint.training.engine import Outcome
from mixprint.training.loading import derive_seed
from mixprint.training.measured import MEASURED_FOLDER
from mixprint.training.outputs import STATE_FOLDER
from mixprint.training.recorder import TIMES, MetricsCallback
from mixprint.training.schedules import warmed_up_rate
from mixprint.training.task import Length, Plan, Task, Weights
from mixprint.training.updates import Update

log = logging.getLogger("mixprint.controller")

REFERENCES_FOLDER = "references"  # in it
PART = "network"
# Without an encoder there are no embeddings to read; the network keeps a place for them.
_NO_EMBEDDING_DIM = 1
_IDENTITY_DIGITS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSetup:
    """Parameters, examples and beginning of a controller's training.

    Attributes:
        config: parameters of network and training.
        train: examples to learn from.
        valid: others, by which the weights are chosen.
        encoder: embeds the references; None: the controller reads no embeddings.
        out_dir: receives what `mixprint.training.outputs` lists.
        initial: controller to start from, of the same architecture and encoder; None: from scratch.
    """

    config: TrainParameters
    train: Source
    valid: Source
    encoder: Encoder | None
    out_dir: Path
    initial: Controller | None = None


def train_controller(
    setup: TrainingSetup,
    *,
    device: torch.device | str = "cpu",
    on_metrics: MetricsCallback | None = None,
) -> Outcome:
    """Train a controller and write the best one; see `mixprint.training.engine.train`.

    Args:
        setup: the training.
        device: `cpu` or `cuda`; ranks take the GPU of their local rank.
        on_metrics: see the engine.

    Raises:
        ConfigError: the controller to start from is another one.
        DataError: there are no references where they are said to be.
        TrainingError: a loss or gradient is not finite, a state cannot be saved, what was measured
            cannot be read, or another training works in `out_dir`.
        CheckpointError: there are states to go on from, and none of them is whole.
    """

    def build(device: torch.device) -> ControllerTask:
        return ControllerTask(setup, device)

    return engine.train(build, setup.out_dir, device=device, on_metrics=on_metrics)


class ControllerTask(Task[Batch | None]):
    """Task of training a controller: the network sets the console as it was set."""

    name = "controller"

    def __init__(self, setup: TrainingSetup, device: torch.device) -> None:
        config, encoder = setup.config, setup.encoder
        self.config, self.initial, self.device = config, setup.initial, device
        self.encoder = None if encoder is None else encoder.to(device)
        self.sources = {"train": setup.train.fingerprint, "valid": setup.valid.fingerprint}
        embedding_dim = _NO_EMBEDDING_DIM if encoder is None else encoder.model.config.embedding_dim
        self.architecture = config.architecture(embedding_dim, ROLES)
        self._check_initial()
        self._measured_folder = setup.out_dir / STATE_FOLDER / MEASURED_FOLDER
        self.measured = self._measure(setup.train, config.num_examples, config.num_audio)
        self.references = self._measure_references()
        held_out = self._measure(setup.valid, config.num_valid, config.num_valid)
        self.network = self._network().to(device)
        self.parts = {PART: self.network}
        self.plan = Plan(
            length=Length(steps=config.num_steps, minutes=config.max_minutes),
            first_valid_step=config.first_valid_step,
            valid_steps=config.valid_steps,
            seed=config.seed,
            max_grad_norm=config.max_grad_norm,
            save_steps=config.save_steps,
            log_steps=config.log_steps,
            num_workers=config.num_workers,
            precision=config.precision,
        )
        self.reader = ExampleReader(
            config, self.measured, self.network.config.embedding_dim, self.references
        )
        self.validation = Validation(
            held_out, context_s=config.context_s, gate_weight=config.gate_weight, device=device
        )

    def _measure(self, source: Source, num_examples: int, num_audio: int) -> MeasuredExamples:
        """Measure examples; what was measured outlives a change of the other parameters."""
        made_with = {
            "examples": source.fingerprint,
            "code": code_version("mixprint.controller.measured"),
            "encoder": self._encoder_fingerprint,
            "num_audio": num_audio,
        }
        return measure_examples(
            source,
            num_examples,
            num_audio=num_audio,
            encoder=self.encoder,
            folder=self._measured_folder / fingerprint(made_with)[:_IDENTITY_DIGITS],
            num_workers=self.config.num_workers,
            device=self.device,
        )

    def _measure_references(self) -> MeasuredReferences | None:
        """Measure the finished mixes for method 2, where there are any."""
        config = self.config
        if not isinstance(config, ControllerTrainConfig) or not config.references:
            return None
        found = measure_references(
            config.references,
            excerpt_s=config.examples.excerpt_s,
            num_excerpts=config.reference_excerpts,
            encoder=self.encoder,
            folder=self._measured_folder / REFERENCES_FOLDER,
            device=self.device,
        )
        self.sources["references"] = found.fingerprint
        return found

    @property
    def _encoder_fingerprint(self) -> str:
        return "" if self.encoder is None else self.encoder.fingerprint

    def _network(self) -> ControllerNetwork:
        """Build the network, with the scales and the prior of what was measured."""
        torch.manual_seed(derive_seed(self.config.seed, "weights"))
        network = ControllerNetwork(self.architecture)
        if self.initial is not None:
            network.load_state_dict(self.initial.network.state_dict())
        else:
            items = self.measured.items
            network.track_scale.fit(torch.cat([item.track_ND for item in items]))
            parts = [part for item in items for part in (item.stem_SD, item.mid_side_2D)]
            network.reference_scale.fit(torch.cat(parts))
        # The priors are those of the songs at hand, also of a controller that is known.
        self._fit_prior(network.prior, track_strips(self.measured.items))
        self._fit_prior(network.master_prior, master_strips(self.measured.items))
        return network

    def _check_initial(self) -> None:
        """Refuse to start from another kind of controller, before anything is measured."""
        known = self.initial
        expected = (self.architecture, self._encoder_fingerprint)
        if known is not None and (known.network.config, known.encoder_fingerprint) != expected:
            raise ConfigError(
                f"controller to start from: expected {expected[0]} and the encoder "
                f"{expected[1] or 'none'}, found {known.network.config} and "
                f"{known.encoder_fingerprint or 'none'}"
            )

    def _fit_prior(self, prior: Prior, strips: Strips) -> None:
        shrinkage = self.config.prior_shrinkage
        prior.fit(strips.position_MK, strips.weight_MK, strips.role_M, shrinkage)

    @override
    def identity(self) -> Mapping[str, Any]:
        return {
            "config": self.config.identity(),
            "examples": self.sources,
            "encoder": self._encoder_fingerprint,
            "initial": "" if self.initial is None else self.initial.fingerprint,
            "code": code_version(__name__),
        }

    @override
    def summary(self) -> str:
        num_tracks = sum(len(item.role_N) for item in self.measured.items)
        return f"{len(self.measured.items)} examples of {num_tracks} tracks"

    @override
    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        weights = [p for p in self.network.parameters() if p.requires_grad]
        return {PART: [torch.optim.AdamW(weights, lr=1.0, weight_decay=self.config.weight_decay)]}

    @override
    def rate(self, part: str, step: int, done: float) -> float:
        """Each phase has a rise and a fall of its own."""
        phase, first = self.config.phase(step)
        return warmed_up_rate(
            step - first,
            phase.num_steps,
            highest=phase.learning_rate,
            warmup_fraction=self.config.warmup_fraction,
        )

    @override
    def examples(self) -> ExampleReader:
        return self.reader

    @override
    def describe(self, step: int, batch: Batch | None) -> Sequence[str]:
        return [f"example {number}" for _, number in self.reader.numbers(step)]

    @override
    def learn(self, step: int, batch: Batch | None, update: Update) -> Mapping[str, float]:
        if batch is not None:
            phase, _ = self.config.phase(step)
            inputs = batch.inputs.to(self.device)
            loss_B = self._likelihood(inputs, batch, update, phase)
            if batch.heard:
                loss_B = loss_B + self._audio(step, inputs, batch, update, phase)
            update.inspect(loss_B)
        return {"loss": update.step(PART)}

    def _likelihood(self, inputs: Inputs, batch: Batch, update: Update, phase: Phase) -> Tensor:
        """Learn from the true settings; return the weighted losses."""
        num_songs = len(inputs.track_BND)
        weight = 1.0 if phase.objective == "likelihood" else phase.likelihood_weight
        # The settings of one song say nothing of another's reference.
        if weight == 0 or phase.objective == "method2":
            return torch.zeros(num_songs, device=self.device)
        with update.autocast():
            tokens = self.network.encode(inputs)
        track, master = batch.track.to(self.device), batch.master.to(self.device)
        loss_B = weight * self.network.likelihood(
            tokens, inputs.is_track_BN, track, master, self.config.gate_weight
        )
        if phase.objective == "likelihood" and self.config.levels_weight > 0:
            known = (value.to(self.device) for value in (batch.truth_BND, batch.has_truth_B))
            found = self.network.predicted(tokens)
            levels_B = level_loss(found, inputs, track, master, *known)
            loss_B = loss_B + self.config.levels_weight * levels_B
        update.backward(loss_B.sum() / phase.batch_size)
        return loss_B.detach()

    def _audio(
        self, step: int, inputs: Inputs, batch: Batch, update: Update, phase: Phase
    ) -> Tensor:
        """Learn through the console, song by song, which bounds the memory."""
        losses = []
        for row in range(len(batch.heard)):
            loss = self._song_loss(step, inputs.row(row), batch, row, phase)
            if loss.requires_grad:  # else there is nothing to be aimed at
                update.backward(loss / phase.batch_size)
            losses.append(loss.detach())
        return torch.stack(losses)

    def _song_loss(self, step: int, inputs: Inputs, batch: Batch, row: int, phase: Phase) -> Tensor:
        """Return the loss of one song; without truth and reference it is that of the prior."""
        heard = batch.heard[row]
        num_tracks = len(heard.tracks_NCT)
        found = self.network(inputs)
        targets = soft_targets(
            Outputs(StripPrediction(*(v[:num_tracks] for v in found.track)), found.master)
        )
        loss = torch.zeros((), device=self.device)
        if len(heard.truth_NCT) or heard.reference_CT.shape[-1]:
            trim_N = batch.trim_BN[row, :num_tracks].to(self.device)
            loss = self._sound_loss(step, heard, targets, trim_N)
        if phase.prior_weight > 0:
            role_N = inputs.role_BN[0, :num_tracks]
            loss = loss + phase.prior_weight * prior_loss(self.network, targets, role_N)
        return loss

    def _sound_loss(self, step: int, heard: Heard, targets: Targets, trim_N: Tensor) -> Tensor:
        """Mix a song with predicted settings, and compare it with its truth or its reference."""
        lead = round(self.config.context_s * SAMPLE_RATE_HZ)
        tracks_NCT = heard.tracks_NCT.to(self.device)
        mixed_NCT = console_mix(tracks_NCT, targets, trim_N, SAMPLE_RATE_HZ)[..., lead:]
        if len(heard.truth_NCT) == 0:
            return reference_loss(mixed_NCT, heard.reference_CT.to(self.device), SAMPLE_RATE_HZ)
        return truth_loss(
            mixed_NCT,
            heard.truth_NCT[..., lead:].to(self.device),
            RESOLUTIONS[step % len(RESOLUTIONS)],
            self.config.track_weight,
        )

    @override
    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        figures = self.validation.figures(self.network)
        if not math.isfinite(figures["distance"]):
            raise TrainingError(
                f"step {step}: expected a finite distance on the validation, found "
                f"{figures['distance']}"
            )
        return figures

    @override
    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (-metrics["distance"],)

    @override
    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        network = ControllerNetwork(self.network.config)
        network.load_state_dict(weights[PART])
        metadata = {
            "examples": self.sources,
            "controller": self.config.identity(),
            # Equal trainings give equal files, so how long they took stays in the history.
            "metrics": {name: value for name, value in entry.items() if name not in TIMES},
        }
        save_controller(folder, network, self._encoder_fingerprint, metadata)
