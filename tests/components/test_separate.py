"""Many workers share one collection; workers that are killed and disks that are full."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

import components.separate.main
import mixprint.separation.runner
from components.layout import stems_manifest
from components.separate.main import (
    ALL_SHARDS,
    CLAIMS_FOLDER,
    EXPORT_FOLDER,
    PRECISIONS,
    SeparateConfig,
)
from mixprint.audio.files import read_audio
from mixprint.collection.catalogue import read_catalogue
from mixprint.collection.segments import segment_starts
from mixprint.collection.shards import (
    done_path,
    read_index,
    read_marker,
    read_segment,
    shard_name,
    shard_of,
)
from mixprint.errors import AudioError, DataError, OccupiedError
from mixprint.fingerprint import file_sha256, fingerprint
from mixprint.separation import SCNetConfig, Separator, build_scnet
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.sharding import ShardedSong
from mixprint.stems import STEMS
from mixprint.storage.atomic import TEMPORARY_PREFIX, atomic_path, remove_leftovers
from mixprint.storage.claims import Observer, take_claim
from tests.components.workplace import REPOSITORY, ingest, make_workplace, separate, shard_hashes
from tests.processes import fork_program

NUM_SONGS, NUM_SHARDS, DURATION_S, SEGMENT_S = 30, 30, 1.6, 0.75
NUM_WORKERS, NUM_KILLED = 4, 2


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, write_song: Callable[..., Path]
) -> tuple[Path, Path]:
    return make_workplace(
        tmp_path_factory.mktemp("workplace"),
        write_song,
        num_songs=NUM_SONGS,
        duration_s=DURATION_S,
        num_shards=NUM_SHARDS,
        segment_s=SEGMENT_S,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, workplace: tuple[Path, Path]) -> Path:
    """The root of a run by one worker whom nobody disturbs."""
    root = tmp_path_factory.mktemp("undisturbed")
    ingest(root, *workplace)
    separate(root, workplace[1], ALL_SHARDS)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def start_worker(root: Path, params: Path, log: Path) -> BaseProcess:
    return fork_program(main_with_one_thread, ["--root", str(root), "--params", str(params)], log)


def main_with_one_thread() -> None:
    torch.set_num_threads(1)
    components.separate.main.main()


def wait_until(condition: Callable[[], bool], what: str, poll_s: float = 0.002) -> None:
    deadline_s = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(poll_s)


def first_shard(root: Path) -> int:
    """The number of a shard that is not empty."""
    return shard_of(read_catalogue(root / "catalogue")[0].track_id, NUM_SHARDS)


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(f"{TEMPORARY_PREFIX}*"))


def owners(root: Path) -> set[int]:
    """The processes that have claimed a shard at this moment; each worker has other claims, too."""
    found = set()
    for path in (root / CLAIMS_FOLDER).glob("shard-*.claim"):
        try:
            found.add(int(json.loads(path.read_text())["pid"]))
        except (FileNotFoundError, ValueError):
            continue  # released, or being written
    return found


def test_four_workers_two_killed_each_segment_once(
    tmp_path: Path, workplace: tuple[Path, Path], undisturbed: Path
) -> None:
    songs, params = workplace
    ingest(tmp_path, songs, params)
    logs = [tmp_path / f"worker{index}.log" for index in range(NUM_WORKERS)]
    names = [shard_name(index, NUM_SHARDS) for index in range(NUM_SHARDS)]
    with ExitStack() as stack:
        # All shards are ours until all workers wait for them: so that all start to work at once.
        for name in names:
            claim = take_claim(tmp_path / CLAIMS_FOLDER, name)
            assert claim is not None
            stack.enter_context(claim)
        workers = [start_worker(tmp_path, params, log) for log in logs]
        for log in logs:
            waits = f"{log} waits"
            wait_until(lambda log=log: log.exists() and "waiting" in log.read_text(), waits, 0.05)
    victims: list[int] = []
    while len(victims) < NUM_KILLED:
        # In the middle of a shard, and of the run.
        wait_until(lambda: bool(owners(tmp_path) - set(victims)), "a worker at work")
        victim = min(owners(tmp_path) - set(victims), default=None)
        if victim is not None and list(tmp_path.glob("stems/*.done.json")):
            # It may have ended its shard a moment ago: what it holds when it stands still counts.
            os.kill(victim, signal.SIGSTOP)
            if victim in owners(tmp_path):
                os.kill(victim, signal.SIGKILL)
                victims.append(victim)
            else:
                os.kill(victim, signal.SIGCONT)
    finished = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("stems/*.done.json")}
    assert len(finished) < NUM_SHARDS - NUM_KILLED

    for worker in workers:
        killed = worker.pid in victims
        worker.join(300)
        assert worker.exitcode == (-signal.SIGKILL if killed else 0), logs
    assert "taken over" in "".join(log.read_text() for log in logs)

    segments = [(ref.track_id, ref.segment) for ref in read_index(tmp_path / "stems")]
    num_each = len(segment_starts(DURATION_S, SEGMENT_S))
    tracks = [track.track_id for track in read_catalogue(tmp_path / "catalogue")]
    assert len(tracks) == NUM_SONGS
    assert sorted(segments) == [(t, index) for t in sorted(tracks) for index in range(num_each)]
    assert shard_hashes(tmp_path) == shard_hashes(undisturbed)
    for name, mtime_ns in finished.items():
        assert (tmp_path / "stems" / name).stat().st_mtime_ns == mtime_ns, "never redone"
    assert leftovers(tmp_path) == []
    assert list((tmp_path / CLAIMS_FOLDER).iterdir()) == []


def test_a_task_waits_for_who_has_its_shard(
    tmp_path: Path, workplace: tuple[Path, Path], undisturbed: Path
) -> None:
    """As when a cluster starts a pod again, and the first one was not dead."""
    songs, params = workplace
    ingest(tmp_path, songs, params)
    name, log = shard_name(7, NUM_SHARDS), tmp_path / "worker.log"
    path = tmp_path / "stems" / name
    claim = take_claim(tmp_path / CLAIMS_FOLDER, name)
    assert claim is not None
    with claim:
        command = [sys.executable, "-m", "components.separate.main", "--shard", "7"]
        command += ["--root", str(tmp_path), "--params", str(params)]
        with log.open("w") as file:
            worker = subprocess.Popen(command, cwd=REPOSITORY, stderr=file)
        waiting = f"{name}: process {os.getpid()} on"
        wait_until(lambda: waiting in log.read_text(), "it waits", 0.05)
        assert not path.parent.exists()
        # The first one ends its work: what it puts there is not made a second time.
        for made in (path, done_path(path)):
            with atomic_path(made) as temporary:
                temporary.write_bytes((undisturbed / "stems" / made.name).read_bytes())
        made_ns = path.stat().st_mtime_ns
    assert worker.wait(300) == 0
    assert path.stat().st_mtime_ns == made_ns


def test_a_worker_taken_for_dead_leaves_the_new_owners_shard_alone(
    tmp_path: Path,
    workplace: tuple[Path, Path],
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    songs, params = workplace
    ingest(tmp_path, songs, params)
    shard = first_shard(tmp_path)
    name = shard_name(shard, NUM_SHARDS)
    path, claims = tmp_path / "stems" / name, tmp_path / CLAIMS_FOLDER
    made_ns: list[int] = []

    def sleep_too_long(*_: object) -> None:
        """Stand for the separation of the first song; meanwhile another worker does all of it."""
        held = claims / f"{name}.1.claim"
        held.write_text(json.dumps(json.loads(held.read_text()) | {"machine": "another one"}))
        monkeypatch.setattr(Observer, "silent_s", lambda *_: 1_000.0)
        other = take_claim(claims, name)
        assert other is not None
        assert len(remove_leftovers(path)) == 1
        for made in (path, done_path(path)):
            with atomic_path(made) as temporary:
                temporary.write_bytes((undisturbed / "stems" / made.name).read_bytes())
        made_ns.extend(made.stat().st_mtime_ns for made in (path, done_path(path)))
        other.release()

    monkeypatch.setattr(components.separate.main, "_separate_track", sleep_too_long)
    separate(tmp_path, params, shard)
    assert [made.stat().st_mtime_ns for made in (path, done_path(path))] == made_ns
    assert leftovers(tmp_path) == []
    assert list(claims.iterdir()) == []


def test_another_recipe_is_kept_out_while_a_worker_is_at_work(
    tmp_path: Path, workplace: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    songs, params = workplace
    ingest(tmp_path, songs, params)
    shard = first_shard(tmp_path)
    refused: list[str] = []
    others = [(shard + step) % NUM_SHARDS for step in (1, 2)]

    def meanwhile(*_: object) -> None:
        """Stand for the separation of a song; meanwhile others start on the same root."""
        if others:
            same, other_one = others
            others.clear()
            separate(tmp_path, params, same)
            record = tmp_path / "steps" / f"separate-{other_one:05d}.json"
            for content in (None, b'{"state": "running"}'):
                if content is not None:
                    record.write_bytes(content)
                with pytest.raises(OccupiedError) as other:
                    separate(tmp_path, params, other_one, "separate.overlap=0.125")
                assert (record.read_bytes() if record.exists() else None) == content
            refused.append(str(other.value))

    monkeypatch.setattr(components.separate.main, "_separate_track", meanwhile)
    separate(tmp_path, params, shard)
    (message,) = refused
    assert message.startswith("stems: expected all that work on it at one time to do the same")
    assert f"process {os.getpid()} on" in message
    assert "overlap 0.125" in message.partition("here")[2]
    assert len(list(tmp_path.glob("stems/*.done.json"))) == 2
    assert list((tmp_path / CLAIMS_FOLDER).iterdir()) == []


def test_a_mixture_of_recipes_is_refused_by_who_reads_it(
    tmp_path: Path, workplace: tuple[Path, Path], undisturbed: Path
) -> None:
    _, params = workplace
    shutil.copytree(undisturbed, tmp_path / "run")
    separate(tmp_path / "run", params, first_shard(undisturbed), "separate.overlap=0.125")
    with pytest.raises(DataError, match="2 recipes"):
        stems_manifest(tmp_path / "run")


def test_exported_stems_are_those_of_the_shard(
    tmp_path: Path, workplace: tuple[Path, Path], undisturbed: Path
) -> None:
    songs, params = workplace
    ingest(tmp_path, songs, params)
    shard = first_shard(tmp_path)
    path = tmp_path / "stems" / shard_name(shard, NUM_SHARDS)
    separate(tmp_path, params, shard, "separate.export=flac")
    assert file_sha256(path) == file_sha256(undisturbed / "stems" / path.name)

    everything = read_index(undisturbed / "stems")
    references = [ref for ref in everything if ref.shard_path.name == path.name]
    reports = json.loads(done_path(path).read_text())["reports"]
    assert reports.keys() == {reference.track_id for reference in references}
    for reference in references:
        folder = tmp_path / EXPORT_FOLDER / reference.track_id
        report = json.loads((folder / "separation.json").read_text())
        expected = reports[reference.track_id]
        assert report["null_depth_db"] == pytest.approx(expected["null_depth_db"], abs=0.006)
        assert expected["clipped_samples"] == sum(
            report["levels"][stem]["clipped_samples"] for stem in STEMS
        )
        segment_SCT = read_segment(reference)
        for stem, stem_CT in zip(STEMS, segment_SCT, strict=True):
            exported_CT = read_audio(
                folder / f"{stem}.flac", start_s=reference.start_s, duration_s=SEGMENT_S
            )
            # Both are rounded to 16 bits, each at its own gain.
            atol = 2 / 32_768 / report["gain"]
            assert torch.allclose(exported_CT / report["gain"], stem_CT, rtol=0, atol=atol)

    made_ns = path.stat().st_mtime_ns
    separate(tmp_path, params, shard, "separate.export=flac")
    assert path.stat().st_mtime_ns == made_ns
    (folder / "bass.flac").unlink()
    separate(tmp_path, params, shard, "separate.export=flac")
    assert (folder / "bass.flac").is_file()


def _bad_songs(
    monkeypatch: pytest.MonkeyPatch, reasons: dict[str, Exception], calls: list[str]
) -> None:
    """Let some songs fail after their first piece, as a file does that breaks off."""
    stream_file = Separator.stream_file

    def stream(self: Separator, path: Path, **options: Any) -> Iterator[tuple[Any, Any]]:
        calls.append(path.name)
        for number, piece in enumerate(stream_file(self, path, **options)):
            if number and path.name in reasons:
                raise reasons[path.name]
            yield piece

    monkeypatch.setattr(Separator, "stream_file", stream)


def _few_songs(tmp_path: Path, write_song: Callable[..., Path], num_songs: int) -> tuple[Path, str]:
    """Songs that are ingested: the parameters, and the id of song 2."""
    songs, params = make_workplace(
        tmp_path, write_song, num_songs=num_songs, duration_s=1.6, num_shards=2, segment_s=0.75
    )
    ingest(tmp_path / "run", songs, params)
    tracks = read_catalogue(tmp_path / "run" / "catalogue")
    return params, next(t.track_id for t in tracks if t.uri.endswith("song%202.wav"))


def test_a_song_that_cannot_be_separated_is_left_out_with_its_reason(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, bad = _few_songs(tmp_path, write_song, 5)
    root, calls = tmp_path / "run", []
    path = tmp_path / "songs" / "song 2.wav"
    error = AudioError("truncated", f"{path}: expected 1.6 s, found 1.1 s")
    _bad_songs(monkeypatch, {path.name: error}, calls)

    separate(root, params, ALL_SHARDS)

    assert len(calls) == 5, "the others are separated"
    assert {r.track_id for r in read_index(root / "stems")} == {
        track.track_id for track in read_catalogue(root / "catalogue")
    } - {bad}
    shard = root / "stems" / shard_name(shard_of(bad, 2), 2)
    [(track_id, song)] = read_marker(shard).rejects.items()
    assert (track_id, song.reason) == (bad, "truncated")
    assert song.detail.endswith("song%202.wav: expected 1.6 s, found 1.1 s")

    separate(root, params, ALL_SHARDS)
    assert len(calls) == 5, "it is not tried again while nothing has changed"


def test_stems_that_are_not_finite_cost_one_song(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, bad = _few_songs(tmp_path, write_song, 5)
    add = ShardedSong.add

    def add_nan(self: ShardedSong, mixture_CT: torch.Tensor, stems_SCT: torch.Tensor) -> None:
        add(self, mixture_CT, stems_SCT * float("nan") if self._track_id == bad else stems_SCT)

    monkeypatch.setattr(ShardedSong, "add", add_nan)
    separate(tmp_path / "run", params, ALL_SHARDS)
    shard = tmp_path / "run" / "stems" / shard_name(shard_of(bad, 2), 2)
    assert {name: song.reason for name, song in read_marker(shard).rejects.items()} == {
        bad: "not_finite"
    }


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(5, "Input/output error"),
        "missing",
    ],
    ids=["out_of_memory", "disk", "missing"],
)
def test_what_is_the_machines_fault_rejects_no_song(
    tmp_path: Path,
    write_song: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | str,
) -> None:
    params, _ = _few_songs(tmp_path, write_song, 5)
    if isinstance(error, Exception):
        _bad_songs(monkeypatch, {"song 2.wav": error}, [])
    else:
        (tmp_path / "songs" / "song 2.wav").unlink()
    with pytest.raises((torch.OutOfMemoryError, DataError, AudioError)):
        separate(tmp_path / "run", params, ALL_SHARDS)


def test_too_many_rejects_of_all_shards_together_fail_the_step(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, _ = _few_songs(tmp_path, write_song, 5)
    error = AudioError("unreadable", "it ends")
    _bad_songs(monkeypatch, {f"song {i}.wav": error for i in range(3)}, [])

    def separate_both() -> None:
        for shard in range(2):
            separate(tmp_path / "run", params, shard)

    for _ in range(2):  # at the next start, too
        with pytest.raises(DataError, match=r"at most 50% .*, found 3 of 5: 3 unreadable"):
            separate_both()


def test_the_precisions_are_those_that_the_network_knows() -> None:
    assert set(PRECISIONS) == set(mixprint.separation.runner.PRECISIONS)


def test_a_shards_recipe_names_all_that_its_stems_follow_from() -> None:
    def network(*, window_s: float = 0.5, normalised: bool = False, **config: Any) -> Separator:
        values = SCNetConfig(dims=(4, 8, 8, 8), num_dplayer=2, **config)
        network = TrainedSCNet(
            build_scnet(values, "plain"),
            window_s=window_s,
            weights={"model": "tiny", "checkpoint_sha256": "0"},
            normalised=normalised,
        )
        return Separator(network)

    def recipe(separator: Separator, *overrides: str, tracks: tuple[str, ...] = ("a",)) -> str:
        config = SeparateConfig.load(REPOSITORY / "params.yaml", overrides=overrides)
        return fingerprint(components.separate.main._recipe(config, separator, tracks))

    same = recipe(network())
    assert recipe(network(), "separate.batch_size=2", "separate.compile=true") == same
    others = [
        *(
            recipe(network(), f"separate.{change}")
            for change in (
                *("segment_s=0.8", "window_s=0.4", "overlap=0.5", "precision=bfloat16"),
                "export=wav",
            )
        ),
        recipe(network(), tracks=("a", "b")),
        recipe(network(window_s=0.4)),
        recipe(network(normalised=True)),
        recipe(network(sources=("bass", "drums", "vocals", "other"))),
        recipe(network(hop_size=512)),
        recipe(network(normalized=False)),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_a_full_disk_is_a_clear_error_and_harms_nothing(
    small_disk: Path, workplace: tuple[Path, Path], undisturbed: Path
) -> None:
    songs, params = workplace
    root = small_disk / "run"
    ingest(root, songs, params)
    with pytest.raises(DataError, match=r"shard-.*disk full \(ENOSPC\)"):
        separate(root, params, ALL_SHARDS)
    expected = shard_hashes(undisturbed)
    finished = {path.name for path in root.glob("stems/*.done.json")}
    assert 1 <= len(finished) < NUM_SHARDS
    shards = list(root.glob("stems/shard-?????-of-?????.parquet"))
    assert {done_path(path).name for path in shards} == finished, "no half shard"
    assert all(file_sha256(path) == expected[path.name] for path in shards), "the rest intact"
    assert leftovers(root) == []
    assert list((root / CLAIMS_FOLDER).iterdir()) == []
    assert json.loads((root / "steps" / "separate.json").read_text())["state"] == "failed"

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    separate(root, params, ALL_SHARDS)
    assert shard_hashes(root) == expected
