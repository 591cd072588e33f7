"""Transfer of a mixing style from one song to another, for programs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixprint.api.arrays import SongPath
from mixprint.api.models import load_models
from mixprint.audio.files import read_audio
from mixprint.machine.device import resolve_device
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.transfer.layout import OUTPUT_NAME
from mixprint.transfer.methods.result import OptimizeTarget
from mixprint.transfer.request import Request, transfer_songs
from mixprint.transfer.settings import ApplyTo, Controls, Hyperparameters, Loudness


@dataclass(frozen=True, eq=False)
class Transferred:
    """A song in the mix of another one.

    Attributes:
        audio: the output, float32 (2, samples), full scale at +-1.
        sample_rate_hz: its rate.
        folder: holds it as `output_transferred.wav`, beside the stems before and after, the
            report `report.html`, and `metrics.json`.
        metrics: what `metrics.json` holds (see `mixprint/transfer/metrics.schema.json`), such as
            `initial_feature_distance` and `final_feature_distance` in standard deviations,
            `output` with `loudness_lufs`, `true_peak_dbtp` and `gain_db`, and `notes` for people.
    """

    audio: NDArray[np.float32]
    sample_rate_hz: int
    folder: Path
    metrics: Mapping[str, Any]


def transfer_style(
    input_audio: SongPath,
    target_audio: SongPath | Sequence[SongPath],
    out_dir: SongPath,
    *,
    method: str = "console",
    optimize_target: OptimizeTarget = "features",
    apply_to: ApplyTo = "segment",
    amount: float | Mapping[str, float] = 1.0,
    loudness: Loudness = "style",
    num_steps: int = Hyperparameters.num_steps,
    segment_duration: float = Hyperparameters.segment_duration,
    segment_offset: float = Hyperparameters.segment_offset,
    encoder: str | Path = "",
    controller: SongPath | None = None,
    separator: str | Path = "default",
    separator_config: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Transferred:
    """Transfer the mixing style of one song to another, as `mixprint transfer` does.

    All else that the command offers is in `mixprint.transfer.request`, which both use.

    Args:
        input_audio: the song to be changed, a file.
        target_audio: the song whose mix it is to get, or several, which count alike.
        out_dir: receives the result, see `Transferred`. What an earlier call has made of the same
            songs in the same way is read from there instead of being made again.
        method: `console`, `tcn`, `zero-shot`; by a trained controller `controller`, `controller+`.
        optimize_target: what is brought to the target's: `features` or `embeddings`.
        apply_to: what is written: the `segment` that was fitted, or the whole `song`.
        amount: 0 nothing, 1 all that was found, above 1 more; for all stems, or stem -> amount.
        loudness: of the output: `style` (that expected of the input in the target's mix), `free`
            (as it comes), `keep` (the input's) or `match` (the target's).
        num_steps: most steps of the fit; it stops at a plateau.
        segment_duration: length of the segment that is fitted, in s, 3 or more.
        segment_offset: its start in all songs, in s.
        encoder: empty for the shipped one, a folder, or a name in a registry.
        controller: folder of a trained one, for its methods; the shipped one when None.
        separator: `default` for the shipped one, or another checkpoint.
        separator_config: the configuration of a published separator.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        overwrite: replace what another call has made in `out_dir`; nothing else ever is.

    Raises:
        AudioError: a song cannot be read, or the segment reaches beyond its end.
        DataError: `out_dir` cannot be written, or holds something else.
        CheckpointError: a model is missing, broken or of another kind.
        ConfigError: a value is not known or out of range.
        TrainingError: the fit met a value that is not finite.
    """
    targets = [target_audio] if isinstance(target_audio, str | os.PathLike) else target_audio
    settings = Hyperparameters(
        optimize_target=optimize_target,
        method=method,
        num_steps=num_steps,
        segment_duration=segment_duration,
        segment_offset=segment_offset,
    )
    request = Request(
        input_audio=Path(input_audio),
        target_audio=tuple(map(Path, targets)),
        settings=(settings,),
        controls=_controls(amount, loudness, apply_to),
        overwrite=overwrite,
    )
    folder = Path(out_dir)
    request.check_places(folder)
    models = load_models(
        resolve_device(device),
        request.settings,
        encoder=encoder,
        controller=None if controller is None else Path(controller),
        separator=separator,
        separator_config=separator_config,
    )
    (done,) = transfer_songs(request, folder, models)
    output_CT = read_audio(folder / OUTPUT_NAME)
    return Transferred(output_CT.numpy(), SAMPLE_RATE_HZ, folder, done.metrics)


def _controls(
    amount: float | Mapping[str, float], loudness: Loudness, apply_to: ApplyTo
) -> Controls:
    """Return what is done to each stem; all of it where a mapping names none."""
    amounts = amount if isinstance(amount, Mapping) else dict.fromkeys(STEMS, amount)
    return Controls(
        amount=dict.fromkeys(STEMS, 1.0) | dict(amounts), loudness=loudness, apply_to=apply_to
    )
