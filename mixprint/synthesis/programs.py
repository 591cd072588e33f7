"""Audio that another program writes."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import soundfile as sf

from mixprint.errors import DataError
from mixprint.synthesis.exact import Signal


def written_audio(command: Sequence[str], path: Path) -> tuple[Signal, int]:
    """Run a program and read the file that it writes.

    Args:
        command: program and arguments.
        path: the file.

    Returns:
        audio_TC and its sampling rate in Hz.

    Raises:
        DataError: the program failed; the message names it.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not path.is_file():
        what = " ".join(command[:3])  # the program, and the voice of those that speak
        raise DataError(f"{what}: ended with exit code {done.returncode}: {done.stderr}")
    audio_TC, rate_hz = sf.read(path, dtype="float64", always_2d=True)
    return audio_TC, rate_hz
