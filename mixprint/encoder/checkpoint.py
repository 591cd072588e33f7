"""Encoders on disk: safetensors weights beside a JSON configuration; never a pickle.

Shape suffixes: B batch, S stem, C channel, T sample, D features, E embedding.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixprint.atomic import atomic_path, read_json, write_json
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.features import FEATURE_NAMES, Standardisation, extract
from mixprint.fingerprint import file_sha256, fingerprint

WEIGHTS_NAME = "weights.safetensors"
CONFIG_NAME = "config.json"
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
    """Write an encoder.

    The configuration is written last and names the hash of the weights, so that a save that was
    killed between the two files is refused at load instead of mixing two encoders.

    Args:
        folder: created if missing; files of an older encoder are replaced.
        model: the network.
        standardisation: of the training split, all 64 features.
        metadata: JSON values that describe how it came to be: metrics, data fingerprint.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in _weights(model).items()}
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(weights, temporary)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": asdict(model.config),
        "standardisation": standardisation.to("cpu").to_values(),
        "weights_sha256": file_sha256(folder / WEIGHTS_NAME),
        "metadata": dict(metadata),
    }
    write_json(folder / CONFIG_NAME, config)


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
    try:
        config = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected the configuration of a {FORMAT}, found another")
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format version {FORMAT_VERSION}, found {config['format_version']!r}"
        )
    keys = {"architecture", "standardisation", "weights_sha256", "metadata"}
    if missing := sorted(keys - config.keys()):
        raise CheckpointError(f"{path}: missing {missing}")
    standardisation = Standardisation.from_values(config["standardisation"], str(path))
    if standardisation.mean_D.shape != (len(FEATURE_NAMES),):
        raise CheckpointError(
            f"{path}: expected a standardisation of {len(FEATURE_NAMES)} features, "
            f"found {len(standardisation.mean_D)}"
        )
    model = MixEncoder(_architecture(config["architecture"], path))
    _load_weights(model, folder / WEIGHTS_NAME, config["weights_sha256"])
    identity = {key: config[key] for key in ("architecture", "standardisation", "weights_sha256")}
    return Encoder(
        model, standardisation, metadata=config["metadata"], fingerprint=fingerprint(identity)
    ).to(device)


def _weights(model: MixEncoder) -> dict[str, Tensor]:
    return dict(model.state_dict())


def _architecture(values: Any, path: Path) -> EncoderConfig:
    """Read the architecture, refusing keys that are missing or unknown by name."""
    names = {f.name for f in fields(EncoderConfig)}
    if not isinstance(values, dict) or values.keys() != names:
        found = sorted(values) if isinstance(values, dict) else values
        raise CheckpointError(f"{path}: architecture: expected {sorted(names)}, found {found}")
    try:
        return EncoderConfig(**{**values, "dropped_families": tuple(values["dropped_families"])})
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: architecture: {error}") from error


def _load_weights(model: MixEncoder, path: Path, expected_sha256: str) -> None:
    """Load the weights, refusing every tensor that does not fit by name."""
    try:
        found_sha256 = file_sha256(path)
        loaded = load_file(path)
    except (DataError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: expected readable weights, found: {error}") from error
    if found_sha256 != expected_sha256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {expected_sha256} as in {CONFIG_NAME}, found {found_sha256}"
        )
    expected = _weights(model)
    problems = [f"missing {name}" for name in sorted(expected.keys() - loaded.keys())]
    problems += [f"unknown {name}" for name in sorted(loaded.keys() - expected.keys())]
    for name in sorted(expected.keys() & loaded.keys()):
        wanted, got = expected[name], loaded[name]
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            problems.append(
                f"{name}: expected {wanted.dtype} {tuple(wanted.shape)}, "
                f"found {got.dtype} {tuple(got.shape)}"
            )
    if problems:
        raise CheckpointError(f"{path}: does not fit the architecture: {'; '.join(problems)}")
    model.load_state_dict(loaded)
