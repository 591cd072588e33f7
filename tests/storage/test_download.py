"""Downloads from a small server on this machine that fails in the ways servers fail."""

import contextlib
import hashlib
import http.client
import io
import logging
import multiprocessing
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mixprint.errors import ConfigError, DataError
from mixprint.storage import download
from mixprint.storage.download import (
    _SafeRedirects,
    cache_dir,
    check_url,
    fetch,
    is_url,
    public_url,
)
from tests.stand_in_server import Handler, answering

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What was asked of it: from which byte on, each time."""

    starts: list[int] = field(default_factory=list)
    address: str = ""


class DownloadHandler(Handler):
    """Serves CONTENT; the path says what goes wrong, and how often it already did."""

    starts: list[int]

    def do_GET(self) -> None:
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        self.starts.append(start)
        first_time = len(self.starts) == 1
        action = self.path.strip("/").partition(".")[0]
        if action == "busy" and first_time:
            self.send_body(503, b"", {"Retry-After": "0"})
            return
        if action == "elsewhere":
            self.send_body(302, b"", {"Location": self.path.partition("?to=")[2]})
            return
        if action == "absent" or (action == "gone" and not first_time):
            self.send_body(404, b"")
            return
        body = CONTENT if action != "wrong" else CONTENT[::-1]
        if action == "ignores":
            start = 0
        if start >= len(body):
            self.send_body(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        if start:
            self.send_response(206)
            shift = 1 if action == "shifts" and len(self.starts) == 2 else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if action == "endless":
            self.end_headers()
            while True:  # until the client has had enough
                self.wfile.write(body)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        breaks = action == "never" or (
            action in {"breaks", "ignores", "shifts", "gone"} and first_time
        )
        if action == "trickles":
            # Less than is read at a time, then silence until the client gives up.
            self.wfile.write(body[start : start + len(body) // 5 + 1])
            time.sleep(2 * download.TIMEOUT_S)
            return
        self.wfile.write(body[start : len(body) // 2 if breaks else None])


@pytest.fixture
def server() -> Iterator[Server]:
    asked = Server()
    with answering(type("OneServer", (DownloadHandler,), {"starts": asked.starts})) as url:
        asked.address = url
        yield asked


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIXPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def url(server: Server) -> Callable[[str], str]:
    return lambda name: f"{server.address}/{name}#sha256={DIGEST}"


HALF = len(CONTENT) // 2


def test_a_line_that_falls_silent_loses_nothing(
    url: Callable[[str], str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    assert fetch(url("trickles.ckpt")).read_bytes() == CONTENT
    assert server.starts == [i * (len(CONTENT) // 5 + 1) for i in range(5)]


def test_a_url_as_a_browser_shows_it(url: Callable[[str], str]) -> None:
    assert fetch(url("modèle 100%25.ckpt")).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("action", "starts"),
    [
        ("plain", [0]),
        ("breaks", [0, HALF]),
        ("ignores", [0, HALF]),
        ("shifts", [0, HALF, 0]),
        ("busy", [0, 0]),
    ],
)
def test_arrives_whole(
    url: Callable[[str], str], server: Server, cache: Path, action: str, starts: list[int]
) -> None:
    path = fetch(url(f"{action}.ckpt"))
    assert path == cache / f"{DIGEST}.ckpt"
    assert path.read_bytes() == CONTENT
    assert server.starts == starts
    assert list(cache.iterdir()) == [path]


def test_a_later_process_resumes(url: Callable[[str], str], server: Server, cache: Path) -> None:
    with pytest.raises(DataError, match="404"):
        fetch(url("gone.ckpt"))
    assert [path.stat().st_size for path in cache.iterdir()] == [HALF]
    assert fetch(url("breaks.ckpt")).read_bytes() == CONTENT
    assert server.starts == [0, HALF, HALF]


@pytest.mark.parametrize(("extra", "starts"), [(0, [len(CONTENT)]), (7, [len(CONTENT) + 7, 0])])
def test_an_unfinished_file_with_all_or_more_than_all(
    url: Callable[[str], str], server: Server, cache: Path, extra: int, starts: list[int]
) -> None:
    cache.mkdir()
    (cache / f"{DIGEST}.ckpt.part").write_bytes(CONTENT + bytes(extra))
    assert fetch(url("plain.ckpt")).read_bytes() == CONTENT
    assert server.starts == starts


def test_the_cache_needs_no_network(url: Callable[[str], str], server: Server) -> None:
    path = fetch(url("plain.ckpt"))
    again = fetch(f"https://nowhere.invalid/other.ckpt#sha256={DIGEST.upper()}")
    assert again == path
    assert server.starts == [0]


def test_a_damaged_cache_is_mended(
    url: Callable[[str], str], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch(url("plain.ckpt"))
    path.write_bytes(CONTENT[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        assert fetch(url("plain.ckpt")).read_bytes() == CONTENT
    assert "damaged" in caplog.text
    assert server.starts == [0, 0]


def test_wrong_bytes_are_refused_and_removed(url: Callable[[str], str], cache: Path) -> None:
    with pytest.raises(DataError, match=f"expected SHA-256 {DIGEST}, found [0-9a-f]{{64}}"):
        fetch(url("wrong.ckpt"))
    assert list(cache.iterdir()) == []


def test_a_file_may_be_as_large_as_allowed(url: Callable[[str], str]) -> None:
    assert fetch(url("breaks.ckpt"), max_bytes=len(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("action", "num_there", "found"),
    [
        ("plain", 0, f"one of {len(CONTENT)}"),
        ("plain", HALF, f"one of {len(CONTENT)}"),  # a part that an earlier process has left
        ("endless", 0, "more"),
    ],
)
def test_a_file_that_is_too_large_is_refused_and_removed(
    url: Callable[[str], str],
    server: Server,
    cache: Path,
    action: str,
    num_there: int,
    found: str,
) -> None:
    if num_there:
        cache.mkdir()
        (cache / f"{DIGEST}.ckpt.part").write_bytes(CONTENT[:num_there])
    most = len(CONTENT) - 1
    with pytest.raises(
        DataError, match=rf"{action}\.ckpt: .* at most {most} bytes, found {found};"
    ):
        fetch(url(f"{action}.ckpt"), max_bytes=most)
    assert server.starts == [num_there]
    assert list(cache.iterdir()) == []


def test_it_gives_up_after_attempts_that_bring_nothing(
    url: Callable[[str], str], server: Server
) -> None:
    with pytest.raises(DataError, match="5 attempts in a row"):
        fetch(url("never.ckpt"))
    # The first one brought half of it; the five after it nothing.
    assert server.starts == [0] + [HALF] * 5
    with pytest.raises(DataError, match="404"):
        fetch(url("absent.ckpt").replace(DIGEST, "0" * 64))


def test_an_unreachable_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    with pytest.raises(DataError, match="2 attempts"):
        fetch(f"http://127.0.0.1:1/model.ckpt#sha256={DIGEST}")


@pytest.mark.parametrize("pin", ["", "#sha256=", "#sha256=12ab", f"#md5={DIGEST}"])
def test_a_url_without_a_pinned_hash_is_refused(pin: str) -> None:
    with pytest.raises(ConfigError, match=r"#sha256=<64 hexadecimal digits>.*sha256sum"):
        fetch(f"https://example.org/model.ckpt{pin}")


def _fetch_in_process(source: str, results: "multiprocessing.Queue[bytes]") -> None:
    results.put(fetch(source).read_bytes())


def test_processes_that_want_one_file_share_it(
    url: Callable[[str], str], server: Server, cache: Path
) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_fetch_in_process, args=(url("breaks.ckpt"), results))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=20) for _ in workers] == [CONTENT] * 4
    for worker in workers:
        worker.join()
    # One process downloaded; the others waited and found the file.
    assert server.starts == [0, HALF]
    assert [path.name for path in cache.iterdir()] == [f"{DIGEST}.ckpt"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == Path(os.environ["MIXPRINT_CACHE"])
    monkeypatch.delenv("MIXPRINT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "mixprint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "mixprint"


def test_urls_are_told_from_paths() -> None:
    assert is_url("https://example.org/x")
    assert is_url("HTTP://example.org/x")
    assert not is_url("models/https/x.ckpt")
    assert not is_url(Path("x.ckpt"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.org/m.ckpt?token=secret", "https://a.org/m.ckpt"),
        ("https://user:secret@a.org:8443/m.ckpt", "https://a.org:8443/m.ckpt"),
        ("https://us@er:se/cret@a.org", "https://er:se/cret@a.org"),
        ("https://a.org/m.ckpt#secret", "https://a.org/m.ckpt"),
        ("https://a.org?x=secret#sha256=ab", "https://a.org#sha256=ab"),
        ("HTTP://a.org/x@y/m.ckpt", "HTTP://a.org/x@y/m.ckpt"),
    ],
)
def test_secrets_of_a_url_are_not_shown(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@a.org/m.ckpt",
        "https://secret@a.org/m.ckpt",
        "https://:secret@127.0.0.1:1/m.ckpt",
        "https:///m.ckpt?secret",
        "https://[::1/m.ckpt?secret",
        "https://a.org:port/m.ckpt?secret",
    ],
)
def test_a_url_with_a_password_or_without_a_host_is_refused_before_any_resolver_is_asked(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("socket.getaddrinfo", never)
    with pytest.raises(ConfigError) as caught:
        fetch(f"{url}#sha256={DIGEST}")
    assert "secret" not in str(caught.value)


def test_a_query_is_used_and_neither_logged_nor_told(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for action in ("breaks", "wrong", "absent", "never"):
        with contextlib.suppress(DataError):
            fetch(f"{server.address}/{action}.ckpt?token=secret#sha256={DIGEST}")
    with pytest.raises(DataError) as caught:
        fetch(f"{server.address}/absent.ckpt?token=secret#sha256={DIGEST[::-1]}")
    with pytest.raises(ConfigError) as unpinned:
        fetch(f"{server.address}/absent.ckpt?token=secret")
    assert "secret" not in f"{caplog.text} {caught.value} {unpinned.value}"


def test_parameters_take_no_url_with_a_query() -> None:
    check_url(f"https://a.org/m.ckpt#sha256={DIGEST}", is_recorded=True)
    with pytest.raises(ConfigError, match="without a query") as caught:
        check_url(f"https://a.org/m.ckpt?token=secret#sha256={DIGEST}", is_recorded=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/hostname?secret",
        "ftp://a.org/m.ckpt?secret",
        "data:text/plain,secret",
        "gopher://a.org/secret",
        "http://user:secret@127.0.0.1/m.ckpt",
    ],
)
def test_redirections_elsewhere_are_refused(server: Server, target: str) -> None:
    with pytest.raises(DataError) as caught:
        fetch(f"{server.address}/elsewhere.ckpt?to={target}#sha256={DIGEST}")
    assert "secret" not in str(caught.value)
    assert "redirect" in str(caught.value)


def test_a_redirection_within_the_scheme_is_followed(server: Server) -> None:
    url = f"{server.address}/elsewhere.ckpt?to=/whole.ckpt?token=1#sha256={DIGEST}"
    assert fetch(url).read_bytes() == CONTENT


def test_a_redirection_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://a.org/m.ckpt?secret")
    headers = http.client.HTTPMessage()
    headers["Location"] = "http://a.org/m.ckpt?secret"
    with pytest.raises(DataError, match=r"within https, found one to http$") as caught:
        _SafeRedirects().http_error_302(request, io.BytesIO(), 302, "Found", headers)
    assert "secret" not in str(caught.value)
