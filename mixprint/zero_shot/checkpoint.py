"""A trained zero-shot network on disk and in use.

Shape suffixes: B batch, S stem, C channel, T sample, E embedding.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.checkpoints.form import CheckpointFiles, Form
from mixprint.errors import CheckpointError
from mixprint.schema import WithOthers
from mixprint.stems import NUM_CHANNELS, NUM_STEMS
from mixprint.zero_shot.model import Conditioning, ZeroShotNetwork
from mixprint.zero_shot.settings import ZeroShotConfig

FORM = Form("mixprint-zero-shot")
SHIPPED_ZERO_SHOT = Path(__file__).parents[1] / "weights" / "zero_shot"


class ZeroShotModel:
    """A trained network with what it needs to be used.

    Attributes:
        network: in evaluation mode, its weights frozen.
        encoder_fingerprint: of the encoder whose embeddings it reads.
        metadata: how it came to be: metrics, fingerprint of the training data.
        fingerprint: SHA-256 over weights and configuration.
    """

    def __init__(
        self,
        network: ZeroShotNetwork,
        *,
        encoder_fingerprint: str,
        metadata: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.encoder_fingerprint = encoder_fingerprint
        self.metadata = dict(metadata)
        self.fingerprint = fingerprint

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.network.to(device)
        return self

    def check_encoder(self, fingerprint: str) -> None:
        """Refuse embeddings of another encoder.

        Raises:
            CheckpointError: the encoder is not the one that it was trained with.
        """
        if fingerprint != self.encoder_fingerprint:
            raise CheckpointError(
                "zero-shot: expected embeddings of the encoder "
                f"{self.encoder_fingerprint}, found those of {fingerprint}; train it with "
                "`python -m components.train --task zero-shot`, or use the encoder that it knows"
            )

    @torch.no_grad()
    def effect(self, input_embedding_E: Tensor, target_embedding_E: Tensor) -> "ZeroShotEffect":
        """Prepare the transfer from one style to another.

        Args:
            input_embedding_E: of the song that is changed; means of several segments are
                normalised here.
            target_embedding_E: of the song whose mix it gets.

        Raises:
            ValueError: the shapes do not fit.
        """
        shape = (self.network.config.embedding_dim,)
        if input_embedding_E.shape != shape or target_embedding_E.shape != shape:
            raise ValueError(
                f"expected embeddings of shape {shape}, got {tuple(input_embedding_E.shape)} and "
                f"{tuple(target_embedding_E.shape)}"
            )
        device = self.network.window_T.device
        input_1E, target_1E = (
            functional.normalize(e.to(device, torch.float32), dim=-1).unsqueeze(0)
            for e in (input_embedding_E, target_embedding_E)
        )
        return ZeroShotEffect(self.network, self.network.condition(input_1E, target_1E))


class ZeroShotEffect:
    """Effect of the network for one pair of styles.

    Attributes:
        context_samples: an output sample depends on input at most this far away, either side.
        hop_samples: windows of a song must start at multiples of this.
    """

    def __init__(self, network: ZeroShotNetwork, conditioning: Conditioning) -> None:
        """Keep the network with what the embeddings decide."""
        self._network, self._conditioning = network, conditioning
        self.context_samples = network.config.context_samples
        self.hop_samples = network.config.hop_samples

    @torch.no_grad()
    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """Process stems.

        Args:
            stems_SCT: of any length, on the network's device.
            amount_S: per stem; 0 gives the input to the bit.

        Raises:
            ValueError: the shapes do not fit.
        """
        expected = (NUM_STEMS, NUM_CHANNELS)
        if stems_SCT.ndim != 3 or stems_SCT.shape[:2] != expected:
            raise ValueError(f"stems_SCT must be {(*expected, 'T')}, got {tuple(stems_SCT.shape)}")
        if amount_S.shape != (NUM_STEMS,):
            raise ValueError(f"amount_S must be ({NUM_STEMS},), got {tuple(amount_S.shape)}")
        out_BSCT: Tensor = self._network(
            stems_SCT.unsqueeze(0), self._conditioning, amount_S.to(stems_SCT).unsqueeze(0)
        )
        return out_BSCT.squeeze(0)

    def to(self, device: torch.device | str) -> Self:
        """Move it, and with it the model that it came from."""
        self._network.to(device)
        self._conditioning = self._conditioning.to(device)
        return self


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """The part of a network's description that is read."""

    architecture: ZeroShotConfig
    encoder: str
    metadata: Mapping[str, Any]


def save_zero_shot(
    folder: Path,
    network: ZeroShotNetwork,
    encoder_fingerprint: str,
    metadata: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write a network, see `mixprint.checkpoints.form`.

    Args:
        folder: created if missing; files of an older one are replaced.
        network: what is saved.
        encoder_fingerprint: of the encoder whose embeddings it reads.
        metadata: JSON values that describe how it came to be.
        half: store 16-bit numbers, half the size; it computes in 32 bits all the same.
    """
    FORM.write(
        CheckpointFiles.in_folder(folder),
        network.state_dict(),
        {
            "architecture": asdict(network.config),
            "encoder": encoder_fingerprint,
            "metadata": dict(metadata),
        },
        dtype=torch.float16 if half else torch.float32,
    )


def load_zero_shot(
    folder: Path = SHIPPED_ZERO_SHOT, device: torch.device | str = "cpu"
) -> ZeroShotModel:
    """Read a network.

    Args:
        folder: as written by `save_zero_shot`; the shipped one by default.
        device: where it shall compute.

    Raises:
        CheckpointError: a file is missing, broken, of another format, or does not fit the
            architecture.
    """
    checkpoint = FORM.read(CheckpointFiles.in_folder(Path(folder)))
    known = checkpoint.described(_Description)
    return ZeroShotModel(
        checkpoint.restored(lambda: ZeroShotNetwork(known.architecture)),
        encoder_fingerprint=known.encoder,
        metadata=known.metadata,
        fingerprint=checkpoint.fingerprint("architecture", "encoder"),
    ).to(device)
