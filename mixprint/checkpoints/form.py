"""The form of mixprint's own checkpoints: weights, and a description of them; never a pickle.

    weights.safetensors, config.json     alone in a folder
    NAME.safetensors, NAME.json          beside other files

The description is written last, with the hash of the weights. A save that was killed between the
two files is refused at load, instead of mixing two networks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.errors import CheckpointError, DataError
from mixprint.fingerprint import file_sha256, fingerprint
from mixprint.schema import WithOthers, as_record, read_mapping, shortened
from mixprint.storage.atomic import write_json
from mixprint.text import first_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WEIGHTS_SUFFIX = ".safetensors"
DESCRIPTION_SUFFIX = ".json"
# All others would lose something on the way to float32, or hold no values.
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WEIGHTS_SHA256 = "weights_sha256"

_Description = TypeVar("_Description", bound="DataclassInstance")
_Module = TypeVar("_Module", bound=nn.Module)


class CheckpointFiles(NamedTuple):
    """The two files of a checkpoint."""

    weights: Path
    description: Path

    @classmethod
    def in_folder(cls, folder: Path) -> "CheckpointFiles":
        """Name the files of a checkpoint that has a folder of its own."""
        return cls(folder / f"weights{WEIGHTS_SUFFIX}", folder / f"config{DESCRIPTION_SUFFIX}")

    @classmethod
    def named(cls, folder: Path, name: str) -> "CheckpointFiles":
        """Name the files of a checkpoint that lies beside others."""
        return cls(folder / f"{name}{WEIGHTS_SUFFIX}", folder / f"{name}{DESCRIPTION_SUFFIX}")


@dataclass(frozen=True)
class Form:
    """A format of checkpoints.

    Attributes:
        format: its name, which a description states.
        version: its version, likewise.
        unstated: what holds where a description, written by an older mixprint, does not say it.
    """

    format: str
    version: int = 1
    unstated: Mapping[str, Any] = field(default_factory=dict)

    def write(
        self,
        files: CheckpointFiles,
        weights: Mapping[str, Tensor],
        description: Mapping[str, Any],
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write a checkpoint.

        Args:
            files: created with their folder if missing; an older checkpoint is replaced.
            weights: the network's tensors.
            description: JSON values; what the form says of itself is added.
            dtype: how the weights are stored; as they are when None.

        Raises:
            CheckpointError: a weight is not finite as it is stored.
            DataError: a file cannot be written.
        """
        stored = {
            name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()
        }
        if broken := [name for name, value in stored.items() if not value.isfinite().all()]:
            kind = "" if dtype is None else f" as {dtype}"
            raise CheckpointError(
                f"{files.weights}: expected weights that are finite{kind}, found {broken}"
            )
        write_tensors(files.weights, stored)
        own = {
            "format": self.format,
            "format_version": self.version,
            WEIGHTS_SHA256: file_sha256(files.weights),
        }
        write_json(files.description, {**description, **own})

    def read(self, files: CheckpointFiles) -> "Checkpoint":
        """Read a checkpoint's description; its weights are read when they are asked for.

        Raises:
            CheckpointError: the file is missing, broken, or of another format or version.
        """
        path = files.description
        values = {**self.unstated, **read_mapping(path, CheckpointError)}
        if (name := values.get("format")) != self.format:
            raise CheckpointError(
                f"{path}: expected the description of a {self.format}, found {shortened(name)}"
            )
        if (version := values.get("format_version")) != self.version:
            raise CheckpointError(
                f"{path}: expected format version {self.version}, found {shortened(version)}"
            )
        return Checkpoint(files, values)


@dataclass(frozen=True, kw_only=True)
class _Own(WithOthers):
    """The part of a description that every format has."""

    weights_sha256: str


class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        files: its files.
        weights_sha256: of the file with the weights, as the description has it.
    """

    def __init__(self, files: CheckpointFiles, values: Mapping[str, Any]) -> None:
        """Take the values of a description that is of the right format."""
        self.files = files
        self._values = values
        self.weights_sha256 = self.described(_Own).weights_sha256

    def described(self, cls: type[_Description]) -> _Description:
        """Return the description as a frozen dataclass, which says what must be there.

        Raises:
            CheckpointError: a key is missing, or a value does not fit.
        """
        return as_record(self._values, self.files.description, cls, CheckpointError)

    def fingerprint(self, *keys: str) -> str:
        """Hash the weights with parts of the description, as they were read."""
        return fingerprint({key: self._values[key] for key in (*keys, WEIGHTS_SHA256)})

    def restored(self, build: Callable[[], _Module]) -> _Module:
        """Build a network and give it the weights; see `restored`.

        Raises:
            CheckpointError: the weights are missing, broken or another network's.
        """
        path = self.files.weights
        try:
            found = file_sha256(path)
        except DataError as error:
            raise CheckpointError(f"{path}: expected readable weights, found: {error}") from error
        if found != self.weights_sha256:
            raise CheckpointError(
                f"{path}: expected SHA-256 {shortened(self.weights_sha256)} (from "
                f"{self.files.description.name}), found {found}: the two files are not of one "
                "export"
            )
        return restored(build, read_tensors(path), path)


def restored(
    build: Callable[[], _Module], weights: Mapping[str, Tensor], what: str | Path
) -> _Module:
    """Build a network and give it weights, unless they do not fit; see `load_weights`.

    It is built twice, at first without memory. What it computes while it is built, as windows and
    filters, belongs on the CPU both times: without memory such operations would import PyTorch's
    compiler, which takes seconds.

    Raises:
        CheckpointError: see `load_weights`. Such a network is never built: however large its
            settings make it, it takes no memory.
    """
    with torch.device("meta"):
        outline = build()
    _check_fit(outline, weights, what)
    network = build()
    load_weights(network, weights, what)
    return network


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], what: str | Path) -> None:
    """Copy weights into a network, or say which do not fit.

    Args:
        network: receives them, in its own types.
        weights: dense; those of real numbers of any type in `WEIGHT_TYPES`.
        what: name of their source for the message.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape or kind, or not finite.
    """
    _check_fit(network, weights, what)
    # As float32, beyond which a finite number of float64 can lie.
    if broken := [key for key, value in weights.items() if not value.float().isfinite().all()]:
        raise CheckpointError(f"{what}: expected finite weights, found others in {broken}")
    network.load_state_dict(dict(weights))


def _check_fit(network: nn.Module, weights: Mapping[str, Tensor], what: str | Path) -> None:
    """Compare kinds and shapes of tensors with those of a network.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape or kind.
    """
    expected = network.state_dict()
    if odd := [
        f"{key} is {kind}"
        for key, value in weights.items()
        if (kind := _odd_kind(value)) is not None
    ]:
        raise CheckpointError(
            f"{what}: expected dense floating-point tensors, found others: {first_of(odd)}"
        )
    differences = [f"{key} is missing" for key in expected if key not in weights]
    differences += [f"{key} is unknown" for key in weights if key not in expected]
    differences += [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if differences:
        raise CheckpointError(
            f"{what}: the tensors do not fit the configuration: {first_of(differences)}"
        )


def _odd_kind(value: Tensor) -> str | None:
    """Say what keeps a tensor from being weights, if anything does."""
    if value.is_meta:
        return "without values (on the meta device)"
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return f"sparse ({value.layout})"
    return None if value.dtype in WEIGHT_TYPES else str(value.dtype)
