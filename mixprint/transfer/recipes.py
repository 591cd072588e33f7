"""What one call of `mixprint transfer` does: songs are separated once, then every combination.

    <out>/...                          a single transfer, see `mixprint.transfer.songs`
    <out>/<combination>/...            one folder for each, where there are several
    <out>/summary.json, summary.csv, report.html    which compare them

A combination is named by what is varied, for example `sweep-0.50-features-lr-0.001`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixprint.errors import ConfigError
from mixprint.transfer.batch import Done, Failure, Job, Models, run_jobs
from mixprint.transfer.library import SongSource
from mixprint.transfer.settings import Controls, Hyperparameters
from mixprint.transfer.style import sweep_weights
from mixprint.transfer.summary import write_summary

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

    def jobs(self, source: SongSource) -> list[Job]:
        """Name every combination; a single one has no name.

        Raises:
            ConfigError, DataError: see `SongSource.find`.
        """
        song = source.find(str(self.input_audio))
        targets = tuple(source.find(str(path)) for path in self.target_audio)
        varied = [n for n in VARIED if len({getattr(s, n) for s in self.settings}) > 1]
        jobs: list[Job] = []
        for mix, weights in self.mixes().items():
            for settings in self.settings:
                values = [getattr(settings, name) for name in varied]
                words = [f"lr-{v:g}" if isinstance(v, float) else str(v) for v in values]
                jobs.append(
                    Job(
                        name="-".join(word for word in (mix, *words) if word),
                        song=song,
                        targets=targets,
                        styles=self.styles,
                        weights=weights,
                        settings=settings,
                        controls=self.controls,
                        # All have the same one.
                        save_style=None if jobs else self.save_style,
                    )
                )
        return jobs


def transfer_songs(request: Request, out_dir: Path, models: Models) -> list[Done]:
    """Make every combination that is not made yet; compare them where there are several.

    Args:
        request: what is asked for.
        out_dir: see the module.
        models: with a separator.

    Returns:
        the combinations.

    Raises:
        AudioError, DataError: a song or style cannot be used.
        ConfigError, CheckpointError, TrainingError: see `fit_style`.
    """
    separator = None if models.separator is None else models.separator.fingerprint
    jobs = request.jobs(SongSource(separator=separator))
    outcomes = run_jobs(jobs, out_dir, models)
    done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    if len(jobs) > 1 and done:
        write_summary(out_dir, outcomes)
    raise_first(outcomes)
    return done


def raise_first(outcomes: Sequence[Done | Failure]) -> None:
    """Raise the error of the first failure, if there is one."""
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
