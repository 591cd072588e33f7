"""Archives from a small server on this machine: whole or absent, and nothing outside of them."""

import hashlib
import io
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixprint.errors import DataError
from mixprint.storage import archives, download
from mixprint.storage.archives import Archive, fetch_unpacked, unpack
from tests.stand_in_server import Handler, answering

FILES = {"train/a - b/bass.wav": os.urandom(300_000), "test/c - d/bass.wav": os.urandom(1000)}


def zipped(files: Mapping[str | zipfile.ZipInfo, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return written.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class ArchiveHandler(Handler):
    """Serves an archive; the first answer ends early where `breaks` is set."""

    body: bytes
    asked: list[int]
    breaks: bool

    def do_GET(self) -> None:
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        self.asked.append(start)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.body)}/{len(self.body)}")
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        ends = len(self.body) // 2 if self.breaks and len(self.asked) == 1 else None
        self.wfile.write(self.body[start:ends])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)


Serve = Callable[..., tuple[Archive, list[int]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve an archive, and tell from which bytes on it was asked for."""
    stack = ExitStack()

    def start(body: bytes, *, breaks: bool = False, digest: str = "") -> tuple[Archive, list[int]]:
        asked: list[int] = []
        handler = type("One", (ArchiveHandler,), {"body": body, "asked": asked, "breaks": breaks})
        url = stack.enter_context(answering(handler))
        pin = digest or hashlib.sha256(body).hexdigest()
        archive = Archive(
            source=f"{url}/songs.zip#sha256={pin}", max_bytes=len(body), unpacked_bytes=400_000
        )
        return archive, asked

    with stack:
        yield start


def test_an_archive_becomes_a_folder_and_is_not_kept(tmp_path: Path, serve: Serve) -> None:
    archive, asked = serve(zipped(FILES), breaks=True)
    fetch_unpacked(archive, tmp_path / "new" / "songs")
    assert contents(tmp_path) == {f"new/songs/{name}": content for name, content in FILES.items()}
    assert len(asked) == 2
    assert asked[1] > 0
    with pytest.raises(DataError, match="songs: expected no folder, or an empty one, to unpack"):
        fetch_unpacked(archive, tmp_path / "new" / "songs")


def test_an_archive_that_was_downloaded_before_a_kill_is_unpacked(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, asked = serve(zipped(FILES))

    def killed(path: Path, folder: Path) -> None:
        unpack(path, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch_unpacked(archive, tmp_path / "songs")
    assert [path.suffix for path in tmp_path.iterdir()] == [".zip"]
    monkeypatch.undo()
    # What is there needs no room a second time.
    room = SimpleNamespace(free=archive.unpacked_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    fetch_unpacked(archive, tmp_path / "songs")
    assert contents(tmp_path / "songs") == FILES
    assert asked == [0]


def test_another_hash_leaves_nothing(tmp_path: Path, serve: Serve) -> None:
    archive, _ = serve(zipped(FILES), digest="0" * 64)
    with pytest.raises(DataError, match=r"expected SHA-256 0{64}, found .*: the file was removed"):
        fetch_unpacked(archive, tmp_path / "songs")
    assert list(tmp_path.iterdir()) == []


def test_room_is_looked_for_before_a_byte_is_asked_for(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, asked = serve(zipped(FILES))
    needed = archive.max_bytes + archive.unpacked_bytes
    room = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with pytest.raises(DataError, match=r"expected 0\.0 GB free for http://.*zip and what is in"):
        fetch_unpacked(archive, tmp_path / "songs")
    assert asked == []
    room.free = needed
    fetch_unpacked(archive, tmp_path / "songs")
    assert contents(tmp_path / "songs") == FILES


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a\\..\\x", link()], ids=lambda name: str(name)[:9]
)
def test_names_that_lead_out_are_refused_before_the_first_file(
    tmp_path: Path, name: str | zipfile.ZipInfo
) -> None:
    path, folder = tmp_path / "songs.zip", tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path.write_bytes(zipped({"first": b"1", name: b"/etc"}))
    with pytest.raises(DataError, match=r"songs\.zip: expected files inside of the archive's"):
        unpack(path, folder)
    assert contents(tmp_path) == {"songs.zip": path.read_bytes()}


def test_a_file_that_is_no_whole_archive_is_refused(tmp_path: Path, serve: Serve) -> None:
    whole = zipped(FILES)
    broken = bytearray(whole)
    broken[1000] ^= 1
    for body in (whole[: len(whole) // 2], bytes(broken)):
        archive, _ = serve(body)
        with pytest.raises(DataError, match="expected a whole zip archive, found: "):
            fetch_unpacked(archive, tmp_path / "songs")
        assert not (tmp_path / "songs").exists()
