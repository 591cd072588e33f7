"""Work that `benchmarks.representation` times: the parts of a training step, and the training.

Shape suffixes: P view, B segment, S stem, C channel, T sample, D feature, I channel of the
spectrogram, M mel, N frame, H channel of a convolution.
"""

import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.looped_bands import looped_bands
from benchmarks.training_rank import NO_ROOM, RankJob, figures_path
from components.layout import CATALOGUE_FOLDER, FEATURES_FILES, FEATURES_FOLDER, STEMS_FOLDER
from components.train.launch import start_workers
from mixprint.collection.catalogue import read_catalogue
from mixprint.collection.shards import read_index
from mixprint.collection.tracks import tracks_of_split
from mixprint.config import load_params
from mixprint.encoder.augment import apply_chains, draw_chains
from mixprint.encoder.data import Batch, BatchReader, Epochs, SegmentSource
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig, TrainConfig
from mixprint.errors import TrainingError
from mixprint.features import FEATURE_NAMES, extract
from mixprint.features.table import read_features
from mixprint.machine.memory import keep_freed_memory
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ
from mixprint.storage.atomic import read_json
from mixprint.training.loading import BATCHES_AHEAD, load_batches

PARAMS_PATH = Path(__file__).resolve().parents[1] / "params.yaml"
SEGMENT_S = 10.0
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """Measurements of one process.

    Attributes:
        work: a key of `WORKS`.
        profile: whose sizes the encoder has.
        batch_size: segments at a time; of what reads (see `READING`) pairs of segments, over all
            processes together.
        segment_s: length of a segment.
        device: `cpu` or `cuda`.
        processes: ranks of the training.
        workers: processes that read segments, per rank; 0 reads in the rank itself.
        threads: of torch on the CPU, per rank.
        precision: `float32`, or `bfloat16` by autocast.
        is_compiled: whether the encoder goes through `torch.compile`.
        num_pairs: of what reads, pairs in an epoch.
        data: of what reads, folder of a set of `benchmarks.segment_set`.
        runs: how often it is timed; of what reads, epochs.
    """

    work: str
    profile: str
    batch_size: int
    segment_s: float = SEGMENT_S
    device: str = "cpu"
    processes: int = 1
    workers: int = 0
    threads: int = 1
    precision: str = "float32"
    is_compiled: bool = False
    num_pairs: int = 0
    data: str = ""
    runs: int = 5


def measure(job: Job) -> dict[str, Any]:
    """Time a job, in this process or, a training, in processes of its own.

    Returns:
        `seconds` for a segment and, where there is a loop to compare with, `looped_seconds`;
        `peak_bytes`, and `gpu_peak_bytes` on a GPU. Only `is_too_large` where a GPU has no room.
    """
    try:
        return measure_training(job) if job.work == TRAINING else measure_part(job)
    except torch.OutOfMemoryError:
        return {"is_too_large": True}


def measure_part(job: Job) -> dict[str, Any]:
    """Time a part of the step."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    if job.device == "cpu":
        keep_freed_memory()
    forms = PARTS[job.work](job)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for count in range(job.runs + 1):
        for name, work in forms.items():
            passed_s = timed(work, job)
            if count > 0:
                seconds[name].append(passed_s)
    num_segments = 2 * job.num_pairs if job.work in READING else job.batch_size
    values: dict[str, Any] = {
        name: round(median(passed) / num_segments, 6) for name, passed in seconds.items()
    }
    values["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if job.device == "cuda":
        values["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    return values


def measure_training(job: Job) -> dict[str, Any]:
    """Time the steps of a training, started as the pipeline starts it.

    Segments are those that the encoder hears: three for each pair.
    """
    steps_per_epoch = math.ceil(job.num_pairs / job.batch_size)
    # What was read ahead while the first steps took their time (torch.compile) must be used up.
    warm_up = 1 + math.ceil(BATCHES_AHEAD * job.workers / steps_per_epoch)
    changes = {
        "epochs": warm_up + job.runs,
        "batch_size": job.batch_size,
        "segment_s": job.segment_s,
        "num_processes": job.processes,
        "num_workers": job.workers,
        "cache_gib": 0.0,
        "device": job.device,
        "precision": job.precision,
        "compile": job.is_compiled,
        "patience": 0,
        "save_steps": 0,
        "keep_checkpoints": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        rank_job = RankJob(
            config=train_values(job) | changes,
            data=job.data,
            num_pairs=job.num_pairs,
            out_dir=folder,
            device=job.device,
            warm_up=warm_up,
        )
        try:
            start_workers("benchmarks.training_rank", asdict(rank_job), Path(folder), job.processes)
        except TrainingError as error:
            if str(error) != NO_ROOM:
                raise
            return {"is_too_large": True}
        ranks = [read_json(figures_path(Path(folder), n)) for n in range(job.processes)]
    values = {
        "seconds": round(1 / median(ranks[0]["segments_per_s"]), 6),
        "peak_bytes": sum(rank["peak_bytes"] for rank in ranks),
    }
    if "gpu_peak_bytes" in ranks[0]:
        values["gpu_peak_bytes"] = max(rank["gpu_peak_bytes"] for rank in ranks)
    if "gpu_busy_percent" in ranks[0]:
        values["gpu_busy_percent"] = ranks[0]["gpu_busy_percent"]
    return values


def timed(work: Callable[[], object], job: Job) -> float:
    """Return the seconds of one run; CUDA returns before the work is done."""
    if job.device == "cuda":
        torch.cuda.synchronize()
    started_s = time.perf_counter()
    with torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bfloat16"):
        work()
    if job.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def train_values(job: Job) -> dict[str, Any]:
    """Return the section `train` of the job's profile."""
    values: dict[str, Any] = load_params(PARAMS_PATH, job.profile)["train"]
    return values


def encoder_config(job: Job) -> EncoderConfig:
    """Return the architecture of the job's profile."""
    return TrainConfig.from_values(train_values(job)).encoder_config(SAMPLE_RATE_HZ)


def noise(job: Job) -> Tensor:
    """Return stems at -20 dB of full scale; speed does not depend on what is heard."""
    num_samples = round(job.segment_s * SAMPLE_RATE_HZ)
    shape = (job.batch_size, NUM_STEMS, NUM_CHANNELS, num_samples)
    return 0.1 * torch.randn(shape, device=job.device)


Forms = dict[str, Callable[[], object]]
"""`seconds` and, where there is one, `looped_seconds` -> what is timed for it."""


def loader(job: Job) -> Forms:
    """Read an epoch: segments from the shards, their features from the table."""
    batches, num_batches = epochs_of(job)

    def read() -> None:
        for _ in range(num_batches):
            next(batches)

    return {"seconds": read}


def loader_features(job: Job) -> Forms:
    """Read an epoch and measure the features of all that was read, as a training on crops does."""
    batches, num_batches = epochs_of(job)

    def read() -> None:
        with torch.inference_mode():
            for _ in range(num_batches):
                extract(next(batches).stems_PBSCT.flatten(0, 1), SAMPLE_RATE_HZ)

    return {"seconds": read}


def epochs_of(job: Job) -> tuple[Iterator[Batch], int]:
    """Return the batches of all epochs that are timed, and the number of those in one."""
    data = Path(job.data)
    config = TrainConfig.from_values(train_values(job))
    tracks = tracks_of_split(
        read_index(data / STEMS_FOLDER), read_catalogue(data / CATALOGUE_FOLDER), "train"
    )
    epochs = Epochs(
        tracks[: job.num_pairs],
        batch_size=job.batch_size,
        siblings_per_batch=config.siblings_per_batch,
        styles_meet=False,
        stored_s=job.segment_s,
        seed=SEED,
    )
    source = SegmentSource(
        read_features(data / FEATURES_FOLDER / FEATURES_FILES[0]),
        segment_s=job.segment_s,
        sample_rate_hz=SAMPLE_RATE_HZ,
        cache_gib=0.0,
    )
    batches = load_batches(
        BatchReader(source, epochs, rank=0, world_size=1),
        range((1 + job.runs) * epochs.steps_per_epoch),
        num_workers=job.workers,
        pinned=False,
    )
    return batches, epochs.steps_per_epoch


def augmentation(job: Job) -> Forms:
    """Draw a chain for each segment and put it through."""
    stems_BSCT = noise(job)
    ranges = TrainConfig.from_values(train_values(job)).augment_ranges()
    generator = torch.Generator().manual_seed(SEED)

    def augment() -> None:
        with torch.inference_mode():
            chains = draw_chains(job.batch_size, ranges, generator)
            apply_chains(stems_BSCT, chains, SAMPLE_RATE_HZ)

    return {"seconds": augment}


def features(job: Job) -> Forms:
    """Extract features."""
    stems_BSCT = noise(job)

    def forward() -> None:
        with torch.inference_mode():
            extract(stems_BSCT, SAMPLE_RATE_HZ)

    return {"seconds": forward}


def features_gradient(job: Job) -> Forms:
    """Extract features, and their gradient."""
    stems_BSCT = noise(job).requires_grad_()

    def both() -> None:
        stems_BSCT.grad = None
        extract(stems_BSCT, SAMPLE_RATE_HZ).sum().backward()

    return {"seconds": both}


def bands(job: Job, *, has_input_gradient: bool = False) -> Forms:
    """Run the sub-bands forward and backward, in both forms."""
    encoder = MixEncoder(encoder_config(job)).to(job.device)
    with torch.no_grad():
        levels_BIMN = encoder.log_mel(noise(job))
    levels_BIMN.requires_grad_(has_input_gradient)
    films = [
        torch.randn(2, job.batch_size, block.conv.out_channels, device=job.device) * 0.2
        + torch.tensor([1.0, 0.0], device=job.device).view(2, 1, 1)
        for block in (encoder.block_1, encoder.block_2)
    ]
    films = [film_2BH.requires_grad_() for film_2BH in films]

    def both(form: Callable[..., Tensor]) -> None:
        for tensor in (levels_BIMN, *films, *encoder.parameters()):
            tensor.grad = None
        form(levels_BIMN, films).square().mean().backward()

    return {
        "seconds": lambda: both(encoder.bands),
        "looped_seconds": lambda: both(lambda *inputs: looped_bands(encoder, *inputs)),
    }


def bands_input_gradient(job: Job) -> Forms:
    """Run the sub-bands as transfer does, which asks for the gradient of the audio."""
    return bands(job, has_input_gradient=True)


def encoder_forward(job: Job) -> Forms:
    """Embed segments."""
    network, stems_BSCT, features_BD = encoder_inputs(job)

    def forward() -> None:
        with torch.inference_mode():
            network(stems_BSCT, features_BD)

    return {"seconds": forward}


def encoder(job: Job) -> Forms:
    """Embed segments, and the gradient of the weights."""
    network, stems_BSCT, features_BD = encoder_inputs(job)

    def both() -> None:
        network.zero_grad()
        network(stems_BSCT, features_BD).square().sum(dim=0).mean().backward()

    return {"seconds": both}


def encoder_inputs(job: Job) -> tuple[Any, Tensor, Tensor]:
    """Make an encoder with random weights, and what it takes."""
    network: Any = MixEncoder(encoder_config(job)).to(job.device)
    if job.is_compiled:
        network = torch.compile(network)
    return network, noise(job), torch.randn(job.batch_size, len(FEATURE_NAMES), device=job.device)


PARTS: dict[str, Callable[[Job], Forms]] = {
    "loader": loader,
    "loader, features measured": loader_features,
    "augmentation": augmentation,
    "features": features,
    "features, gradient": features_gradient,
    "bands": bands,
    "bands, input gradient": bands_input_gradient,
    "encoder, forward": encoder_forward,
    "encoder": encoder,
}
TRAINING = "training"
WORKS = (*PARTS, TRAINING)
READING = ("loader", "loader, features measured", TRAINING)
