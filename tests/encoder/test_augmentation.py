from collections.abc import Callable

import pytest
import torch

from mixprint.chains import EFFECTS, HELD_OUT, MAX_LENGTH, described
from mixprint.chains import Chains as EffectChains
from mixprint.encoder.augment import Chains, apply_chains, draw_chains
from mixprint.encoder.augmentation import Augmentation, is_changed, trained_effects
from mixprint.encoder.data import NO_PARTNER
from mixprint.encoder.settings import MAX_CHAIN_LENGTH, TrainConfig
from mixprint.errors import ConfigError
from mixprint.training.loading import derive_seed

MakeConfig = Callable[..., TrainConfig]
PARTNERS = (1, 0, NO_PARTNER)


def test_the_fixed_chain_is_drawn_and_applied_as_ever(make_config: MakeConfig) -> None:
    config = make_config()
    augmentation = Augmentation(config)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "chains", 7))
    expected = draw_chains(3, config.augment_ranges(), generator).take(torch.tensor([0, 0, 2]))
    drawn = augmentation.draw(7, 3, PARTNERS)
    assert isinstance(drawn, Chains)
    for found, values in ((drawn.values, expected.values), (drawn.active, expected.active)):
        assert all(torch.equal(found[name], values[name]) for name in values)
    stems_BSCT = 0.1 * torch.randn(3, 4, 2, 4_000, generator=generator)
    found_BSCT = augmentation.apply(stems_BSCT, drawn, 32_000)
    assert torch.equal(found_BSCT, apply_chains(stems_BSCT, expected, 32_000))
    assert is_changed(drawn) is None


def test_random_chains_follow_from_seed_and_step_and_partners_share_theirs(
    make_config: MakeConfig,
) -> None:
    def draw(step: int, **changes: object) -> EffectChains:
        config = make_config(augmentation="chains", chain_lengths=(1, 2), **changes)
        chains = Augmentation(config).draw(step, 3, PARTNERS)
        assert isinstance(chains, EffectChains)
        return chains

    first, again = draw(5), draw(5)
    assert torch.equal(first.effect_BSL, again.effect_BSL)
    assert torch.equal(first.position_BSLP, again.position_BSLP)
    for other in (draw(6), draw(5, seed=2)):
        assert not torch.equal(first.effect_BSL, other.effect_BSL)
    # All that is style is shared.
    target_BSP, _ = described(first)
    assert torch.equal(first.effect_BSL[0], first.effect_BSL[1])
    assert torch.equal(target_BSP[0], target_BSP[1])
    assert not torch.equal(target_BSP[0], target_BSP[2])
    length_BS = (first.effect_BSL >= 0).sum(dim=-1)
    assert length_BS.min() >= 1
    assert length_BS.max() <= 2


def test_the_two_kinds_alternate(make_config: MakeConfig) -> None:
    def draw(kind: str, step: int) -> Chains | EffectChains:
        return Augmentation(make_config(augmentation=kind)).draw(step, 3, PARTNERS)

    even, fixed = draw("alternating", 4), draw("fixed", 4)
    assert isinstance(even, Chains)
    assert isinstance(fixed, Chains)
    assert torch.equal(even.values["gain_db"], fixed.values["gain_db"])
    odd, drawn = draw("alternating", 5), draw("chains", 5)
    assert isinstance(odd, EffectChains)
    assert isinstance(drawn, EffectChains)
    assert torch.equal(odd.position_BSLP, drawn.position_BSLP)


def test_an_empty_chain_is_known(make_config: MakeConfig) -> None:
    config = make_config(augmentation="chains", chain_lengths=(0, 1))
    chains = Augmentation(config).draw(0, 200, None)
    changed_B = is_changed(chains)
    assert changed_B is not None
    assert 0.85 < float(changed_B.float().mean()) < 1.0  # less one in sixteen
    stems_BSCT = torch.randn(200, 4, 2, 64, generator=torch.Generator().manual_seed(0))
    unchanged_B = ~changed_B
    found_BSCT = Augmentation(config).apply(
        stems_BSCT[unchanged_B], chains.take(unchanged_B.nonzero()[:, 0]), 32_000
    )
    assert torch.equal(found_BSCT, stems_BSCT[unchanged_B])


def test_held_out_effects_are_not_drawn(make_config: MakeConfig) -> None:
    def effects(*held_out: str, most: int = 8) -> set[str]:
        config = make_config(
            augmentation="chains", held_out_effects=held_out, chain_lengths=(0, most)
        )
        return set(trained_effects(config))

    assert effects() == set(EFFECTS)
    assert MAX_CHAIN_LENGTH == MAX_LENGTH
    assert effects("default") == EFFECTS.keys() - HELD_OUT
    assert effects("default", "room") == EFFECTS.keys() - HELD_OUT - {"room"}
    with pytest.raises(ConfigError, match=r"train.held_out_effects: .* found \['rooom'\]"):
        effects("rooom")
    with pytest.raises(ConfigError, match="leave more than the 1 effects"):
        effects(*sorted(EFFECTS)[1:], most=1)


def test_what_is_not_used_decides_nothing(make_config: MakeConfig) -> None:
    fixed = make_config().identity()
    assert make_config(chain_lengths=(1, 2), held_out_effects=()).identity() == fixed
    assert not fixed.keys() & {"augmentation", "contrast_weight", "prediction_weight"}
    drawn = make_config(augmentation="chains").identity()
    assert make_config(augmentation="chains", augment_pan=(0.0, 0.0)).identity() == drawn
    assert make_config(augmentation="chains", chain_lengths=(1, 2)).identity() != drawn
    both = make_config(augmentation="alternating").identity()
    for changes in ({"augment_pan": (0.0, 0.0)}, {"chain_lengths": (1, 2)}):
        assert make_config(augmentation="alternating", **changes).identity() != both
    assert make_config(contrast_weight=2.0).identity() != fixed


def test_only_needed_views_are_embedded(make_config: MakeConfig) -> None:
    chains = {"augmentation": "chains", "prediction_weight": 1.0}
    assert make_config().views == ("anchor", "positive", "augmented")
    assert make_config(negatives=("songs",), shared_chain_weight=0.0).views == (
        "anchor",
        "positive",
    )
    assert make_config(contrast_weight=0.0, **chains).views == ("anchor", "augmented")
    assert make_config(negatives=("songs",), shared_chain_weight=0.0, **chains).views == (
        "anchor",
        "positive",
        "augmented",
    )
