"""Decoders other than ours, to compare with."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


def by_ffmpeg(path: Path) -> Tensor:
    """Decode a stereo file with ffmpeg; where there is none, the rest of the test is skipped."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("compares with ffmpeg, which is not installed")
    command = ["ffmpeg", "-v", "error", "-i", path, "-map", "0:a", "-f", "f32le", "-"]
    decoded = subprocess.run(command, check=True, capture_output=True).stdout
    return torch.from_numpy(np.frombuffer(decoded, "<f4").reshape(-1, 2).T.copy())
