import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.collection.remote_shards import point_to_bucket
from mixprint.collection.shard_upload import (
    begin_shard,
    fetch_markers,
    is_in_bucket,
    publish_shard,
    remove_other_shards_in_bucket,
)
from mixprint.collection.shards import (
    SeparatorFingerprint,
    list_shards,
    read_index,
    read_row,
    read_segment,
    shard_name,
    write_shard,
)
from mixprint.errors import DataError
from mixprint.storage.bucket import GcsBucket, open_bucket
from mixprint.storage.claims import ClaimLostError, take_claim, work_through
from tests.bucket import Bucket

URI = "gs://bucket/run/stems"
SEPARATOR = SeparatorFingerprint("none", "", "1")


def stand_in(folder: Path) -> Path:
    point_to_bucket(folder, URI)
    fetch_markers(folder)
    return folder


def write(folder: Path, index: int, *, seed: int = 0, num_shards: int = 2) -> Path:
    """Write a shard of three segments of noise, which zstd hardly makes smaller."""
    path = folder / shard_name(index, num_shards)
    noise = torch.Generator().manual_seed(index + 10 * seed)
    with write_shard(
        path, fingerprint=f"recipe {seed}", sample_rate_hz=44_100, separator=SEPARATOR
    ) as writer:
        for segment in range(3):
            stems_SCT = torch.rand(4, 2, 20_000, generator=noise) - 0.5
            writer.write(f"track {index}", segment, segment * 5.0, stems_SCT)
    return path


def bring(folder: Path, index: int, *, seed: int = 0, num_shards: int = 2) -> Path:
    replaced = begin_shard(folder / shard_name(index, num_shards))
    path = write(folder, index, seed=seed, num_shards=num_shards)
    publish_shard(path, replaced)
    return path


def fetched(bucket: Bucket) -> list[str]:
    """Name the parts of shards that were asked for since the last call."""
    asked = [
        request for request in bucket.requests if re.search(r"\.parquet\?.*alt=media", request)
    ]
    bucket.requests.clear()
    return asked


@pytest.fixture
def brought(bucket: Bucket, tmp_path: Path) -> Path:
    """Two shards in the bucket, and a folder that stands for theirs."""
    made = stand_in(tmp_path / "made")
    for index in range(2):
        assert not bring(made, index).exists()
    return stand_in(tmp_path / "read")


def test_what_is_read_is_what_was_written(brought: Path, bucket: Bucket, tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / "local", index)
    fetched(bucket)
    references, expected = read_index(brought), read_index(tmp_path / "local")
    assert [path.name for path in list_shards(brought)] == [shard_name(i, 2) for i in range(2)]
    assert fetched(bucket) == [], "the indexes tell all"
    for reference, other in zip(references, expected, strict=True):
        assert (reference.track_id, reference.start_s) == (other.track_id, other.start_s)
        assert read_row(reference) == read_row(other)
        assert torch.equal(read_segment(reference), read_segment(other))
        one_SCT = read_segment(reference, stems=("bass",))
        assert torch.equal(one_SCT, read_segment(other, stems=("bass",)))
    assert sorted(path.suffix for path in brought.iterdir()) == [".json"] * 3 + [".parquet"] * 2


def test_only_the_stem_that_is_asked_for_is_fetched(
    brought: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = read_index(brought)
    read_segment(first, stems=("vocals",))
    fetched(bucket)
    before = sum(len(stored.content) for stored in bucket.objects.values())
    sent: list[int] = []
    original = type(open_bucket(URI)).read_range

    def counted(self: object, name: str, start: int, length: int, version: int) -> bytes:
        sent.append(length)
        return original(self, name, start, length, version)

    monkeypatch.setattr(type(open_bucket(URI)), "read_range", counted)
    read_segment(second, stems=("vocals",))
    assert 40_000 < sum(sent) < before / 20
    read_segment(second)
    sent.clear()
    fetched(bucket)
    read_segment(second)
    assert (sent, fetched(bucket)) == ([], []), "it is in the cache"


def test_the_cache_is_bounded(
    brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "500K")
    for reference in read_index(brought):
        assert read_segment(reference).abs().max() > 0.4
    kept = sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*") if path.is_file())
    assert 100_000 < kept <= 500_000


def test_without_an_index_the_shard_tells(brought: Path, bucket: Bucket, tmp_path: Path) -> None:
    for name in [name for name in bucket.objects if name.endswith(".index.parquet")]:
        del bucket.objects[name]
    other = stand_in(tmp_path / "other")
    names = [(r.track_id, r.segment, r.start_s) for r in read_index(brought)]
    assert [(r.track_id, r.segment, r.start_s) for r in read_index(other)] == names


def test_a_shard_that_was_written_anew_meanwhile_is_no_mixture(
    brought: Path, tmp_path: Path
) -> None:
    reference = read_index(brought)[0]
    read_segment(reference, stems=("bass",))
    bring(stand_in(tmp_path / "anew"), 0, seed=1)
    with pytest.raises(DataError, match="shard-00000-of-00002"):
        read_segment(reference, stems=("drums",))


def test_missing_shards_are_named(brought: Path, bucket: Bucket, tmp_path: Path) -> None:
    del bucket.objects[f"run/stems/{shard_name(1, 2)}.done.json"]
    with pytest.raises(DataError, match="shard-00001-of-00002"):
        list_shards(stand_in(tmp_path / "a"))
    del bucket.objects[f"run/stems/{shard_name(0, 2)}"]
    with pytest.raises(DataError, match=r"gs://bucket/.*shard-00000-of-00002.parquet: expected"):
        read_segment(read_index(brought)[0])


def test_of_two_workers_one_wins(bucket: Bucket, tmp_path: Path) -> None:
    folders = [stand_in(tmp_path / str(n)) for n in range(4)]
    begun = [begin_shard(folder / shard_name(0, 2)) for folder in folders]
    paths = [write(folder, 0, seed=n) for n, folder in enumerate(folders)]

    def publish(number: int) -> bool:
        try:
            publish_shard(paths[number], begun[number])
        except ClaimLostError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(publish, range(4)))
    assert sum(won) == 1
    reader = tmp_path / "reader" / shard_name(0, 2)
    stand_in(reader.parent)
    winner = won.index(True)
    assert [is_in_bucket(reader, f"recipe {n}") for n in range(4)] == won
    expected = read_segment(read_index_of_one(write(tmp_path / "local", 0, seed=winner)))
    assert torch.equal(read_segment(read_index_of_one(reader)), expected)
    assert not any(path.exists() for path in paths)


def read_index_of_one(path: Path) -> object:
    from mixprint.collection.shards import SegmentRef

    return SegmentRef(path, 0, "track 0", 0, 0.0)


def test_killed_between_shard_and_marker_it_is_made_again(bucket: Bucket, tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "made")
    path = folder / shard_name(0, 2)
    replaced = begin_shard(path)
    write(folder, 0)
    # Only the shard's upload has a condition; what follows it is refused.
    real = bucket.fault

    def fault(method: str, address: str) -> int | str | None:
        is_later = method == "POST" and "ifGenerationMatch" not in address
        return 403 if is_later else real(method, address)

    bucket.fault = fault  # type: ignore[method-assign]
    with pytest.raises(DataError, match="403"):
        publish_shard(path, replaced)
    bucket.fault = real  # type: ignore[method-assign]
    assert list(bucket.objects) == [f"run/stems/{path.name}"]
    assert not is_in_bucket(path, "recipe 0")
    bring(stand_in(tmp_path / "again"), 0)
    assert is_in_bucket(path, "recipe 0")
    assert len(bucket.objects) == 3


def test_another_recipe_replaces_the_shard(brought: Path, tmp_path: Path) -> None:
    path = brought / shard_name(0, 2)
    other = stand_in(tmp_path / "other") / path.name
    assert is_in_bucket(path, "recipe 0")
    assert not is_in_bucket(path, "recipe 1")
    replaced = begin_shard(path)
    write(brought, 0, seed=1)
    assert is_in_bucket(other, "recipe 0"), "until the new one is written"
    publish_shard(path, replaced)
    assert is_in_bucket(path, "recipe 1")


def test_a_worker_that_wakes_late_leaves_the_marker_of_its_successor_in_the_bucket(
    brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is suspended after its last look at the claim, just before it removes the old marker."""
    late = stand_in(tmp_path / "late")
    path = late / shard_name(0, 2)
    replaced = begin_shard(path)
    write(late, 0, seed=1)
    delete = GcsBucket.delete

    def suspended(*arguments: Any, **options: Any) -> bool:
        monkeypatch.setattr(GcsBucket, "delete", delete)
        bring(stand_in(tmp_path / "successor"), 0, seed=2)
        return delete(*arguments, **options)

    monkeypatch.setattr(GcsBucket, "delete", suspended)
    with pytest.raises(ClaimLostError, match="another worker was faster"):
        publish_shard(path, replaced)
    assert is_in_bucket(path, "recipe 2")


def test_sets_of_another_size_are_removed(brought: Path, bucket: Bucket) -> None:
    bring(brought, 0, num_shards=1)
    assert remove_other_shards_in_bucket(brought, 2) == [f"{URI}/{shard_name(0, 1)}"]
    assert len(bucket.objects) == 6
    assert remove_other_shards_in_bucket(brought, 2) == []


def test_workers_share_the_work_by_claims_in_the_bucket(bucket: Bucket) -> None:
    claims = open_bucket("gs://bucket/run/claims")
    done: list[str] = []
    names = [f"shard-{n}" for n in range(6)]
    dead = take_claim(claims, names[0], lease_s=0.5)
    assert dead is not None
    assert take_claim(claims, names[0]) is None
    # As if it ran elsewhere: a process of this machine keeps its claim as long as it lives.
    name = f"run/claims/{names[0]}.1.claim"
    bucket.put(name, json.dumps(json.loads(bucket.content()[name]) | {"machine": "m"}).encode())

    def work(name: str, claim: object) -> None:
        claim.check()  # type: ignore[attr-defined]
        done.append(name)

    def worker(_: int) -> None:
        work_through(claims, names, is_done=done.__contains__, work=work, lease_s=0.5, poll_s=0.05)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(worker, range(3)))
    assert sorted(done) == names
    with pytest.raises(ClaimLostError, match="gs://bucket/run/claims/shard-0"):
        dead.check()
    assert bucket.objects == {}, "claims are cleared away"
