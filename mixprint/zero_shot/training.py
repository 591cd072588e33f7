"""Training of the zero-shot network: a task for `mixprint.training.engine`.

The network hears the input of an example and the embeddings of input and reference, and its output
is compared with the truth (`renderings`). Nobody needs songs that exist in two mixes, for chains of
effects make them of any collection.

The training has two phases. The first one learns from the levels of bands alone, which are measured
once: hundreds of times faster than audio, it teaches all but balance and reverb. The second one
learns from audio: distances of spectra of stems and mix and, every few steps, the cycle (the way
back must lead to the input) and the embedding (of the output, to the reference's).

Shape suffixes: B example of this rank, P crop, S stem, C channel (of levels: mid, side), T sample,
K band, N frame, E embedding; 2 is input and truth, or input and reference.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef, read_index, read_row, read_segment
from mixprint.collection.tracks import TrackSegments, tracks_of_split
from mixprint.dsp.spectral_distance import RESOLUTIONS
from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.settings import AugmentRanges
from mixprint.errors import TrainingError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.training import engine
from mixprint.training.engine import Outcome
from mixprint.training.loading import derive_seed
from mixprint.training.measured import MEASURED_FOLDER
from mixprint.training.outputs import STATE_FOLDER
from mixprint.training.recorder import TIMES, MetricsCallback, prefixed
from mixprint.training.schedules import warmed_up_rate
from mixprint.training.task import Length, Plan, Task, Weights
from mixprint.training.updates import Update
from mixprint.zero_shot.checkpoint import save_zero_shot
from mixprint.zero_shot.data import AudioBatch, ExampleReader, LevelBatch
from mixprint.zero_shot.losses import audio_distance, level_distance
from mixprint.zero_shot.model import ZeroShotNetwork
from mixprint.zero_shot.renderings import (
    Measured,
    Rendering,
    Renderings,
    measure_renderings,
)
from mixprint.zero_shot.settings import ZeroShotTrainConfig
from mixprint.zero_shot.validation import Validation

log = logging.getLogger("mixprint.zero_shot")

PART = "network"
# A network is surer of the styles that it has learned than others deserve.
STRENGTHS = (1.0, 0.85, 0.7, 0.55)
_IDENTITY_DIGITS = 16


def train_zero_shot(
    config: ZeroShotTrainConfig,
    *,
    tracks: Sequence[Track],
    stems_dir: Path,
    encoder: Encoder,
    ranges: AugmentRanges,
    out_dir: Path,
    data_fingerprint: str,
    device: torch.device | str = "cpu",
    on_metrics: MetricsCallback | None = None,
) -> Outcome:
    """Train a network and write the best one; see `mixprint.training.engine.train`.

    The result is as good as the encoder, whose embeddings of the style are all that it learns of
    the target.

    Args:
        config: the section `zero_shot`.
        tracks: the catalogue: splits, songs and, where they are known, styles.
        stems_dir: stem shards.
        encoder: whose embeddings are read.
        ranges: of the chains.
        out_dir: receives what `mixprint.training.outputs` lists.
        data_fingerprint: of stems and catalogue, kept with the weights.
        device: `cpu` or `cuda`; ranks take the GPU of their local rank.
        on_metrics: see the engine.

    Raises:
        TrainingError: there is too little to train on, a loss or gradient is not finite, a state
            cannot be saved, or another training works in `out_dir`.
        CheckpointError: there are states to go on from, and none of them is whole.
        DataError: a segment cannot be read.
    """

    def build(device: torch.device) -> ZeroShotTask:
        return ZeroShotTask(
            config, tracks, stems_dir, encoder, ranges, out_dir, data_fingerprint, device
        )

    return engine.train(build, out_dir, device=device, on_metrics=on_metrics)


class ZeroShotTask(Task[LevelBatch | AudioBatch]):
    """The network brings the input of an example nearer to its truth."""

    name = "zero_shot"

    def __init__(
        self,
        config: ZeroShotTrainConfig,
        tracks: Sequence[Track],
        stems_dir: Path,
        encoder: Encoder,
        ranges: AugmentRanges,
        out_dir: Path,
        data_fingerprint: str,
        device: torch.device,
    ) -> None:
        self.config, self.encoder, self.ranges = config, encoder.to(device), ranges
        self.device, self.data_fingerprint = device, data_fingerprint
        self._measured_folder = out_dir / STATE_FOLDER / MEASURED_FOLDER
        references = read_index(stems_dir)
        self.train_tracks = tracks_of_split(references, tracks, "train")
        self.valid_tracks = tracks_of_split(references, tracks, "valid")
        if len(self.valid_tracks) < 2:
            log.warning(
                "expected at least 2 tracks of two segments in the valid split, found %d: the "
                "train split chooses the best network",
                len(self.valid_tracks),
            )
            self.valid_tracks = self.train_tracks
        if not self.train_tracks:
            raise TrainingError(f"{stems_dir}: expected tracks of the train split, found none")
        first = self.train_tracks[0].references[0]
        self._check_rates(first)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        architecture = config.architecture(encoder.model.config.embedding_dim)
        self.network = ZeroShotNetwork(architecture).to(device)
        self.parts = {PART: self.network}
        self.plan = Plan(
            length=Length(steps=config.num_steps),
            first_valid_step=config.level_steps,
            valid_steps=config.valid_steps,
            seed=config.seed,
            max_grad_norm=config.max_grad_norm,
            save_steps=config.save_steps,
            log_steps=config.log_steps,
            num_workers=config.num_workers,
            precision=config.precision,
        )
        self.renderings = self._renderings(self.train_tracks, config.num_chains, "train")
        segment_samples = read_segment(first, stems=STEMS[:1]).shape[-1]
        measured = self._measure(self.renderings.items)
        self.reader = ExampleReader(config, self.renderings, measured, ranges, segment_samples)
        self.validation = self._validation()

    def _check_rates(self, first: SegmentRef) -> None:
        """Refuse audio and encoders of another rate."""
        for name, found_hz in (
            (str(first.shard_path), read_row(first)["sample_rate_hz"]),
            ("the encoder", self.encoder.model.config.sample_rate_hz),
        ):
            if found_hz != SAMPLE_RATE_HZ:
                raise TrainingError(f"{name}: expected {SAMPLE_RATE_HZ} Hz, found {found_hz}")

    def _validation(self) -> Validation:
        config = self.config
        share = len(self.valid_tracks) / len(self.train_tracks)
        renderings = self._renderings(
            self.valid_tracks, math.ceil(config.num_chains * share), "valid"
        )
        items, examples = renderings.subset(
            [renderings.example(config.seed, "valid", n) for n in range(config.num_valid)]
        )
        return Validation(
            items,
            examples,
            self._measure(items),
            ranges=self.ranges,
            mix_weight=config.mix_weight,
            num_workers=config.num_workers,
            device=self.device,
        )

    def _renderings(
        self, tracks: Sequence[TrackSegments], num_chains: int, split: str
    ) -> Renderings:
        return Renderings(
            tracks,
            segments_per_track=self.config.segments_per_track,
            num_chains=num_chains,
            seed=derive_seed(self.config.seed, split),
        )

    def _measure(self, items: Sequence[Rendering]) -> Measured:
        """Measure all renderings; what was measured outlives a change of the other parameters."""
        architecture = self.network.config
        source = {
            "data": self.data_fingerprint,
            "code": code_version("mixprint.zero_shot.renderings"),
            "encoder": self.encoder.fingerprint,
            "bands": [architecture.n_fft, architecture.hop_samples, architecture.num_bands],
            "ranges": asdict(self.ranges),
            "items": [str(item) for item in items],
        }
        return measure_renderings(
            items,
            self.encoder,
            self.network,
            self.ranges,
            folder=self._measured_folder / fingerprint(source)[:_IDENTITY_DIGITS],
            num_workers=self.config.num_workers,
            device=self.device,
        )

    @override
    def identity(self) -> Mapping[str, Any]:
        return {
            "config": self.config.identity(),
            "ranges": asdict(self.ranges),
            "data": self.data_fingerprint,
            "encoder": self.encoder.fingerprint,
            "code": code_version(__name__),
        }

    @override
    def summary(self) -> str:
        return f"{len(self.renderings.items)} renderings of {len(self.train_tracks)} tracks"

    @override
    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        return {PART: [torch.optim.Adam(self.network.parameters(), lr=1.0)]}

    @override
    def rate(self, part: str, step: int, done: float) -> float:
        """Each phase has a rise and a fall of its own."""
        phase = self.config.phase(step)
        return warmed_up_rate(
            step - phase.first_step,
            phase.num_steps,
            highest=phase.learning_rate,
            warmup_fraction=self.config.warmup_fraction,
        )

    @override
    def examples(self) -> ExampleReader:
        return self.reader

    @override
    def describe(self, step: int, batch: LevelBatch | AudioBatch) -> Sequence[str]:
        return [self.renderings.describe(example) for _, example in self.reader.examples(step)]

    @override
    def learn(
        self, step: int, batch: LevelBatch | AudioBatch, update: Update
    ) -> Mapping[str, float]:
        if batch.pair_2BE.shape[1] == 0:  # more ranks than examples
            pass
        elif isinstance(batch, LevelBatch):
            self._learn_levels(step, batch, update)
        else:
            self._learn_audio(step, batch, update)
        return {"loss": update.step(PART)}

    def _learn_levels(self, step: int, batch: LevelBatch, update: Update) -> None:
        level_BSCKN, truth_BSCKN = batch.level_2BSCKN.to(self.device).float()
        with update.autocast():
            conditioning = self.network.condition(*batch.pair_2BE.to(self.device))
            gain_BSCKN = self.network.gains_db(level_BSCKN, conditioning)
        output_BSCKN = level_BSCKN + gain_BSCKN.float()
        loss_B = level_distance(output_BSCKN, truth_BSCKN, self.config.mix_weight)
        update.inspect(loss_B)
        update.backward(loss_B.sum() / self.config.phase(step).batch_size)

    def _learn_audio(self, step: int, batch: AudioBatch, update: Update) -> None:
        """Learn crop by crop, which bounds the memory."""
        _, B, P = batch.crop_2BPSCT.shape[:3]
        pair_2BE = batch.pair_2BE.to(self.device)
        loss_BP = torch.zeros(B, P, device=self.device)
        for place in range(B):
            pair_21E = pair_2BE[:, place : place + 1]
            for crop in range(P):
                loss = self._crop_loss(step, pair_21E, batch.crop_2BPSCT[:, place, crop])
                loss_BP[place, crop] = loss.detach()
                update.backward(loss / (P * self.config.phase(step).batch_size))
            if place == 0 and batch.whole_SCT is not None and batch.reference_E is not None:
                loss = self._embedding_loss(pair_21E, batch.whole_SCT, batch.reference_E)
                loss_BP[place] += loss.detach()
                update.backward(loss)
        update.inspect(loss_BP)

    def _crop_loss(self, step: int, pair_21E: Tensor, crop_2SCT: Tensor) -> Tensor:
        """Return the distance to the truth and, in some steps, of the way back to the input."""
        config = self.config
        resolution = (RESOLUTIONS[step % len(RESOLUTIONS)],)
        start = round(config.context_s * SAMPLE_RATE_HZ)

        def distance(a_1SCT: Tensor, b_1SCT: Tensor) -> Tensor:
            a_SCT, b_SCT = a_1SCT[0, ..., start:], b_1SCT[0, ..., start:]
            return audio_distance(a_SCT, b_SCT, resolution, config.mix_weight)

        input_1SCT, truth_1SCT = crop_2SCT.to(self.device).unsqueeze(1)
        output_1SCT = self.network(input_1SCT, self.network.condition(*pair_21E))
        loss = distance(output_1SCT, truth_1SCT)
        if config.cycle_steps and step % config.cycle_steps == 0:
            again_1SCT = self.network(output_1SCT, self.network.condition(*pair_21E.flip(0)))
            loss = loss + config.cycle_weight * distance(again_1SCT, input_1SCT)
        return loss

    def _embedding_loss(self, pair_21E: Tensor, whole_SCT: Tensor, reference_E: Tensor) -> Tensor:
        """Return the distance of the output's embedding to the reference's."""
        whole_1SCT = whole_SCT.unsqueeze(0).to(self.device)
        output_1SCT = self.network(whole_1SCT, self.network.condition(*pair_21E))
        (embedding_E,) = self.encoder.embed(output_1SCT, SAMPLE_RATE_HZ)
        similarity = (embedding_E * reference_E.to(self.device)).sum()
        return self.config.embedding_weight * (1 - similarity)

    @override
    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        (figures,) = self.validation.figures([self.network])
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
    def conclude(self, weights: Weights, entry: Mapping[str, float]) -> Mapping[str, float]:
        """Choose the strength that suits the validation."""
        network = self._network_of(weights).to(self.device)
        results = self.validation.figures([network.weakened(strength) for strength in STRENGTHS])
        figures = min(results, key=lambda figures: figures["distance"])
        strength = STRENGTHS[results.index(figures)]
        log.info(
            "%.0f %% of the strength: validation distance %.3f", 100 * strength, figures["distance"]
        )
        return {**prefixed("valid", figures), "strength": strength}

    @override
    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """Write the network, in the strength that was chosen when the training has ended."""
        network = self._network_of(weights).weakened(entry.get("strength", 1.0))
        metadata = {
            "data_fingerprint": self.data_fingerprint,
            "zero_shot": self.config.identity(),
            "num_train_tracks": len(self.train_tracks),
            "num_valid_tracks": len(self.valid_tracks),
            # Equal trainings give equal files, so how long they took stays in the history.
            "metrics": {name: value for name, value in entry.items() if name not in TIMES},
        }
        save_zero_shot(folder, network, self.encoder.fingerprint, metadata)

    def _network_of(self, weights: Weights) -> ZeroShotNetwork:
        network = ZeroShotNetwork(self.network.config)
        network.load_state_dict(weights[PART])
        return network
