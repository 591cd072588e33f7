"""Encoders on disk, in the form of `mixprint.checkpoints.folder`.

Shape suffixes: B batch, S stem, C channel, T sample, D features, E embedding.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mixprint.checkpoints.folder import (
    CONFIG_NAME,
    read_architecture,
    read_config,
    read_weights,
    write_folder,
)
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import CheckpointError
from mixprint.features import FEATURE_NAMES, Standardisation, extract
from mixprint.fingerprint import fingerprint

FORMAT = "mixprint-encoder"
FORMAT_VERSION = 1


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
        model: MixEncoder,
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
        """Embed segments; gradients reach the audio both as spectrogram and as features.

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
        features_BD = extract(stems_BSCT, sample_rate_hz)
        embedding_BE: Tensor = self.model(stems_BSCT, self.standardisation.apply(features_BD))
        return embedding_BE


def save_checkpoint(
    folder: Path, model: MixEncoder, standardisation: Standardisation, metadata: Mapping[str, Any]
) -> None:
    """Write an encoder, see `mixprint.checkpoints.folder`.

    Args:
        folder: created if missing; files of an older encoder are replaced.
        model: the network.
        standardisation: of the training split, all 64 features.
        metadata: JSON values that describe how it came to be: metrics, data fingerprint.
    """
    write_folder(
        folder,
        model.state_dict(),
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
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
    folder = Path(folder)
    path = folder / CONFIG_NAME
    keys = ("architecture", "standardisation", "metadata")
    config = read_config(folder, FORMAT, FORMAT_VERSION, keys)
    standardisation = Standardisation.from_values(config["standardisation"], str(path))
    if standardisation.mean_D.shape != (len(FEATURE_NAMES),):
        raise CheckpointError(
            f"{path}: expected a standardisation of {len(FEATURE_NAMES)} features, "
            f"found {len(standardisation.mean_D)}"
        )
    architecture = read_architecture(EncoderConfig, config["architecture"], folder)
    # An outline on the meta device takes no memory, whatever the architecture asks for.
    with torch.device("meta"):
        outline = MixEncoder(architecture)
    weights = read_weights(folder, outline.state_dict(), config["weights_sha256"])
    model = MixEncoder(architecture)
    model.load_state_dict(weights)
    identity = {key: config[key] for key in ("architecture", "standardisation", "weights_sha256")}
    return Encoder(
        model, standardisation, metadata=config["metadata"], fingerprint=fingerprint(identity)
    ).to(device)
