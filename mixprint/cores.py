"""The processor cores that this process may use."""

import os


def threads_each(num_processes: int) -> int:
    """Say how many threads each of several processes gets when they share the cores; at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // num_processes)
