"""Stand-ins for models of the commands."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mixprint.audio.files import stream_audio
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from tests.transfer.test_fit import LevelEncoder as UnstandardisedEncoder


class QuarterSeparator:
    """Stands for a trained separator: every stem is a quarter of the mix."""

    fingerprint = {"model": "quarter", "checkpoint_sha256": "0"}  # noqa: RUF012 (read only)

    sample_rate_hz = SAMPLE_RATE_HZ
    window_s = 4.0
    stems = STEMS
    network = None
    precision = "float32"
    compiled = False

    def separate(self, audio_CT: Tensor, **_: object) -> Tensor:
        return torch.stack([audio_CT / 4] * len(STEMS))

    def stream_file(self, path: Path, **_: object) -> Iterator[tuple[Tensor, Tensor]]:
        for block_CT in stream_audio(path):
            yield block_CT, self.separate(block_CT)


class LevelEncoder(UnstandardisedEncoder):
    """Stands for an encoder with all that belongs to it."""

    standardisation = Standardisation(
        torch.full((len(FEATURE_NAMES),), -20.0), torch.full((len(FEATURE_NAMES),), 5.0)
    )
