"""Files behind a URL with a pinned SHA-256, kept in a cache on this machine.

    path = fetch("https://example.org/model.ckpt#sha256=<64 hexadecimal digits>")

Browsers keep what follows ``#`` to themselves, so the pin travels with the URL and no server sees
it. The cache is the folder that MIXPRINT_CACHE names, else ``mixprint`` in XDG_CACHE_HOME, else
``~/.cache/mixprint``. A file's name there is its hash: what is in the cache is used without a
network, and one file from two mirrors is stored once.
"""

import fcntl
import http.client
import logging
import os
import re
import string
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import file_sha256
from mixprint.progress import Progress

log = logging.getLogger("mixprint.download")

CACHE_VARIABLE = "MIXPRINT_CACHE"
PIN = "#sha256="
SCHEMES = ("http://", "https://")
PARTIAL_SUFFIX = ".part"
# Many times the largest separator: a server that never ends its answer does not fill the disk.
MAX_BYTES = 16 << 30

ATTEMPTS = 5  # in a row that bring nothing; a slow line that brings something goes on
FIRST_WAIT_S = 1.0  # doubled after each attempt
LONGEST_WAIT_S = 60.0
TIMEOUT_S = 30.0
READ_BYTES = 1 << 18
MEGABYTE = 1_000_000
# Too many requests, a time-out, and what a server says while it is in trouble.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
RANGE_NOT_SATISFIABLE = 416


class _BrokenOffError(Exception):
    """An attempt ended early, and another one may help."""

    def __init__(self, reason: object, wait_s: float = 0.0) -> None:
        super().__init__(str(reason))
        self.wait_s = wait_s


class _TooLargeError(DataError):
    """The file has more bytes than were allowed for."""

    def __init__(self, url: str, max_bytes: int, found: str) -> None:
        super().__init__(
            f"{public_url(url)}: expected a file of at most {max_bytes} bytes, found {found}; it "
            "was removed"
        )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server elsewhere, but never to another scheme, nor back from TLS."""

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> http.client.HTTPResponse | None:
        """See the base; the target is looked at before anything of it is followed or told."""
        target = urljoin(req.full_url, headers.get("location") or headers.get("uri") or "")
        scheme = target.partition(":")[0].lower()
        # An upgrade to TLS is what most servers answer over plain HTTP.
        if scheme not in {req.type, "https"} or f"{scheme}://" not in SCHEMES:
            raise DataError(
                f"{public_url(req.full_url)}: expected a redirection within {req.type}, found one "
                f"to {scheme if scheme.isalnum() else 'another scheme'}"
            )
        try:
            check_url(target)
        except ConfigError as error:
            raise DataError(f"{public_url(req.full_url)}: redirected: {error}") from error
        answer: http.client.HTTPResponse | None = super().http_error_302(
            req, fp, code, msg, headers
        )
        return answer

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def is_url(source: str | Path) -> bool:
    """Tell a URL from a path."""
    return str(source).lower().startswith(SCHEMES)


def public_url(source: str) -> str:
    """Show a URL without what may be secret: user, password, query and fragment, but for the pin.

    Args:
        source: a URL, with or without a pin.
    """
    url, pin, digest = source.partition(PIN)
    scheme, separator, rest = url.partition("://")
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = place.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}{pin}{digest}"


def check_url(source: str, *, is_recorded: bool = False) -> None:
    """Refuse a URL that would send or show what is secret.

    Args:
        source: a URL, with or without a pin.
        is_recorded: it is part of parameters, which are kept in records.

    Raises:
        ConfigError: it holds a user or a password, or has no host; or it is recorded and has a
            query.
    """
    url = source.partition(PIN)[0]
    where = public_url(source)
    parts = _split(url, where)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{where}: expected a URL without user and password, found some before the host"
        )
    if is_recorded and parts.query:
        raise ConfigError(
            f"{where}: expected a URL without a query, for parameters are kept in records, found "
            "one; download the file and name its path"
        )


def _split(url: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ConfigError(
            f"{where}: expected a URL with a host and a port, found others"
        ) from error
    if not has_host:
        raise ConfigError(f"{where}: expected a URL with a host, found none")
    return parts


def cache_dir() -> Path:
    """Name the folder of the cache; it need not exist."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mixprint"


def fetch(source: str, max_bytes: int = MAX_BYTES, folder: Path | None = None) -> Path:
    """Return the path of a file behind a URL, downloaded unless the cache has it.

    A download that broke off is resumed where it stopped, by a later process too. Processes that
    want the same file wait for the one that downloads it.

    Args:
        source: ``https://...#sha256=`` and 64 hexadecimal digits.
        max_bytes: most that is downloaded.
        folder: in place of the cache.

    Returns:
        the file in the cache, with the suffix that it has in the URL.

    Raises:
        ConfigError: there is no pinned hash.
        DataError: the file cannot be had; or its hash is another or it is too large, and then
            nothing of it is kept.
    """
    check_url(source)
    url, expected = _split_pin(source)
    where = public_url(url)
    suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix
    path = (folder or cache_dir()) / f"{expected}{suffix}"
    if _is_intact(path, expected):
        return path
    try:
        with _locked(path.with_name(path.name + PARTIAL_SUFFIX), where) as (file, partial):
            # Another process may have finished it while this one waited.
            if _is_intact(path, expected):
                partial.unlink()
                return path
            try:
                _download(url, file, max_bytes)
            except _TooLargeError:
                partial.unlink()
                raise
            os.fsync(file.fileno())
            found = file_sha256(partial)
            if found != expected:
                partial.unlink()
                raise DataError(
                    f"{where}: expected SHA-256 {expected}, found {found}: the file was removed"
                )
            partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    log.info("downloaded %s to %s", where, path)
    return path


def _split_pin(source: str) -> tuple[str, str]:
    """Take a pinned URL apart."""
    url, _, digest = source.partition(PIN)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        shown = public_url(url)
        raise ConfigError(
            f"{shown}: expected a URL with the file's SHA-256 at its end, like "
            f"{shown}{PIN}<64 hexadecimal digits>, found "
            f"{digest or 'none'}. `sha256sum FILE` gives the hash of a copy that you trust"
        )
    return url, digest.lower()


def _is_intact(path: Path, expected: str) -> bool:
    """Tell whether the cache has the file; a damaged one is as good as none."""
    if not path.is_file():
        return False
    if file_sha256(path) == expected:
        return True
    log.warning("%s: the cached file is damaged; it is downloaded again", path)
    return False


@contextmanager
def _locked(partial: Path, where: str) -> Iterator[tuple[BinaryIO, Path]]:
    """Open the unfinished file for this process alone; the kernel unlocks it if we are killed."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process downloads %s: waiting for it", where)
                fcntl.flock(file, fcntl.LOCK_EX)
            # The one before us may have renamed or removed the file that we have open.
            if not _is_at(file, partial):
                continue
            yield file, partial
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(url: str, file: BinaryIO, max_bytes: int) -> None:
    """Complete a file that is open for appending.

    Raises:
        _TooLargeError: there are more bytes than that.
        DataError: the server refuses, or cannot be reached often enough.
    """
    failures = 0
    wait_s = FIRST_WAIT_S
    while True:
        before = file.tell()
        try:
            _attempt(url, file, max_bytes)
            return
        except _BrokenOffError as error:
            if file.tell() > before:
                failures, wait_s = 0, FIRST_WAIT_S
            else:
                failures += 1
            if failures == ATTEMPTS:
                raise DataError(
                    f"{public_url(url)}: {failures} attempts in a row brought nothing; the last "
                    f"one: {error}"
                ) from error
            pause_s = min(max(wait_s, error.wait_s), LONGEST_WAIT_S)
            log.warning("%s: %s; next attempt in %.0f s", public_url(url), error, pause_s)
            time.sleep(pause_s)
            wait_s *= 2


def _attempt(url: str, file: BinaryIO, max_bytes: int) -> None:
    """Ask for what is missing and append it, or start anew where the server knows no ranges.

    Raises:
        _BrokenOffError: it ended early.
        _TooLargeError: there are more bytes than allowed.
        DataError: the server refuses for good.
    """
    start = file.tell()
    # Ranges and hashes count the bytes of the file, not those of a compressed transfer.
    # A URL as a browser shows it may hold spaces and letters that HTTP cannot carry.
    encoded = quote(url, safe=string.punctuation)
    request = urllib.request.Request(encoded, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        opener = urllib.request.build_opener(_SafeRedirects)
        response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == RANGE_NOT_SATISFIABLE and start:
                # All of it is there already, or more than all: the hash will tell.
                if _total(error.headers.get("Content-Range")) == start:
                    return
                _empty(file)
                raise _BrokenOffError("the server has another file than before") from error
            if error.code in PASSING_STATUS:
                reason = f"the server answers {error.code} {error.reason}"
                raise _BrokenOffError(reason, _retry_after_s(error)) from error
            raise DataError(
                f"{public_url(url)}: expected the file, the server answers {error.code} "
                f"{error.reason}"
            ) from error
    except http.client.InvalidURL as error:
        raise DataError(f"{public_url(url)}: expected a URL that HTTP can carry") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(getattr(error, "reason", error)) from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and _first(response.headers.get("Content-Range")) != start:
            _empty(file)
            raise _BrokenOffError("the server sent another range than it was asked for")
        if start and not resumed:
            log.info("%s: the server cannot resume; starting anew", public_url(url))
            _empty(file)
        _append(url, response, file, max_bytes)


def _append(url: str, response: http.client.HTTPResponse, file: BinaryIO, max_bytes: int) -> None:
    """Append a response's body.

    Raises:
        _BrokenOffError: the connection broke, or the body is shorter than declared.
        _TooLargeError: the file would be larger than allowed.
    """
    length = response.length
    declared = max(file.tell() + (length or 0), _total(response.headers.get("Content-Range")) or 0)
    if declared > max_bytes:
        raise _TooLargeError(url, max_bytes, f"one of {declared}")
    received = 0
    total = (length or 0) // MEGABYTE
    with Progress(log, "downloaded", total=total, unit="MB") as shown:
        while True:
            try:
                # What there is: when a slow line breaks, nothing that came is lost.
                part = response.read1(READ_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOffError(error) from error
            if not part:
                break
            # A server need not declare a length, nor keep to it.
            if file.tell() + len(part) > max_bytes:
                raise _TooLargeError(url, max_bytes, "more")
            file.write(part)
            received += len(part)
            shown.advance(received // MEGABYTE - shown.done)
        file.flush()
    if length is not None and received < length:
        raise _BrokenOffError(f"the connection ended after {received} of {length} bytes")


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _first(content_range: str | None) -> int | None:
    """Read the first byte's number from ``bytes 5-9/10``."""
    match = re.match(r"bytes (\d+)-", content_range or "")
    return int(match[1]) if match else None


def _total(content_range: str | None) -> int | None:
    """Read the file's size from ``bytes */10``."""
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _retry_after_s(error: urllib.error.HTTPError) -> float:
    """Read how long the server asks to wait; 0 where it says nothing or names a date."""
    text = error.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0
