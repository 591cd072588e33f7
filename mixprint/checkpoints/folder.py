"""Networks on disk: safetensors weights beside a JSON configuration; never a pickle.

    <folder>/weights.safetensors
    <folder>/config.json           written last, with the hash of the weights

A save that was killed between the two files is refused at load, instead of mixing two networks.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.errors import CheckpointError, DataError
from mixprint.fingerprint import file_sha256
from mixprint.schema import as_record, read_plain_file, shortened
from mixprint.storage.atomic import write_json
from mixprint.text import first_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WEIGHTS_NAME = "weights.safetensors"
CONFIG_NAME = "config.json"

_Config = TypeVar("_Config", bound="DataclassInstance")


def write_folder(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a network.

    Args:
        folder: created if missing; files of an older network are replaced.
        weights: its tensors.
        config: JSON values; `weights_sha256` is added.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_tensors(folder / WEIGHTS_NAME, tensors)
    sha256 = file_sha256(folder / WEIGHTS_NAME)
    write_json(folder / CONFIG_NAME, {**config, "weights_sha256": sha256})


def read_config(folder: Path, kind: str, version: int, keys: Collection[str]) -> dict[str, Any]:
    """Read the configuration.

    Args:
        folder: see `write_folder`.
        kind: what `format` must be.
        version: what `format_version` must be.
        keys: what must be there beside them.

    Raises:
        CheckpointError: the file is missing, broken, of another format, or incomplete.
    """
    path = folder / CONFIG_NAME
    config = read_plain_file(path, CheckpointError)
    if not isinstance(config, dict) or config.get("format") != kind:
        raise CheckpointError(f"{path}: expected the configuration of a {kind}, found another")
    if config.get("format_version") != version:
        raise CheckpointError(
            f"{path}: expected format version {version}, found {config.get('format_version')!r}"
        )
    if missing := sorted({*keys, "weights_sha256"} - config.keys()):
        raise CheckpointError(f"{path}: missing {missing}")
    texts = {"weights_sha256", "encoder"} & config.keys()
    if odd := sorted(key for key in texts if not isinstance(config[key], str)):
        raise CheckpointError(f"{path}: expected texts for {odd}, found other values")
    if not isinstance(config.get("metadata", {}), dict):
        raise CheckpointError(f"{path}: metadata: expected a mapping, found another value")
    return config


def read_architecture(config_class: type[_Config], values: Any, folder: Path) -> _Config:
    """Read an architecture.

    Args:
        config_class: the dataclass that describes it.
        values: its fields as JSON values.
        folder: where they come from, for messages.

    Raises:
        CheckpointError: a field is missing or unknown, which is named, or has a wrong value.
    """
    return as_record(values, f"{folder / CONFIG_NAME}: architecture", config_class, CheckpointError)


def read_weights(
    folder: Path, expected: Mapping[str, Tensor], sha256: str, *, is_any_precision: bool = False
) -> dict[str, Tensor]:
    """Read the weights, refusing every tensor that does not fit by name.

    Args:
        folder: see `write_folder`.
        expected: tensors of the names, shapes and types that the network has; an outline on the
            meta device suffices.
        sha256: of the file, as in the configuration.
        is_any_precision: other types are taken, and brought to the network's.

    Raises:
        CheckpointError: the file is missing, broken or another one, or does not fit.
    """
    path = folder / WEIGHTS_NAME
    try:
        found_sha256 = file_sha256(path)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{path}: expected readable weights, found: {error}") from error
    if found_sha256 != sha256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {shortened(sha256)} as in {CONFIG_NAME}, found "
            f"{found_sha256}"
        )
    return fitting_tensors(path, expected, is_any_precision=is_any_precision)


def fitting_tensors(
    path: Path, expected: Mapping[str, Tensor], *, is_any_precision: bool = False
) -> dict[str, Tensor]:
    """Read a safetensors file, refusing every tensor that does not fit by name; see `read_weights`.

    Raises:
        CheckpointError: the file is missing or broken, or does not fit.
    """
    loaded = read_tensors(path)
    problems = [f"missing {name}" for name in sorted(expected.keys() - loaded.keys())]
    problems += [f"unknown {name}" for name in sorted(loaded.keys() - expected.keys())]
    for name in sorted(expected.keys() & loaded.keys()):
        wanted, got = expected[name], loaded[name]
        if wanted.shape != got.shape or (wanted.dtype != got.dtype and not is_any_precision):
            problems.append(
                f"{name}: expected {wanted.dtype} {tuple(wanted.shape)}, "
                f"found {got.dtype} {tuple(got.shape)}"
            )
    if problems:
        raise CheckpointError(f"{path}: does not fit the architecture: {first_of(problems)}")
    return {name: value.to(expected[name].dtype) for name, value in loaded.items()}
