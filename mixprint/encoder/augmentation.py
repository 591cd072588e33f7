"""Augmented views of a batch: which chains are drawn for a step, and what they make of stems.

There are two kinds: one fixed chain of six effects (`mixprint.encoder.augment`), and random chains
of the many effects of `mixprint.chains`. A training has the one, the other, or both in turn.

Shape suffixes: B segment, S stem, C channel, T sample, L place in a chain, G pair of all ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.chains import EFFECTS, HELD_OUT
from mixprint.chains import Chains as EffectChains
from mixprint.chains import apply_chains as apply_effects
from mixprint.chains import draw_chains as draw_effects
from mixprint.chains.drawing import NONE
from mixprint.encoder.augment import Chains, apply_chains, draw_chains
from mixprint.encoder.data import NO_PARTNER
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import ConfigError
from mixprint.training.loading import derive_seed

AnyChains = Chains | EffectChains

_DEFAULT = "default"  # stands for the effects that `mixprint.chains` holds out


class Augmentation:
    """Chains of a training, which follow from its seed and the step alone.

    Attributes:
        effects: names of the effects of random chains; none where none are drawn.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Choose the effects.

        Raises:
            ConfigError: an effect to be held out is unknown, or too few are left.
        """
        self._seed, self._ranges = config.seed, config.augment_ranges()
        self._in_turn = config.augmentation == "alternating"
        fewest, most = config.chain_lengths
        self._lengths = range(fewest, most + 1)
        self.effects = trained_effects(config) if config.draws_chains else ()

    @property
    def mean_presence(self) -> float:
        """Return how probable it is that an effect is in a stem's chain."""
        return sum(self._lengths) / len(self._lengths) / len(self.effects)

    def draw(self, step: int, num_pairs: int, partners: Sequence[int] | None) -> AnyChains:
        """Draw the chains of a step for the whole batch; partners share those of the first.

        In turn, even steps have the fixed chain.
        """
        index_G = torch.arange(num_pairs)
        if partners is not None:
            partner_G = torch.tensor(partners)
            index_G = torch.where(partner_G == NO_PARTNER, index_G, index_G.minimum(partner_G))
        if self.is_random(step):
            return self.draw_effects(num_pairs, index_G, "chains", step)
        generator = self._generator("chains", step)
        return draw_chains(num_pairs, self._ranges, generator).take(index_G)

    def draw_mix(self, block: int, mix: int, num_segments: int) -> AnyChains:
        """Draw a chain of a block of measured views, and give it to all its segments.

        In turn, even mixes have the fixed chain.
        """
        index_B = torch.zeros(num_segments, dtype=torch.long)
        if self.is_random(mix):
            return self.draw_effects(1, index_B, "block", block, mix)
        return draw_chains(1, self._ranges, self._generator("block", block, mix)).take(index_B)

    def is_random(self, number: int) -> bool:
        """Tell whether a step, or a mix of a block, has random chains, not the fixed one."""
        return bool(self.effects) and not (self._in_turn and number % 2 == 0)

    def draw_effects(self, num_chains: int, index_B: Tensor, *purpose: object) -> EffectChains:
        """Draw random chains and give them to segments.

        Args:
            num_chains: how many are drawn.
            index_B: number of the chain of each segment; where it is the same, all is the same but
                for what is no style, such as phases.
            purpose: from which, with the seed of the training, the draw follows.
        """
        generator = self._generator(*purpose)
        chains = draw_effects(num_chains, generator, lengths=self._lengths, effects=self.effects)
        return chains.take(index_B).at_other_times(generator)

    def _generator(self, *purpose: object) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self._seed, *purpose))

    def apply(self, stems_BSCT: Tensor, chains: AnyChains, sample_rate_hz: int) -> Tensor:
        """Put each segment's stems through its chains: stems_BSCT, new."""
        if isinstance(chains, EffectChains):
            return apply_effects(stems_BSCT, chains.to(stems_BSCT.device), sample_rate_hz)
        return apply_chains(stems_BSCT, chains, sample_rate_hz)


def is_changed(chains: AnyChains) -> Tensor | None:
    """Tell which segments have any effect at all: is_changed_B; None where all have."""
    if isinstance(chains, EffectChains):
        return (chains.effect_BSL != NONE).any(dim=2).any(dim=1)
    return None


def trained_effects(config: TrainConfig) -> tuple[str, ...]:
    """Return the names of the effects that a training draws.

    Raises:
        ConfigError: an effect to be held out is unknown, or no more are left than a chain may have.
    """
    held_out = set(config.held_out_effects) - {_DEFAULT}
    if _DEFAULT in config.held_out_effects:
        held_out |= HELD_OUT
    if unknown := sorted(held_out - EFFECTS.keys()):
        raise ConfigError(
            f"train.held_out_effects: expected names of effects or {_DEFAULT!r}, found {unknown}"
        )
    effects = tuple(name for name in EFFECTS if name not in held_out)
    if len(effects) <= config.chain_lengths[1]:
        raise ConfigError(
            f"train.held_out_effects: expected to leave more than the {config.chain_lengths[1]} "
            f"effects that a chain may have (train.chain_lengths), found {len(effects)}"
        )
    return effects
