"""Encoders on disk, in the form of `mixprint.checkpoints.form`.

Shape suffixes: B batch, S stem, C channel, T sample, D features, E embedding.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mixprint.checkpoints.form import CheckpointFiles, Form
from mixprint.encoder.building import AnyEncoder, build_encoder
from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import CheckpointError
from mixprint.features import FEATURE_NAMES, Standardisation, extract
from mixprint.schema import WithOthers

FORM = Form("mixprint-encoder")


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """The part of an encoder's description that is read."""

    architecture: EncoderConfig
    standardisation: Any
    metadata: Mapping[str, Any]


class Encoder:
    """A trained encoder with all that it needs to embed audio.

    Attributes:
        model: the network, in evaluation mode, its weights frozen.
        standardisation: mean and deviation of the features it was trained with.
        metadata: what `save_checkpoint` was given: metrics, data fingerprint and so on.
        fingerprint: SHA-256 over weights and configuration; equal encoders have equal ones.
    """

    def __init__(
        self,
        model: AnyEncoder,
        standardisation: Standardisation,
        *,
        metadata: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.standardisation = standardisation
        self.metadata = dict(metadata)
        self.fingerprint = fingerprint

    def to(self, device: torch.device | str) -> Self:
        """Move the encoder."""
        self.model.to(device)
        self.standardisation = self.standardisation.to(device)
        return self

    def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        """Embed segments; gradients reach the audio.

        Args:
            stems_BSCT: stems in the order of `mixprint.stems.STEMS`, stereo, full scale at +-1,
                at least 3 s long, on the encoder's device.
            sample_rate_hz: rate of the audio.

        Returns:
            embedding_BE on the unit sphere.

        Raises:
            ValueError: the rate is not the encoder's, or the shape does not fit.
        """
        expected_hz = self.model.config.sample_rate_hz
        if sample_rate_hz != expected_hz:
            raise ValueError(f"the encoder hears {expected_hz} Hz, got {sample_rate_hz} Hz")
        embedding_BE: Tensor
        if isinstance(self.model, DescriptorEncoder):
            embedding_BE = self.model(stems_BSCT)
            return embedding_BE
        features_BD = extract(stems_BSCT, sample_rate_hz)
        embedding_BE = self.model(stems_BSCT, self.standardisation.apply(features_BD))
        return embedding_BE


def save_checkpoint(
    folder: Path, model: AnyEncoder, standardisation: Standardisation, metadata: Mapping[str, Any]
) -> None:
    """Write an encoder, see `mixprint.checkpoints.form`.

    Args:
        folder: created if missing; files of an older encoder are replaced.
        model: the network.
        standardisation: of the training split, all 64 features.
        metadata: JSON values that describe how it came to be: metrics, data fingerprint.
    """
    FORM.write(
        CheckpointFiles.in_folder(folder),
        model.state_dict(),
        {
            "architecture": asdict(model.config),
            "standardisation": standardisation.to("cpu").to_values(),
            "metadata": dict(metadata),
        },
    )


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Encoder:
    """Read an encoder.

    Args:
        folder: as written by `save_checkpoint`.
        device: where it shall compute.

    Raises:
        CheckpointError: a file is missing, broken, of another format or feature schema, or does
            not fit the architecture; the message names file, expected and found.
    """
    files = CheckpointFiles.in_folder(Path(folder))
    checkpoint = FORM.read(files)
    known = checkpoint.described(_Description)
    standardisation = Standardisation.from_values(known.standardisation, str(files.description))
    if standardisation.mean_D.shape != (len(FEATURE_NAMES),):
        raise CheckpointError(
            f"{files.description}: expected a standardisation of {len(FEATURE_NAMES)} features, "
            f"found {len(standardisation.mean_D)}"
        )
    return Encoder(
        checkpoint.restored(lambda: build_encoder(known.architecture)),
        standardisation,
        metadata=known.metadata,
        fingerprint=checkpoint.fingerprint("architecture", "standardisation"),
    ).to(device)
