"""A bucket in memory, behind as much of Google's JSON API as mixprint's client uses.

Unlike an emulator it honours preconditions, compares checksums, and fails on demand.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from google_crc32c import Checksum

from tests.stand_in_server import Handler, answering

BUCKET = "bucket"
# What can happen to a request, besides a status.
BREAK, CORRUPT, LOSE_ANSWER = "break", "corrupt", "lose answer"


def crc32c(content: bytes) -> str:
    return base64.b64encode(Checksum(content).digest()).decode()


@dataclass
class Stored:
    content: bytes
    generation: int
    metadata: dict[str, str]
    written_s: float

    def described(self, name: str) -> dict[str, Any]:
        written = datetime.fromtimestamp(self.written_s, UTC)
        return {
            "name": name,
            "size": str(len(self.content)),
            "generation": str(self.generation),
            "crc32c": crc32c(self.content),
            "metadata": self.metadata,
            "updated": written.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }


@dataclass
class Fault:
    """What happens to the next requests of a method whose address holds a text."""

    what: int | str
    method: str = ""
    text: str = ""
    times: int = 1


@dataclass
class Bucket:
    """What is in it, what was asked for, and what shall go wrong."""

    objects: dict[str, Stored] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    uploads: dict[str, tuple[str, dict[str, Any], str | None, bytearray]] = field(
        default_factory=dict
    )
    num_written: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, name: str, content: bytes, metadata: dict[str, str] | None = None) -> Stored:
        with self.lock:
            self.num_written += 1
            self.objects[name] = Stored(
                content, 1000 + self.num_written, metadata or {}, time.time()
            )
            return self.objects[name]

    def content(self) -> dict[str, bytes]:
        return {name: stored.content for name, stored in self.objects.items()}

    def fault(self, method: str, path: str) -> int | str | None:
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times and fault.method in ("", method) and fault.text in path:
                    fault.times -= 1
                    return fault.what
        return None


class BucketHandler(Handler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        what = self.bucket.fault("GET", self.path)
        if isinstance(what, int):
            self.send_body(what, b"{}")
        elif match := re.fullmatch(r"(?:/download)?/storage/v1/b/bucket/o/(.+)", url.path):
            name = unquote(match[1])
            with self.bucket.lock:
                stored = self.bucket.objects.get(name)
            if stored is None:
                self.send_body(404, b"{}")
            elif query.get("ifGenerationMatch", str(stored.generation)) != str(stored.generation):
                self.send_body(412, b"{}")
            elif query.get("alt") == "media":
                self._send_content(stored, what)
            else:
                self.send_body(200, json.dumps(stored.described(name)).encode())
        else:
            with self.bucket.lock:
                items = [
                    stored.described(name)
                    for name, stored in self.bucket.objects.items()
                    if name.startswith(query.get("prefix", ""))
                ]
            self.send_body(200, json.dumps({"kind": "storage#objects", "items": items}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        what = self.bucket.fault("POST", self.path)
        if isinstance(what, int):
            self.send_body(what, b"{}")
            return
        if what == BREAK:
            self.close_connection = True
            return
        condition = query.get("ifGenerationMatch")
        if query["uploadType"] == "resumable":
            with self.bucket.lock:
                number = str(len(self.bucket.uploads))
                values = json.loads(body)
                self.bucket.uploads[number] = (values["name"], values, condition, bytearray())
            host = self.headers["Host"]
            self.send_body(200, b"{}", {"Location": f"http://{host}/upload/{number}?upload_id=x"})
            return
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        parts = body.split(b"--" + boundary)
        values = json.loads(parts[1].split(b"\r\n\r\n", 1)[1])
        content = parts[2].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        if what == CORRUPT:
            content = _flipped(content)
        self._finish(values, condition, content, what)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        what = self.bucket.fault("PUT", self.path)
        _, values, condition, content = self.bucket.uploads[urlsplit(self.path).path.split("/")[-1]]
        if isinstance(what, int):
            self.send_body(what, b"{}")
            return
        match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"])
        if match[1] is not None:
            # What is there already is left out, as Google's server does it.
            received = body[: len(body) // 2 // 262144 * 262144] if what == BREAK else body
            assert int(match[1]) <= len(content)
            content += received[len(content) - int(match[1]) :]
        if what == BREAK:
            self.close_connection = True
        elif match[2] != "*" and len(content) == int(match[2]):
            self._finish(values, condition, bytes(content), what)
        else:
            ranges = {"Range": f"bytes=0-{len(content) - 1}"} if content else {}
            self.send_body(308, b"", ranges)

    def do_DELETE(self) -> None:
        url = urlsplit(self.path)
        what = self.bucket.fault("DELETE", self.path)
        if isinstance(what, int):
            self.send_body(what, b"{}")
            return
        name = unquote(url.path.removeprefix("/storage/v1/b/bucket/o/"))
        condition = parse_qs(url.query).get("ifGenerationMatch", [None])[0]
        with self.bucket.lock:
            stored = self.bucket.objects.get(name)
            if stored is None:
                self.send_body(404, b"{}")
            elif condition not in (None, str(stored.generation)):
                self.send_body(412, b"{}")
            else:
                del self.bucket.objects[name]
                self.send_body(204, b"")

    def _finish(
        self, values: dict[str, Any], condition: str | None, content: bytes, what: object
    ) -> None:
        with self.bucket.lock:
            stored = self.bucket.objects.get(values["name"])
            if condition not in (None, str(stored.generation if stored else 0)):
                self.send_body(412, b"{}")
                return
            if values.get("crc32c", crc32c(content)) != crc32c(content):
                self.send_body(400, b'{"error": {"message": "the checksum does not fit"}}')
                return
            stored = self.bucket.put(values["name"], content, values.get("metadata"))
        if what == LOSE_ANSWER:
            self.close_connection = True
        else:
            self.send_body(200, json.dumps(stored.described(values["name"])).encode())

    def _send_content(self, stored: Stored, what: object) -> None:
        content, status, headers = stored.content, 200, {}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        headers["X-Goog-Hash"] = f"crc32c={crc32c(stored.content)}"
        headers["X-Goog-Generation"] = str(stored.generation)
        if what == CORRUPT:
            content = _flipped(content)
        if what == BREAK:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.send_body(status, content, headers)


def _flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@contextmanager
def serving(bucket: Bucket) -> Iterator[str]:
    """Answer for a bucket; yields the address."""
    with answering(type("OneBucket", (BucketHandler,), {"bucket": bucket})) as url:
        yield url
