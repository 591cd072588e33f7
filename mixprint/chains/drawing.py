"""Random chains of effects for the stems of segments.

Shape suffixes: B chain of all stems of one segment, S stem, L place in the chain, P parameter,
E effect.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.chains.registry import EFFECTS, MAX_PARAMETERS, TRAINED
from mixprint.stems import NUM_STEMS

MAX_LENGTH = 8
LENGTHS = tuple(range(MAX_LENGTH + 1))
# Number of an effect where a chain has ended.
NONE = -1
# After each effect a stem is as loud as before, but for a gain drawn from +- this.
LEVEL_RANGE_DB = 2.0


@dataclass(frozen=True)
class Chains:
    """Chains of effects, one for each stem of each segment.

    Attributes:
        effects: names of the effects that `effect_BSL` numbers.
        effect_BSL: which effect is at each place; `NONE` from the end of a chain on.
        position_BSLP: its parameters on their scales, 0 to 1; 0 where it has fewer.
        level_db_BSL: by how much the level changes at each place.
    """

    effects: tuple[str, ...]
    effect_BSL: Tensor
    position_BSLP: Tensor
    level_db_BSL: Tensor

    def __len__(self) -> int:
        """Count the segments."""
        return len(self.effect_BSL)

    def take(self, index_B: Tensor) -> "Chains":
        """Return the chains of some segments, in that order, again where one is named again."""
        return Chains(
            self.effects,
            self.effect_BSL[index_B],
            self.position_BSLP[index_B],
            self.level_db_BSL[index_B],
        )

    def to(self, device: torch.device | str) -> "Chains":
        """Move them to a device."""
        return Chains(
            self.effects,
            self.effect_BSL.to(device),
            self.position_BSLP.to(device),
            self.level_db_BSL.to(device),
        )

    def at_other_times(self, generator: torch.Generator) -> "Chains":
        """Draw anew what is no style, such as phases: the same chains in other segments."""
        drawn_BSLP = torch.rand(self.position_BSLP.shape, generator=generator)
        redrawn_BSLP = self.position_BSLP.cpu().clone()
        for number, name in enumerate(self.effects):
            for p, parameter in enumerate(EFFECTS[name].parameters):
                if not parameter.is_style:
                    is_here_BSL = self.effect_BSL.cpu() == number
                    redrawn_BSLP[..., p][is_here_BSL] = drawn_BSLP[..., p][is_here_BSL]
        redrawn_BSLP = redrawn_BSLP.to(self.position_BSLP.device)
        return dataclasses.replace(self, position_BSLP=redrawn_BSLP)


def draw_chains(
    num_chains: int,
    generator: torch.Generator,
    *,
    num_stems: int = NUM_STEMS,
    lengths: Sequence[int] = LENGTHS,
    effects: Sequence[str] = TRAINED,
) -> Chains:
    """Draw chains: how long, which effects in which order, none of them twice, and their settings.

    Args:
        num_chains: number of segments.
        generator: on the CPU; equal states give equal chains.
        num_stems: of each segment, each with a chain of its own.
        lengths: how many effects a chain may have, each as probable.
        effects: names of the effects to choose from.

    Returns:
        chains, on the CPU.

    Raises:
        ValueError: an effect is unknown or named twice, or a length is impossible.
    """
    if unknown := [name for name in effects if name not in EFFECTS]:
        raise ValueError(f"unknown effects {unknown}; there are {', '.join(EFFECTS)}")
    longest = min(MAX_LENGTH, len(effects))
    if len(set(effects)) < len(effects) or not lengths:
        raise ValueError(f"effects and lengths must be some, each once: {effects}, {lengths}")
    if min(lengths) < 0 or max(lengths) > longest:
        raise ValueError(f"lengths must be 0 to {longest}, got {tuple(lengths)}")
    shape = (num_chains, num_stems)
    place = torch.randint(len(lengths), shape, generator=generator)
    length_BS1 = torch.tensor(tuple(lengths))[place][..., None]
    order_BSE = torch.rand((*shape, len(effects)), generator=generator).argsort(dim=-1)
    uniform_BSLP = torch.rand((*shape, MAX_LENGTH, MAX_PARAMETERS), generator=generator)
    level_BSL = 2 * torch.rand((*shape, MAX_LENGTH), generator=generator) - 1
    is_used_BSL = torch.arange(MAX_LENGTH) < length_BS1
    effect_BSL = torch.full((*shape, MAX_LENGTH), NONE)
    effect_BSL[..., :longest] = order_BSE[..., :longest]
    effect_BSL = torch.where(is_used_BSL, effect_BSL, NONE)
    return Chains(
        tuple(effects),
        effect_BSL,
        _positions(tuple(effects), effect_BSL, uniform_BSLP),
        torch.where(is_used_BSL, LEVEL_RANGE_DB * level_BSL, 0.0),
    )


def _positions(effects: tuple[str, ...], effect_BSL: Tensor, uniform_BSLP: Tensor) -> Tensor:
    """Turn uniform numbers into positions, as each effect draws them."""
    position_BSLP = torch.zeros_like(uniform_BSLP)
    for number, name in enumerate(effects):
        effect, is_here_BSL = EFFECTS[name], effect_BSL == number
        num_parameters = len(effect.parameters)
        drawn_NP = uniform_BSLP[is_here_BSL][:, :num_parameters]
        if effect.draw is not None:
            drawn_NP = effect.draw(drawn_NP)
        padding = (0, position_BSLP.shape[-1] - num_parameters)
        position_BSLP[is_here_BSL] = torch.nn.functional.pad(drawn_NP, padding)
    return position_BSLP
