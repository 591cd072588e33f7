"""Separators on disk: mixprint's own format, and the published checkpoints as downloaded.

Our own format is a safetensors file with the weights and, beside it under the same name, a JSON
file with variant, architecture, sampling rate, window and what is known of the training.

Published checkpoints come with a YAML file of one of two kinds: that of the authors
(github.com/starrytong/SCNet) and that of Music-Source-Separation-Training. Both hold much that
concerns training alone. Read are `model`, the sampling rate, the window, whether songs are
brought to one level first, and the order of the stems.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from torch import Tensor, nn

from mixprint.checkpoints.torchfile import check_size, read_plain, read_tensors, write_tensors
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.fingerprint import file_sha256
from mixprint.machine.device import resolve_device
from mixprint.schema import (
    Range,
    WithOthers,
    as_record,
    checked,
    checked_mapping,
    read_mapping,
    shortened,
)
from mixprint.separation.scnet.model import SCNet, SCNetConfig, Variant, build_scnet
from mixprint.separation.separator import Separator
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import write_json
from mixprint.storage.download import MAX_BYTES, fetch, is_url
from mixprint.text import first_of

log = logging.getLogger("mixprint.separation")

DEFAULT = "default"
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "separator.safetensors"
WEIGHTS_SUFFIX = ".safetensors"
CONFIG_SUFFIX = ".json"
SUFFIXES = (WEIGHTS_SUFFIX, CONFIG_SUFFIX)
FOREIGN_SUFFIXES = (".ckpt", ".th", ".pt", ".pth")
STATE_KEYS = ("best_state", "state_dict", "model_state_dict", "model", "state")
MAX_WRAPPERS = 4  # published files have two at most
DISTRIBUTED_PREFIX = "module."
MASK_TENSOR = "pos_embed_f"
FOREIGN_WINDOW_S = 11.0  # what the published models were trained and are run with
# All others would lose something on the way to float32, or hold no values.
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_CONFIG_BYTES = 1 << 20  # published ones have a few kB
SCHEMA_VERSION = 1
WindowSeconds = Annotated[float, Range(0.05, 600.0)]
# Of a window: frames x bins x channels of the widest layer. The largest published network has a
# quarter of it, and needs some gigabytes.
MAX_WINDOW_VALUES = 1 << 30

_Section = TypeVar("_Section")


def load_separator(
    checkpoint: str | Path = DEFAULT,
    config_path: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Separator:
    """Load a separator.

    Args:
        checkpoint: `default` for the one that mixprint ships; a `.safetensors` file of our own
            format; or a published `.ckpt`, `.th`, `.pt` or `.pth` file. Also a URL with a pinned
            hash, see `mixprint.storage.download.fetch`.
        config_path: the YAML (or JSON) configuration of a published checkpoint, or its pinned
            URL; of our own format only where the JSON file does not lie beside the weights.
        device: a device, or its name for `mixprint.machine.device.resolve_device`.

    Raises:
        CheckpointError: a file is missing or unreadable, or its tensors do not fit the
            configuration; the message names tensors that differ.
        ConfigError: the configuration is not one of an SCNet, or a URL has no pinned hash.
    """
    path = DEFAULT_WEIGHTS if str(checkpoint) == DEFAULT else _local(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a separator's checkpoint, found no such file")
    config_file = None if config_path is None else _local(config_path, MAX_CONFIG_BYTES)
    if path.suffix == WEIGHTS_SUFFIX and (config_file is None or _is_own(config_file)):
        separator = _load_own(path, config_file or path.with_suffix(CONFIG_SUFFIX))
    elif config_file is None:
        raise CheckpointError(f"{path}: expected a configuration file with this kind of checkpoint")
    else:
        separator = _load_foreign(path, config_file)
    _check_memory(separator.model.config, separator.window_s, path)
    resolved = resolve_device(device) if isinstance(device, str) else device
    separator.model.to(resolved)
    return separator


def export_separator(
    model: SCNet,
    folder: str | Path,
    *,
    window_s: float,
    name: str = "separator",
    dtype: torch.dtype = torch.float16,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write a separator in our own format.

    Args:
        model: the network.
        folder: where `<name>.safetensors` and `<name>.json` go.
        window_s: window that suits the network.
        name: file name without suffix; also the model's name in fingerprints.
        dtype: how the weights are stored; they are widened to float32 when loaded.
        training: what is known of the training: data, steps, metrics; anything JSON can hold.

    Returns:
        path of the weights.

    Raises:
        CheckpointError: a weight is not finite in this storage type.
    """
    state = {key: value.to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise CheckpointError(
            f"{name}: expected weights that are finite as {dtype}, found {broken}"
        )
    path = Path(folder) / f"{name}{WEIGHTS_SUFFIX}"
    write_tensors(path, state)
    description = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "variant": model.variant,
        "config": model.config.to_values(),
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "window_s": window_s,
        "weights_sha256": file_sha256(path),
        "training": dict(training or {}),
    }
    write_json(path.with_suffix(CONFIG_SUFFIX), description)
    return path


def load_weights(model: nn.Module, state: Mapping[str, Tensor], what: str | Path) -> None:
    """Copy a state dict into a model, or say which tensors differ.

    Args:
        model: receives the weights.
        state: the weights; dense, of any type in `WEIGHT_TYPES`.
        what: name of their source for the message.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape or kind, or not finite.
    """
    _check_tensors(model, state, what)
    # As float32, beyond which a finite number of float64 can lie.
    if broken := [key for key, value in state.items() if not value.float().isfinite().all()]:
        raise CheckpointError(f"{what}: expected finite weights, found others in {broken}")
    model.load_state_dict(dict(state))


def _check_tensors(model: nn.Module, state: Mapping[str, Tensor], what: str | Path) -> None:
    """Compare kinds and shapes of tensors with those of a model.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape or kind.
    """
    if odd := [
        f"{key} is {kind}" for key, value in state.items() if (kind := _odd_kind(value)) is not None
    ]:
        raise CheckpointError(
            f"{what}: expected dense floating-point tensors, found others: {first_of(odd)}"
        )
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    differences = [f"{key} is missing" for key in expected if key not in found]
    differences += [f"{key} is unknown" for key in found if key not in expected]
    differences += [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
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


def _local(source: str | Path, max_bytes: int = MAX_BYTES) -> Path:
    """Return the path of a file, downloaded if it is one behind a URL."""
    if not is_url(source):
        return Path(source)
    try:
        return fetch(str(source), max_bytes)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def _is_own(config_path: Path) -> bool:
    """Tell a description of our own format from a published configuration."""
    return config_path.suffix == CONFIG_SUFFIX and "schema_version" in _read_mapping(config_path)


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """The JSON file of our own format, as far as it is read."""

    schema_version: int
    name: str
    variant: Variant
    config: SCNetConfig
    sample_rate_hz: int
    window_s: WindowSeconds
    weights_sha256: str


def _load_own(path: Path, config_path: Path) -> Separator:
    values = _read_mapping(config_path)
    if (version := values.get("schema_version")) != SCHEMA_VERSION:
        raise CheckpointError(
            f"{config_path}: expected schema version {SCHEMA_VERSION}, found {shortened(version)}"
        )
    known = as_record(values, config_path, _Description, CheckpointError)
    _check_rate(known.sample_rate_hz, config_path)
    checkpoint_hash = file_sha256(path)
    if checkpoint_hash != known.weights_sha256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {shortened(known.weights_sha256)} (from "
            f"{config_path.name}), found {checkpoint_hash}: the two files are not of one export"
        )
    return Separator(
        _build_with(known.config, known.variant, read_tensors(path), path),
        fingerprint={"model": known.name, "checkpoint_sha256": checkpoint_hash},
        window_s=known.window_s,
        sample_rate_hz=known.sample_rate_hz,
    )


def _load_foreign(path: Path, config_path: Path) -> Separator:
    state = read_tensors(path) if path.suffix == WEIGHTS_SUFFIX else _read_foreign(path)
    # The masked variant has a positional embedding, whatever the file is called.
    variant: Variant = "masked" if MASK_TENSOR in state else "plain"
    config, window_s, rate_hz, normalised = _read_foreign_config(config_path)
    model = _build_with(config, variant, state, f"{path} with {config_path}")
    log.info("loaded %s (%s SCNet)", path.name, variant)
    return Separator(
        model,
        fingerprint={"model": f"scnet-{variant}", "checkpoint_sha256": file_sha256(path)},
        window_s=window_s,
        sample_rate_hz=rate_hz,
        normalised=normalised,
    )


def _build_with(
    config: SCNetConfig, variant: str, state: Mapping[str, Tensor], what: str | Path
) -> SCNet:
    """Build a network with given weights; see `load_weights`."""
    # A network on the meta device takes no memory, however large the configuration makes it.
    with torch.device("meta"):
        outline = build_scnet(config, variant)
    _check_tensors(outline, state, what)
    model = build_scnet(config, variant)
    load_weights(model, state, what)
    return model


def _read_foreign(path: Path) -> dict[str, Tensor]:
    if path.suffix not in FOREIGN_SUFFIXES:
        raise CheckpointError(
            f"{path}: expected a {WEIGHTS_SUFFIX} file or one of {FOREIGN_SUFFIXES}, "
            f"found {path.suffix!r}"
        )
    state: Any = read_plain(path)
    # A training checkpoint wraps its weights, at times twice (`state` inside `best_state`).
    for _ in range(MAX_WRAPPERS):
        if not isinstance(state, Mapping) or _is_state_dict(state):
            break
        inner = next((state[key] for key in STATE_KEYS if key in state), None)
        if inner is None:
            raise CheckpointError(
                f"{path}: expected tensors, or a dictionary under one of {STATE_KEYS}, "
                f"found the keys {shortened(sorted(k for k in state if isinstance(k, str)))}"
            )
        state = inner
    if not isinstance(state, Mapping) or not _is_state_dict(state):
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors, found {type(state).__name__}"
        )
    # Many tensors can show one piece of the file, each under a name of its own.
    check_size(path, state.values())
    return {
        key.removeprefix(DISTRIBUTED_PREFIX): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(key, str) and isinstance(entry, Tensor) for key, entry in value.items()
    )


@dataclass(frozen=True, kw_only=True)
class _Audio(WithOthers):
    sample_rate: int | None = None
    chunk_size: Annotated[int, Range(1, 1 << 30)] | None = None


@dataclass(frozen=True, kw_only=True)
class _Data(WithOthers):
    samplerate: int | None = None
    segment: WindowSeconds | None = None
    normalize: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Training(WithOthers):
    instruments: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _Inference(WithOthers):
    normalize: bool | None = None


def _read_foreign_config(path: Path) -> tuple[SCNetConfig, float, int, bool]:
    """Read architecture, window in seconds, sampling rate in hertz, and `normalised`."""
    loaded = _read_mapping(path)
    audio = _section(loaded, "audio", _Audio, path)
    data = _section(loaded, "data", _Data, path)
    training = _section(loaded, "training", _Training, path)
    inference = _section(loaded, "inference", _Inference, path)
    try:
        values = checked_mapping("model", loaded.get("model", loaded))
        config = SCNetConfig.from_values(_without_idle_switches(values, path))
        config = _in_trained_order(config, training.instruments, path)
        rates = (audio.sample_rate, data.samplerate, SAMPLE_RATE_HZ)
        rate_hz = next(rate for rate in rates if rate is not None)
        _check_rate(rate_hz, path)
        window_s = FOREIGN_WINDOW_S if data.segment is None else data.segment
        if audio.chunk_size is not None:
            window_s = checked("audio.chunk_size / rate", audio.chunk_size / rate_hz, WindowSeconds)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config, window_s, rate_hz, bool(data.normalize or inference.normalize)


def _section(loaded: Mapping[str, Any], name: str, cls: type[_Section], path: Path) -> _Section:
    """Read a section of a published configuration; one that is missing or empty has the defaults.

    Raises:
        CheckpointError: a value that is read does not fit.
    """
    section = loaded.get(name)
    values = {} if section is None else section
    return as_record(values, f"{path}: {name}", cls, CheckpointError)


def _check_rate(rate_hz: int, path: Path) -> None:
    if rate_hz != SAMPLE_RATE_HZ:
        raise CheckpointError(
            f"{path}: expected a model for {SAMPLE_RATE_HZ} Hz, found one for {rate_hz} Hz"
        )


def _check_memory(config: SCNetConfig, window_s: float, what: str | Path) -> None:
    """Refuse settings that ask for memory without a tensor's shape telling of it.

    Raises:
        CheckpointError: a window has many more values than those of published networks.
    """
    num_frames = window_s * SAMPLE_RATE_HZ / config.hop_size
    num_values = num_frames * config.num_bins * max(config.dims)
    if num_values > MAX_WINDOW_VALUES:
        raise CheckpointError(
            f"{what}: expected a window of at most {MAX_WINDOW_VALUES:.0e} values, found "
            f"{num_values:.0e} (window of {window_s:g} s, hop_size {config.hop_size}, "
            f"nfft {config.nfft}, widest layer {max(config.dims)})"
        )


def _read_mapping(path: Path) -> Mapping[str, Any]:
    return read_mapping(path, CheckpointError, has_tuples=True)


def _without_idle_switches(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Leave out unknown keys of a `model` section that ask for nothing.

    A newer training code writes switches that mixprint does not know. One that is off (false,
    null, 0, empty) changes nothing and is left out with a warning. Any other stays and is
    refused with the rest: it may change the arithmetic without changing a tensor's shape, and
    then nothing else would tell that the result is wrong.
    """
    known = {field.name for field in fields(SCNetConfig)}
    idle = sorted(str(key) for key, value in values.items() if key not in known and not value)
    if idle:
        log.warning("%s: unknown keys of `model` that are off are left out: %s", path, idle)
    return {key: value for key, value in values.items() if key in known or value}


def _in_trained_order(config: SCNetConfig, instruments: Any, path: Path) -> SCNetConfig:
    """Take the stems' order from the training, where a configuration names it apart.

    Music-Source-Separation-Training stacks its targets as `training.instruments` lists them, so
    that list says which output is which stem.
    """
    if instruments is None or tuple(instruments) == config.sources:
        return config
    log.warning("%s: the stems' order is that of training.instruments: %s", path, instruments)
    return replace(config, sources=tuple(instruments))
