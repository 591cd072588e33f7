"""Batches of transfers: side by side, killed, short of memory, taken up again."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, stream_audio, write_audio
from mixprint.errors import CheckpointError, MixprintError
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json
from mixprint.transfer import jobs as batch
from mixprint.transfer import pair as songs_module
from mixprint.transfer.inputs import FileSong, SongFinder
from mixprint.transfer.jobs import (
    SCRATCH_NAME,
    Done,
    Failure,
    Job,
    Models,
    default_processes,
    run_jobs,
)
from mixprint.transfer.report import artefacts
from mixprint.transfer.settings import Controls, parse_amounts
from tests.processes import fork_program
from tests.transfer.test_fit import LevelEncoder
from tests.transfer.trials import (
    quick_null_db,
    reports_cut_short,
    settings,
    write_short_report,
)

pytestmark = pytest.mark.usefixtures("short_reports")

RATE_HZ = 44_100
Make = Callable[..., Tensor]


class LoggingSeparator:
    """Stands for a separator: each stem has its share. It writes a line for every separation.

    Where the song is of 3.5 s, its process is killed.
    """

    fingerprint = {"model": "logging"}  # noqa: RUF012 (read only)

    def __init__(self, log: Path, deadly: bool) -> None:
        self._log = log
        self._deadly = deadly

    def separate(self, audio_CT: Tensor) -> Tensor:
        if self._deadly and audio_CT.shape[-1] == round(3.5 * RATE_HZ):
            os.kill(os.getpid(), signal.SIGKILL)
        with self._log.open("a") as file:
            file.write(f"{audio_CT.shape[-1]}\n")
        return torch.tensor([0.4, 0.3, 0.2, 0.1]).view(-1, 1, 1) * audio_CT

    def stream_file(self, path: Path) -> Iterator[tuple[Tensor, Tensor]]:
        for block_CT in stream_audio(path):
            yield block_CT, self.separate(block_CT)


def load_models(log: Path, deadly: bool = False, *, broken: bool = False) -> Models:
    if multiprocessing.parent_process() is not None:
        songs_module.write_report = write_short_report
        artefacts._null_db = quick_null_db
    if broken:
        raise CheckpointError("expected a model, found none")
    ones_D = torch.ones(len(FEATURE_NAMES))
    separator: Any = LoggingSeparator(log, deadly)
    return Models(standardisation=Standardisation(-20 * ones_D, 5 * ones_D), separator=separator)


def make_jobs(folder: Path, names: tuple[str, ...], **more: object) -> list[Job]:
    """Every song of the folder gets the mix of `target`."""
    source = SongFinder(separator=LoggingSeparator.fingerprint)
    wanted = settings(**({"method": "console", "segment_duration": 4.0} | more))
    return [
        Job(
            name=f"job-{name}",
            song=source.find(str(folder / f"{name}.wav")),
            targets=(source.find(str(folder / "target.wav")),),
            settings=wanted,
            controls=Controls(),
        )
        for name in names
    ]


@pytest.fixture(scope="module")
def song_dir(tmp_path_factory: pytest.TempPathFactory, make_stems: Make) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    lengths_s = {"a": 3.0, "b": 3.1, "deadly": 3.5, "c": 3.2, "target": 3.3, "short": 0.5}
    for index, (name, length_s) in enumerate(lengths_s.items()):
        audio_CT = make_stems(length_s, seed=index, gain=1 / (1 + index)).sum(0)
        write_audio(folder / f"{name}.wav", audio_CT, RATE_HZ, subtype="FLOAT")
    return folder


@pytest.fixture
def songs(tmp_path: Path, song_dir: Path) -> Path:
    """Return a folder with the songs, for what one test makes of them."""
    return shutil.copytree(song_dir, tmp_path / "songs")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, song_dir: Path) -> Path:
    """Return what one process makes of the songs a, b and c if nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with reports_cut_short():
        models = load_models(folder / "log")
        run_jobs(make_jobs(song_dir, ("a", "b", "c")), folder / "out", models)
    return folder / "out"


def outputs(out_dir: Path) -> dict[str, Tensor]:
    return {
        str(path.relative_to(out_dir)): read_audio(path) for path in sorted(out_dir.rglob("*.wav"))
    }


def separations(log: Path) -> list[float]:
    return sorted(int(line) / RATE_HZ for line in log.read_text().split())


def test_side_by_side_is_one_after_the_other(songs: Path, undisturbed: Path) -> None:
    """A process that is killed takes its own job with it, and nothing else."""
    jobs = make_jobs(songs, ("a", "deadly", "b", "short", "c"))
    log, out_dir = songs / "log", songs / "side by side"
    load = partial(load_models, log, deadly=True)
    outcomes = run_jobs(jobs, out_dir, load(), load_models=load, num_processes=2)
    assert [type(outcome) for outcome in outcomes] == [Done, Failure, Done, Failure, Done]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Failure)]
    assert reasons == ["killed", "too_short"]
    assert isinstance(outcomes[1], Failure)
    assert "job-deadly" in str(outcomes[1].error)
    assert "signal 9" in str(outcomes[1].error)
    # The target of all was separated once, whichever process asked for it first.
    assert separations(log) == [3.0, 3.1, 3.2, 3.3]
    assert sorted(p.name for p in out_dir.iterdir()) == ["job-a", "job-b", "job-c"]

    found, wanted = outputs(out_dir), outputs(undisturbed)
    assert found.keys() == wanted.keys()
    for name, audio_CT in wanted.items():
        # Another number of threads may change the last bits.
        torch.testing.assert_close(found[name], audio_CT, atol=1e-5, rtol=0)

    again = run_jobs(jobs, out_dir, load_models(log), num_processes=1)
    assert [isinstance(o, Done) and o.was_there for o in again] == [True, False, True, False, True]
    assert isinstance(again[1], Done)


def killed_at_job_b() -> None:
    """Run a batch that is killed when all of job b is written but its metrics."""
    folder = Path(sys.argv[1])

    def write_and_die(path: Path, metrics: Mapping[str, Any]) -> None:
        write_short_report(path, metrics)
        if path.parent.name == "job-b":
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    models = load_models(folder / "log")
    songs_module.write_report = write_and_die
    run_jobs(make_jobs(folder, ("a", "b", "c")), folder / "out", models)


def test_a_batch_that_is_killed_is_taken_up_again(songs: Path, undisturbed: Path) -> None:
    killed = fork_program(killed_at_job_b, [str(songs)], songs / "errors")
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    out_dir, log = songs / "out", songs / "log"
    assert (out_dir / "job-a" / "metrics.json").is_file()
    assert (out_dir / "job-b" / "report.html").is_file()
    assert not (out_dir / "job-b" / "metrics.json").exists()
    (out_dir / "job-b" / ".writing-half.wav").write_bytes(b"RIFF")
    stamp = (out_dir / "job-a" / "metrics.json").stat().st_mtime_ns
    assert separations(log) == [3.0, 3.1, 3.3]

    jobs = make_jobs(songs, ("a", "b", "c"))
    outcomes = run_jobs(jobs, out_dir, load_models(log))
    assert [isinstance(o, Done) and o.was_there for o in outcomes] == [True, False, False]
    assert (out_dir / "job-a" / "metrics.json").stat().st_mtime_ns == stamp
    # Song c only: what the killed run had separated lay there.
    assert separations(log) == [3.0, 3.1, 3.2, 3.3]
    left = [p for p in out_dir.rglob("*") if p.name.startswith((".writing", SCRATCH_NAME))]
    assert left == []

    found, wanted = outputs(out_dir), outputs(undisturbed)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], audio_CT) for name, audio_CT in wanted.items())
    for job in jobs:
        metrics = [
            read_json(folder / job.name / "metrics.json") for folder in (out_dir, undisturbed)
        ]
        assert metrics[0]["iterations"] == metrics[1]["iterations"]
        assert metrics[0]["output"] == metrics[1]["output"]


def test_memory_that_is_short_fails_one_job(songs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfer = batch.transfer_segments

    def short_of_memory(song: Any, *arguments: Any, **more: Any) -> dict[str, Any]:
        if song.title == "a":
            raise MemoryError
        return transfer(song, *arguments, **more)

    monkeypatch.setattr(batch, "transfer_segments", short_of_memory)
    failed, done = run_jobs(make_jobs(songs, ("a", "b")), songs / "out", load_models(songs / "log"))
    assert isinstance(failed, Failure)
    assert failed.reason == "out_of_memory"
    assert "job-a" in str(failed.error)
    assert isinstance(done, Done)


def test_models_that_do_not_load_in_a_process_end_the_batch(songs: Path) -> None:
    jobs = make_jobs(songs, ("a", "b"))
    with pytest.raises(MixprintError, match="expected a model"):
        run_jobs(
            jobs,
            songs / "out",
            load_models(songs / "log"),
            load_models=partial(load_models, songs / "log", broken=True),
            num_processes=2,
        )


def test_a_whole_song_is_separated_once_and_its_stems_go(songs: Path) -> None:
    jobs = [
        *make_jobs(songs, ("a",), segments=2, segment_duration=3.0),
        *make_jobs(songs, ("b", "c")),
    ]
    seen = []
    load = load_models(songs / "log")
    scratch = songs / "out" / SCRATCH_NAME

    class Watching(LoggingSeparator):
        def separate(self, audio_CT: Tensor) -> Tensor:
            seen.append(sum(1 for p in scratch.iterdir() if (p / "song.json").is_file()))
            return super().separate(audio_CT)

    load.separator.__class__ = Watching  # type: ignore[union-attr]
    outcomes = run_jobs(jobs, songs / "out", load)
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    # Job a leaves nothing; of job b the target is still needed.
    assert seen == [0, 1, 0, 1, 1]
    assert not scratch.exists()
    assert all((songs / "out" / "job-a" / "input_stems" / f"{s}.wav").is_file() for s in STEMS)


def test_how_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "threads_each", lambda num_processes: 8 // num_processes)

    class Memory:
        available = 5.5 * batch.PROCESS_BYTES

    monkeypatch.setattr(batch.psutil, "virtual_memory", Memory)
    assert default_processes("cpu", 3) == 3
    assert default_processes("cpu", 20) == 5
    assert default_processes("cuda", 20) == 1
    Memory.available = 1e8
    assert default_processes("cpu", 20) == 1
    Memory.available = 1e12
    assert default_processes("cpu", 20) == 8


class Trained:
    """Stands for the network of a method."""

    fingerprint = "trained"

    def to(self, device: object) -> "Trained":
        return self


class OtherEncoder(LevelEncoder):
    fingerprint = "other"


def test_the_fingerprint_covers_what_decides(
    standardisation: Standardisation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def song(content: str, model: str = "x") -> FileSong:
        return FileSong(tmp_path / content, content, {"model": model})

    def hashed(**change: Any) -> str:
        asked: dict[str, Any] = {
            "name": "",
            "song": song("a"),
            "targets": (song("b"),),
            "settings": settings(),
            "controls": Controls(),
        }
        models: dict[str, Any] = {"standardisation": standardisation, "encoder": LevelEncoder()}
        models["of_methods"] = {}
        for name, value in change.items():
            (models if name in models else asked)[name] = value
        return Job(**asked).fingerprint(Models(**models))

    both = (song("b"), song("c"))
    one_pass = settings(method="zero-shot")
    found = [
        hashed(),
        hashed(song=song("c")),
        hashed(targets=(song("c"),)),
        hashed(targets=both),
        hashed(targets=both, weights=(1, 2)),
        hashed(song=song("a", model="y")),
        hashed(standardisation=Standardisation(standardisation.mean_D + 1, standardisation.std_D)),
        hashed(encoder=None),
        hashed(encoder=OtherEncoder()),
        hashed(settings=one_pass),
        hashed(settings=one_pass, of_methods={"zero_shot": Trained()}),
        hashed(settings=settings(method="tcn")),
        hashed(settings=settings(segments=2)),
        hashed(settings=settings(segment_offset=1.0)),
        hashed(settings=settings(aim="target")),
        hashed(controls=Controls(loudness="keep")),
        hashed(controls=Controls(apply_to="song")),
        hashed(controls=Controls(amount=parse_amounts(["bass=0.9"]))),
    ]
    # What does not decide: the ratio of weights, a name, and the network of another method.
    assert hashed(targets=both, weights=(2, 4)) == hashed(targets=both, weights=(1, 2))
    assert hashed(targets=both, weights=(1, 0)) == found[0]
    assert hashed(name="a") == found[0]
    assert hashed(of_methods={"zero_shot": Trained()}) == found[0]
    monkeypatch.setattr("mixprint.transfer.jobs.code_version", lambda *modules: "other")
    assert len({*found, hashed()}) == len(found) + 1
