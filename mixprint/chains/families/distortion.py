"""Distortion.

Shape suffixes: N signal, C channel, T sample.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mixprint.chains.effect import Effect, Parameter

FAMILY = "distortion"


def _tanh(audio_NCT: Tensor, values: Mapping[str, Tensor], sample_rate_hz: int) -> Tensor:
    del sample_rate_hz
    return torch.tanh(audio_NCT * torch.pow(10.0, values["drive_db"] / 20)[:, None, None])


EFFECTS = (Effect("tanh", FAMILY, (Parameter("drive_db", "dB", 0.0, 36.0),), _tanh),)
