"""Transfers, one after the other or several at a time; each in its folder, each resumable.

    <out>/<job>/...                                   see `mixprint.transfer.pair`
    <out>/summary.json, summary.csv, report.html      see `mixprint.transfer.report`
    <out>/.separated/                                 stems of songs that are still needed

A job that was finished with the same songs, settings, checkpoints and code is not done again.
What a killed run has separated is used by the next one.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from mixprint.errors import AudioError, DataError, MixprintError
from mixprint.features import Standardisation
from mixprint.fingerprint import code_version, fingerprint
from mixprint.machine.memory import is_out_of_memory
from mixprint.machine.processes import ProcessEnded, side_by_side, threads_each
from mixprint.storage.atomic import TEMPORARY_PREFIX, read_json
from mixprint.storage.outputs import check_folder, clear_unfinished
from mixprint.transfer.inputs import Song
from mixprint.transfer.layout import METRICS_NAME, SUMMARY, TRANSFER
from mixprint.transfer.methods.problem import Model
from mixprint.transfer.methods.registry import METHODS, model_fingerprints
from mixprint.transfer.pair import Target, is_done, made_as, transfer_segments
from mixprint.transfer.settings import Controls, Hyperparameters
from mixprint.transfer.style import Style, save_style

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder
    from mixprint.separation import Separator

log = logging.getLogger("mixprint.transfer")

SCRATCH_NAME = ".separated"
# What a process needs that separates and fits segments of 10 s: 1.8 GB was measured.
PROCESS_BYTES = 2.5e9


@dataclass(frozen=True, kw_only=True)
class Models:
    """Models that transfers are made with.

    Attributes:
        standardisation: of the features.
        encoder: on `device`, see `fit_style`.
        separator: of songs that come by path.
        of_methods: on `device`, see `mixprint.transfer.methods.registry.load_models_of`.
        device: where all is computed.
    """

    standardisation: Standardisation
    encoder: "Encoder | None" = None
    separator: "Separator | None" = None
    of_methods: Mapping[str, Model] = field(default_factory=dict)
    device: torch.device | str = "cpu"

    def of_method(self, method: str) -> Model | None:
        """Return the network that a method uses, if it has one and it was loaded."""
        kind = METHODS[method].model
        return None if kind is None else self.of_methods.get(kind.key)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A transfer that is asked for; it may travel to another process.

    Attributes:
        name: of its folder; empty for the output folder itself.
        song: the song that is changed.
        targets: songs whose mix it is to get.
        styles: stored styles, mixed with the songs.
        weights: of the songs, then of the styles; equal ones when empty.
        settings: how the effect is found.
        controls: what is made of it.
        save_style: receives the style that is aimed at; such a job is done each time.
        overwrite_style: that file may hold another style, which is replaced.
    """

    name: str
    song: Song
    targets: tuple[Song, ...] = ()
    styles: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    settings: Hyperparameters
    controls: Controls
    save_style: Path | None = None
    overwrite_style: bool = False

    def mix(self) -> tuple[float, ...]:
        """Return the weights of the targets."""
        return self.weights or (1.0,) * (len(self.targets) + len(self.styles))

    def songs(self) -> list[tuple[Song, bool]]:
        """Return the songs, the input first, and whether they are needed as a whole."""
        several = self.settings.segments > 1
        return [
            (self.song, several or self.controls.apply_to == "song"),
            *((target, several) for target in self.targets),
        ]

    def stem_folders(self) -> list[str]:
        """Name the folders that keep its songs' stems."""
        return [song.folder(self.settings, whole=whole) for song, whole in self.songs()]

    def inputs(self) -> list[Path]:
        """Name the files that it reads, as far as they lie here."""
        return [*(path for song, _ in self.songs() for path in song.inputs()), *self.styles]

    def fingerprint(self, models: Models) -> str:
        """Hash all that the result depends on.

        Raises:
            CheckpointError, DataError: a stored style cannot be used.
        """
        settings, share_D = self.settings, self.settings.share
        song, *targets = [s.identity(settings, whole=whole) for s, whole in self.songs()]
        styles = [{"style": fingerprint(Style.load(path).to_values())} for path in self.styles]
        return fingerprint(
            {
                "input": dict(song),
                "target": _mean_identity([*targets, *styles], self.mix()),
                "separator": dict(self.song.separator),
                "hyperparameters": asdict(settings),
                "share": None if share_D is None else share_D.tolist(),
                "controls": self.controls.to_values(),
                "standardisation": models.standardisation.to_values(),
                "encoder": None if models.encoder is None else models.encoder.fingerprint,
                **model_fingerprints(settings.method, models.of_method(settings.method)),
                "code": code_version(__name__),
            }
        )


def _mean_identity(
    identities: Sequence[Mapping[str, Any]], weights: Sequence[float]
) -> Mapping[str, Any]:
    """Identify the mean of targets; a weight of 0 leaves one out, and only the ratios matter."""
    used = [(i, w) for i, w in zip(identities, weights, strict=True) if w != 0]
    if len(used) == 1:
        return used[0][0]
    total = sum(weight for _, weight in used) or 1.0
    return {"targets": [{"identity": dict(i), "weight": w / total} for i, w in used]}


@dataclass(frozen=True)
class Failure:
    """A transfer that could not be made, with the reason.

    Attributes:
        where: the job, or the place in the table of pairs.
        error: why.
        kind: a short word for the reason.
    """

    where: str
    error: MixprintError
    kind: str = ""

    @property
    def reason(self) -> str:
        """Return the reason as a word, so that failures can be counted by it."""
        if isinstance(self.error, AudioError):
            return self.error.reason
        return self.kind or type(self.error).__name__.removesuffix("Error").lower()


@dataclass(frozen=True)
class Done:
    """A transfer that is there.

    Attributes:
        folder: holds it.
        metrics: what its metrics.json holds.
        was_there: it was made before.
    """

    folder: Path
    metrics: Mapping[str, Any]
    was_there: bool = False


Outcome = Done | Failure


def default_processes(device: torch.device | str, num_jobs: int) -> int:
    """Choose how many jobs are done at a time: one on a GPU, else by cores and memory."""
    if torch.device(device).type != "cpu":
        return 1
    by_memory = int(psutil.virtual_memory().available / PROCESS_BYTES)
    return max(1, min(num_jobs, threads_each(1), by_memory))


def run_jobs(
    jobs: Sequence[Job],
    out_dir: Path,
    models: Models,
    *,
    load_models: Callable[[], Models] | None = None,
    num_processes: int = 1,
    overwrite: bool = True,
) -> list[Outcome]:
    """Do the jobs that are not done, and go on where one fails.

    Processes share the cores. The result is that of one process with as many threads as each of
    them gets; another number of threads can change the last bits.

    Args:
        jobs: with different names.
        out_dir: receives their folders.
        models: for this process.
        load_models: gives equal ones in another process; only needed for several.
        num_processes: how many jobs at a time; 0: see `default_processes`.
        overwrite: replace what other calls have made in these folders; nothing else is replaced.

    Returns:
        what became of each job, in their order.

    Raises:
        MixprintError: `load_models` failed.
    """
    for settings in {job.settings.segment_duration: job.settings for job in jobs}.values():
        settings.warn_of_length()
    outcomes: dict[int, Outcome] = {}
    for index, present in enumerate(look(jobs, out_dir, models, overwrite=overwrite)):
        if present is not None:
            job = jobs[index]
            outcomes[index] = present
            _report(job, present, len(outcomes), len(jobs))
    left = [index for index in range(len(jobs)) if index not in outcomes]
    scratch = out_dir / SCRATCH_NAME
    uses = Counter(folder for index in left for folder in jobs[index].stem_folders())
    num_processes = min(num_processes or default_processes(models.device, len(left)), len(left))
    try:
        for index, outcome in _outcomes(
            [jobs[index] for index in left], out_dir, models, load_models, num_processes
        ):
            job = jobs[left[index]]
            outcomes[left[index]] = outcome
            _report(job, outcome, len(outcomes), len(jobs))
            for folder in job.stem_folders():
                uses[folder] -= 1
                if not uses[folder]:
                    shutil.rmtree(scratch / folder, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [outcomes[index] for index in range(len(jobs))]


def _outcomes(
    jobs: Sequence[Job],
    out_dir: Path,
    models: Models,
    load_models: Callable[[], Models] | None,
    num_processes: int,
) -> Iterator[tuple[int, Outcome]]:
    """Do jobs here or in processes; give what becomes of each, as they finish."""
    if num_processes <= 1 or load_models is None:
        for index, job in enumerate(jobs):
            yield index, _do(job, out_dir, models)
        return
    start = partial(_worker, load_models, out_dir, threads_each(num_processes))
    for index, outcome in side_by_side(jobs, num_processes, start):
        if isinstance(outcome, ProcessEnded):
            error = DataError(f"{jobs[index].name}: {outcome.reason}")
            yield index, Failure(jobs[index].name, error, "killed")
        else:
            yield index, outcome


def _worker(
    load_models: Callable[[], Models], out_dir: Path, num_threads: int
) -> Callable[[Job], Outcome]:
    """Begin a process: give what does a job there."""
    torch.set_num_threads(num_threads)
    return partial(_do, out_dir=out_dir, models=load_models())


def look(
    jobs: Sequence[Job], out_dir: Path, models: Models, *, overwrite: bool
) -> list[Outcome | None]:
    """Look what is known of jobs before any work.

    Args:
        jobs: the jobs.
        out_dir: holds their folders.
        models: see `run_jobs`.
        overwrite: see `run_jobs`.

    Returns:
        per job that it is done, or why it cannot be; None: it is to be done.
    """
    inputs = list(dict.fromkeys(path for job in jobs for path in job.inputs()))
    return [_present(job, out_dir, models, inputs, overwrite) for job in jobs]


def _present(
    job: Job, out_dir: Path, models: Models, inputs: Sequence[Path], overwrite: bool
) -> Outcome | None:
    folder = out_dir / job.name
    try:
        wanted = job.fingerprint(models)
        if job.save_style is None and is_done(folder, wanted):
            clear_unfinished(folder, TRANSFER)
            return Done(folder, read_json(folder / METRICS_NAME), was_there=True)
        overwrite = overwrite or made_as(folder) == wanted
        # A job without a name has the folder in which a summary of several would lie.
        also = () if job.name else (SUMMARY,)
        check_folder(folder, TRANSFER, also=also, inputs=inputs, overwrite=overwrite)
    except MixprintError as error:
        return Failure(job.name, error)
    return None


def _do(job: Job, out_dir: Path, models: Models) -> Outcome:
    folder = out_dir / job.name
    # What a killed run was writing there.
    for leftover in folder.glob(f"**/{TEMPORARY_PREFIX}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        wanted = job.fingerprint(models)
        song, *targets = [
            song.load(job.settings, models.separator, out_dir / SCRATCH_NAME, whole=whole)
            for song, whole in job.songs()
        ]
        target = Target.mean(
            [
                *(
                    Target.of_song(heard, encoder=models.encoder, device=models.device)
                    for heard in targets
                ),
                *(Target.of_file(path) for path in job.styles),
            ],
            job.mix(),
        )
        if job.save_style is not None:
            save_style(target.style, job.save_style, overwrite=job.overwrite_style)
        metrics = transfer_segments(
            song,
            target,
            folder,
            job.settings,
            fingerprint=wanted,
            controls=job.controls,
            standardisation=models.standardisation,
            encoder=models.encoder,
            model=models.of_method(job.settings.method),
            device=models.device,
        )
    except MixprintError as error:
        return Failure(job.name, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        log.info("%s: %s", job.name, error)
        detail = (
            f"{job.name}: expected memory for segments of {job.settings.segment_duration:g} s, "
            "found too little; try fewer jobs at a time, or shorter segments"
        )
        return Failure(job.name, DataError(detail), "out_of_memory")
    return Done(folder, metrics)


def _report(job: Job, outcome: Outcome, number: int, num_jobs: int) -> None:
    where = f"transfer {number}/{num_jobs} {job.name}".rstrip()
    if isinstance(outcome, Failure):
        log.warning("%s: failed: %s", where, outcome.error)
    elif outcome.was_there:
        log.info("%s: done before", where)
    else:
        log.info(
            "%s: feature distance %.3f -> %.3f in %.0f s",
            where,
            outcome.metrics["initial_feature_distance"],
            outcome.metrics["final_feature_distance"],
            outcome.metrics["timings"]["total_s"],
        )
