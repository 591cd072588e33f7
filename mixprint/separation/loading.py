"""Separators from disk: of our own kinds, and published ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mixprint.checkpoints.form import (
    DESCRIPTION_SUFFIX,
    WEIGHTS_SHA256,
    WEIGHTS_SUFFIX,
    Checkpoint,
    CheckpointFiles,
)
from mixprint.errors import CheckpointError, DataError
from mixprint.machine.device import resolve_device
from mixprint.schema import WithOthers, read_mapping, shortened
from mixprint.separation.diffusion import checkpoint as diffusion
from mixprint.separation.network import DEFAULT_WEIGHTS, DIFFUSION_WEIGHTS, FORM, Network
from mixprint.separation.scnet import checkpoint as scnet
from mixprint.separation.separator import Separator
from mixprint.storage.download import MAX_BYTES, fetch, is_url

# What loads a checkpoint of our own, by the kind that its description states. Another kind is a
# folder like `scnet`, and an entry here.
KINDS: dict[str, Callable[[Checkpoint], Network]] = {
    scnet.KIND: scnet.load_own,
    diffusion.KIND: diffusion.load_own,
}

DEFAULT, DIFFUSION = "default", "diffusion"
# Of what mixprint ships, by the names that checkpoints are asked for by.
SHIPPED = {DEFAULT: DEFAULT_WEIGHTS, DIFFUSION: DIFFUSION_WEIGHTS}
MAX_CONFIG_BYTES = 1 << 20  # published ones have a few kB


def load_separator(
    checkpoint: str | Path = DEFAULT,
    config_path: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Separator:
    """Load a separator.

    Args:
        checkpoint: `default` for the one that mixprint ships, `diffusion` for the diffusion
            separator that it ships; a `.safetensors` file of our own format; or a published
            `.ckpt`, `.th`, `.pt` or `.pth` file. Also a URL with a pinned hash, see
            `mixprint.storage.download.fetch`.
        config_path: the YAML (or JSON) configuration of a published checkpoint, or its pinned
            URL; of our own format only where the JSON file does not lie beside the weights.
        device: a device, or its name for `mixprint.machine.device.resolve_device`.

    Raises:
        CheckpointError: a file is missing or unreadable, or its tensors do not fit the
            configuration; the message names tensors that differ.
        ConfigError: a URL has no pinned hash.
    """
    path = SHIPPED.get(str(checkpoint)) or _local(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a separator's checkpoint, found no such file")
    config_file = None if config_path is None else _local(config_path, MAX_CONFIG_BYTES)
    if path.suffix == WEIGHTS_SUFFIX and (config_file is None or _is_own(config_file)):
        description = config_file or path.with_suffix(DESCRIPTION_SUFFIX)
        network = _load_own(CheckpointFiles(path, description))
    elif config_file is None:
        raise CheckpointError(f"{path}: expected a configuration file with this kind of checkpoint")
    else:
        network = scnet.load_published(path, config_file)
    network.to(resolve_device(device) if isinstance(device, str) else device)
    return Separator(network)


@dataclass(frozen=True, kw_only=True)
class _Kind(WithOthers):
    """The part of a separator's description that says what else it holds."""

    kind: str


def _load_own(files: CheckpointFiles) -> Network:
    checkpoint = FORM.read(files)
    kind = checkpoint.described(_Kind).kind
    if kind not in KINDS:
        raise CheckpointError(
            f"{files.description}: kind: expected one of {', '.join(KINDS)}, found "
            f"{shortened(kind)}"
        )
    return KINDS[kind](checkpoint)


def _is_own(config_path: Path) -> bool:
    """Distinguish a description of our own form from a published configuration."""
    return config_path.suffix == DESCRIPTION_SUFFIX and WEIGHTS_SHA256 in read_mapping(
        config_path, CheckpointError
    )


def _local(source: str | Path, max_bytes: int = MAX_BYTES) -> Path:
    """Return the path of a file, downloaded if it is one behind a URL."""
    if not is_url(source):
        return Path(source)
    try:
        return fetch(str(source), max_bytes)
    except DataError as error:
        raise CheckpointError(str(error)) from error
