"""Transfer between songs, and what is written of it.

    <out>/input_original.wav  target_original.wav  output_transferred.wav     float
    <out>/input_stems/  target_stems/  transferred_stems/                     float, one per stem
    <out>/settings.json       of the console, where the method has one
    <out>/metrics.json        see metrics.schema.json beside this module
    <out>/report.html         players and curves

Input and output cover the segment that was asked for (several segments lie one after the other),
or the whole song; the target what was heard of it. A second and third target song are
target_2_original.wav, target_2_stems/ and so on; a style from a file has no audio. The output is
the input with what the transfer changes of each stem: what the stems' sum lacks of the input passes
as it is. Output and stems are written with one gain, which metrics.json names: that of the loudness
asked for, and less where the output's true peak would exceed -1 dBTP. Where nothing is done to any
stem and to the loudness, there is no gain, and the output is the input to the bit. All is stored
as float, so nothing ever clips.

The settings are those of the whole way from the input's stems to those of the output, the gain
included: `mixprint console render <out>/input_stems --settings <out>/settings.json` makes the
transferred stems again. Several segments that lie one after the other are each begun in silence.

Shape suffixes: K segment, S stem, C channel, T sample; N a mixture and its stems.
"""

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from mixprint import __version__
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings
from mixprint.errors import DataError
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.features import SCHEMA_VERSION as FEATURE_SCHEMA_VERSION
from mixprint.schema import Count, Length, WithOthers, read_record
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import write_json
from mixprint.storage.outputs import remove_result, result_in
from mixprint.text import shown
from mixprint.transfer.effect import Effect
from mixprint.transfer.excerpts import Segment
from mixprint.transfer.fit import fit_style
from mixprint.transfer.layout import (
    METRICS_NAME,
    METRICS_VERSION,
    OUTPUT_NAME,
    REPORT_NAME,
    SETTINGS_NAME,
    TRANSFER,
)
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.registry import model_fingerprints
from mixprint.transfer.methods.result import TransferResult
from mixprint.transfer.rendering import Rendered, write_output, write_target
from mixprint.transfer.report.artefacts import artefacts
from mixprint.transfer.report.page import write_report
from mixprint.transfer.settings import Controls, Hyperparameters
from mixprint.transfer.style import Style, segment_features, sounding

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder
    from mixprint.transfer.methods.problem import Model

log = logging.getLogger("mixprint.transfer")


@dataclass(frozen=True, eq=False)
class Target:
    """Style that a transfer aims at.

    Attributes:
        style: the style.
        sources: what metrics.json says of each song or file: `title`, `audio`, `style`, `weight`.
        songs: what was heard of the songs among them.
    """

    style: Style
    sources: tuple[Mapping[str, Any], ...]
    songs: tuple[Segment, ...] = ()

    def stems(self) -> Tensor | None:
        """Return the stems of what was heard, where the target is one song: stems_SCT."""
        if len(self.sources) != 1 or not self.songs:
            return None
        return torch.cat(self.songs[0].heard(), dim=-1)

    @classmethod
    def of_song(
        cls, song: Segment, *, encoder: "Encoder | None", device: torch.device | str
    ) -> "Target":
        """Measure the style of a song."""
        style = Style.of(
            song.title,
            [stems_SCT.to(device) for stems_SCT in song.heard()],
            SAMPLE_RATE_HZ,
            mixtures_CT=[audio_CT for audio_CT, _ in song.pieces()],
            encoder=encoder,
        )
        source = {"title": song.title, "audio": song.name, "style": None, "weight": 1.0}
        return cls(style, (source,), (song,))

    @classmethod
    def of_file(cls, path: Path) -> "Target":
        """Read a stored style.

        Raises:
            CheckpointError, DataError: see `Style.load`.
        """
        style = Style.load(path)
        source = {"title": style.title, "audio": None, "style": shown(path), "weight": 1.0}
        return cls(style, (source,))

    @classmethod
    def mean(cls, targets: Sequence["Target"], weights: Sequence[float]) -> "Target":
        """Mix targets, see `Style.mean`; a weight of 0 leaves one out.

        Raises:
            ConfigError, CheckpointError: see `Style.mean`.
        """
        used = [(t, w) for t, w in zip(targets, weights, strict=True) if w != 0]
        style = Style.mean([t.style for t, _ in used], [w for _, w in used])
        if len(used) == 1:
            return used[0][0]
        total = sum(weight for _, weight in used)
        return cls(
            style,
            tuple({**source, "weight": w / total} for t, w in used for source in t.sources),
            tuple(song for t, _ in used for song in t.songs),
        )


@dataclass(frozen=True, kw_only=True)
class _DoneMetrics(WithOthers):
    """Part of a metrics.json that overviews read; one that lacks it is of no finished transfer."""

    fingerprint: str
    input_audio: str
    input_title: str
    target_audio: str | None
    target_style: str
    targets: Annotated[tuple[Mapping[str, Any], ...], Length(1, 10_000)]
    method: str
    optimize_target: str
    hyperparameters: Mapping[str, Any]
    initial_embedding_distance: float | None
    final_embedding_distance: float | None
    initial_feature_distance: float
    final_feature_distance: float
    converged: bool
    num_steps_run: Count
    notes: tuple[str, ...]
    output: Mapping[str, Any]
    timings: Mapping[str, float]


def is_done(out_dir: Path, wanted_fingerprint: str) -> bool:
    """Tell whether a folder holds the whole result of exactly this transfer.

    metrics.json is written last, so where it is, everything was; what a person listens to is
    looked for all the same.
    """
    if not all((out_dir / name).is_file() for name in (OUTPUT_NAME, REPORT_NAME)):
        return False
    return made_as(out_dir) == wanted_fingerprint


def made_as(out_dir: Path) -> str | None:
    """Read the fingerprint of the transfer that a folder holds; None if it holds none."""
    try:
        return read_record(out_dir / METRICS_NAME, _DoneMetrics).fingerprint
    except DataError:
        return None


def transfer_segments(
    input_segment: Segment,
    target: Target,
    out_dir: Path,
    settings: Hyperparameters,
    *,
    fingerprint: str,
    controls: Controls | None = None,
    standardisation: Standardisation,
    encoder: "Encoder | None",
    model: "Model | None" = None,
    device: torch.device | str,
) -> dict[str, Any]:
    """Transfer, and write the folder described at the top of this module.

    Args:
        input_segment: the song that is changed; with `apply_to` `song` its `whole` is written.
        target: what is aimed at.
        out_dir: the folder.
        settings: how the effect is found.
        fingerprint: of all that the result depends on, by which it is known again.
        controls: what is made of it; the defaults of the class when None.
        standardisation: of the features.
        encoder: see `fit_style`.
        model: the network of the method.
        device: where all is computed; encoder and model are there.

    Returns:
        what metrics.json holds.

    Raises:
        AudioError, ConfigError, CheckpointError, TrainingError: see `fit_style`.
    """
    controls = controls or Controls()
    started_s = time.perf_counter()
    heard_SCT = [stems_SCT.to(device, torch.float32) for stems_SCT in input_segment.heard()]
    result = fit_style(
        heard_SCT,
        target.style,
        SAMPLE_RATE_HZ,
        settings,
        standardisation=standardisation,
        encoder=encoder,
        model=model,
        reference_SCT=target.stems(),
        keep=controls.kept,
        device=device,
    )
    fitted_s = time.perf_counter()

    remove_result(out_dir, TRANSFER)
    with result_in(out_dir, TRANSFER):
        output, notes = _write_audio(
            input_segment, target, out_dir, controls, result, device=device
        )
        written_s = time.perf_counter()
        used = settings_used(result.effect, controls, output.values["gain_db"], notes)

        metrics = {
            **_asked_values(input_segment, target, settings, controls, fingerprint),
            **_result_values(result),
            **_measured_values(
                heard_SCT,
                target.style,
                settings,
                controls,
                result,
                output,
                standardisation=standardisation,
                encoder=encoder,
            ),
            "settings": None if used is None else used.to_values(),
            "notes": notes,
            "output": output.values | {"target_loudness_lufs": target.style.loudness_lufs},
            **_used_values(input_segment, settings, encoder, model, device),
        }
        songs = (input_segment, *target.songs)
        metrics["timings"] = _timings(songs, result, started_s, fitted_s, written_s)
        _write_words(out_dir, metrics, used)
        return metrics


def _write_words(out_dir: Path, metrics: Mapping[str, Any], used: Settings | None) -> None:
    """Write settings, page, and metrics.json last: it marks that the folder is whole."""
    if used is not None:
        used.save(out_dir / SETTINGS_NAME)
    write_report(out_dir / REPORT_NAME, metrics)
    write_json(out_dir / METRICS_NAME, metrics)


def _write_audio(
    input_segment: Segment,
    target: Target,
    out_dir: Path,
    controls: Controls,
    result: TransferResult,
    *,
    device: torch.device | str,
) -> tuple[Rendered, list[str]]:
    """Write the songs, what came out and their stems; return what people should know of it, too."""
    notes = [
        *input_segment.notes,
        *(note for song in target.songs for note in song.notes),
        *result.notes,
    ]
    output = write_output(
        input_segment,
        out_dir,
        controls,
        result.effect,
        target_lufs=target.style.loudness_lufs,
        device=device,
        notes=notes,
    )
    for number, song in enumerate(target.songs, start=1):
        write_target(song, out_dir, number)
    return output, notes


def settings_used(
    effect: Effect, controls: Controls, gain_db: float, notes: list[str]
) -> Settings | None:
    """Return the console's settings from the input's stems to the output's, as they are written.

    Args:
        effect: what was found.
        controls: what is made of it.
        gain_db: with which output and stems were written.
        notes: receives a sentence for people where the console cannot go so far.
    """
    found = effect.settings(controls.amounts)
    if found is None:
        return None
    name = f"{MASTER}.output_db"
    wanted_db = found[name] + gain_db
    output = found.master.field("output_db")
    held_db = output.held(wanted_db)
    if held_db != wanted_db:
        notes.append(
            f"the output's level of {wanted_db:.1f} dB is beyond the console's "
            f"{output.range_text}: {SETTINGS_NAME} has {held_db:g} dB"
        )
    return found.edit({name: held_db})


def _asked_values(
    input_segment: Segment,
    target: Target,
    settings: Hyperparameters,
    controls: Controls,
    fingerprint: str,
) -> dict[str, Any]:
    """Return the part of metrics.json that says what was asked for."""
    return {
        "schema_version": METRICS_VERSION,
        "fingerprint": fingerprint,
        "input_audio": input_segment.name,
        "input_title": input_segment.title,
        "target_audio": " + ".join(song.name for song in target.songs) or None,
        "target_style": target.style.title,
        "targets": [dict(source) for source in target.sources],
        "optimize_target": settings.optimize_target,
        "method": settings.method,
        "amount": dict(controls.to_values()["amount"]),
        "applied_to": controls.apply_to,
        "hyperparameters": asdict(settings),
    }


def _used_values(
    input_segment: Segment,
    settings: Hyperparameters,
    encoder: "Encoder | None",
    model: "Model | None",
    device: torch.device | str,
) -> dict[str, Any]:
    """Return the part of metrics.json that says what it was made with."""
    return {
        "versions": {
            "mixprint": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "feature_schema": FEATURE_SCHEMA_VERSION,
        },
        "checkpoints": {
            "separator": dict(input_segment.separator),
            "encoder": None if encoder is None else encoder.fingerprint,
            **model_fingerprints(settings.method, model),
        },
        "device": str(device),
    }


def _timings(
    songs: Sequence[Segment],
    result: TransferResult,
    started_s: float,
    fitted_s: float,
    written_s: float,
) -> dict[str, float]:
    """Return how long each part took, in seconds; the transfer ends now."""
    separation_s = sum(song.separation_s for song in songs)
    ended_s = time.perf_counter()
    return {
        "separation_s": separation_s,
        "optimisation_s": fitted_s - started_s,
        "application_s": written_s - fitted_s,
        "measuring_s": ended_s - written_s,
        "step_s": result.step_s,
        "total_s": separation_s + ended_s - started_s,
    }


def _measured_values(
    heard_SCT: Sequence[Tensor],
    style: Style,
    settings: Hyperparameters,
    controls: Controls,
    result: TransferResult,
    output: Rendered,
    *,
    standardisation: Standardisation,
    encoder: "Encoder | None",
) -> dict[str, Any]:
    """Return the part of metrics.json that is measured of what was heard, as it came out.

    The arguments are those of `transfer_segments`, with what was heard of the input, what was found
    and what was written.
    """
    amount_S = controls.amounts.to(heard_SCT[0].device)
    processed_SCT = [result.effect(stems_SCT, amount_S) for stems_SCT in heard_SCT]
    output_SCT = [output.gain * stems_SCT for stems_SCT in processed_SCT]
    sounding_KS = torch.stack([sounding(stems_SCT) for stems_SCT in heard_SCT])
    with torch.no_grad():
        features = {
            "input": segment_features(heard_SCT, SAMPLE_RATE_HZ),
            "target": style.features_D,
            "output": segment_features(output_SCT, SAMPLE_RATE_HZ, sounding_KS),
        }
    distances = Distances(
        heard_SCT,
        style,
        SAMPLE_RATE_HZ,
        settings,
        standardisation=standardisation,
        encoder=encoder,
        left_alone=result.stems_left_alone,
    )
    final = distances.measure(result.best_step, output_SCT)
    return {
        "final_embedding_distance": final.embedding_distance,
        "final_feature_distance": final.feature_distance,
        "final_aim_distance": final.aim_distance,
        "features": {
            name: dict(zip(FEATURE_NAMES, values_D.tolist(), strict=True))
            for name, values_D in features.items()
        },
        "artefacts": artefacts(
            heard_SCT[0],
            processed_SCT[0],
            num_clipped=output.num_clipped,
            in_silence=output.in_silence,
            tcn_residual_db=result.tcn_residual_db,
        ),
    }


def _result_values(result: TransferResult) -> dict[str, Any]:
    """Return the part of metrics.json that comes from the fit."""
    return {
        "initial_embedding_distance": result.initial.embedding_distance,
        "initial_feature_distance": result.initial.feature_distance,
        "initial_aim_distance": result.initial.aim_distance,
        "converged": result.converged,
        "iterations": [asdict(iteration) for iteration in result.iterations],
        "best_step": result.best_step,
        "num_steps_run": result.num_steps,
        "stems_left_alone": list(result.stems_left_alone),
        "tcn": {
            "receptive_field_samples": result.receptive_field_samples,
            "residual_db": result.tcn_residual_db,
        },
    }
