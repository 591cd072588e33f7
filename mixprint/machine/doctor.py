"""Check of a machine: what is missing on it, and what to do about it.

The library knows no cluster. What does offers itself as an entry point of the group
`mixprint.machine.doctor`: a function without arguments that gives findings.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from mixprint.errors import ConfigError

GROUP = "mixprint.machine.doctor"
# What the profile tiny takes; see docs/benchmarks.md.
LEAST_MEMORY_BYTES, LEAST_DISK_BYTES = 4_000_000_000, 2_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        detail: what was found.
        remedy: what to do, if it is missing; empty: it is there, or can be done without.
    """

    what: str
    detail: str
    remedy: str = ""

    @property
    def is_missing(self) -> bool:
        """Tell whether something has to be done."""
        return bool(self.remedy)

    def to_text(self) -> str:
        """Return a line for people."""
        if self.is_missing:
            return f"MISSING  {self.what}: {self.detail}. {self.remedy}"
        return f"ok       {self.what}: {self.detail}"


def look_here(
    folder: Path, weights: Iterable[Path], optional: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    """Look at this machine.

    Args:
        folder: where results will lie.
        weights: files that mixprint ships.
        optional: what can be done without -> what of it is not installed, and how to install it.
    """
    import psutil
    import torch

    total_bytes = psutil.virtual_memory().total
    yield Finding(
        "memory",
        f"{total_bytes / 1e9:.1f} GB",
        "" if total_bytes >= LEAST_MEMORY_BYTES else "The profile tiny needs up to 4 GB",
    )
    free_bytes = shutil.disk_usage(folder).free
    yield Finding(
        "disk",
        f"{free_bytes / 1e9:.1f} GB free in {folder.resolve()}",
        "" if free_bytes >= LEAST_DISK_BYTES else "Make room: results need 2 GB and more",
    )
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield Finding("GPU", ", ".join(gpus) or "none: the processor is used")
    lost = [path.name for path in weights if not path.is_file()]
    yield Finding(
        "shipped weights",
        f"not there: {lost}" if lost else "there",
        "Install mixprint again" if lost else "",
    )
    for what, missing in optional.items():
        detail = f"not installed: {', '.join(missing)}" if missing else "there"
        yield Finding(f"{what} (optional)", detail)


def look_elsewhere(place: str) -> list[Finding]:
    """Let what is installed for a place look at it.

    Args:
        place: name of the entry point, as `cluster`.

    Raises:
        ConfigError: nothing is installed for it.
    """
    found = list(entry_points(group=GROUP, name=place))
    if not found:
        raise ConfigError(
            f"--{place}: expected an entry point {place!r} of {GROUP}, found none; run "
            "`make setup` in a checkout of mixprint"
        )
    return list(found[0].load()())
