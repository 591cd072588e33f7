"""Diffusion separators on disk, in the form of `mixprint.checkpoints.form`.

The description holds the configuration, the sampling that suits it, sampling rate, window, what is
known of the training, and which SCNet is the prior: by its hash, for it is a file of its own,
beside the checkpoint or shipped with mixprint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mixprint.checkpoints.form import WEIGHTS_SUFFIX, Checkpoint, CheckpointFiles
from mixprint.errors import CheckpointError, ConfigError
from mixprint.schema import Sha256, WithOthers, shortened
from mixprint.separation.diffusion.model import Denoiser
from mixprint.separation.diffusion.separator import DiffusionSeparator, NumStems
from mixprint.separation.diffusion.settings import DiffusionConfig, SamplingSettings
from mixprint.separation.network import DEFAULT_WEIGHTS, FORM
from mixprint.separation.scnet import checkpoint as scnet
from mixprint.separation.scnet.network import TrainedSCNet

KIND = "diffusion"
# Rounded as the other weights are, these would bend what is subtracted.
EXACT = ("compression.scales_F",)


def export_diffusion(
    separator: DiffusionSeparator,
    folder: str | Path,
    *,
    name: str = "diffusion",
    dtype: torch.dtype = torch.float16,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write a diffusion separator.

    Args:
        separator: its prior, if it has one, is a checkpoint of its own already.
        folder: where `<name>.safetensors` and `<name>.json` go.
        name: file name without suffix; also the model's name in fingerprints.
        dtype: how the weights are stored, but for the scales of the spectra; they are widened to
            float32 when loaded.
        training: what is known of the training; anything JSON can hold.

    Returns:
        path of the weights.

    Raises:
        CheckpointError: a weight is not finite in this storage type, or the prior comes from no
            checkpoint.
    """
    files = CheckpointFiles.named(Path(folder), name)
    weights = {
        key: value if key in EXACT else value.to(dtype)
        for key, value in separator.denoiser.state_dict().items()
    }
    description = {
        "kind": KIND,
        "name": name,
        "config": separator.denoiser.config.to_values(),
        "sampling": separator.sampling.to_values(),
        "num_stems": separator.num_stems,
        "prior": _described_prior(separator.prior, files.weights),
        "sample_rate_hz": separator.sample_rate_hz,
        "window_s": separator.window_s,
        "training": dict(training or {}),
    }
    FORM.write(files, weights, description)
    return files.weights


@dataclass(frozen=True, kw_only=True)
class _Prior:
    """The SCNet that is the prior."""

    model: str
    checkpoint_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """The part of a description that is read."""

    name: str
    config: DiffusionConfig
    sampling: SamplingSettings
    num_stems: NumStems
    prior: _Prior | None
    sample_rate_hz: int
    window_s: scnet.WindowSeconds


def load_own(checkpoint: Checkpoint) -> DiffusionSeparator:
    """Load what `export_diffusion` wrote.

    Raises:
        CheckpointError: the description is not one of a diffusion separator, the tensors do not
            fit it or cannot be, or its prior is not there.
    """
    known = checkpoint.described(_Description)
    files = checkpoint.files
    scnet.check_rate(known.sample_rate_hz, files.description)
    blocks, widest = known.config.blocks, known.config.widest
    scnet.check_memory(blocks, widest, known.window_s, files.weights)
    denoiser = checkpoint.restored(lambda: Denoiser(known.config))
    if not (denoiser.compression.scales_F > 0).all():
        raise CheckpointError(f"{files.weights}: compression.scales_F: expected values above 0")
    prior = None if known.prior is None else _load_prior(known.prior, files)
    try:
        return DiffusionSeparator(
            denoiser,
            window_s=known.window_s,
            sampling=known.sampling,
            prior=prior,
            num_stems=known.num_stems,
            weights={"model": known.name, "checkpoint_sha256": checkpoint.weights_sha256},
        )
    except ConfigError as error:
        raise CheckpointError(f"{files.description}: {error}") from error


def _described_prior(prior: TrainedSCNet | None, path: Path) -> dict[str, str] | None:
    if prior is None:
        return None
    known = prior.fingerprint
    if not {"model", "checkpoint_sha256"} <= known.keys():
        raise CheckpointError(f"{path}: expected a prior from a checkpoint, found one from none")
    return {key: known[key] for key in ("model", "checkpoint_sha256")}


def _load_prior(known: _Prior, files: CheckpointFiles) -> TrainedSCNet:
    """Find the prior beside the checkpoint, or among what is shipped.

    Raises:
        CheckpointError: it is at neither place.
    """
    beside = files.weights.parent / f"{Path(known.model).name}{WEIGHTS_SUFFIX}"
    for path in (beside, DEFAULT_WEIGHTS):
        prior_files = CheckpointFiles.named(path.parent, path.stem)
        if all(file.is_file() for file in prior_files):
            checkpoint = FORM.read(prior_files)
            if checkpoint.weights_sha256 == known.checkpoint_sha256:
                return scnet.load_own(checkpoint)
    raise CheckpointError(
        f"{files.description}: prior: expected {shortened(known.model)} with SHA-256 "
        f"{known.checkpoint_sha256} as {beside} or {DEFAULT_WEIGHTS}, found no such checkpoint"
    )
