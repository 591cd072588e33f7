"""SCNets on disk: as mixprint exports them, and the published checkpoints as downloaded.

An export has the form of `mixprint.checkpoints.form`; its description holds variant,
architecture, sampling rate, window and what is known of the training.

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
from torch import Tensor

from mixprint.checkpoints.form import WEIGHTS_SUFFIX, Checkpoint, CheckpointFiles, restored
from mixprint.checkpoints.torchfile import check_size, read_plain, read_tensors
from mixprint.errors import CheckpointError, ConfigError
from mixprint.fingerprint import file_sha256
from mixprint.schema import (
    Range,
    WithOthers,
    as_record,
    checked,
    checked_mapping,
    read_mapping,
    shortened,
)
from mixprint.separation.network import FORM
from mixprint.separation.scnet.architecture import SCNetConfig, Variant
from mixprint.separation.scnet.model import SCNet, build_scnet
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.stems import SAMPLE_RATE_HZ

log = logging.getLogger("mixprint.separation")

KIND = "scnet"
FOREIGN_SUFFIXES = (".ckpt", ".th", ".pt", ".pth")
STATE_KEYS = ("best_state", "state_dict", "model_state_dict", "model", "state")
MAX_WRAPPERS = 4  # published files have two at most
DISTRIBUTED_PREFIX = "module."
MASK_TENSOR = "pos_embed_f"
FOREIGN_WINDOW_S = 11.0  # what the published models were trained and are run with
WindowSeconds = Annotated[float, Range(0.05, 600.0)]
# Of a window: frames x bins x channels of the widest layer. The largest published network has a
# quarter of it, and needs some gigabytes.
MAX_WINDOW_VALUES = 1 << 30

_Section = TypeVar("_Section")


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
    files = CheckpointFiles.named(Path(folder), name)
    description = {
        "kind": KIND,
        "name": name,
        "variant": model.variant,
        "config": model.config.to_values(),
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "window_s": window_s,
        "training": dict(training or {}),
    }
    FORM.write(files, model.state_dict(), description, dtype=dtype)
    return files.weights


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """The part of an exported SCNet's description that is read."""

    name: str
    variant: Variant
    config: SCNetConfig
    sample_rate_hz: int
    window_s: WindowSeconds


def load_own(checkpoint: Checkpoint) -> TrainedSCNet:
    """Load what `export_separator` wrote.

    Raises:
        CheckpointError: the description is not one of an SCNet, or the tensors do not fit it.
    """
    known = checkpoint.described(_Description)
    files = checkpoint.files
    check_rate(known.sample_rate_hz, files.description)
    model = checkpoint.restored(lambda: build_scnet(known.config, known.variant))
    check_memory(known.config, max(known.config.dims), known.window_s, files.weights)
    return TrainedSCNet(
        model,
        window_s=known.window_s,
        weights={"model": known.name, "checkpoint_sha256": checkpoint.weights_sha256},
        sample_rate_hz=known.sample_rate_hz,
    )


def load_published(path: Path, config_path: Path) -> TrainedSCNet:
    """Load a published checkpoint with its configuration.

    Raises:
        CheckpointError: a file is unreadable, the configuration is not one of an SCNet, or the
            tensors do not fit it; the message names those that differ.
    """
    state = read_tensors(path) if path.suffix == WEIGHTS_SUFFIX else _read_foreign(path)
    # The masked variant has a positional embedding, whatever the file is called.
    variant: Variant = "masked" if MASK_TENSOR in state else "plain"
    config, window_s, rate_hz, normalised = _read_foreign_config(config_path)
    model = restored(lambda: build_scnet(config, variant), state, f"{path} with {config_path}")
    check_memory(config, max(config.dims), window_s, path)
    log.info("loaded %s (%s SCNet)", path.name, variant)
    return TrainedSCNet(
        model,
        window_s=window_s,
        weights={"model": f"scnet-{variant}", "checkpoint_sha256": file_sha256(path)},
        sample_rate_hz=rate_hz,
        normalised=normalised,
    )


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
        check_rate(rate_hz, path)
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


def check_rate(rate_hz: int, path: Path) -> None:
    """Refuse a model for another sampling rate.

    Raises:
        CheckpointError: it is one.
    """
    if rate_hz != SAMPLE_RATE_HZ:
        raise CheckpointError(
            f"{path}: expected a model for {SAMPLE_RATE_HZ} Hz, found one for {rate_hz} Hz"
        )


def check_memory(config: SCNetConfig, widest: float, window_s: float, what: str | Path) -> None:
    """Refuse settings that ask for memory without a tensor's shape telling of it.

    Args:
        config: of the STFT.
        widest: values per frequency row and frame in the widest layer.
        window_s: what the network sees at once.
        what: name of the checkpoint for the message.

    Raises:
        CheckpointError: a window has many more values than those of published networks.
    """
    num_frames = window_s * SAMPLE_RATE_HZ / config.hop_size
    num_values = num_frames * config.num_bins * widest
    if num_values > MAX_WINDOW_VALUES:
        raise CheckpointError(
            f"{what}: expected a window of at most {MAX_WINDOW_VALUES:.0e} values, found "
            f"{num_values:.0e} (window of {window_s:g} s, hop_size {config.hop_size}, "
            f"nfft {config.nfft}, widest layer {widest:g})"
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
