"""Networks that separate: what every kind of them offers, and their form on disk.

Shape suffixes: B window of a batch, S stem, C channel, T sample.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mixprint.checkpoints.form import Form

# The first separators were all of one kind, and their descriptions name neither it nor the format.
FORM = Form(
    "mixprint-separator",
    unstated={"format": "mixprint-separator", "format_version": 1, "kind": "scnet"},
)

_WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
DEFAULT_WEIGHTS = _WEIGHTS / "separator.safetensors"
DIFFUSION_WEIGHTS = _WEIGHTS / "diffusion.safetensors"

# audio_BCT and starts_B to stems_BSCT; see `Network.__call__`.
Windows = Callable[[Tensor, Tensor], Tensor]


class Network(Protocol):
    """A trained network, as `mixprint.separation.separator.Separator` runs it."""

    @property
    def stems(self) -> Sequence[str]:
        """Names of the outputs in their order."""

    @property
    def sample_rate_hz(self) -> int:
        """Rate that it was trained at."""

    @property
    def window_s(self) -> float:
        """Window that suits it, usually that of its training."""

    @property
    def normalised(self) -> bool:
        """Trained on songs of level 1 (see `song_level`), and to be shown such."""

    @property
    def device(self) -> torch.device:
        """Place of its weights."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """`model`, `checkpoint_sha256`, and `config_sha256` of all else that its stems follow from.

        How it is run (precision, a window of the caller's, overlap) belongs to whatever it is run
        for.
        """

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        """Separate windows of one length.

        Args:
            audio_BCT: float32, on its device.
            starts_B: integers, on the CPU: the first sample of each window in its song, of which a
                network that draws at random makes its choice there.

        Returns:
            stems_BSCT, float32, on its device.
        """

    def compiled(self) -> Windows:
        """Return its call through `torch.compile`, on a GPU as a CUDA graph, in memory of its own.

        Raises:
            ConfigError: torch cannot compile.
        """

    def to(self, device: torch.device) -> object:
        """Move its weights."""
