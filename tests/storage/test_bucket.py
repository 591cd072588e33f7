"""The bucket side talks to Google's real client; only its server is a few lines of HTTP."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError
from google.cloud.storage import Client

import mixprint.storage.bucket
from mixprint.errors import DataError
from mixprint.storage.bucket import (
    FileInfo,
    GcsBucket,
    copy_from,
    open_bucket,
)
from tests.bucket import BREAK, CORRUPT, LOSE_ANSWER, Bucket, Fault, crc32c


@pytest.fixture
def quick(bucket: Bucket) -> GcsBucket:
    """Waits for hundredths of a second, so that a fault costs little."""
    return GcsBucket("gs://bucket/runs", patience_s=1.0, first_wait_s=0.01)


@pytest.fixture
def storage(bucket: Bucket) -> GcsBucket:
    return open_bucket("gs://bucket/runs/7/")


def written(folder: Path, content: bytes) -> Path:
    path = folder / f"{len(content)}.bin"
    path.write_bytes(content)
    return path


def test_write_read_and_list(storage: GcsBucket) -> None:
    assert storage.list() == []
    assert not storage.exists("a/b.json")
    storage.write_bytes("a/b.json", b"one")
    storage.write_bytes("a/b.json", b"two")
    storage.write_bytes("a c/ü;'.bin", b"\x00\r\n\xff")
    storage.write_bytes("z", b"")
    assert storage.exists("a/b.json")
    assert not storage.exists("a")
    assert storage.read_bytes("a/b.json") == b"two"
    assert storage.read_bytes("a c/ü;'.bin") == b"\x00\r\n\xff"
    assert storage.read_bytes("z") == b""
    assert storage.list() == ["a c/ü;'.bin", "a/b.json", "z"]
    assert storage.list("a/") == ["a/b.json"]
    assert [info.num_bytes for info in storage.infos().values()] == [4, 3, 0]


def test_upload_and_download(storage: GcsBucket, tmp_path: Path) -> None:
    source, target = tmp_path / "source.bin", tmp_path / "new" / "target.bin"
    source.write_bytes(bytes(range(256)) * 100)
    storage.upload(source, "deep/er/file.bin")
    storage.download("deep/er/file.bin", target)
    assert target.read_bytes() == source.read_bytes()
    assert list(target.parent.iterdir()) == [target]
    copy_from(storage.uri("deep/er/file.bin"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    copy_from(str(source), tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == source.read_bytes()
    with pytest.raises(DataError, match=r"nowhere -> .*cannot be copied"):
        copy_from(str(tmp_path / "nowhere"), tmp_path / "copy")


def test_many_files_at_a_time(storage: GcsBucket, tmp_path: Path) -> None:
    files = {f"a/{n}": written(tmp_path, b"x" * n) for n in range(20)}
    storage.upload_all(files)
    storage.download_all(files, tmp_path / "back")
    found = [(tmp_path / "back" / "a" / str(n)).read_bytes() for n in range(20)]
    assert found == [b"x" * n for n in range(20)]
    with pytest.raises(DataError, match="missing"):
        storage.download_all([*files, "missing"], tmp_path / "back")


def test_a_file_is_read_at_any_place(storage: GcsBucket) -> None:
    storage.write_bytes("a", bytes(range(100)))
    with storage.open("a") as file:
        assert file.seek(-10, io.SEEK_END) == 90
        assert file.read(4) == bytes(range(90, 94))
        assert file.tell() == 94
        file.seek(98)
        assert file.read(10) == bytes([98, 99])
        assert file.read(10) == b""
    with pytest.raises(DataError, match="nowhere"):
        storage.open("nowhere")


def test_write_once(storage: GcsBucket, tmp_path: Path) -> None:
    assert storage.create(written(tmp_path, b"1"), "a/shard")
    assert not storage.create(written(tmp_path, b"22"), "a/shard")
    assert storage.read_bytes("a/shard") == b"1"
    version = storage.info("a/shard").version
    assert storage.create(written(tmp_path, b"333"), "a/shard", replaced=version)
    assert not storage.create(written(tmp_path, b"4444"), "a/shard", replaced=version)
    assert storage.create(b"55555", "b")
    assert not storage.create(b"666666", "b")
    assert storage.read_bytes("a/shard") == b"333"
    assert storage.list() == ["a/shard", "b"]


def test_of_two_writers_one_wins(storage: GcsBucket, tmp_path: Path) -> None:
    files = [written(tmp_path, b"x" * (n + 1)) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda path: storage.create(path, "shard"), files))
    assert sum(won) == 1
    assert storage.read_bytes("shard") == files[won.index(True)].read_bytes()


def test_delete(storage: GcsBucket) -> None:
    storage.write_bytes("a", b"one")
    version = storage.info("a").version
    assert not storage.delete("a", version=version + 1)
    assert storage.delete("a", version=version)
    assert not storage.delete("a")
    assert storage.info("a") is None


def test_missing_files_are_named(storage: GcsBucket, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(DataError, match="nowhere"):
        storage.read_bytes("nowhere")
    with pytest.raises(DataError, match="nowhere"):
        storage.download("nowhere", target)
    assert not target.exists()
    with pytest.raises(DataError, match="missing"):
        storage.upload(tmp_path / "missing", "a")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", "./a"])
def test_names_stay_inside_the_root(storage: GcsBucket, name: str) -> None:
    with pytest.raises(DataError, match="relative name"):
        storage.write_bytes(name, b"")


def test_prefix_and_uri(bucket: Bucket) -> None:
    bucket.put("other", b"")
    bucket.put("runs/7/folder/", b"")
    storage = open_bucket("gs://bucket/runs/7")
    storage.write_bytes("a", b"x")
    assert bucket.objects["runs/7/a"].content == b"x"
    assert storage.uri("a") == "gs://bucket/runs/7/a"
    assert storage.list() == ["a"]
    assert open_bucket("gs://bucket").list("o") == ["other"]


def test_only_what_is_asked_for_is_read(bucket: Bucket, quick: GcsBucket) -> None:
    stored = bucket.put("runs/a", bytes(1000))
    info = quick.info("a")
    assert info == FileInfo(1000, stored.generation, info.changed_s, crc32c(bytes(1000)))
    file = quick.open("a")
    file.seek(500)
    assert len(file.read(10)) == 10
    bucket.put("runs/a", bytes(1000))
    with pytest.raises(DataError, match="412"):
        file.read(10)


def test_the_checksum_is_that_of_the_bucket(
    bucket: Bucket, quick: GcsBucket, tmp_path: Path
) -> None:
    path = written(tmp_path, bytes(range(256)))
    quick.upload(path, "a")
    assert quick.info("a").crc32c == crc32c(path.read_bytes())


@pytest.mark.parametrize("what", [408, 429, 500, 503, BREAK])
def test_what_fails_in_passing_is_tried_again(
    what: int | str, bucket: Bucket, quick: GcsBucket, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 10
    bucket.faults = [Fault(what, "POST", times=2)]
    quick.upload(written(tmp_path, content), "a")
    bucket.faults = [Fault(what, "GET", "alt=media", times=2)]
    quick.download("a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    if isinstance(what, int):
        bucket.faults = [Fault(what, "GET", times=2), Fault(what, "DELETE", times=2)]
        assert quick.list() == ["a"]
        assert quick.delete("a")


@pytest.mark.parametrize("what", [503, BREAK])
def test_a_large_upload_goes_on_where_it_broke(
    what: int | str,
    bucket: Bucket,
    quick: GcsBucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mixprint.storage.bucket, "UPLOAD_PART_BYTES", 4 << 20)
    content = bytes(range(256)) * (10 << 12)
    bucket.faults = [Fault(0, "PUT", times=0), Fault(what, "PUT", times=1)]
    quick.upload(written(tmp_path, content), "a")
    assert bucket.objects["runs/a"].content == content
    assert sum("POST" in request for request in bucket.requests) == 1


def test_patience_ends(bucket: Bucket, tmp_path: Path) -> None:
    storage = GcsBucket("gs://bucket", patience_s=0.05, first_wait_s=0.01)
    bucket.faults = [Fault(503, times=1000)]
    with pytest.raises(DataError, match="gs://bucket/a"):
        storage.read_bytes("a")
    with pytest.raises(DataError, match="gs://bucket/a"):
        storage.upload(written(tmp_path, b"1"), "a")


def test_a_win_whose_answer_was_lost_is_a_win(
    bucket: Bucket, quick: GcsBucket, tmp_path: Path
) -> None:
    bucket.faults = [Fault(LOSE_ANSWER, "POST")]
    assert quick.create(written(tmp_path, b"1"), "a")
    assert sum("POST" in request for request in bucket.requests) == 2
    assert not quick.create(written(tmp_path, b"1"), "a")


def test_corrupted_bytes_are_fetched_again(
    bucket: Bucket, quick: GcsBucket, tmp_path: Path
) -> None:
    bucket.put("runs/a", b"content")
    bucket.faults = [Fault(CORRUPT, "GET", "alt=media", times=2)]
    assert quick.read_bytes("a") == b"content"
    bucket.faults = [Fault(CORRUPT, "GET", "alt=media", times=2)]
    quick.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"content"
    bucket.faults = [Fault(CORRUPT, "GET", "alt=media", times=100)]
    with pytest.raises(DataError, match="gs://bucket/runs/a: expected bytes that fit"):
        quick.download("a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_upload_that_is_corrupted_on_its_way_is_refused(
    bucket: Bucket, quick: GcsBucket, tmp_path: Path
) -> None:
    bucket.faults = [Fault(CORRUPT, "POST", times=1000)]
    with pytest.raises(DataError, match=r"gs://bucket/runs/a: .*checksum"):
        quick.upload(written(tmp_path, b"content"), "a")
    assert bucket.objects == {}


def test_refusals_of_the_server_are_named(bucket: Bucket) -> None:
    storage = open_bucket("gs://bucket")
    bucket.faults = [Fault(403, times=1000)]
    for call in (
        lambda: storage.read_bytes("a"),
        lambda: storage.write_bytes("a", b""),
        lambda: storage.info("a"),
    ):
        with pytest.raises(DataError, match=r"gs://bucket/a: expected permission .*403"):
            call()
    with pytest.raises(DataError, match="403"):
        storage.list()
    # The client also asks for the bucket itself, once, whatever comes of it.
    asked = [request for request in bucket.requests if "/o" in request.partition("/b/")[2]]
    assert len(asked) == 4, "a refusal was asked for again"
    bucket.faults = [Fault(401, times=1000)]
    with pytest.raises(DataError, match="gs://bucket/a: expected valid credentials"):
        storage.read_bytes("a")


class ExpiredCredentials(Credentials):
    """As of a session that has ended: a new token is refused."""

    def refresh(self, request: object) -> None:
        raise RefreshError("invalid_grant: Token has been expired or revoked.")


def test_expired_credentials_are_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    client = Client("test", credentials=ExpiredCredentials())
    storage = GcsBucket("gs://bucket/a", client)
    with pytest.raises(DataError, match=r"gs://bucket/a/b: expected valid credentials .*expired"):
        storage.read_bytes("b")
    with pytest.raises(DataError, match=r"gs://bucket/a/b: expected valid credentials .*expired"):
        storage.info("b")


@pytest.mark.parametrize("root", ["gs://", "gs:///a", "s3://bucket"])
def test_wrong_roots(root: str) -> None:
    with pytest.raises(DataError, match=re.escape(root)):
        open_bucket(root)
