"""The memory that tensors live in: how the process handles it, and when it is short."""

import ctypes
import sys
from functools import cache

import torch

# Options of glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Tell whether memory was short; on the CPU torch says so in nothing but its message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return CPU_OUT_OF_MEMORY in str(error)


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of returning it to the system.

    A pass through a network allocates and frees gigabytes in pieces so large that each would be
    mapped and zeroed anew, which costs a fifth to a third of the time on the CPU. The process then
    holds on to the most it has ever used. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
