"""Checkpoints that have a name in a registry instead of a folder.

The library knows no registry. What does offers itself as an entry point of the group
`mixprint.checkpoints`, under the scheme of its names (`models` for `models:/name@alias`): a
function that takes the name and an empty folder, fills it, and returns the folder that holds the
checkpoint.
"""

from importlib.metadata import entry_points
from pathlib import Path

from mixprint.errors import ConfigError

GROUP = "mixprint.checkpoints"


def is_registered(name: str) -> bool:
    """Tell a name like `models:/name@alias` from a path."""
    return ":/" in name


def fetch_checkpoint(name: str, folder: Path) -> Path:
    """Fetch a checkpoint by its name.

    Args:
        name: `<scheme>:/...`.
        folder: empty; receives the files.

    Returns:
        the folder that holds them.

    Raises:
        ConfigError: nothing that is installed knows the scheme.
        MixprintError: whatever the registry has to say.
    """
    scheme = name.partition(":")[0]
    found = list(entry_points(group=GROUP, name=scheme))
    if not found:
        raise ConfigError(
            f"{name}: expected an installed registry for {scheme}:/ (entry point of {GROUP}), "
            "found none; give a folder instead"
        )
    return Path(found[0].load()(name, folder))
