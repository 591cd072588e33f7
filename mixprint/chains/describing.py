"""Descriptions of chains, as numbers that a network can predict.

Shape suffixes: B segment, S stem, L place in a chain, P number of a description.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.chains.drawing import Chains
from mixprint.chains.effect import Parameter
from mixprint.chains.registry import EFFECTS


def description_names(effects: Sequence[str]) -> list[str]:
    """Name the numbers of a description: each effect, followed by its parameters of style."""
    names = []
    for effect in effects:
        names.append(effect)
        names += [f"{effect}.{each.name}" for _, each in _style_parameters(effect)]
    return names


def _style_parameters(effect: str) -> list[tuple[int, Parameter]]:
    return [(p, each) for p, each in enumerate(EFFECTS[effect].parameters) if each.is_style]


def described(chains: Chains) -> tuple[Tensor, Tensor]:
    """Describe what was done to each stem, in the order of `description_names(chains.effects)`.

    Returns:
        target_BSP: for each effect 1 where it is in the chain, else 0, followed by the positions of
            its parameters on their scales, 0 to 1.
        weight_BSP: 1 for each effect, and for its parameters where it is in the chain; else 0.
    """
    targets, weights = [], []
    for number, name in enumerate(chains.effects):
        columns = [p for p, _ in _style_parameters(name)]
        is_here_BSL1 = (chains.effect_BSL == number)[..., None]
        position_BSLP = chains.position_BSLP[..., columns]
        position_BSP = torch.where(is_here_BSL1, position_BSLP, 0.0).sum(dim=2)
        presence_BS1 = is_here_BSL1.any(dim=2).to(position_BSP.dtype)
        targets += [presence_BS1, position_BSP]
        weights += [torch.ones_like(presence_BS1), presence_BS1.expand_as(position_BSP)]
    return torch.cat(targets, dim=-1), torch.cat(weights, dim=-1)
