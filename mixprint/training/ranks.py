"""Several training processes as one, started by `torchrun`; a single process needs none of it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from mixprint.machine import xla

Shared = TypeVar("Shared")


@contextmanager
def process_group(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """Join the ranks that `torchrun` started; a group that exists already is used and left.

    Args:
        device: of this rank; GPUs talk by NCCL, all others by gloo.
        timeout: how long a rank waits for the others; what torch thinks right when None.
    """
    if xla.is_xla(device):
        xla.load_package()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        if xla.is_xla(device):
            xla.join_devices()
        yield
    finally:
        distributed.destroy_process_group()


def rank_device(device: torch.device) -> torch.device:
    """Choose the GPU of a rank's own number on this machine; other devices stay as they are."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if device.type != "cuda" or (device.index is not None and not several):
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def rank_and_world() -> tuple[int, int]:
    """Return the number of this rank and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def sum_over_ranks(value: Tensor) -> Tensor:
    """Add the ranks' values up, in place."""
    if distributed.is_initialized():
        if xla.is_xla(value.device):
            xla.sum_over_devices(value)
        else:
            distributed.all_reduce(value)
    return value


def sums_over_ranks(values: Sequence[Tensor]) -> list[Tensor]:
    """Add the ranks' values up, in one exchange for all that lie on the same device.

    Args:
        values: of one dimension.
    """
    sums: dict[int, Tensor] = {}
    for device in dict.fromkeys(value.device for value in values):
        own = {n: value for n, value in enumerate(values) if value.device == device}
        joined = sum_over_ranks(torch.cat(list(own.values())))
        sums |= zip(own, joined.split([len(value) for value in own.values()]), strict=True)
    return [sums[n] for n in range(len(values))]


def of_first_rank(value: Shared, device: torch.device) -> Shared:
    """Share what the first rank has with every rank, whatever the others have.

    Args:
        value: plain values, and tensors on the CPU.
        device: of this rank.
    """
    if not distributed.is_initialized():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared, src=0, device=xla.host_of(device))
    return shared[0]


def of_all_ranks(value: Shared) -> list[Shared]:
    """Gather plain values of all ranks, in their order."""
    if not distributed.is_initialized():
        return [value]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


def share_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors of all ranks by those of the first one."""
    if distributed.is_initialized():
        for tensor in tensors:
            shared = tensor.to(xla.host_of(tensor.device))
            distributed.broadcast(shared, src=0)
            if shared is not tensor:
                tensor.copy_(shared)


def barrier() -> None:
    """Wait for all ranks."""
    if distributed.is_initialized():
        distributed.barrier()
