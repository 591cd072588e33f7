"""One call of `mixprint transfer`: songs are separated once, then every combination is made.

    <out>/...                          a single transfer, see `mixprint.transfer.pair`
    <out>/<combination>/...            one folder for each, where there are several
    <out>/summary.json, summary.csv, report.html    which compare them

A combination is named by what is varied, for example `sweep-0.50-features-lr-0.001`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixprint.errors import ConfigError, DataError
from mixprint.storage.outputs import check_file, check_folder, remove_result, reserved
from mixprint.text import shown
from mixprint.transfer.inputs import SongFinder
from mixprint.transfer.jobs import Done, Failure, Job, Models, look, run_jobs
from mixprint.transfer.layout import SUMMARY, TRANSFER
from mixprint.transfer.report.summary import write_summary
from mixprint.transfer.settings import Controls, Hyperparameters
from mixprint.transfer.style import is_style, sweep_weights

VARIED = ("optimize_target", "method", "lr")
# Only their ratios matter.
MAX_WEIGHT = 1e6


@dataclass(frozen=True, kw_only=True)
class Request:
    """Request for transfers of one song.

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
        overwrite: replace what another call has made in the same place.
    """

    input_audio: Path
    target_audio: tuple[Path, ...] = ()
    styles: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    sweep: int = 0
    settings: tuple[Hyperparameters, ...]
    controls: Controls
    save_style: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done."""
        if not self.settings:
            raise ConfigError("optimize_target, method, lr: expected one of each, got none")
        num_targets = len(self.target_audio) + len(self.styles)
        if num_targets == 0:
            raise ConfigError("target: expected --target_audio or --style, got neither")
        if self.weights and len(self.weights) != num_targets:
            raise ConfigError(
                f"weights: expected {num_targets}, one per target (with decimal points), "
                f"got {list(self.weights)}"
            )
        if not all(0 < weight <= MAX_WEIGHT for weight in self.weights):
            raise ConfigError(
                f"weights: expected numbers above 0 and up to {MAX_WEIGHT:g}, "
                f"got {list(self.weights)}"
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

    def check_places(self, out_dir: Path) -> None:
        """Refuse places where nothing may be written, as far as it is known without any work.

        Raises:
            DataError: see `check_folder` and `check_file`.
        """
        inputs = [self.input_audio, *self.target_audio, *self.styles]
        if self.is_single:
            check_folder(out_dir, TRANSFER, also=(SUMMARY,), inputs=inputs, overwrite=True)
        else:
            check_folder(
                out_dir,
                SUMMARY,
                also=(TRANSFER,),
                inputs=inputs,
                overwrite=self.overwrite,
                updates=True,
            )
        if self.save_style is not None:
            check_file(self.save_style, is_style, inputs=inputs, overwrite=True)
            if any(kind.has(out_dir, self.save_style) for kind in (TRANSFER, SUMMARY)):
                raise DataError(
                    f"{shown(self.save_style)}: expected another name for the style, for the "
                    "transfer writes a file of this one"
                )

    @property
    def is_single(self) -> bool:
        """Tell whether there is one combination, whose folder is the output folder itself."""
        return len(self.settings) * len(self.mixes()) == 1

    def jobs(self, source: SongFinder) -> list[Job]:
        """Name every combination; a single one has no name.

        Raises:
            ConfigError, DataError: see `SongFinder.find`.
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
                        overwrite_style=self.overwrite,
                    )
                )
        return jobs


def transfer_songs(request: Request, out_dir: Path, models: Models) -> list[Done]:
    """Make every combination that is not made yet; compare them where there are several.

    Args:
        request: what is asked for.
        out_dir: see the module. What another call has made there stays, unless the request says
            otherwise; what mixprint has not made stays in any case.
        models: with a separator.

    Returns:
        the combinations.

    Raises:
        AudioError, DataError: a song or style cannot be used, or the folder cannot be written or
            holds something else.
        ConfigError, CheckpointError, TrainingError: see `fit_style`.
    """
    separator = None if models.separator is None else models.separator.fingerprint
    jobs = request.jobs(SongFinder(separator=separator))
    with reserved(out_dir, f"a transfer of {shown(request.input_audio)}"):
        request.check_places(out_dir)
        known = look(jobs, out_dir, models, overwrite=request.overwrite)
        raise_first([outcome for outcome in known if outcome is not None])
        if any(outcome is None for outcome in known):
            remove_result(out_dir, SUMMARY if request.is_single else TRANSFER)
        outcomes = run_jobs(jobs, out_dir, models, overwrite=request.overwrite)
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
