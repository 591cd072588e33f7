"""Small songs with true stems for the separator's training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile as sf
import torch

from mixprint.stems import SAMPLE_RATE_HZ, STEMS


@pytest.fixture
def make_songs() -> Callable[..., Path]:
    """Write songs whose stems are noise, each at a level of its own."""

    def make(
        folder: Path, num_songs: int, *, duration_s: float = 0.5, compositions: int | None = None
    ) -> Path:
        for index in range(num_songs):
            song = folder / f"song{index}"
            song.mkdir(parents=True)
            generator = torch.Generator().manual_seed(index)
            for level, stem in enumerate(STEMS, start=1):
                noise_CT = torch.randn(2, round(duration_s * SAMPLE_RATE_HZ), generator=generator)
                audio_TC = (0.02 * level * noise_CT).clamp(-1, 1).T.numpy()
                sf.write(song / f"{stem}.wav", audio_TC, SAMPLE_RATE_HZ)
            if compositions is not None:
                composition = f"composition{index % compositions}"
                (song / "settings.json").write_text(json.dumps({"song": composition}))
        return folder

    return make
