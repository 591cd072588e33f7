"""An audio file that is written piece by piece, in any of the formats that stems can have.

Shape suffixes: C channel, T sample.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import soundfile as sf
from torch import Tensor

from mixprint.errors import DataError, error_text
from mixprint.stems import NUM_CHANNELS
from mixprint.text import shown

CONTAINERS = ("wav", "flac")
FLOAT = "float32"
BIT_DEPTHS = ("16", "24", FLOAT)

# RIFF counts bytes in 32 bits; what is left of them is room for the headers.
MAX_WAV_BYTES = (1 << 32) - (1 << 20)
SPOOL_SAMPLES = 1 << 18


class StereoFile:
    """One stereo file; a context that closes it.

    Integer formats need the song's gain before the first sample can be rounded, so their samples
    wait as float32 in a file without a name, which the kernel frees even if we are killed.
    """

    def __init__(
        self, path: Path, *, bit_depth: str, sample_rate_hz: int, num_declared: int
    ) -> None:
        """Open the file.

        Args:
            path: its name; the suffix is one of `CONTAINERS`.
            bit_depth: one of `BIT_DEPTHS`; `float32` in WAV only.
            sample_rate_hz: of the audio.
            num_declared: how many samples will come, at most: a WAV of 4 GiB needs other headers.

        Raises:
            DataError: it cannot be written.
        """
        self.path = path
        self._bits = None if bit_depth == FLOAT else int(bit_depth)
        num_bytes = num_declared * NUM_CHANNELS * (self._bits or 32) // 8
        container = path.suffix.removeprefix(".").upper()
        if container == "WAV" and num_bytes > MAX_WAV_BYTES:
            container = "RF64"
        self._spool: BinaryIO | None = None
        self._stack = ExitStack()
        if self._bits is not None:
            spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (the stack closes it)
            self._spool = self._stack.enter_context(spool)
        with self._clear_errors():
            self._file = self._stack.enter_context(
                sf.SoundFile(
                    # As bytes: soundfile encodes text strictly, and a name may be no valid UTF-8.
                    os.fsencode(path),
                    "w",
                    samplerate=sample_rate_hz,
                    channels=NUM_CHANNELS,
                    format=container,
                    subtype="FLOAT" if self._bits is None else f"PCM_{self._bits}",
                )
            )

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        with self._clear_errors():
            self._stack.close()

    def add(self, audio_CT: Tensor) -> None:
        """Take the next samples.

        Raises:
            DataError: they cannot be written.
        """
        audio_TC = np.ascontiguousarray(audio_CT.numpy().T, np.float32)
        if self._spool is not None:
            self._spool.write(audio_TC.data)
            return
        with self._clear_errors():
            self._file.write(audio_TC)

    def finish(self, gain: float) -> None:
        """Write what waits, with a gain.

        Args:
            gain: see `common_gain`; a float file has its samples already and is left as it is.

        Raises:
            DataError: they cannot be written.
        """
        if self._spool is None or self._bits is None:
            return
        self._spool.seek(0)
        scale = 2.0 ** (self._bits - 1)
        # libsndfile takes the upper bits of an int32.
        kind, shift = ("int16", 0) if self._bits == 16 else ("int32", 32 - self._bits)
        while part := self._spool.read(SPOOL_SAMPLES * NUM_CHANNELS * 4):
            audio_TC = np.frombuffer(part, np.float32).reshape(-1, NUM_CHANNELS).astype(np.float64)
            # Rounded here: libsndfile cuts off, and its WAV and FLAC do not do so alike.
            pcm_TC = np.rint(audio_TC * (gain * scale)).clip(-scale, scale - 1) * 2.0**shift
            with self._clear_errors():
                self._file.write(pcm_TC.astype(kind))

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sf.SoundFileError as error:
            raise DataError(
                f"{shown(self.path.parent.parent)}: cannot write {self.path.name}: "
                f"{error_text(error)} (is the disk full?)"
            ) from error


def common_gain(bit_depth: str, peaks: Iterator[float]) -> float:
    """Choose the gain of a song's files: 1, or what brings the highest peak to full scale.

    Args:
        bit_depth: one of `BIT_DEPTHS`.
        peaks: the largest sample of each file, whatever its sign.
    """
    if bit_depth == FLOAT:
        return 1.0
    highest = 1 - 2.0 ** (1 - int(bit_depth))
    peak = max(peaks)
    return highest / peak if peak > highest else 1.0
