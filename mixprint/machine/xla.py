"""XLA devices, such as TPUs: all that mixprint asks of the package `torch_xla`.

Tensors are lazy there: what is computed is only noted, and runs as one program, which is compiled
when it is new, at `run_pending` or when a value is read. Each value that is read before that runs
its part once more. So what is small, irregular or in float64 is computed on the processor beside.

The order of the devices follows from their wiring, and not from the numbers that `torchrun` gives
to processes. So nothing but sums goes from device to device; all else that ranks tell each other
goes by gloo.
"""

import copy
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from mixprint.errors import ConfigError

XLA = "xla"
PACKAGE = "torch_xla"
REQUIREMENTS = "requirements-tpu.in"

_Network = TypeVar("_Network", bound=nn.Module)


def is_xla(device: torch.device) -> bool:
    """Tell whether a device is reached by XLA."""
    return device.type == XLA


def missing_packages() -> list[str]:
    """Name what is not installed, and what to install; without an import, which sets devices up."""
    if find_spec(PACKAGE):
        return []
    return [
        f"the Python package {PACKAGE} ({REQUIREMENTS}, in an environment of its own: it goes with "
        "another torch)"
    ]


def check_installed() -> None:
    """Refuse to go on without the package.

    Raises:
        ConfigError: it is not installed.
    """
    if missing := missing_packages():
        raise ConfigError(f"device {XLA}: expected {PACKAGE}, did not find {', '.join(missing)}")


def load_package() -> None:
    """Import the package, by which torch learns of the devices.

    Raises:
        ConfigError: it is not installed.
    """
    check_installed()
    import_module(PACKAGE)


def host_of(device: torch.device) -> torch.device:
    """Return where values for a device are prepared: the CPU for XLA, else the device itself."""
    return torch.device("cpu") if is_xla(device) else device


def sent(value: Tensor, device: torch.device) -> Tensor:
    """Move what was prepared to a device; float64 goes to XLA as float32, for TPUs have none."""
    if is_xla(device) and value.dtype == torch.float64:
        value = value.float()
    return value.to(device)


def join_devices() -> None:
    """Make the devices of all processes that `torchrun` has started one; before any other use.

    Raises:
        ConfigError: not every process has one device.
    """
    import_module(f"{PACKAGE}.distributed.xla_backend")
    # Not for its store: it tells the runtime which device is that of this process.
    _, _, num_devices = next(iter(distributed.rendezvous(f"{XLA}://")))
    expected = distributed.get_world_size()
    if num_devices != expected:
        raise ConfigError(
            f"device {XLA}: expected a device for each of {expected} processes that reaches the "
            f"others', found {num_devices}; start as many on each machine as it has chips (a "
            "processor in place of TPUs takes one alone)"
        )


def sum_over_devices(value: Tensor) -> None:
    """Add the values of all ranks up, in place."""
    model = import_module(f"{PACKAGE}.core.xla_model")
    model.all_reduce(model.REDUCE_SUM, [value])


def run_pending() -> None:
    """Run what is noted; values that were computed by then can be read without running it again."""
    import_module(PACKAGE).sync()


def seed_device(seed: int) -> None:
    """Seed what is drawn on this rank's device."""
    import_module(PACKAGE).manual_seed(seed)


def on_cpu(values: Any) -> Any:
    """Copy the tensors of nested values to the CPU."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    if isinstance(values, Mapping):
        return {name: on_cpu(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(on_cpu(value) for value in values)
    return values


def on_host(network: _Network) -> _Network:
    """Return a network that can be used in any way: of one on XLA a copy on the CPU."""
    device = next(network.parameters()).device
    return copy.deepcopy(network).to(host_of(device)) if is_xla(device) else network
