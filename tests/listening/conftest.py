"""Folders of transferred pairs, with tones in place of songs."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import write_audio
from mixprint.storage.atomic import write_json

RATE_HZ = 44_100
WriteResult = Callable[..., Path]


def tone(frequency_hz: float, level: float = 0.1, duration_s: float = 1.0) -> Tensor:
    time_T = torch.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (level * torch.sin(2 * math.pi * frequency_hz * time_T)).expand(2, -1)


@pytest.fixture
def write_result() -> WriteResult:
    """Write a pair's folder: input and target depend on `pair`, the output on `method` too."""

    def write(
        folder: Path, *, pair: int = 1, method: str = "optimise", truth: bool = False
    ) -> Path:
        sounds = {
            "input_original": tone(300 + 50 * pair, 0.4),
            "target_original": tone(900 + 50 * pair, duration_s=0.8),
            "output_transferred": tone(500 + 50 * pair + 20 * len(method), 0.2),
        }
        if truth:
            sounds["truth"] = tone(700 + 50 * pair) + tone(8000, 0.05)
        for name, audio_CT in sounds.items():
            write_audio(folder / f"{name}.wav", audio_CT, RATE_HZ, subtype="PCM_24")
        metrics = {
            "input_title": f"in{pair}",
            "targets": [{"title": f"to{pair}"}],
            "method": method,
            "optimize_target": "features",
            "hyperparameters": {"segment_offset": 0.0, "segment_duration": 10.0},
        }
        write_json(folder / "metrics.json", metrics)
        return folder

    return write
