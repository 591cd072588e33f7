"""`make dvc-remote`, `dvc-push` and `dvc-pull`, in clones of a small repository."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "mixprint-test"
TINY = ("data/song.wav", "results/features/features.parquet", "results/encoder/weights")
LARGE = "collection/song.wav"
# Two stages of one output each, as the real ones have them.
STAGES = """
stages:
  features:
    cmd: mkdir -p results/features && cp data/song.wav results/features/features.parquet
    deps: [data]
    outs: [results/features]
  train:
    cmd: mkdir -p results/encoder && echo encoder > results/encoder/weights
    deps: [results/features]
    outs: [results/encoder]
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a run of the stages, and a collection of its owner's beside it."""
    folder = tmp_path_factory.mktemp("origin")
    shutil.copy(REPOSITORY / "Makefile", folder)
    shutil.copytree(REPOSITORY / ".dvc", folder / ".dvc", ignore=_only_config)
    (folder / "dvc.yaml").write_text(STAGES)
    for path in (TINY[0], LARGE):
        (folder / path).parent.mkdir()
        (folder / path).write_text(path)
    (folder / ".gitignore").write_text("/data\n/collection\n/results\n.venv\n")
    git(folder, "init", "--quiet")
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    dvc(folder, "add", "--quiet", "data", "collection")
    dvc(folder, "repro", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def _only_config(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name not in {"config", ".gitignore"}]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    port = server._api._httpd.server_address[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # The emulator does not know the call by which gcsfs asks what kind of bucket it is.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    yield
    server.stop()


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return _output(["git", "-C", str(folder), *identity, *arguments], folder)


def dvc(folder: Path, *arguments: str) -> str:
    return _output([".venv/bin/dvc", *arguments], folder)


def make(folder: Path, *arguments: str) -> str:
    """Call the Makefile; what it would install is there."""
    installed = "--old-file=.venv/.installed-dev"
    return _output(["make", "--silent", installed, *arguments], folder)


def _output(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clone(origin: Path, folder: Path) -> Path:
    """Clone a repository as a laptop does: what DVC tracks is not in it."""
    git(origin, "clone", "--quiet", str(origin), str(folder))
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    return folder


def files_in_cache(folder: Path) -> set[str]:
    """What the clone has fetched; a directory of files is a list of them and the files."""
    paths = (folder / ".dvc" / "cache").rglob("*")
    return {path.read_text() for path in paths if path.is_file() and path.suffix != ".dir"}


def test_a_folder_as_remote(origin: Path, tmp_path: Path) -> None:
    store = tmp_path / "store with a space"
    make(origin, "dvc-remote", f"URL={store}")
    assert git(origin, "status", "--porcelain") == "", "an address is nobody else's business"
    make(origin, "dvc-push")
    laptop = clone(origin, tmp_path / "laptop")
    make(laptop, "dvc-remote", f"URL={store}")
    make(laptop, "dvc-pull", "STAGES=train")
    assert files_in_cache(laptop) == {"encoder\n"}
    make(laptop, "dvc-pull")
    for path in TINY:
        assert (laptop / path).read_text() == (origin / path).read_text()
    assert files_in_cache(laptop) == {TINY[0], "encoder\n"}, "the collection stays where it is"
    assert not (laptop / LARGE).exists()


@pytest.mark.usefixtures("emulator")
def test_a_bucket_as_remote(origin: Path, tmp_path: Path) -> None:
    url = f"gs://{BUCKET}/store"
    make(origin, "dvc-remote", f"URL={url}")
    make(origin, "dvc-push")
    client = Client(project="test", credentials=AnonymousCredentials())
    assert len(list(client.list_blobs(BUCKET, prefix="store/files/md5/"))) == 7
    laptop = clone(origin, tmp_path / "laptop")
    make(laptop, "dvc-remote", f"URL={url}")
    make(laptop, "dvc-pull")
    for path in TINY:
        assert (laptop / path).read_text() == (origin / path).read_text()
    assert not (laptop / LARGE).exists()


def test_a_remote_needs_an_address(origin: Path) -> None:
    done = subprocess.run(
        ["make", "--old-file=.venv/.installed-dev", "dvc-remote"],
        cwd=origin,
        capture_output=True,
        text=True,
        env={**os.environ, "URL": ""},
        check=False,
    )
    assert done.returncode == 2
    assert "usage: make dvc-remote URL=/mnt/store" in done.stderr
