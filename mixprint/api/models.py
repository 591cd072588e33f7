"""Models by name, or those that mixprint ships, for the command line and for programs."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from mixprint.checkpoints.registry import fetch_checkpoint, is_registered
from mixprint.controller.checkpoint import Controller
from mixprint.controller.shipped import load_named
from mixprint.encoder.checkpoint import Encoder, load_checkpoint
from mixprint.errors import CheckpointError, ConfigError
from mixprint.features import Standardisation
from mixprint.separation import load_separator
from mixprint.separation.source import of_four_stems
from mixprint.storage.outputs import temporary_folder
from mixprint.transfer.jobs import Models
from mixprint.transfer.methods.registry import load_models_of
from mixprint.transfer.settings import Hyperparameters
from mixprint.weights import SHIPPED_ENCODER, SHIPPED_STANDARDISATION

log = logging.getLogger("mixprint")


def load_models(
    device: torch.device,
    settings: Sequence[Hyperparameters],
    *,
    encoder: str | Path = "",
    zero_shot: Path | None = None,
    controller: Path | None = None,
    separator: str | Path = "default",
    separator_config: str | Path | None = None,
) -> Models:
    """Load what transfers of these settings are made with.

    Args:
        device: where all is computed.
        settings: of the transfers.
        encoder: see `load_encoder`.
        zero_shot: folder of a zero-shot model; the shipped one when None.
        controller: folder of a controller; the shipped one when None.
        separator: see `mixprint.separation.load_separator`.
        separator_config: see there.

    Raises:
        CheckpointError, DataError: a model is missing, broken or of another kind.
        ConfigError: the settings need an encoder, and there is none.
    """
    loaded = load_encoder(encoder, device)
    if loaded is None and any(each.embeds for each in settings):
        raise ConfigError(
            "embeddings and zero-shot: expected --mixing_checkpoint with an encoder, got none "
            f"(and mixprint ships none in {SHIPPED_ENCODER.name})"
        )
    return Models(
        standardisation=standardisation_of(loaded),
        encoder=loaded,
        separator=of_four_stems(load_separator(separator, separator_config, device)),
        of_methods=load_models_of(
            (each.method for each in settings),
            {"zero_shot": zero_shot, "controller": controller},
            device,
        ),
        device=device,
    )


def load_encoder(checkpoint: str | Path, device: torch.device) -> Encoder | None:
    """Load an encoder.

    Args:
        checkpoint: its folder, or a name such as `models:/name@champion`; empty for the shipped
            one.
        device: where it computes.

    Returns:
        the encoder; None if none is named and none is shipped.

    Raises:
        CheckpointError: see `load_checkpoint`.
        ConfigError: see `fetch_checkpoint`.
    """
    if is_registered(str(checkpoint)):
        with temporary_folder() as folder:
            return load_checkpoint(fetch_checkpoint(str(checkpoint), folder), device)
    if str(checkpoint):
        return load_checkpoint(Path(checkpoint), device)
    return load_checkpoint(SHIPPED_ENCODER, device) if SHIPPED_ENCODER.is_dir() else None


def controller_of(
    controller: Controller | str | os.PathLike[str] | None, device: torch.device
) -> Controller:
    """Return a controller that is given, load one that is named, or the shipped one.

    Raises:
        CheckpointError: see `mixprint.controller.shipped.load_named`.
    """
    if isinstance(controller, Controller):
        return controller
    return load_named(None if controller is None else Path(controller), device)


def fitting(controller: Controller, encoder: Encoder | None, *, is_named: bool) -> Encoder | None:
    """Return an encoder if a controller reads its embeddings.

    Args:
        controller: the controller.
        encoder: what was loaded; None: none.
        is_named: a person has asked for this encoder.

    Returns:
        None where the controller reads no embeddings, or those of another encoder: then it goes by
        the rest of what is known of a reference, and a warning says so.

    Raises:
        CheckpointError: an encoder that is named is another.
    """
    if not controller.encoder_fingerprint or encoder is None:
        return None
    if encoder.fingerprint == controller.encoder_fingerprint:
        return encoder
    if is_named:
        controller.check_encoder(encoder.fingerprint)
    log.warning(
        "controller: expected embeddings of the encoder %s, found those of %s; the reference is "
        "not embedded, which may make the settings worse",
        controller.encoder_fingerprint,
        encoder.fingerprint,
    )
    return None


def standardisation_of(encoder: Encoder | None) -> Standardisation:
    """Return the standardisation of an encoder; the shipped one without an encoder.

    Raises:
        CheckpointError: there is none.
    """
    if encoder is not None:
        return encoder.standardisation
    if not SHIPPED_STANDARDISATION.is_file():
        raise CheckpointError(
            f"{SHIPPED_STANDARDISATION}: expected the shipped standardisation, found none; "
            "give an encoder by --mixing_checkpoint"
        )
    return Standardisation.load(SHIPPED_STANDARDISATION)
