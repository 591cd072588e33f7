"""The methods of transfer, by name: what each does and needs, and how it finds an effect.

Light to import, for the command line describes them: a method is imported when it is used.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mixprint.transfer.methods.problem import Model, Problem
    from mixprint.transfer.methods.result import TransferResult


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A kind of network that methods use.

    Attributes:
        key: what metrics.json calls it; `<key>_checkpoint` is the option that names a folder of it.
        load: reads it from its folder, the shipped one if None, to a device.
        is_shipped: tells whether there is a shipped one.
    """

    key: str
    load: "Callable[[Path | None, torch.device | str], Model]"
    is_shipped: Callable[[], bool] = lambda: True


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to find the effect that gives a song a style.

    Attributes:
        name: for people, options and metrics.json.
        summary: what it does, for the help of the command line.
        find: finds the effect.
        needs_embedding: of input and style, whatever is optimised.
        model: the network it uses; None without one.
    """

    name: str
    summary: str
    find: "Callable[[Problem], TransferResult]"
    needs_embedding: bool = False
    model: ModelKind | None = None


def _by_console(problem: "Problem") -> "TransferResult":
    from mixprint.transfer.methods import console_fit

    return console_fit.fit_console(problem)


def _by_tcn(problem: "Problem") -> "TransferResult":
    from mixprint.transfer.methods import tcn_fit

    return tcn_fit.fit_tcn(problem)


def _in_one_pass(problem: "Problem") -> "TransferResult":
    from mixprint.transfer.methods.zero_shot import transfer_in_one_pass

    return transfer_in_one_pass(problem)


def _load_zero_shot(folder: Path | None, device: "torch.device | str") -> "Model":
    from mixprint.zero_shot.checkpoint import SHIPPED_ZERO_SHOT, load_zero_shot

    return load_zero_shot(folder or SHIPPED_ZERO_SHOT, device)


def _by_controller(problem: "Problem") -> "TransferResult":
    from mixprint.transfer.methods import controller

    return controller.set_in_one_pass(problem)


def _from_controller(problem: "Problem") -> "TransferResult":
    from mixprint.transfer.methods import controller

    return controller.fit_from_prediction(problem)


def _load_controller(folder: Path | None, device: "torch.device | str") -> "Model":
    from mixprint.controller.shipped import load_named

    return load_named(folder, device)


def _ships_controller() -> bool:
    from mixprint.controller.shipped import ships_controller

    return ships_controller()


_CONTROLLER = ModelKind(key="controller", load=_load_controller, is_shipped=_ships_controller)

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="console",
            summary="EQ, compression, width, pan, faders and a master are fitted",
            find=_by_console,
        ),
        Method(name="tcn", summary="a free network is fitted", find=_by_tcn),
        Method(
            name="zero-shot",
            summary="one pass of a trained network",
            find=_in_one_pass,
            needs_embedding=True,
            model=ModelKind(key="zero_shot", load=_load_zero_shot),
        ),
        Method(
            name="controller",
            summary="a trained controller sets the console in one pass",
            find=_by_controller,
            model=_CONTROLLER,
        ),
        Method(
            name="controller+",
            summary="the console is fitted from there",
            find=_from_controller,
            model=_CONTROLLER,
        ),
    )
}
MODELS: Mapping[str, ModelKind] = {
    method.model.key: method.model for method in METHODS.values() if method.model is not None
}


def shipped_methods() -> list[str]:
    """List the methods that need no network, or one that is shipped."""
    return [m.name for m in METHODS.values() if m.model is None or m.model.is_shipped()]


def describe_methods() -> str:
    """Return a phrase that says what each method does."""
    *others, last = (f"{method.name} ({method.summary})" for method in METHODS.values())
    return f"{', '.join(others)}, or {last}"


def load_models_of(
    methods: Iterable[str], folders: Mapping[str, Path | None], device: "torch.device | str"
) -> "dict[str, Model]":
    """Load the networks that methods use, each once.

    Args:
        methods: their names.
        folders: by key; the shipped one where it is None or missing.
        device: where they compute.

    Returns:
        the networks by key.

    Raises:
        CheckpointError: a network cannot be read.
    """
    wanted = set(methods)
    kinds = [method.model for name, method in METHODS.items() if name in wanted]
    return {
        kind.key: kind.load(folders.get(kind.key), device) for kind in kinds if kind is not None
    }


def model_fingerprints(method: str, model: "Model | None") -> dict[str, str | None]:
    """Return the fingerprint of the network that a method used, and None for all others."""
    return {
        key: model.fingerprint if model is not None and METHODS[method].model is kind else None
        for key, kind in MODELS.items()
    }
