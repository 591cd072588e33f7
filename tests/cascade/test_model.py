from typing import cast

import pytest
import torch
from torch import Tensor

from mixprint.cascade.model import Cascade, Stage
from mixprint.cascade.settings import CascadeConfig, StageShape
from mixprint.errors import ConfigError

DIM, FRAMES = 6, 20
STAGE = StageShape(width=8, hidden=16, num_layers=1, num_heads=2)


def cascade(*, trained: bool = False, num_stages: int = 2) -> Cascade:
    torch.manual_seed(0)
    config = CascadeConfig(
        latent_dim=DIM, agent_width=8, agent_heads=2, stages=(STAGE,) * num_stages, dropout=0.0
    )
    network = Cascade(config).eval()
    if trained:
        for name, weight in network.named_parameters():
            if name.endswith("gain_D"):
                torch.nn.init.normal_(weight)
        torch.nn.init.normal_(network.no_target_D)
    return network


def songs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_BDN, target_BDN = torch.randn(2, 3, DIM, FRAMES, generator=generator)
    return input_BDN, target_BDN


def test_untrained_it_gives_the_masked_mix() -> None:
    input_BDN, target_BDN = songs()
    blend = cascade()(input_BDN, target_BDN)
    masked_BDN = blend.mask_BDN * input_BDN + (1 - blend.mask_BDN) * target_BDN
    assert torch.equal(blend.mix, masked_BDN)
    assert torch.equal(blend.masked, masked_BDN)
    assert len(blend.stages_BDN) == 3


def test_equal_songs_are_mixed_to_themselves_whatever_the_mask() -> None:
    input_BDN, _ = songs()
    blend = cascade()(input_BDN, input_BDN)
    torch.testing.assert_close(blend.mix, input_BDN)


def test_a_stage_adds_once_it_has_learned() -> None:
    blend = cascade(trained=True)(*songs())
    before, first, second = blend.stages_BDN
    assert not torch.allclose(before, first)
    assert not torch.allclose(first, second)


def test_exchanged_songs_give_another_mix() -> None:
    input_BDN, target_BDN = songs()
    network = cascade()
    here, there = network(input_BDN, target_BDN), network(target_BDN, input_BDN)
    # A mask that only went by which song is which would give the same mix for both orders.
    assert not torch.allclose(here.mask_BDN, 1 - there.mask_BDN, atol=1e-3)
    assert not torch.allclose(here.mix, there.mix, atol=1e-3)


def test_lower_temperatures_decide_more() -> None:
    network = cascade()
    warm, cold = (network(*songs(), temperature=t).mask_BDN for t in (1.0, 0.3))
    assert ((cold - 0.5).abs() >= (warm - 0.5).abs()).all()
    assert ((cold > 0.5) == (warm > 0.5)).all()


def test_without_a_target_it_goes_by_the_input_alone() -> None:
    input_BDN, target_BDN = songs()
    network = cascade(trained=True)
    has_target_B = torch.tensor([True, False, False])
    mixed = network(input_BDN, target_BDN, has_target_B).mix
    other = network(input_BDN, target_BDN + 1, has_target_B).mix
    assert torch.equal(mixed[1:], other[1:])
    assert not torch.allclose(mixed[0], other[0])
    torch.testing.assert_close(mixed[:1], network(input_BDN, target_BDN).mix[:1])


def test_a_pair_is_mixed_the_same_in_any_company() -> None:
    input_BDN, target_BDN = songs()
    network = cascade(trained=True)
    alone = network(input_BDN[:1], target_BDN[:1]).mix
    torch.testing.assert_close(network(input_BDN, target_BDN).mix[:1], alone)


@pytest.mark.parametrize("is_training", [False, True])
def test_projections_have_a_norm_of_one_from_the_first_step_on(is_training: bool) -> None:
    network = cascade().train(is_training)
    for stage in network.stages:
        assert isinstance(stage, Stage)
        norm = torch.linalg.matrix_norm(cast("Tensor", stage.outward.weight), 2)
        assert norm.item() == pytest.approx(1.0, abs=0.01)


def test_all_weights_learn() -> None:
    network = cascade(trained=True).train()
    has_target_B = torch.tensor([True, True, False])
    network(*songs(), has_target_B).mix.square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_parameters_are_counted_by_part() -> None:
    network = cascade()
    counts = network.num_parameters()
    assert list(counts) == ["agent", "stage 0", "stage 1"]
    total = sum(p.numel() for p in network.parameters())
    assert sum(counts.values()) + DIM == total


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 6, twice the heads, found 8"):
        StageShape(width=8, hidden=16, num_layers=1, num_heads=3)
    with pytest.raises(ConfigError, match="agent_width: expected a multiple of 4"):
        CascadeConfig(agent_width=6, agent_heads=2, stages=(STAGE,), dropout=0.0)
