"""Train the zero-shot network: two renderings of one music, the style taken from a third.

The network hears the input of an example and the embeddings of input and reference, and its output
is compared with the truth (`renderings`). Nobody needs songs that exist in two mixes, for chains of
effects make them of any collection.

The training has two parts. The first one learns from the levels of bands alone, which are measured
once: hundreds of times faster than audio, it teaches all but balance and reverb. The second one
learns from audio: distances of spectra of stems and mix and, every few steps, the cycle (the way
back must lead to the input) and the embedding (of the output, to the reference's).

Every random choice is derived from the seed, the step and the row, so a training that is resumed
goes on exactly as an undisturbed one would, and the number of processes changes no example.

Shape suffixes: B example of this rank, S stem, C channel (of levels: mid, side), T sample, K band,
N frame, E embedding, M rendering.
"""

import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import read_index, read_row, read_segment
from mixprint.collection.tracks import TrackSegments, tracks_of_split
from mixprint.dsp.decibels import NEPER_PER_DB
from mixprint.dsp.spectral_distance import RESOLUTIONS, multi_resolution_stft
from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.settings import AugmentRanges
from mixprint.errors import TrainingError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import write_json
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.ranks import (
    barrier,
    process_group,
    rank_and_world,
    rank_device,
    sum_over_ranks,
)
from mixprint.training.schedules import warmed_up_rate
from mixprint.training.state import StateFiles, only_training
from mixprint.zero_shot.checkpoint import save_zero_shot
from mixprint.zero_shot.model import LEVEL_FLOOR, Conditioning, ZeroShotNetwork
from mixprint.zero_shot.renderings import (
    FRAMES_PER_WINDOW,
    Example,
    Measured,
    Rendering,
    Renderings,
    audio_distances,
    measure_renderings,
)
from mixprint.zero_shot.settings import ZeroShotTrainConfig

log = logging.getLogger("mixprint.zero_shot")

STATE_FOLDER = "state"
MEASURED_FOLDER = "state/measured"
HISTORY_NAME = "history.json"
_IDENTITY_DIGITS = 16
# A network is surer of the styles that it has learned than others deserve.
STRENGTHS = (1.0, 0.85, 0.7, 0.55)
_FLOOR_DB = 10 * math.log10(LEVEL_FLOOR)
MetricsCallback = Callable[[int, Mapping[str, float]], None]


class TrainingState(TypedDict):
    """Everything that a training needs to go on.

    Attributes:
        step: how many steps were taken.
        model: weights of the network.
        optimizer: its state.
        best: weights of the best network by validation.
        best_step: when that was; 0 before the first validation.
        history: one entry per validation.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Tensor]
    best_step: int
    history: list[dict[str, float]]


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
) -> dict[str, float]:
    """Train a network and write the best one; call it on every rank.

    States are saved every `save_steps` steps; if there are some of the same data, encoder,
    parameters and code, training goes on from the newest. The result is as good as the encoder,
    whose embeddings of the style are all that it learns of the target.

    Args:
        config: the section `zero_shot`.
        tracks: the catalogue: splits, songs and, where they are known, styles.
        stems_dir: stem shards.
        encoder: whose embeddings are read.
        ranges: of the chains.
        out_dir: receives `weights.safetensors`, `config.json`, `history.json` and states.
        data_fingerprint: of stems and catalogue, kept with the weights.
        device: `cpu` or `cuda`; ranks take the GPU of their local rank.
        on_metrics: called on rank 0 with a step and what was measured there.

    Returns:
        metrics of the best network on the validation, with its `strength` (see `_write_best`) and
        `best_step`.

    Raises:
        TrainingError: there is too little to train on, a loss or gradient is not finite, a state
            cannot be saved, or another training works in `out_dir`.
        CheckpointError: there are states to go on from, and none of them is whole.
        DataError: a segment cannot be read.
    """
    device = rank_device(torch.device(device))
    gpus = [device] if device.type == "cuda" else []
    with process_group(device), torch.random.fork_rng(devices=gpus), ExitStack() as stack:
        if rank_and_world()[0] == 0:
            stack.enter_context(only_training(out_dir / STATE_FOLDER))
        barrier()
        trainer = _Trainer(
            config, tracks, stems_dir, encoder.to(device), ranges, out_dir, data_fingerprint, device
        )
        return trainer.run(on_metrics)


class _Trainer:
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
        self.config, self.encoder, self.ranges = config, encoder, ranges
        self.out_dir, self.device = out_dir, device
        self.rank, self.world_size = rank_and_world()
        references = read_index(stems_dir)
        train_tracks = tracks_of_split(references, tracks, "train")
        valid_tracks = tracks_of_split(references, tracks, "valid")
        if len(valid_tracks) < 2:
            log.warning(
                "expected at least 2 tracks of two segments in the valid split, found %d: the "
                "train split chooses the best network",
                len(valid_tracks),
            )
            valid_tracks = train_tracks
        if not train_tracks:
            raise TrainingError(f"{stems_dir}: expected tracks of the train split, found none")
        first = train_tracks[0].references[0]
        for name, found_hz in (
            (str(first.shard_path), read_row(first)["sample_rate_hz"]),
            ("the encoder", encoder.model.config.sample_rate_hz),
        ):
            if found_hz != SAMPLE_RATE_HZ:
                raise TrainingError(f"{name}: expected {SAMPLE_RATE_HZ} Hz, found {found_hz}")
        self.segment_s = read_segment(first, stems=STEMS[:1]).shape[-1] / SAMPLE_RATE_HZ
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = ZeroShotNetwork(config.architecture(encoder.model.config.embedding_dim)).to(
            device
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1.0)
        self.train = self._renderings(train_tracks, config.num_chains, "train")
        num_chains = math.ceil(config.num_chains * len(valid_tracks) / len(train_tracks))
        valid = self._renderings(valid_tracks, num_chains, "valid")
        self.valid_items, self.valid_examples = valid.subset(
            [valid.example(config.seed, "valid", n) for n in range(config.num_valid)]
        )
        source = {
            "config": config.identity(),
            "ranges": asdict(ranges),
            "data": data_fingerprint,
            "encoder": encoder.fingerprint,
            "code": code_version(__name__),
        }
        identity = fingerprint(source)[:_IDENTITY_DIGITS]
        self.states = StateFiles(out_dir / STATE_FOLDER / identity, TrainingState)
        self.metadata = {
            "data_fingerprint": data_fingerprint,
            "zero_shot": config.identity(),
            "num_train_tracks": len(train_tracks),
            "num_valid_tracks": len(valid_tracks),
        }
        self.step = self.best_step = 0
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.nothing: dict[str, float] = {}  # distances of the input as it is

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
        identity = fingerprint(
            {
                "data": self.metadata["data_fingerprint"],
                "code": code_version("mixprint.zero_shot.renderings"),
                "encoder": self.encoder.fingerprint,
                "bands": [architecture.n_fft, architecture.hop_samples, architecture.num_bands],
                "ranges": asdict(self.ranges),
                "items": [str(item) for item in items],
            }
        )[:_IDENTITY_DIGITS]
        folder = self.out_dir / MEASURED_FOLDER / identity
        return measure_renderings(
            items,
            self.encoder,
            self.network,
            self.ranges,
            folder=folder,
            device=self.device,
        )

    def run(self, on_metrics: MetricsCallback | None) -> dict[str, float]:
        config = self.config
        self._resume()
        measured, valid_measured = self._measure(self.train.items), self._measure(self.valid_items)
        log.info(
            "training on %d renderings, %d processes, %s: %.2f M weights, %d + %d steps",
            len(self.train.items),
            self.world_size,
            self.device,
            sum(p.numel() for p in self.network.parameters()) / 1e6,
            config.level_steps,
            config.audio_steps,
        )
        started_s, losses = time.monotonic(), []
        while self.step < config.num_steps:
            self._set_learning_rate()
            losses.append(self._take_step(measured))
            self.step += 1
            if self.step % config.log_steps == 0 and self.rank == 0:
                step_s = (time.monotonic() - started_s) / len(losses)
                loss = sum(losses) / len(losses)
                log.info(
                    "step %d/%d: loss %.4f, %.2f s/step", self.step, config.num_steps, loss, step_s
                )
                if on_metrics is not None:
                    on_metrics(self.step, {"train.loss": loss, "train.step_s": step_s})
                started_s, losses = time.monotonic(), []
            if self._is_due(config.valid_steps, after=config.level_steps):
                self._validate(valid_measured)
                if on_metrics is not None and self.rank == 0:
                    figures = {k: v for k, v in self.history[-1].items() if k != "step"}
                    on_metrics(self.step, {f"valid.{k}": v for k, v in figures.items()})
                started_s, losses = time.monotonic(), []
            if self.rank == 0 and self._is_due(config.save_steps):
                self.states.save(self._state())
        result = self._write_best(valid_measured)
        barrier()
        return result

    def _is_due(self, every_steps: int, *, after: int = 0) -> bool:
        """Tell whether something is due at this step: from `after` on, and at the end."""
        is_end = self.step == self.config.num_steps
        return is_end or (self.step >= after and (self.step - after) % every_steps == 0)

    def _set_learning_rate(self) -> None:
        """Set the rate of the step to come; each part has a rise and a fall of its own."""
        config = self.config
        in_levels = self.step < config.level_steps
        rate = warmed_up_rate(
            self.step if in_levels else self.step - config.level_steps,
            config.level_steps if in_levels else config.audio_steps,
            highest=config.level_learning_rate if in_levels else config.audio_learning_rate,
            warmup_fraction=config.warmup_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _take_step(self, measured: Measured) -> float:
        """Learn from one batch; return the mean of its losses."""
        config = self.config
        in_levels = self.step < config.level_steps
        size = config.level_batch_size if in_levels else config.audio_batch_size
        examples = [self.train.example(config.seed, self.step, row) for row in range(size)]
        rows = rank_rows(size, self.rank, self.world_size)
        self.optimizer.zero_grad(set_to_none=False)
        loss_G = torch.zeros(size, device=self.device)
        if rows.start < rows.stop:
            learn = self._learn_levels if in_levels else self._learn_audio
            loss_G[rows] = learn(examples, range(rows.start, rows.stop), measured)
        sum_over_ranks(loss_G)
        if not loss_G.isfinite().all():
            bad = [
                self.train.describe(examples[g]) for g in (~loss_G.isfinite()).nonzero().flatten()
            ]
            raise TrainingError(
                f"step {self.step}: expected finite losses, found others; {'; '.join(bad)}"
            )
        self._sum_gradients()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm))
        if not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step}: expected a finite gradient, found norm {norm}; "
                f"{'; '.join(map(self.train.describe, examples))}"
            )
        self.optimizer.step()
        return float(loss_G.mean())

    def _learn_levels(self, examples: Sequence[Example], rows: range, measured: Measured) -> Tensor:
        """Add up the gradients of levels; return the losses of these rows.

        The mean difference of the levels of the stems and of their sum, in nepers as in the
        distance of spectra; a band that falls below the floor is as silent as one at the floor.
        """
        own = [examples[row] for row in rows]
        frame_s = self.config.hop_samples / SAMPLE_RATE_HZ
        N = measured.level_MSCKN.shape[-1]
        length = min(N, round(self.config.level_s / frame_s))
        inputs: list[Tensor] = []
        truths: list[Tensor] = []
        for row, example in zip(rows, own, strict=True):
            first = self._rng(row).randrange(N - length + 1)
            for number, parts in ((example.input, inputs), (example.truth, truths)):
                parts.append(measured.level_MSCKN[number, ..., first : first + length])
        level_BSCKN = torch.stack(inputs).float().to(self.device)
        truth_BSCKN = torch.stack(truths).float().to(self.device)
        conditioning = self._condition(own, rows, measured)
        gain_BSCKN = self.network.gains_db(level_BSCKN, conditioning)
        out_BSCKN = (level_BSCKN + gain_BSCKN).clamp_min(_FLOOR_DB)
        loss_B = (out_BSCKN - truth_BSCKN).abs().mean((1, 2, 3, 4))
        mixes_BCKN = (_sum_of_powers_db(x_BSCKN) for x_BSCKN in (out_BSCKN, truth_BSCKN))
        mix_B = torch.sub(*mixes_BCKN).abs().mean((1, 2, 3))
        loss_B = NEPER_PER_DB * (loss_B + self.config.mix_weight * mix_B)
        (loss_B.sum() / len(examples)).backward()
        return loss_B.detach()

    def _learn_audio(self, examples: Sequence[Example], rows: range, measured: Measured) -> Tensor:
        """Add up the gradients of audio, crop by crop; return the losses of these rows."""
        config, losses = self.config, []
        resolution = (RESOLUTIONS[self.step % len(RESOLUTIONS)],)
        with_cycle = config.cycle_steps and self.step % config.cycle_steps == 0
        for row in rows:
            example = examples[row]
            crops = self._crops(row)
            inputs, truths = (
                self.train.items[n].stems(self.ranges, crops)
                for n in (example.input, example.truth)
            )
            total = 0.0
            for input_SCT, truth_SCT in zip(inputs, truths, strict=True):
                conditioning = self._condition([example], [row], measured)
                input_1SCT, truth_1SCT = (
                    x_SCT.unsqueeze(0).to(self.device) for x_SCT in (input_SCT, truth_SCT)
                )
                output_1SCT = self.network(input_1SCT, conditioning)
                loss = self._distance(output_1SCT, truth_1SCT, resolution)
                if with_cycle:
                    back = self._condition([example], [row], measured, is_back=True)
                    again_1SCT = self.network(output_1SCT, back)
                    cycle = self._distance(again_1SCT, input_1SCT, resolution)
                    loss = loss + config.cycle_weight * cycle
                (loss / (len(crops) * len(examples))).backward()
                total += float(loss.detach()) / len(crops)
            if row == 0 and config.embedding_steps and self.step % config.embedding_steps == 0:
                total += self._learn_embedding(example, measured) / len(examples)
            losses.append(total)
        return torch.tensor(losses, device=self.device)

    def _learn_embedding(self, example: Example, measured: Measured) -> float:
        """Add the gradient of the distance of the output's embedding to the reference's."""
        conditioning = self._condition([example], [0], measured)
        (input_SCT,) = self.train.items[example.input].stems(self.ranges)
        output_1SCT = self.network(input_SCT.unsqueeze(0).to(self.device), conditioning)
        embedding_1E = self.encoder.embed(output_1SCT, SAMPLE_RATE_HZ)
        reference_E = measured.embedding_ME[example.reference].to(self.device)
        loss = self.config.embedding_weight * (1 - (embedding_1E[0] * reference_E).sum())
        loss.backward()
        return float(loss.detach())

    def _distance(self, a_1SCT: Tensor, b_1SCT: Tensor, resolution: Sequence[int]) -> Tensor:
        """Compare stems and mix after the context."""
        start = round(self.config.context_s * SAMPLE_RATE_HZ)
        a_SCT, b_SCT = a_1SCT[0, ..., start:], b_1SCT[0, ..., start:]
        all_a_JCT, all_b_JCT = (torch.cat([x, x.sum(dim=0, keepdim=True)]) for x in (a_SCT, b_SCT))
        distance_J = multi_resolution_stft(all_a_JCT, all_b_JCT, resolution, FRAMES_PER_WINDOW)
        return distance_J[:-1].mean() + self.config.mix_weight * distance_J[-1]

    def _crops(self, row: int) -> list[slice]:
        """Draw where the crops of an example lie; of a short segment they are all of it."""
        config, rng = self.config, self._rng(row)
        length = round((config.context_s + config.crop_s) * SAMPLE_RATE_HZ)
        room = max(round(self.segment_s * SAMPLE_RATE_HZ) - length, 0)
        firsts = [rng.randrange(room + 1) for _ in range(config.crops_per_example)]
        return [slice(first, first + length) for first in firsts]

    def _rng(self, row: int) -> random.Random:
        return random.Random(derive_seed(self.config.seed, "crop", self.step, row))

    def _condition(
        self,
        examples: Sequence[Example],
        rows: Sequence[int],
        measured: Measured,
        is_back: bool = False,
    ) -> Conditioning:
        """Read noisy embeddings: exact ones would be learned by heart."""
        pairs = []
        for row, example in zip(rows, examples, strict=True):
            seed = derive_seed(self.config.seed, "noise", self.step, row)
            pair_PE = measured.embedding_ME[[example.input, example.reference]]
            noise_PE = torch.randn(pair_PE.shape, generator=torch.Generator().manual_seed(seed))
            noise_PE *= self.config.embedding_noise / math.sqrt(pair_PE.shape[-1])
            pair_PE = functional.normalize(pair_PE + noise_PE, dim=-1)
            pairs.append(pair_PE.flip(0) if is_back else pair_PE)
        input_BE, target_BE = torch.stack(pairs, dim=1).to(self.device)
        return self.network.condition(input_BE, target_BE)

    def _sum_gradients(self) -> None:
        """Add up what the ranks have learned; each has divided by the size of the whole batch."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        joined = sum_over_ranks(torch.cat([g.flatten() for g in gradients]))
        sizes = [g.numel() for g in gradients]
        for gradient, part in zip(gradients, joined.split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _validate(self, measured: Measured) -> None:
        """Measure on whole segments, the work divided over the ranks, and note the figures."""
        entry = {"step": float(self.step), **self._figures(self.network, measured)}
        if not math.isfinite(entry["distance"]):
            raise TrainingError(
                f"step {self.step}: expected a finite distance on the validation, found "
                f"{entry['distance']}"
            )
        if not self.history or entry["distance"] < min(e["distance"] for e in self.history):
            self.best_step = self.step
            self.best = {n: v.detach().cpu().clone() for n, v in self.network.state_dict().items()}
        self.history.append(entry)
        log.info(
            "step %d, validation: stems %.3f (%.0f %% of doing nothing), mix %.3f (%.0f %%)",
            self.step,
            entry["output_stems"],
            100 * entry["relative_stems"],
            entry["output_mix"],
            100 * entry["relative_mix"],
        )

    def _figures(self, network: ZeroShotNetwork, measured: Measured) -> dict[str, float]:
        """Return mean distances of the validation, in all and relative to doing nothing."""
        if not self.nothing:
            self.nothing = self._mean_distances(None, measured)
        reached = self._mean_distances(network, measured)
        figures = {f"input_{name}": value for name, value in self.nothing.items()}
        figures |= {f"output_{name}": value for name, value in reached.items()}
        for part in ("stems", "mix"):
            figures[f"relative_{part}"] = reached[part] / max(self.nothing[part], 1e-12)
        figures["distance"] = reached["stems"] + self.config.mix_weight * reached["mix"]
        return figures

    def _mean_distances(
        self, network: ZeroShotNetwork | None, measured: Measured
    ) -> dict[str, float]:
        examples = self.valid_examples
        rows = rank_rows(len(examples), self.rank, self.world_size)
        distances = audio_distances(
            network,
            self.valid_items,
            measured,
            examples[rows],
            self.ranges,
            self.device,
        )
        names = (*STEMS, "stems", "mix")
        sums = [sum(row[name] for row in distances) for name in names]
        sums_X = torch.tensor(sums, dtype=torch.float64, device=self.device)
        means = (sum_over_ranks(sums_X) / len(examples)).tolist()
        return dict(zip(names, means, strict=True))

    def _write_best(self, measured: Measured) -> dict[str, float]:
        """Write the best network in the strength that suits the validation; return its figures."""
        network = ZeroShotNetwork(self.network.config).to(self.device)
        network.load_state_dict(self.best)
        results = [self._figures(network.weakened(s), measured) for s in STRENGTHS]
        figures = min(results, key=lambda entry: entry["distance"])
        strength = STRENGTHS[results.index(figures)]
        metrics = {**figures, "strength": strength, "best_step": float(self.best_step)}
        log.info(
            "%.0f %% of the strength: validation distance %.3f", 100 * strength, figures["distance"]
        )
        if self.rank == 0:
            metadata = {**self.metadata, "metrics": metrics}
            fingerprint = self.encoder.fingerprint
            save_zero_shot(self.out_dir, network.weakened(strength), fingerprint, metadata)
            write_json(self.out_dir / HISTORY_NAME, self.history)
        return metrics

    def _state(self) -> TrainingState:
        return {
            "step": self.step,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_step": self.best_step,
            "history": self.history,
        }

    def _resume(self) -> None:
        """Go on from the newest state, or remove those of other data, parameters or code."""
        state = self.states.load_for_all(self.device)
        if state is None:
            if self.rank == 0:
                for folder in self.states.folder.parent.glob("*"):
                    if folder.is_dir() and folder.name != Path(MEASURED_FOLDER).name:
                        log.warning("%s: other data, parameters or code; starts anew", folder)
                        shutil.rmtree(folder)
            return
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best_step = state["step"], state["best_step"]
        self.best, self.history = state["best"], state["history"]
        log.info("resumed at step %d", self.step)


def _sum_of_powers_db(level_BSCKN: Tensor) -> Tensor:
    """Return the level of the mix of stems that have nothing to do with each other."""
    return torch.logsumexp(level_BSCKN * (2 * NEPER_PER_DB), dim=1) / (2 * NEPER_PER_DB)
