"""Fixtures that several test modules share; all audio here is generated and seconds long."""

import gc
import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor

from tests.bucket import Bucket, serving
from tests.transfer.trials import reports_cut_short

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE_RATE_HZ = 44_100

torch.set_num_threads(1)
# The server from which ranks are forked imports torch once: spawned processes would each take
# seconds for it, and forks of the test process itself break where autograd has threads (CUDA).
# It must know before the first test that starts it, whichever that is.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["tests.training.cases", "torch._dynamo", "torch.utils.tensorboard"]
)
# Modules and tests live until the end: searching them for garbage again and again would cost a
# twentieth of the time.
gc.disable()


def pytest_collection_finish() -> None:
    """Search what is allocated from now on, and seldom."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Start with one thread: steps choose for themselves, and more threads change the last bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Steps and commands set up logging as in a program: their handler would outlive its stream."""
    root = logging.getLogger("mixprint")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture
def short_reports() -> Iterator[None]:
    """Have transfers of this process write hardly anything for a page."""
    with reports_cut_short():
        yield


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket that Google's client finds as gs://bucket, and a scratch folder of its own."""
    made = Bucket()
    with serving(made) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        monkeypatch.setenv("MIXPRINT_SCRATCH", str(tmp_path / "scratch"))
        yield made


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real recordings and reference vectors, which is no part of the project."""
    named = os.environ.get("MIXPRINT_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared material: set MIXPRINT_SHARED (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def make_stems() -> Callable[..., Tensor]:
    """Make stems_SCT: filtered noise that swells, a different level per stem."""

    def make(duration_s: float = 3.0, *, seed: int = 0, gain: float = 1.0) -> Tensor:
        num_samples = round(duration_s * SAMPLE_RATE_HZ)
        generator = torch.Generator().manual_seed(seed)
        noise_SCT = torch.randn(4, 2, num_samples, generator=generator)
        smooth_SCT = 0.7 * noise_SCT.roll(1, -1) + 0.3 * noise_SCT
        time_T = torch.arange(num_samples) / SAMPLE_RATE_HZ
        swell_T = 0.6 + 0.4 * torch.sin(2 * torch.pi * (1.5 + 0.3 * seed) * time_T)
        levels_S = torch.tensor([0.1, 0.05, 0.08, 0.03]).view(-1, 1, 1)
        return gain * levels_S * swell_T * smooth_SCT

    return make


@pytest.fixture(scope="session")
def make_audio() -> Callable[..., Tensor]:
    """Make stereo audio_CT that no rule rejects: two detuned tones and a little noise."""

    def make(
        duration_s: float = 2.0, *, seed: int = 0, sample_rate_hz: int = SAMPLE_RATE_HZ
    ) -> Tensor:
        num_samples = round(duration_s * sample_rate_hz)
        time_T = torch.arange(num_samples) / sample_rate_hz
        noise_CT = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(seed))
        tones_CT = torch.stack(
            [torch.sin(2 * math.pi * (220 + 10 * seed + 3 * side) * time_T) for side in (0, 1)]
        )
        return 0.2 * tones_CT + 0.02 * noise_CT

    return make


@pytest.fixture(scope="session")
def write_song(make_audio: Callable[..., Tensor]) -> Callable[..., Path]:
    """Write a generated song in 16 bits; the folder is created, the format follows the suffix."""

    def write(
        path: Path,
        duration_s: float = 2.0,
        *,
        seed: int = 0,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        audio_CT: Tensor | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if audio_CT is None:
            audio_CT = make_audio(duration_s, seed=seed, sample_rate_hz=sample_rate_hz)
        container = path.suffix.removeprefix(".").upper()
        # Rounded here: libsndfile's encoders round differently, and WAV and FLAC should agree.
        pcm_TC = (audio_CT * 32_767).round().clamp(-32_768, 32_767).to(torch.int16).numpy().T
        with path.open("wb") as file:
            sf.write(file, pcm_TC, sample_rate_hz, format=container)
        return path

    return write
