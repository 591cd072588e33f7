"""Time the console, effect by effect and altogether: what `benchmarks.console` shows as `speed`.

Tracks are noise: the speed does not depend on what is heard. Each configuration runs in a process
of its own, so that its peak of resident memory is its own: `python -m benchmarks.console_speed`.

Shape suffixes: N track, C channel, T sample.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mixprint.console.mixing import FITTED_ROOM_S, Console, Values, louder_channel, stereo_matrix
from mixprint.console.positions import Positions
from mixprint.console.recovery import RESOLUTIONS
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.dsp.drive import driven
from mixprint.dsp.equaliser import convolved, impulse_response
from mixprint.dsp.room import answered
from mixprint.dsp.spectral_distance import FEW_FRAMES_PER_WINDOW, multi_resolution_stft
from mixprint.machine.memory import keep_freed_memory
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

NUM_TRACKS = len(STEMS)
DURATION_S = 10.0
THREADS = (1, 2)
# All that a track and a master have, in use.
_TRACK = {
    "eq.highpass_hz": 40.0,
    "eq.lowpass_hz": 18_000.0,
    "eq.low.gain_db": 2.0,
    "eq.bell1.gain_db": -3.0,
    "eq.bell2.gain_db": 2.0,
    "eq.bell3.gain_db": 1.0,
    "eq.high.gain_db": 3.0,
    "comp.slope": 0.6,
    "comp.threshold_db": -24.0,
    "drive.mix": 0.3,
    "drive.drive_db": 6.0,
    "room.send_db": -12.0,
    "room.time_s": 1.8,
    "width": 1.2,
    "pan": 0.1,
    "fader_db": -3.0,
}
_MASTER = {
    "eq.low.gain_db": 1.0,
    "eq.bell1.gain_db": -1.0,
    "eq.bell2.gain_db": 1.0,
    "eq.high.gain_db": 1.0,
    "comp.slope": 0.4,
    "comp.threshold_db": -16.0,
}

RENDERING = "exact rendering"
# Forward pass of a work: (tracks_NCT, values) -> audio.
Pass = Callable[[Tensor, Values], Tensor]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Timings of one process.

    Attributes:
        work: a key of `PASSES`, or `RENDERING`.
        has_backward: whether gradients of all settings are computed, too.
        threads: of torch.
        runs: how often.
        duration_s: of the tracks.
    """

    work: str
    has_backward: bool = False
    threads: int = 1
    runs: int = 5
    duration_s: float = DURATION_S


def equaliser(tracks_NCT: Tensor, values: Values) -> Tensor:
    """Apply the equalisers of the tracks."""
    return convolved(tracks_NCT, impulse_response(values.track_sections(), SAMPLE_RATE_HZ))


def drive(tracks_NCT: Tensor, values: Values) -> Tensor:
    """Apply the drives of the tracks."""
    return driven(tracks_NCT, values.track_N["drive.drive_db"], values.track_N["drive.mix"])


def compressor(tracks_NCT: Tensor, values: Values) -> Tensor:
    """Apply the compressors of the tracks."""
    compressors = values.compressors(values.track_N)
    gain_NT = compressors.gain(louder_channel(tracks_NCT), SAMPLE_RATE_HZ)
    return tracks_NCT * gain_NT[:, None].to(tracks_NCT.dtype)


def room(tracks_NCT: Tensor, values: Values) -> Tensor:
    """Apply the rooms of the tracks, as long as a fit hears them."""
    num_taps = round(FITTED_ROOM_S * SAMPLE_RATE_HZ)
    impulse_NCT = values.track_rooms().impulse_response(SAMPLE_RATE_HZ, num_taps)
    return tracks_NCT + answered(tracks_NCT.mean(1), impulse_NCT)


def place(tracks_NCT: Tensor, values: Values) -> Tensor:
    """Apply the widths, pans and faders of the tracks."""
    return stereo_matrix(values).to(tracks_NCT.dtype) @ tracks_NCT


PASSES: Mapping[str, Pass] = {
    "equaliser": equaliser,
    "drive": drive,
    "compressor": compressor,
    "room": room,
    "width, pan, fader": place,
}
# The drive is no part of what a recovery looks for.
CONSOLE, CONSOLE_DRIVEN = "console without drive", "console"
STEP = "console without drive, and spectral distance"


def jobs(runs: int) -> list[Job]:
    """List what is timed."""
    works = (*PASSES, CONSOLE_DRIVEN, CONSOLE, STEP)
    timed = [(work, has_backward) for work in works for has_backward in (False, True)]
    return [
        Job(work=work, has_backward=has_backward, threads=threads, runs=runs)
        for work, has_backward in (*timed, (RENDERING, False))
        for threads in THREADS
    ]


def measure(job: Job) -> dict[str, Any]:
    """Time one configuration: the median of several runs after one that warms up."""
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_TRACKS, 2, round(job.duration_s * SAMPLE_RATE_HZ))
    tracks_NCT = 0.1 * torch.randn(shape, generator=generator)
    run = _run_of(job, tracks_NCT)
    taken = []
    for _ in range(job.runs + 1):
        started_s = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started_s)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": median(taken[1:]), "peak_bytes": peak}


def _run_of(job: Job, tracks_NCT: Tensor) -> Callable[[], object]:
    with_drive = job.work not in (CONSOLE, STEP)
    settings = _settings(with_drive=with_drive)
    if job.work == RENDERING:
        return lambda: render(tracks_NCT, settings, SAMPLE_RATE_HZ)
    positions = Positions(
        settings,
        lambda _, each: job.has_backward and (with_drive or each.group != "drive"),
    )
    work = _pass_of(job.work, tracks_NCT)

    def run() -> None:
        values = positions.values(SAMPLE_RATE_HZ)
        if job.has_backward:
            work(tracks_NCT, values).square().mean().backward()
        else:
            with torch.no_grad():
                work(tracks_NCT, values)

    return run


def _pass_of(work: str, tracks_NCT: Tensor) -> Pass:
    if work in PASSES:
        return PASSES[work]
    # As in a search: the spectra of the tracks are computed once.
    console = Console(tracks_NCT)
    if work != STEP:
        return lambda _, values: console(values)
    truth_CT = tracks_NCT.sum(0)
    return lambda _, values: multi_resolution_stft(
        console(values).sum(0), truth_CT, RESOLUTIONS[:1], FEW_FRAMES_PER_WINDOW
    )


def _settings(*, with_drive: bool) -> Settings:
    changes = {
        f"{stem}.{name}": value
        for stem in STEMS
        for name, value in _TRACK.items()
        if with_drive or not name.startswith("drive.")
    }
    changes |= {f"master.{name}": value for name, value in _MASTER.items()}
    return Settings.neutral(STEMS).edit(changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--job", required=True, help="a `Job` as JSON")
    args = parser.parse_args()
    json.dump(measure(Job(**json.loads(args.job))), sys.stdout)


if __name__ == "__main__":
    main()
