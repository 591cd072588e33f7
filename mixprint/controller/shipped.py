"""The controller that mixprint ships, if it ships one."""

import logging
from pathlib import Path

import torch

from mixprint.controller.checkpoint import Controller, load_controller
from mixprint.errors import CheckpointError
from mixprint.text import shown

log = logging.getLogger("mixprint.controller")

DEFAULT_START, NO_START = "default", "none"
# None lies there until one is trained: `make train-controller`.
SHIPPED_CONTROLLER = Path(__file__).parents[1] / "weights" / "controller"


def ships_controller() -> bool:
    """Tell whether a controller is shipped."""
    return SHIPPED_CONTROLLER.is_dir()


def load_named(folder: Path | str | None, device: torch.device | str) -> Controller:
    """Load a controller that is named, or the shipped one.

    Args:
        folder: None or empty for the shipped one.
        device: where it computes.

    Raises:
        CheckpointError: it is missing, broken or of another kind, or none is named and none is
            shipped.
    """
    if folder is not None and str(folder):
        return load_controller(Path(folder), device)
    if not ships_controller():
        raise CheckpointError(
            f"controller: expected one in {shown(SHIPPED_CONTROLLER)}, found none, for none is "
            "shipped yet; train one with `make train-controller`, and name its folder with "
            "--controller (of `mixprint transfer` --controller_checkpoint, in Python controller=)"
        )
    return load_controller(SHIPPED_CONTROLLER, device)


def start_folder(name: str) -> Path | None:
    """Return the folder of the controller that a training starts from.

    Args:
        name: the folder; `default` for the shipped one, if there is one; `none` for none.

    Returns:
        None where the training starts from scratch.
    """
    if name == DEFAULT_START and not ships_controller():
        log.warning("no controller is shipped yet: a small one is trained from scratch")
        return None
    if name == NO_START:
        return None
    return SHIPPED_CONTROLLER if name == DEFAULT_START else Path(name)
