"""The bucket side talks to Google's real client; only its server is a few lines of HTTP."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from mixprint.errors import DataError
from mixprint.storage import GcsStorage, LocalStorage, Storage, open_storage


class BucketServer(BaseHTTPRequestHandler):
    """As much of the JSON API as whole files need: one-request uploads, reads and lists."""

    objects: dict[str, bytes]
    fail_with: int

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.fail_with:
            self._send(self.fail_with, b"{}")
        elif match := re.fullmatch(r"(?:/download)?/storage/v1/b/bucket/o/(.+)", url.path):
            self._send_object(unquote(match[1]), parse_qs(url.query).get("alt") == ["media"])
        else:
            prefix = parse_qs(url.query).get("prefix", [""])[0]
            items = [{"name": name} for name in self.objects if name.startswith(prefix)]
            self._send(200, json.dumps({"kind": "storage#objects", "items": items}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.fail_with:
            self._send(self.fail_with, b"{}")
            return
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        parts = body.split(b"--" + boundary)
        metadata = json.loads(parts[1].split(b"\r\n\r\n", 1)[1])
        self.objects[metadata["name"]] = parts[2].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        self._send(200, json.dumps(metadata).encode())

    def log_message(self, *_: object) -> None:
        pass

    def _send_object(self, name: str, wants_content: bool) -> None:
        if name not in self.objects:
            self._send(404, b"{}")
        elif wants_content:
            self._send(200, self.objects[name])
        else:
            self._send(200, json.dumps({"name": name}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BucketServer]]:
    handler = type("Handler", (BucketServer,), {"objects": {}, "fail_with": 0})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    yield handler
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(params=["local", "gs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "root"))
    request.getfixturevalue("server")
    return open_storage("gs://bucket/runs/7/")


def test_write_read_and_list(storage: Storage) -> None:
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


def test_upload_and_download(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source.bin", tmp_path / "new" / "target.bin"
    source.write_bytes(bytes(range(256)) * 100)
    storage.upload(source, "deep/er/file.bin")
    storage.download("deep/er/file.bin", target)
    assert target.read_bytes() == source.read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_missing_files_are_named(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(DataError, match="nowhere"):
        storage.read_bytes("nowhere")
    with pytest.raises(DataError, match="nowhere"):
        storage.download("nowhere", target)
    assert not target.exists()
    with pytest.raises(DataError, match="missing"):
        storage.upload(tmp_path / "missing", "a")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", "./a"])
def test_names_stay_inside_the_root(storage: Storage, name: str) -> None:
    with pytest.raises(DataError, match="relative name"):
        storage.write_bytes(name, b"")


def test_prefix_and_uri(server: type[BucketServer], tmp_path: Path) -> None:
    server.objects["other"] = b""
    server.objects["runs/7/folder/"] = b""
    storage = open_storage("gs://bucket/runs/7")
    storage.write_bytes("a", b"x")
    assert server.objects["runs/7/a"] == b"x"
    assert storage.uri("a") == "gs://bucket/runs/7/a"
    assert storage.list() == ["a"]
    assert open_storage("gs://bucket").list("o") == ["other"]
    assert open_storage(f"file://{tmp_path}").uri("a") == str(tmp_path / "a")


def test_refusals_of_the_server_are_named(server: type[BucketServer]) -> None:
    storage = open_storage("gs://bucket")
    server.fail_with = 403
    with pytest.raises(DataError, match=r"gs://bucket/a: .*403"):
        storage.read_bytes("a")
    with pytest.raises(DataError, match="403"):
        storage.write_bytes("a", b"")
    with pytest.raises(DataError, match="403"):
        storage.list()


@pytest.mark.parametrize("root", ["gs://", "gs:///a", "s3://bucket"])
def test_wrong_roots(root: str) -> None:
    with pytest.raises(DataError, match=re.escape(root)):
        open_storage(root)


def test_kinds(server: type[BucketServer]) -> None:
    assert isinstance(open_storage("runs/7"), LocalStorage)
    assert isinstance(open_storage("gs://bucket/a"), GcsStorage)
