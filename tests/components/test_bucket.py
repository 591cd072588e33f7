"""The steps one after the other on a run and songs in a bucket, against an emulator."""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from gcp_storage_emulator.server import create_server
from mlflow.tracking import MlflowClient

from components.evaluate.main import EvaluateConfig
from components.evaluate.main import run as run_evaluate
from components.features.main import FeaturesConfig
from components.features.main import run as run_features
from components.ingest.main import IngestConfig
from components.ingest.main import run as run_ingest
from components.layout import (
    catalogue_manifest,
    encoder_manifest,
    evaluation_manifest,
    features_manifest,
    promotion_manifest,
    stems_manifest,
)
from components.mlflow.registry import Decision, Registry
from components.promote.main import PromoteConfig
from components.promote.main import run as run_promote
from components.run_folder import MirroredRun, open_run, sole_use_of_root
from components.separate.main import ALL_SHARDS, SeparateConfig
from components.separate.main import run as run_separate
from components.step import Manifest, once, recorded
from components.train.main import run as run_train
from components.transfer.main import TransferConfig
from components.transfer.main import run as run_transfer
from mixprint.collection.catalogue import read_catalogue
from mixprint.config import load_params
from mixprint.errors import ConfigError, DataError, TrainingError
from mixprint.fingerprint import file_sha256
from mixprint.storage.atomic import read_json
from mixprint.storage.bucket import open_bucket
from tests.bucket import Bucket
from tests.components.workplace import make_workplace
from tests.encoder.conftest import tiny_config

SEGMENT_S = 3.0
ROOT = "gs://bucket/run"
PICTURE = b"what a picture shows"


@dataclass(frozen=True)
class Workplace:
    songs: Path
    params: Path

    def run_all(self, root: str, songs: str) -> dict[str, Manifest]:
        """Run the steps as the DAG does; every step gets the manifests of those before."""
        made = self.run_to_features(root, songs)
        data = {"root": root, "catalogue": made["ingest"], "stems": made["separate"]}
        config = tiny_config(
            epochs=2, negatives=("songs", "siblings"), shared_chain_weight=0.0, device="cpu"
        )
        made["train"] = run_train(
            **data, config=replace(config, segment_s=SEGMENT_S), features=made["features"]
        )
        made["evaluate"] = self.evaluate(**data, features=made["features"], encoder=made["train"])
        made["promote"] = run_promote(
            root=root,
            config=PromoteConfig.load(self.params),
            encoder=made["train"],
            evaluation=made["evaluate"],
        )
        # The songs are too few for the gate.
        decision = Decision(promoted=True, reasons=("by hand",))
        name = PromoteConfig.load(self.params).model_name
        Registry(name).decide("1", decision)
        values = load_params(self.params)["transfer"] | {
            "num_pairs": 1,
            "num_steps": 2,
            "segment_duration": SEGMENT_S,
            "num_processes": 1,
            "device": "cpu",
        }
        made["transfer"] = run_transfer(
            **data, config=TransferConfig.from_values(values), promotion=made["promote"]
        )
        return made

    def run_to_features(self, root: str, songs: str) -> dict[str, Manifest]:
        ingest = IngestConfig.load(self.params)
        made = {"ingest": run_ingest(root=root, config=ingest, source="folder", locations=[songs])}
        shards = run_separate(
            root=root,
            config=SeparateConfig.load(self.params),
            num_shards=ingest.num_shards,
            catalogue=made["ingest"],
            shard=ALL_SHARDS,
        )
        made["separate"] = Manifest.joined(shards)
        made["features"] = run_features(
            root=root,
            config=FeaturesConfig.load(self.params),
            catalogue=made["ingest"],
            stems=made["separate"],
        )
        return made

    def evaluate(self, **inputs: Any) -> Manifest:
        values = load_params(self.params)["evaluate"]
        small = {"bootstrap_samples": 10, "num_chains": 2, "chain_effects": [1]}
        values |= {**small, "device": "cpu"}
        return run_evaluate(config=EvaluateConfig.from_values(values), **inputs)


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, write_song: Callable[..., Path]
) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    made = make_workplace(
        folder, write_song, num_songs=6, duration_s=6.1, num_shards=2, segment_s=SEGMENT_S
    )
    return Workplace(*made)


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    monkeypatch.setenv("MIXPRINT_SCRATCH", str(tmp_path / "scratch"))
    yield
    server.stop()


def fetched(root: str, folder: Path) -> Path:
    """Make a local copy of a run in a bucket."""
    bucket = open_bucket(root)
    bucket.download_all(bucket.list(), folder)
    return folder


def draw_one(folder: Path, *_: object) -> dict[str, Path]:
    """Stand for the plots of an evaluation."""
    path = folder / "one.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURE)
    return {"one": path}


def test_all_steps_on_a_run_and_songs_in_a_bucket(
    tmp_path: Path,
    workplace: Workplace,
    emulator: None,
    client: MlflowClient,
    rank_here: None,
    short_reports: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Drawing has tests of its own; here is what becomes of a picture.
    monkeypatch.setattr("mixprint.evaluation.evaluate._draw", draw_one)
    songs, root = "gs://bucket/songs", "gs://bucket/runs/7"
    open_bucket(songs).upload_all({path.name: path for path in workplace.songs.iterdir()})
    made = workplace.run_all(root, songs)
    assert {manifest.uri.startswith(root) for manifest in made.values()} == {True}

    local = tmp_path / "local"
    expected = workplace.run_to_features(str(local), str(workplace.songs))
    copy = fetched(root, tmp_path / "copy")
    tracks = read_catalogue(copy / "catalogue")
    assert {track.uri for track in tracks} == {
        f"{songs}/{path.name}" for path in workplace.songs.iterdir()
    }
    assert [replace(track, uri="") for track in tracks] == [
        replace(track, uri="") for track in read_catalogue(local / "catalogue")
    ]
    for step in ("separate", "features"):
        assert made[step].fingerprint == expected[step].fingerprint
    for path in sorted(local.glob("stems/shard-?????-of-?????.parquet")):
        assert file_sha256(copy / "stems" / path.name) == file_sha256(path)
    assert (copy / "evaluation" / "plots" / "one.png").read_bytes() == PICTURE
    # The same evaluation of the same files on a disk.
    workplace.evaluate(
        root=str(copy / "again"),
        catalogue=catalogue_manifest(copy),
        stems=stems_manifest(copy),
        features=features_manifest(copy),
        encoder=encoder_manifest(copy),
    )
    metrics = "evaluation/metrics.json"
    assert read_json(copy / metrics) == read_json(copy / "again" / metrics)

    assert read_json(copy / "promotion.json")["decision"] in {"promoted", "refused"}
    [output] = copy.glob("transfer/*/output_transferred.wav")
    assert output.stat().st_size > 100_000
    told = [path.read_text() for path in copy.glob("transfer/*/*.json")]
    assert told
    assert not any("is not here" in text for text in told), "the song itself was fetched"
    records = [read_json(path) for path in (copy / "steps").glob("*.json")]
    assert {record["state"] for record in records if "state" in record} == {"done"}
    assert list((tmp_path / "scratch").glob("work-*")) == []

    # What the command lines of the steps find by themselves.
    assert catalogue_manifest(root) == made["ingest"]
    assert replace(stems_manifest(root), counts={}) == replace(made["separate"], counts={})
    assert features_manifest(root) == made["features"]
    assert encoder_manifest(root) == made["train"]
    assert promotion_manifest(root) == made["promote"]
    assert evaluation_manifest(root).counts == made["evaluate"].counts

    def versions() -> dict[str, int]:
        infos = open_bucket(root).infos()
        return {
            name: info.version
            for name, info in infos.items()
            if not name.startswith("steps/") or name.endswith(".done.json")
        }

    before = versions()
    again = workplace.run_all(root, songs)
    before.pop("promotion.json")
    after = versions()
    after.pop("promotion.json")
    assert after == before, "a second run does nothing"
    # The decision is another one now that somebody has decided by hand.
    for manifests in (made, again):
        del manifests["promote"]
    assert again == made


def test_exported_stems_are_uploaded_with_their_shard(
    workplace: Workplace, bucket: Bucket, tmp_path: Path
) -> None:
    ingest = IngestConfig.load(workplace.params)
    catalogue = run_ingest(
        root=ROOT, config=ingest, source="folder", locations=[str(workplace.songs)]
    )

    def separate() -> list[Manifest]:
        return run_separate(
            root=ROOT,
            config=SeparateConfig.load(workplace.params, overrides=["separate.export=flac"]),
            num_shards=ingest.num_shards,
            catalogue=catalogue,
            shard=1,
        )

    made = separate()
    name = "run/stems/shard-00001-of-00002.parquet"
    exported = [name for name in bucket.objects if name.endswith(".flac")]
    num_songs = len(json.loads(bucket.content()[f"{name}.done.json"])["track_ids"])
    assert len(exported) == 4 * num_songs > 0
    generations = {name: bucket.objects[name].generation for name in [name, *exported]}
    assert max(generations.values()) == generations[name], "the shard comes after them"
    assert separate() == made
    assert bucket.objects[name].generation == generations[name]
    del bucket.objects[exported[0]]
    assert separate() == made
    assert exported[0] in bucket.objects, "it was made again"
    assert not [name for name in bucket.objects if "claim" in name or "clock" in name]


class Work:
    """A step that counts how often it works."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.num_times = 0

    def run(self, recipe: Mapping[str, int], *, fails: bool = False) -> Manifest:
        with recorded(self.root, "demo") as run_folder:
            folder = run_folder.path / "out"

            def work() -> dict[str, float]:
                self.num_times += 1
                run_folder.restore(folder)
                found = sorted(path.name for path in folder.glob("*"))
                folder.mkdir(exist_ok=True)
                (folder / "seen.json").write_text(json.dumps(found))
                (folder / "saved.bin").write_text(str(self.num_times))
                if fails:
                    raise DataError("as it should")
                return {"times": self.num_times}

            return once(
                step="demo",
                run=run_folder,
                folder=folder,
                recipe=recipe,
                files=["seen.json", "saved.bin"],
                work=work,
            )


def test_a_step_that_failed_leaves_what_it_can_resume_from(bucket: Bucket) -> None:
    work = Work(ROOT)
    with pytest.raises(DataError, match="as it should"):
        work.run({"a": 1}, fails=True)
    assert json.loads(bucket.content()["run/steps/demo.json"])["state"] == "failed"
    assert "run/steps/demo.done.json" not in bucket.objects
    work.run({"a": 1})
    assert json.loads(bucket.content()["run/out/seen.json"]) == ["saved.bin", "seen.json"]
    assert work.run({"a": 1}).counts == {"times": 2}
    assert work.num_times == 2
    work.run({"a": 2})
    assert work.num_times == 3


@pytest.mark.parametrize("damage", ["edit", "remove"])
def test_damaged_output_is_made_again(bucket: Bucket, damage: str) -> None:
    work = Work(ROOT)
    first = work.run({"a": 1})
    assert work.run({"a": 1}) == first
    if damage == "edit":
        bucket.put("run/out/saved.bin", b"x")
    else:
        del bucket.objects["run/out/saved.bin"]
    work.run({"a": 1})
    assert work.num_times == 2


def test_the_marker_is_written_after_all_that_it_vouches_for(bucket: Bucket) -> None:
    Work(ROOT).run({"a": 1})
    order = sorted(bucket.objects, key=lambda name: bucket.objects[name].generation)
    assert order.index("run/out/saved.bin") < order.index("run/out/seen.json")
    assert order.index("run/out/seen.json") < order.index("run/steps/demo.done.json")


def test_what_is_removed_here_is_removed_there(bucket: Bucket) -> None:
    bucket.put("run/out/a", b"1")
    bucket.put("run/out/b", b"2")
    bucket.put("run/else", b"3")
    with open_run(ROOT) as run_folder:
        folder = run_folder.path / "out"
        run_folder.restore(folder)
        (folder / "a").unlink()
        run_folder.publish()
    assert set(bucket.objects) == {"run/out/b", "run/else"}


def test_states_are_uploaded_while_the_work_goes_on(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.run_folder.FOLLOW_EVERY_S", 0.02)
    monkeypatch.setattr("components.run_folder.CLAIM_PATIENCE_S", 0.1)
    monkeypatch.setattr("components.run_folder.CLAIM_POLL_S", 0.02)
    with open_run(ROOT) as first, first.followed("train"):
        (first.path / "state.pt").write_bytes(b"1")
        deadline_s = time.monotonic() + 10
        while "run/state.pt" not in bucket.objects:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        with (
            open_run(ROOT) as second,
            pytest.raises(TrainingError, match="expected to be the only one at work there"),
            second.followed("train"),
        ):
            pytest.fail("two trainings at a time")
    with open_run(ROOT) as third, third.followed("train"):
        pass


def test_a_step_at_work_in_a_bucket_keeps_other_starts_of_itself_out(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.run_folder.CLAIM_PATIENCE_S", 0.0)
    monkeypatch.setattr("components.run_folder.CLAIM_POLL_S", 0.01)
    with recorded(ROOT, "demo") as first, first.followed("demo"):
        before = bucket.content()["run/steps/demo.json"]
        message = rf"step-demo: expected to be the only one .*found process {os.getpid()} on"
        with pytest.raises(DataError, match=message), recorded(ROOT, "demo"):
            pytest.fail("two at a time")
        assert bucket.content()["run/steps/demo.json"] == before
    assert [name for name in bucket.objects if "claim" in name] == []


def test_a_second_run_of_the_pipeline_in_a_bucket_is_refused(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from two machines, whose own folders are not the same one."""
    monkeypatch.setattr("components.run_folder.CLAIM_PATIENCE_S", 0.0)
    monkeypatch.setattr("components.run_folder.CLAIM_POLL_S", 0.01)
    with (
        sole_use_of_root(ROOT, tmp_path / "here", "the pipeline run one"),
        pytest.raises(DataError, match=r"pipeline-run: .*found the pipeline run one"),
        sole_use_of_root(ROOT, tmp_path / "there", "the pipeline run two"),
    ):
        pytest.fail("two runs at a time")


def test_a_step_that_is_told_to_end_uploads_what_it_has_and_gives_back_its_claim(
    bucket: Bucket,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (  # noqa: PT012
        pytest.raises(SystemExit) as ended,
        open_run(ROOT) as run_folder,
        run_folder.followed("train"),
    ):
        (run_folder.path / "state.pt").write_bytes(b"1")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert ended.value.code == 128 + signal.SIGTERM
    assert bucket.content() == {"run/state.pt": b"1"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_machines_that_do_not_share_a_folder_are_refused(bucket: Bucket) -> None:
    with open_run(ROOT) as run_folder:
        run_folder.check_machines(is_alone=True)
        with pytest.raises(ConfigError, match="found a bucket"):
            run_folder.check_machines(is_alone=False)


def test_only_folders_of_the_run_are_read(bucket: Bucket) -> None:
    with open_run(ROOT) as run_folder, pytest.raises(DataError, match="gs://bucket/run2/x: exp"):
        run_folder.local("gs://bucket/run2/x")


def test_the_mirror_has_a_limit(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "10K")
    bucket.put("run/features/large", bytes(20_000))
    with (
        open_run(ROOT) as run_folder,
        pytest.raises(DataError, match=r"features/large.*MIXPRINT_SCRATCH_LIMIT"),
    ):
        run_folder.local(f"{ROOT}/features")


def test_two_runs_at_a_time_have_mirrors_of_their_own(bucket: Bucket) -> None:
    with open_run(ROOT) as one, open_run(ROOT) as two:
        assert isinstance(one, MirroredRun)
        assert one.path != two.path
