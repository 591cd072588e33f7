"""Transfer between two songs, and what is written of it.

    <out>/input_original.wav  target_original.wav  output_transferred.wav     24 bit
    <out>/input_stems/  target_stems/  transferred_stems/                     float, one per stem
    <out>/metrics.json        see metrics.schema.json beside this module
    <out>/report.html         players and curves

The three mixtures cover the segment that was asked for. The output is the sum of the transferred
stems. Where its true peak would exceed -1 dBTP, output and transferred stems are lowered by one
gain, which metrics.json names. Stems are stored as float, so nothing ever clips.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixprint import __version__
from mixprint.atomic import read_json, write_json
from mixprint.audio import loudness_lufs, probe, read_audio, resample, shown, write_audio
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.features import SCHEMA_VERSION as FEATURE_SCHEMA_VERSION
from mixprint.features import Standardisation
from mixprint.fingerprint import code_version, fingerprint
from mixprint.stems import SAMPLE_RATE_HZ, unpack
from mixprint.transfer.optimise import (
    MIN_DURATION_S,
    OptimizeTarget,
    TransferResult,
    transfer_style,
)
from mixprint.transfer.report import write_report

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

log = logging.getLogger("mixprint.transfer")

METRICS_VERSION = 1
METRICS_NAME = "metrics.json"
MAX_TRUE_PEAK_DBTP = -1.0
# The encoder's and the features' statistics are those of segments of this length.
TRAINED_SEGMENT_S = 10.0
TRUE_PEAK_OVERSAMPLING = 4  # ITU-R BS.1770-4, annex 2

# Separates audio_CT at 44.1 kHz into stems_SCT.
Separate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What decides about a transfer besides the songs; the names are those of metrics.json.

    Attributes:
        optimize_target: `features` or `embeddings`.
        num_steps: most updates.
        lr: learning rate at the start.
        receptive_field: of the TCN, in seconds.
        segment_duration: in seconds; shortened where a song ends sooner.
        segment_offset: where the segment starts in both songs, in seconds.
        seed: of the TCN's start.
    """

    optimize_target: OptimizeTarget
    num_steps: int
    lr: float
    receptive_field: float
    segment_duration: float
    segment_offset: float
    seed: int

    def __post_init__(self) -> None:
        """Check what `transfer_style` does not."""
        if not self.segment_duration >= MIN_DURATION_S:
            raise ConfigError(
                f"segment_duration: expected at least {MIN_DURATION_S} s, "
                f"got {self.segment_duration}"
            )
        if not self.segment_offset >= 0:
            raise ConfigError(f"segment_offset: expected 0 or more, got {self.segment_offset}")
        if self.segment_duration != TRAINED_SEGMENT_S:
            log.warning(
                "segment_duration is %g s; encoder and standardisation are trained on %g s",
                self.segment_duration,
                TRAINED_SEGMENT_S,
            )


@dataclass(frozen=True, eq=False)
class Segment:
    """A piece of a song with its stems.

    Attributes:
        name: what the song is called in metrics.json: its path or URI.
        title: what a person calls it.
        identity: JSON-able; equal for equal audio and stems.
        audio_CT: the mixture.
        stems_SCT: its stems.
        separator: fingerprint of what made the stems.
        notes: what a person should know about it.
        separation_s: wall-clock time of the separation; 0 for stems that were there.
    """

    name: str
    title: str
    identity: Mapping[str, Any]
    audio_CT: Tensor
    stems_SCT: Tensor
    separator: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    separation_s: float = 0.0


def segment_bounds(where: str, duration_s: float, settings: Hyperparameters) -> tuple[float, float]:
    """Find the part of a song that is used: start and length in seconds.

    The part is shortened where the song ends sooner; it is never padded.

    Raises:
        AudioError: fewer than `MIN_DURATION_S` are left behind the offset.
    """
    length_s = min(settings.segment_duration, duration_s - settings.segment_offset)
    if length_s < MIN_DURATION_S:
        raise AudioError(
            "too_short",
            f"{where}: expected at least {MIN_DURATION_S} s from {settings.segment_offset} s on, "
            f"found a song of {duration_s:.2f} s",
        )
    return settings.segment_offset, length_s


def load_segment(
    path: Path,
    settings: Hyperparameters,
    separate: Separate,
    separator: Mapping[str, Any],
    *,
    content: str,
) -> Segment:
    """Read a segment of a file and separate it.

    Args:
        path: the song.
        settings: which part.
        separate: the separator.
        separator: its fingerprint.
        content: SHA-256 of the file.

    Raises:
        AudioError: the file cannot be read or is too short.
    """
    where = shown(path)
    start_s, length_s = segment_bounds(where, probe(path).duration_s, settings)
    audio_CT = read_audio(path, start_s=start_s, duration_s=length_s)
    notes: tuple[str, ...] = ()
    if length_s < settings.segment_duration:
        notes = (f"{where}: shortened to {length_s:.2f} s, where the song ends",)
    started_s = time.perf_counter()
    stems_SCT = separate(audio_CT)
    return Segment(
        name=where,
        title=path.stem,
        identity={"content": content},
        audio_CT=audio_CT,
        stems_SCT=stems_SCT,
        separator=separator,
        notes=notes,
        separation_s=time.perf_counter() - started_s,
    )


def transfer_fingerprint(
    input_identity: Mapping[str, Any],
    target_identity: Mapping[str, Any],
    separator: Mapping[str, Any],
    settings: Hyperparameters,
    standardisation: Standardisation,
    encoder: "Encoder | None",
) -> str:
    """Hash all that the result depends on, so that a finished pair is not computed again."""
    return fingerprint(
        {
            "input": dict(input_identity),
            "target": dict(target_identity),
            "separator": dict(separator),
            "hyperparameters": asdict(settings),
            "standardisation": standardisation.to_values(),
            "encoder": None if encoder is None else encoder.fingerprint,
            "code": code_version("mixprint.transfer", "mixprint.features", "mixprint.encoder"),
        }
    )


def is_done(out_dir: Path, wanted_fingerprint: str) -> bool:
    """Tell whether a folder holds the whole result of exactly this transfer.

    metrics.json is written last, so where it is, everything is.
    """
    path = out_dir / METRICS_NAME
    if not path.is_file():
        return False
    try:
        metrics = read_json(path)
    except DataError:
        return False
    return isinstance(metrics, dict) and metrics.get("fingerprint") == wanted_fingerprint


def transfer_segments(
    input_segment: Segment,
    target_segment: Segment,
    out_dir: Path,
    settings: Hyperparameters,
    *,
    standardisation: Standardisation,
    encoder: "Encoder | None",
    device: torch.device | str,
) -> dict[str, Any]:
    """Transfer, and write the folder described at the top of this module.

    Returns:
        what metrics.json holds.

    Raises:
        AudioError, ConfigError, TrainingError: see `transfer_style`.
    """
    started_s = time.perf_counter()
    (out_dir / METRICS_NAME).unlink(missing_ok=True)
    result = transfer_style(
        input_segment.stems_SCT,
        target_segment.stems_SCT,
        SAMPLE_RATE_HZ,
        optimize_target=settings.optimize_target,
        standardisation=standardisation,
        encoder=encoder,
        num_steps=settings.num_steps,
        lr=settings.lr,
        receptive_field_s=settings.receptive_field,
        seed=settings.seed,
        device=device,
    )
    optimisation_s = time.perf_counter() - started_s
    gain = peak_safe_gain(result.stems_SCT.sum(0))
    stems_SCT = gain * result.stems_SCT
    output_CT = stems_SCT.sum(0)

    for name, audio_CT in (
        ("input_original", input_segment.audio_CT),
        ("target_original", target_segment.audio_CT),
        ("output_transferred", output_CT),
    ):
        write_audio(out_dir / f"{name}.wav", audio_CT, SAMPLE_RATE_HZ, subtype="PCM_24")
    for name, folder_SCT in (
        ("input_stems", input_segment.stems_SCT),
        ("target_stems", target_segment.stems_SCT),
        ("transferred_stems", stems_SCT),
    ):
        for stem, stem_CT in unpack(folder_SCT).items():
            path = out_dir / name / f"{stem}.wav"
            write_audio(path, stem_CT, SAMPLE_RATE_HZ, subtype="FLOAT")

    notes = [*input_segment.notes, *target_segment.notes, *result.notes]
    if gain < 1:
        notes.append(
            f"output lowered by {-_decibels(gain):.2f} dB to keep its true peak at "
            f"{MAX_TRUE_PEAK_DBTP} dBTP"
        )
    separation_s = input_segment.separation_s + target_segment.separation_s
    metrics = {
        "schema_version": METRICS_VERSION,
        "fingerprint": transfer_fingerprint(
            input_segment.identity,
            target_segment.identity,
            input_segment.separator,
            settings,
            standardisation,
            encoder,
        ),
        "input_audio": input_segment.name,
        "target_audio": target_segment.name,
        "optimize_target": settings.optimize_target,
        "hyperparameters": asdict(settings),
        **_result_values(result),
        "notes": notes,
        "output": {
            "gain_db": _decibels(gain),
            "true_peak_dbtp": _decibels(true_peak(output_CT)),
            "peak_dbfs": _decibels(float(output_CT.abs().max())),
            "loudness_lufs": loudness_lufs(output_CT, SAMPLE_RATE_HZ),
            "input_loudness_lufs": loudness_lufs(input_segment.audio_CT, SAMPLE_RATE_HZ),
            "target_loudness_lufs": loudness_lufs(target_segment.audio_CT, SAMPLE_RATE_HZ),
        },
        "versions": {
            "mixprint": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "feature_schema": FEATURE_SCHEMA_VERSION,
        },
        "checkpoints": {
            "separator": dict(input_segment.separator),
            "encoder": None if encoder is None else encoder.fingerprint,
        },
        "device": str(device),
        "timings": {
            "separation_s": separation_s,
            "optimisation_s": optimisation_s,
            "step_s": result.step_s,
            "total_s": separation_s + time.perf_counter() - started_s,
        },
    }
    # metrics.json comes last: it is the marker that the folder is whole.
    write_report(out_dir / "report.html", [(out_dir, metrics)])
    write_json(out_dir / METRICS_NAME, metrics)
    return metrics


def peak_safe_gain(audio_CT: Tensor) -> float:
    """Give the factor, at most 1, that keeps the true peak at `MAX_TRUE_PEAK_DBTP`."""
    peak = true_peak(audio_CT)
    return min(1.0, 10 ** (MAX_TRUE_PEAK_DBTP / 20) / peak) if peak > 0 else 1.0


def true_peak(audio_CT: Tensor) -> float:
    """Measure the highest magnitude between samples too (four times oversampled), full scale 1."""
    between = resample(audio_CT, SAMPLE_RATE_HZ, TRUE_PEAK_OVERSAMPLING * SAMPLE_RATE_HZ)
    return max(float(between.abs().max()), float(audio_CT.abs().max()))


def _decibels(amplitude: float) -> float:
    """Give 20 lg, with a floor so that silence stays a JSON number."""
    return 20 * math.log10(max(amplitude, 1e-10))


def _result_values(result: TransferResult) -> dict[str, Any]:
    """Give the part of metrics.json that comes from the optimisation."""
    return {
        "initial_embedding_distance": result.initial.embedding_distance,
        "final_embedding_distance": result.final.embedding_distance,
        "initial_feature_distance": result.initial.feature_distance,
        "final_feature_distance": result.final.feature_distance,
        "converged": result.converged,
        "iterations": [asdict(iteration) for iteration in result.iterations],
        "best_step": result.best_step,
        "num_steps_run": result.num_steps,
        "stems_left_alone": list(result.stems_left_alone),
        "settings": result.settings,
        "tcn": {
            "receptive_field_samples": result.receptive_field_samples,
            "residual_db": result.tcn_residual_db,
        },
    }
