"""Train the zero-shot network: two renderings of one music, the style taken from a third.

A *rendering* is a segment of a track as it is, or after a chain of known effects. Renderings of a
group sound alike: mixes of one known style, or segments that went through one chain. An *example*
is a truth, an input that is the same music in another rendering, and a reference of the truth's
group, which is other music. The network hears the input and the embeddings of input and
reference; nobody needs songs that exist in two mixes, for chains make them of any collection.

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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef, read_index, read_row, read_segment
from mixprint.collection.tracks import TrackSegments, tracks_of_split
from mixprint.config import StepConfig
from mixprint.dsp.spectral_distance import (
    FRAMES_PER_WINDOW,
    RESOLUTIONS,
    multi_resolution_stft,
)
from mixprint.encoder.augment import apply_chains, draw_chains
from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.settings import AugmentRanges
from mixprint.errors import CheckpointError, ConfigError, TrainingError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.progress import Progress
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
from mixprint.zero_shot.model import (
    LEVEL_FLOOR,
    NEPER_PER_DB,
    Controls,
    ZeroShotConfig,
    ZeroShotNetwork,
    save_zero_shot,
)

log = logging.getLogger("mixprint.zero_shot")

# What the network follows from, beside the parameters and the data.
CODE = (
    "mixprint.zero_shot.model",
    "mixprint.zero_shot.training",
    "mixprint.dsp.spectral_distance",
    "mixprint.encoder",
    "mixprint.features",
)
STATE_FOLDER = "state"
MEASURED_FOLDER = "state/measured"
HISTORY_NAME = "history.json"
_IDENTITY_DIGITS = 16
_NO_CHAIN = -1
_PER_FILE = 32  # renderings
# A network is surer of the styles that it has learned than others deserve.
STRENGTHS = (1.0, 0.85, 0.7, 0.55)
_FLOOR_DB = 10 * math.log10(LEVEL_FLOOR)
# Half the frames of the measure: neighbouring ones say almost the same, and cost as much.
_FRAMES_PER_WINDOW = 2
# Parameters that do not change what a training computes.
_INDIFFERENT = frozenset({"num_processes", "device", "save_steps", "log_steps"})

MetricsCallback = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class ZeroShotTrainConfig(StepConfig):
    """Parameters of the training, as in the section `zero_shot` of `params.yaml`.

    Attributes:
        level_steps: of the first part, on levels.
        audio_steps: of the second part, on audio.
        level_batch_size: examples of a step of the first part.
        audio_batch_size: examples of a step of the second part, over all processes together.
        level_learning_rate: highest one of the first part.
        audio_learning_rate: highest one of the second part.
        warmup_fraction: part of each part in which the rate rises.
        max_grad_norm: longer gradients are shortened.
        embedding_noise: length of the noise that is added to embeddings of length 1.
        level_s: what the first part sees of a segment.
        crop_s: what the second part compares of a segment.
        context_s: what it hears before that.
        crops_per_example: crops of one pair of segments in a step.
        mix_weight: of the mix's distance beside the mean of the stems'.
        cycle_steps: from one cycle loss to the next; 0: none.
        cycle_weight: its weight where it is computed.
        embedding_steps: from one embedding loss to the next; 0: none.
        embedding_weight: its weight where it is computed.
        segments_per_track: of each track so many are renderings.
        num_chains: groups of a chain; each is two renderings.
        num_valid: examples of the validation.
        valid_steps: from one validation to the next, from the end of the first part on.
        seed: of all that is drawn.
        num_processes: ranks on this machine.
        device: auto, cpu or cuda.
        save_steps: from one state to the next.
        log_steps: from one line in the log to the next.
        n_fft, hop_samples, num_bands, channels, kernel_size, dilations, conditioning_hidden,
            room_decays_s, room_s: see `ZeroShotConfig`.
    """

    section: ClassVar[str] = "zero_shot"
    level_steps: int
    audio_steps: int
    level_batch_size: int
    audio_batch_size: int
    level_learning_rate: float
    audio_learning_rate: float
    warmup_fraction: float
    max_grad_norm: float
    embedding_noise: float
    level_s: float
    crop_s: float
    context_s: float
    crops_per_example: int
    mix_weight: float
    cycle_steps: int
    cycle_weight: float
    embedding_steps: int
    embedding_weight: float
    segments_per_track: int
    num_chains: int
    num_valid: int
    valid_steps: int
    seed: int
    num_processes: int
    device: str
    save_steps: int
    log_steps: int
    n_fft: int
    hop_samples: int
    num_bands: int
    channels: int
    kernel_size: int
    dilations: tuple[int, ...]
    conditioning_hidden: int
    room_decays_s: tuple[float, ...]
    room_s: float

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        for name in ("audio_batch_size", "level_batch_size", "crops_per_example", "num_valid"):
            self._check_from(name, 1)
        for name in ("valid_steps", "save_steps", "log_steps", "num_processes"):
            self._check_from(name, 1)
        for name in ("level_steps", "audio_steps", "cycle_steps", "embedding_steps", "num_chains"):
            self._check_from(name, 0)
        self._check_from("segments_per_track", 2)
        if self.level_steps + self.audio_steps < 1:
            raise ConfigError("zero_shot.level_steps + audio_steps must be >= 1, got 0")
        if self.crop_s * SAMPLE_RATE_HZ < max(RESOLUTIONS):
            raise ConfigError(
                f"zero_shot.crop_s must be at least {max(RESOLUTIONS) / SAMPLE_RATE_HZ:.2f}, "
                f"got {self.crop_s}"
            )
        for name in ("level_s", "level_learning_rate", "audio_learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"zero_shot.{name} must be > 0, got {getattr(self, name)}")

    def _check_from(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ConfigError(f"zero_shot.{name} must be >= {least}, got {getattr(self, name)}")

    @property
    def num_steps(self) -> int:
        """Steps of both parts."""
        return self.level_steps + self.audio_steps

    def architecture(self, embedding_dim: int) -> ZeroShotConfig:
        """Describe the network."""
        return ZeroShotConfig(
            sample_rate_hz=SAMPLE_RATE_HZ,
            embedding_dim=embedding_dim,
            n_fft=self.n_fft,
            hop_samples=self.hop_samples,
            num_bands=self.num_bands,
            channels=self.channels,
            kernel_size=self.kernel_size,
            dilations=self.dilations,
            conditioning_hidden=self.conditioning_hidden,
            room_decays_s=self.room_decays_s,
            room_s=self.room_s,
        )

    def identity(self) -> dict[str, Any]:
        """Return the parameters on which the result depends."""
        return {k: v for k, v in self.to_values().items() if k not in _INDIFFERENT}


@dataclass(frozen=True)
class Rendering:
    """A segment, as it is or after a chain.

    Attributes:
        track: where it comes from.
        reference: the segment.
        chain: seed of the chain; -1: none.
        group: renderings of one group sound alike.
    """

    track: TrackSegments
    reference: SegmentRef
    chain: int
    group: str

    @property
    def music(self) -> tuple[str, int]:
        """What is heard, however it is mixed."""
        return self.track.song or self.track.track_id, self.reference.segment

    def __str__(self) -> str:
        """Name it in messages."""
        chain = "" if self.chain == _NO_CHAIN else f" chain {self.chain}"
        return f"track {self.reference.track_id} segment {self.reference.segment}{chain}"

    def stems(self, ranges: AugmentRanges, crops: Sequence[slice] = (slice(None),)) -> list[Tensor]:
        """Read stems_SCT of parts of the segment; the chain is put on each part."""
        whole_SCT = read_segment(self.reference)
        parts = [whole_SCT[..., crop] for crop in crops]
        if self.chain == _NO_CHAIN:
            return parts
        chains = draw_chains(1, ranges, torch.Generator().manual_seed(self.chain))
        return [apply_chains(p_SCT.unsqueeze(0), chains, SAMPLE_RATE_HZ)[0] for p_SCT in parts]


@dataclass(frozen=True)
class Example:
    """Numbers of three renderings."""

    input: int
    truth: int
    reference: int


class Renderings:
    """All renderings of some tracks, and the examples that they make."""

    def __init__(
        self,
        tracks: Sequence[TrackSegments],
        *,
        segments_per_track: int,
        num_chains: int,
        seed: int,
    ) -> None:
        """Choose segments and draw chains.

        Args:
            tracks: of one split.
            segments_per_track: the most that are taken of one track, far from each other.
            num_chains: groups of one chain; two renderings each.
            seed: of the choice.

        Raises:
            TrainingError: they make no example.
        """
        chosen = [(track, _spread(track.references, segments_per_track)) for track in tracks]
        self.items = [
            Rendering(track, reference, _NO_CHAIN, f"style {track.style}" if track.style else "")
            for track, references in chosen
            for reference in references
        ]
        plain = [(track, reference) for track, refs in chosen for reference in refs]
        by_style: dict[str, list[tuple[TrackSegments, SegmentRef]]] = defaultdict(list)
        for track, reference in plain:
            by_style[track.style or track.track_id].append((track, reference))
        for number in range(num_chains):
            rng = random.Random(derive_seed(seed, "chain", number))
            first = rng.choice(plain)
            others = [
                other
                for other in by_style[first[0].style or first[0].track_id]
                if _apart(first[0], first[1], *other)
            ]
            if others:
                chain, group = derive_seed(seed, "chain", number, "values"), f"chain {number}"
                pair = (first, rng.choice(others))
                self.items += [Rendering(t, r, chain, group) for t, r in pair]
        self._by_music: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._by_group: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            self._by_music[item.music].append(number)
            if item.group:
                self._by_group[item.group].append(number)
        numbers = range(len(self.items))
        self._truths = [n for n in numbers if self._inputs(n) and self._references(n)]
        if not self._truths:
            raise TrainingError(
                "zero-shot: expected segments of which there are two renderings, and other music "
                f"in the style of one, found none among {len(tracks)} tracks; raise "
                "zero_shot.num_chains, or use more songs"
            )

    def _inputs(self, truth: int) -> list[int]:
        return [n for n in self._by_music[self.items[truth].music] if n != truth]

    def _references(self, truth: int) -> list[int]:
        item = self.items[truth]
        found = [
            n
            for n in self._by_group.get(item.group, [])
            if _apart(item.track, item.reference, self.items[n].track, self.items[n].reference)
        ]
        # Another song says nothing of this one's notes; where there is none, another segment does.
        elsewhere = [n for n in found if self.items[n].music[0] != item.music[0]]
        return elsewhere or found

    def example(self, *key: object) -> Example:
        """Draw an example; equal keys give equal ones."""
        rng = random.Random(derive_seed(*key))
        truth = rng.choice(self._truths)
        return Example(rng.choice(self._inputs(truth)), truth, rng.choice(self._references(truth)))

    def only(self, examples: Sequence[Example]) -> tuple[list[Rendering], list[Example]]:
        """Return the renderings of some examples, and the examples renumbered for that list."""
        used = sorted({n for e in examples for n in (e.input, e.truth, e.reference)})
        number = {old: new for new, old in enumerate(used)}
        renamed = [Example(number[e.input], number[e.truth], number[e.reference]) for e in examples]
        return [self.items[n] for n in used], renamed

    def describe(self, example: Example) -> str:
        """Name the segments of an example."""
        return (
            f"input {self.items[example.input]}, truth {self.items[example.truth]}, "
            f"reference {self.items[example.reference]}"
        )


def _spread(references: Sequence[SegmentRef], number: int) -> list[SegmentRef]:
    """Take so many at equal distances, the first and the last among them."""
    if len(references) <= number:
        return list(references)
    last = len(references) - 1
    return [references[round(i * last / (number - 1))] for i in range(number)]


def _apart(a: TrackSegments, a_ref: SegmentRef, b: TrackSegments, b_ref: SegmentRef) -> bool:
    """Tell whether two segments hold other music, as far as is known."""
    if (a.song or a.track_id) != (b.song or b.track_id):
        return True
    return a_ref.segment != b_ref.segment


@dataclass(frozen=True)
class Known:
    """What is measured of each rendering once.

    Attributes:
        embedding_ME: by the encoder.
        level_MSCKN: levels in dB of the bands that the network hears, 16-bit.
    """

    embedding_ME: Tensor
    level_MSCKN: Tensor


@torch.no_grad()
def measure_renderings(
    items: Sequence[Rendering],
    encoder: Encoder,
    network: ZeroShotNetwork,
    ranges: AugmentRanges,
    *,
    folder: Path,
    device: torch.device,
) -> Known:
    """Embed renderings and measure their levels, or read what was measured before.

    The work is divided over the ranks by files of some renderings each; all ranks call it.

    Args:
        items: the renderings.
        encoder: on the device.
        network: tells the bands; its weights do not matter.
        ranges: of the chains.
        folder: of the files; for these renderings, encoder and bands only.
        device: where to compute.

    Raises:
        TrainingError: a file cannot be read.
    """
    rank, world_size = rank_and_world()
    parts = [items[i : i + _PER_FILE] for i in range(0, len(items), _PER_FILE)]
    paths = [folder / f"{number:05d}.safetensors" for number in range(len(parts))]
    missing = [n for n, path in enumerate(paths) if not path.exists()][rank::world_size]
    if missing:
        num_missing = sum(len(parts[n]) for n in missing)
        with Progress(log, "measured", total=num_missing, unit="renderings") as shown:
            for number in missing:
                embeddings, levels = [], []
                for item in parts[number]:
                    stems_1SCT = item.stems(ranges)[0].unsqueeze(0).to(device)
                    embeddings.append(encoder.embed(stems_1SCT, SAMPLE_RATE_HZ)[0].cpu())
                    level_1SCKN = network.levels_db(network.analyse(stems_1SCT))
                    levels.append(level_1SCKN[0].half().cpu())
                    shown.advance()
                write_tensors(
                    paths[number],
                    {"embedding": torch.stack(embeddings), "level": torch.stack(levels)},
                )
    barrier()
    try:
        loaded = [read_tensors(path) for path in paths]
        if any(not part.keys() >= {"embedding", "level"} for part in loaded):
            raise CheckpointError(f"{folder}: expected embeddings and levels in each file")
    except CheckpointError as error:
        raise TrainingError(f"{folder}: expected what was measured, found: {error}") from error
    return Known(*(torch.cat([part[name] for part in loaded]) for name in ("embedding", "level")))


def audio_distances(
    network: ZeroShotNetwork | None,
    items: Sequence[Rendering],
    known: Known,
    examples: Sequence[Example],
    ranges: AugmentRanges,
    device: torch.device,
    frames_per_window: int = FRAMES_PER_WINDOW,
) -> list[dict[str, float]]:
    """Measure how far whole segments are from the truth.

    Args:
        network: what is measured; None: the input as it is.
        items: the renderings that examples number.
        known: their embeddings.
        examples: what is measured.
        ranges: of the chains.
        device: where to compute.
        frames_per_window: see `multi_resolution_stft`.

    Returns:
        of each example: the distance of each stem, their mean (`stems`), and that of the `mix`.
    """
    rows = []
    for example in examples:
        audio_SCT, truth_SCT = (
            items[n].stems(ranges)[0].to(device) for n in (example.input, example.truth)
        )
        if network is not None:
            input_1E, target_1E = (
                known.embedding_ME[n].unsqueeze(0).to(device)
                for n in (example.input, example.reference)
            )
            with torch.no_grad():
                controls = network.condition(input_1E, target_1E)
                audio_SCT = network(audio_SCT.unsqueeze(0), controls)[0]
        distances = [
            float(multi_resolution_stft(a_CT, b_CT, frames_per_window=frames_per_window))
            for a_CT, b_CT in zip(
                [*audio_SCT, audio_SCT.sum(dim=0)], [*truth_SCT, truth_SCT.sum(dim=0)], strict=True
            )
        ]
        by_stem = dict(zip(STEMS, distances[:-1], strict=True))
        rows.append({**by_stem, "stems": sum(by_stem.values()) / len(STEMS), "mix": distances[-1]})
    return rows


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
        self.valid_items, self.valid_examples = valid.only(
            [valid.example(config.seed, "valid", n) for n in range(config.num_valid)]
        )
        source = {
            "config": config.identity(),
            "ranges": asdict(ranges),
            "data": data_fingerprint,
            "encoder": encoder.fingerprint,
            "code": code_version(*CODE),
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

    def _measure(self, items: Sequence[Rendering]) -> Known:
        """Measure all renderings; what was measured outlives a change of the other parameters."""
        architecture = self.network.config
        identity = fingerprint(
            {
                "data": self.metadata["data_fingerprint"],
                "code": code_version("mixprint.encoder", "mixprint.features"),
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
        known, valid_known = self._measure(self.train.items), self._measure(self.valid_items)
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
            losses.append(self._take_step(known))
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
                self._validate(valid_known)
                if on_metrics is not None and self.rank == 0:
                    figures = {k: v for k, v in self.history[-1].items() if k != "step"}
                    on_metrics(self.step, {f"valid.{k}": v for k, v in figures.items()})
                started_s, losses = time.monotonic(), []
            if self.rank == 0 and self._is_due(config.save_steps):
                self.states.save(self._state())
        result = self._write_best(valid_known)
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

    def _take_step(self, known: Known) -> float:
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
            loss_G[rows] = learn(examples, range(rows.start, rows.stop), known)
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

    def _learn_levels(self, examples: Sequence[Example], rows: range, known: Known) -> Tensor:
        """Add up the gradients of levels; return the losses of these rows.

        The mean difference of the levels of the stems and of their sum, in nepers as in the
        distance of spectra; a band that falls below the floor is as silent as one at the floor.
        """
        own = [examples[row] for row in rows]
        frame_s = self.config.hop_samples / SAMPLE_RATE_HZ
        N = known.level_MSCKN.shape[-1]
        length = min(N, round(self.config.level_s / frame_s))
        inputs: list[Tensor] = []
        truths: list[Tensor] = []
        for row, example in zip(rows, own, strict=True):
            first = self._rng(row).randrange(N - length + 1)
            for number, parts in ((example.input, inputs), (example.truth, truths)):
                parts.append(known.level_MSCKN[number, ..., first : first + length])
        level_BSCKN = torch.stack(inputs).float().to(self.device)
        truth_BSCKN = torch.stack(truths).float().to(self.device)
        controls = self._condition(own, rows, known)
        gain_BSCKN = self.network.gains_db(level_BSCKN, controls)
        out_BSCKN = (level_BSCKN + gain_BSCKN).clamp_min(_FLOOR_DB)
        loss_B = (out_BSCKN - truth_BSCKN).abs().mean((1, 2, 3, 4))
        mixes_BCKN = (_sum_of_powers_db(x_BSCKN) for x_BSCKN in (out_BSCKN, truth_BSCKN))
        mix_B = torch.sub(*mixes_BCKN).abs().mean((1, 2, 3))
        loss_B = NEPER_PER_DB * (loss_B + self.config.mix_weight * mix_B)
        (loss_B.sum() / len(examples)).backward()
        return loss_B.detach()

    def _learn_audio(self, examples: Sequence[Example], rows: range, known: Known) -> Tensor:
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
                controls = self._condition([example], [row], known)
                input_1SCT, truth_1SCT = (
                    x_SCT.unsqueeze(0).to(self.device) for x_SCT in (input_SCT, truth_SCT)
                )
                output_1SCT = self.network(input_1SCT, controls)
                loss = self._distance(output_1SCT, truth_1SCT, resolution)
                if with_cycle:
                    back = self._condition([example], [row], known, is_back=True)
                    again_1SCT = self.network(output_1SCT, back)
                    cycle = self._distance(again_1SCT, input_1SCT, resolution)
                    loss = loss + config.cycle_weight * cycle
                (loss / (len(crops) * len(examples))).backward()
                total += float(loss.detach()) / len(crops)
            if row == 0 and config.embedding_steps and self.step % config.embedding_steps == 0:
                total += self._learn_embedding(example, known) / len(examples)
            losses.append(total)
        return torch.tensor(losses, device=self.device)

    def _learn_embedding(self, example: Example, known: Known) -> float:
        """Add the gradient of the distance of the output's embedding to the reference's."""
        controls = self._condition([example], [0], known)
        (input_SCT,) = self.train.items[example.input].stems(self.ranges)
        output_1SCT = self.network(input_SCT.unsqueeze(0).to(self.device), controls)
        embedding_1E = self.encoder.embed(output_1SCT, SAMPLE_RATE_HZ)
        reference_E = known.embedding_ME[example.reference].to(self.device)
        loss = self.config.embedding_weight * (1 - (embedding_1E[0] * reference_E).sum())
        loss.backward()
        return float(loss.detach())

    def _distance(self, a_1SCT: Tensor, b_1SCT: Tensor, resolution: Sequence[int]) -> Tensor:
        """Compare stems and mix after the context."""
        start = round(self.config.context_s * SAMPLE_RATE_HZ)
        a_SCT, b_SCT = a_1SCT[0, ..., start:], b_1SCT[0, ..., start:]
        all_a_JCT, all_b_JCT = (torch.cat([x, x.sum(dim=0, keepdim=True)]) for x in (a_SCT, b_SCT))
        distance_J = multi_resolution_stft(all_a_JCT, all_b_JCT, resolution, _FRAMES_PER_WINDOW)
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
        self, examples: Sequence[Example], rows: Sequence[int], known: Known, is_back: bool = False
    ) -> Controls:
        """Read noisy embeddings: exact ones would be learned by heart."""
        pairs = []
        for row, example in zip(rows, examples, strict=True):
            seed = derive_seed(self.config.seed, "noise", self.step, row)
            pair_PE = known.embedding_ME[[example.input, example.reference]]
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

    def _validate(self, known: Known) -> None:
        """Measure on whole segments, the work divided over the ranks, and note the figures."""
        entry = {"step": float(self.step), **self._figures(self.network, known)}
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

    def _figures(self, network: ZeroShotNetwork, known: Known) -> dict[str, float]:
        """Return mean distances of the validation, in all and relative to doing nothing."""
        if not self.nothing:
            self.nothing = self._mean_distances(None, known)
        reached = self._mean_distances(network, known)
        figures = {f"input_{name}": value for name, value in self.nothing.items()}
        figures |= {f"output_{name}": value for name, value in reached.items()}
        for part in ("stems", "mix"):
            figures[f"relative_{part}"] = reached[part] / max(self.nothing[part], 1e-12)
        figures["distance"] = reached["stems"] + self.config.mix_weight * reached["mix"]
        return figures

    def _mean_distances(self, network: ZeroShotNetwork | None, known: Known) -> dict[str, float]:
        examples = self.valid_examples
        rows = rank_rows(len(examples), self.rank, self.world_size)
        measured = audio_distances(
            network,
            self.valid_items,
            known,
            examples[rows],
            self.ranges,
            self.device,
            _FRAMES_PER_WINDOW,
        )
        names = (*STEMS, "stems", "mix")
        sums = [sum(row[name] for row in measured) for name in names]
        sums_X = torch.tensor(sums, dtype=torch.float64, device=self.device)
        means = (sum_over_ranks(sums_X) / len(examples)).tolist()
        return dict(zip(names, means, strict=True))

    def _write_best(self, known: Known) -> dict[str, float]:
        """Write the best network in the strength that suits the validation; return its figures."""
        network = ZeroShotNetwork(self.network.config).to(self.device)
        network.load_state_dict(self.best)
        results = [self._figures(network.weakened(s), known) for s in STRENGTHS]
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
