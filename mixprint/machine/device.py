"""Device of the tensors: one choice for all of mixprint."""

import logging
from functools import cache

import torch
from torch import nn

from mixprint.errors import ConfigError
from mixprint.machine import xla

log = logging.getLogger("mixprint.device")

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str) -> torch.device:
    """Turn the name of a device into one that is there, and say which.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, or `cuda`, also with an index: `cuda:1`.

    Returns:
        the device. When a GPU is asked for and not found, the CPU, with a warning.

    Raises:
        ConfigError: the name is none of these.
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and (kind != "cuda" or not index.isdigit())):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:<index>, found {name!r}")
    if kind == "cpu":
        device = torch.device("cpu")
    elif int(index or 0) < torch.cuda.device_count():
        device = torch.device("cuda", int(index or 0))
    else:
        if kind == "cuda":
            log.warning(
                "device %s was asked for, but torch finds %d GPUs: the CPU is used",
                name,
                torch.cuda.device_count(),
            )
        device = torch.device("cpu")
    log.info("device: %s", device)
    return device


def training_device(name: str) -> torch.device:
    """Turn the name of a device to train on into one that is there, and say which.

    Args:
        name: as for `resolve_device`, or `xla`, on which nothing but trainings runs: a TPU, or
            whatever else its runtime has.

    Returns:
        the device.

    Raises:
        ConfigError: the name is none of these, or what `xla` needs is not installed.
    """
    if name != xla.XLA:
        return resolve_device(name)
    xla.check_installed()
    log.info("device: %s", name)
    return torch.device(name)


@cache
def cpu_has_lstm(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN computes an LSTM in a type here; in half precision it needs AVX-512."""
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype, dtype != torch.float32):
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True
