"""What one call of `mixprint transfer` does: songs are separated once, then every combination.

    <out>/...                          a single transfer, see `mixprint.transfer.songs`
    <out>/<combination>/...            one folder for each, where there are several
    <out>/summary.json, report.html    which compare them

A combination is named by what is varied, for example `sweep-0.50-features-lr-0.001`.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixprint.atomic import TEMPORARY_PREFIX, write_json
from mixprint.errors import ConfigError
from mixprint.features import Standardisation
from mixprint.fingerprint import file_sha256
from mixprint.transfer.pairs import summarise
from mixprint.transfer.report import write_report
from mixprint.transfer.segments import Segment, load_segment, load_whole
from mixprint.transfer.settings import Controls, Hyperparameters
from mixprint.transfer.songs import Target, transfer_segments
from mixprint.transfer.style import sweep_weights

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder
    from mixprint.separation import Separator
    from mixprint.transfer.zero_shot import ZeroShotModel

log = logging.getLogger("mixprint.transfer")

VARIED = ("optimize_target", "method", "lr")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        input_audio: the song that is changed.
        target_audio: songs whose mix it is to get.
        styles: stored styles, mixed with the songs.
        weights: of the songs, then of the styles; equal ones when empty.
        sweep: with two targets, how many mixes of them are aimed at, from the first to the
            second; 0 for the one mix by the weights.
        settings: each is done; they differ in `VARIED` only.
        controls: for all.
        save_style: receives the style that is aimed at.
    """

    input_audio: Path
    target_audio: tuple[Path, ...] = ()
    styles: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    sweep: int = 0
    settings: tuple[Hyperparameters, ...]
    controls: Controls
    save_style: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done."""
        num_targets = len(self.target_audio) + len(self.styles)
        if num_targets == 0:
            raise ConfigError("target: expected --target_audio or --style, got neither")
        if self.weights and len(self.weights) != num_targets:
            raise ConfigError(
                f"weights: expected {num_targets}, one per target, got {list(self.weights)}"
            )
        if self.sweep:
            sweep_weights(self.sweep)
            if num_targets != 2 or self.weights:
                raise ConfigError(
                    f"sweep: expected two targets without weights, got {num_targets} "
                    f"with weights {list(self.weights)}"
                )
            if self.save_style is not None:
                raise ConfigError("save_style: expected one style, got a sweep of them")

    def mixes(self) -> dict[str, tuple[float, ...]]:
        """Name the weights that are aimed at, one per target; the only ones have no name."""
        if self.sweep:
            return {f"sweep-{pair[1]:.2f}": pair for pair in sweep_weights(self.sweep)}
        num_targets = len(self.target_audio) + len(self.styles)
        return {"": self.weights or (1.0,) * num_targets}

    def combinations(self) -> dict[str, tuple[tuple[float, ...], Hyperparameters]]:
        """Name every combination; a single one has no name."""
        varied = [n for n in VARIED if len({getattr(s, n) for s in self.settings}) > 1]
        named = {}
        for mix, weights in self.mixes().items():
            for settings in self.settings:
                values = [getattr(settings, name) for name in varied]
                words = [f"lr-{v:g}" if isinstance(v, float) else str(v) for v in values]
                named["-".join(word for word in (mix, *words) if word)] = (weights, settings)
        return named


def transfer_songs(
    request: Request,
    out_dir: Path,
    *,
    separator: "Separator",
    standardisation: Standardisation,
    encoder: "Encoder | None",
    zero_shot: "ZeroShotModel | None" = None,
    device: torch.device | str,
) -> list[tuple[Path, dict[str, Any]]]:
    """Separate the songs once, and make every combination.

    Args:
        request: what is asked for.
        out_dir: see the module.
        separator: of all songs.
        standardisation: of the features.
        encoder: on `device`, see `fit_style`.
        zero_shot: on `device`, see `fit_style`.
        device: where all is computed.

    Returns:
        the folder of each combination, and what its metrics.json holds.

    Raises:
        AudioError, DataError: a song or style cannot be used.
        ConfigError, CheckpointError, TrainingError: see `fit_style`.
    """
    # All combinations hear the same.
    first = request.settings[0]
    first.warn_of_length()
    files = [Target.of_file(path) for path in request.styles]
    scratch = out_dir / f"{TEMPORARY_PREFIX}separated"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        wants_whole = first.segments > 1 or request.controls.apply_to == "song"
        song = _load(request.input_audio, first, separator, scratch / "input", whole=wants_whole)
        targets = [
            Target.of_song(
                _load(
                    path, first, separator, scratch / f"target-{number}", whole=first.segments > 1
                ),
                encoder=encoder,
                device=device,
            )
            for number, path in enumerate(request.target_audio, start=1)
        ]
        targets += files
        if request.save_style is not None:
            (weights,) = request.mixes().values()
            Target.mean(targets, weights).style.save(request.save_style)
        done = []
        combinations = request.combinations()
        for number, (name, (weights, settings)) in enumerate(combinations.items(), start=1):
            if name:
                log.info("combination %d/%d: %s", number, len(combinations), name)
            metrics = transfer_segments(
                song,
                Target.mean(targets, weights),
                out_dir / name,
                settings,
                controls=request.controls,
                standardisation=standardisation,
                encoder=encoder,
                zero_shot=zero_shot,
                device=device,
            )
            done.append((out_dir / name, metrics))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if len(done) > 1:
        write_report(out_dir / "report.html", done)
        write_json(out_dir / "summary.json", summarise(done, []))
    return done


def _load(
    path: Path, settings: Hyperparameters, separator: "Separator", folder: Path, *, whole: bool
) -> Segment:
    """Read and separate what is needed of a song."""
    content = file_sha256(path)
    if whole:
        return load_whole(path, settings, separator, folder, content=content)
    return load_segment(path, settings, separator.separate, separator.fingerprint, content=content)
