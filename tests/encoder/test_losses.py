import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional

from mixprint.encoder.losses import (
    Temperature,
    Views,
    contrastive_loss,
    gather_rows,
    info_nce,
    relations,
)
from mixprint.encoder.settings import NEGATIVES, Objective
from tests.processes import start_ranks


def unit(num_rows: int, seed: int, dim: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num_rows, dim, generator=generator), dim=-1)


def objective(**changes: Any) -> Objective:
    """Everything repels and only the own segment attracts, but for the changes."""
    values: dict[str, Any] = {
        "negatives": NEGATIVES,
        "same_style": "negative",
        "segment_weight": 1.0,
        "shared_chain_weight": 0.0,
    }
    return Objective(**(values | changes))


def test_equal_embeddings_cost_the_logarithm_of_the_candidates() -> None:
    same = torch.ones(5, 4) / 2
    scale = torch.tensor(10.0)
    own, every = torch.eye(5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool)
    torch.testing.assert_close(
        info_nce(same, same, own, every, scale, None), torch.full((5,), math.log(5))
    )
    torch.testing.assert_close(
        info_nce(same, same, own, every, scale, same), torch.full((5,), math.log(6))
    )
    three = every.clone()
    three[0, 3:] = False
    torch.testing.assert_close(
        info_nce(same, same, own, three, scale, None)[0], torch.tensor(math.log(3))
    )


def test_several_positives_share_the_loss_by_hand() -> None:
    eye = torch.eye(3)
    positive = torch.tensor([[True, True, False]])
    every = torch.ones(1, 3, dtype=torch.bool)
    loss = info_nce(eye[:1], eye, positive, every, torch.tensor(2.0), None)
    total = math.exp(2) + 2
    expected = -(math.log(math.exp(2) / total) + math.log(1 / total)) / 2
    assert loss.item() == pytest.approx(expected)


def test_two_orthogonal_pairs_by_hand() -> None:
    eye = torch.eye(2)
    views = Views(anchor_GE=eye, positive_GE=eye)
    loss = contrastive_loss(views, slice(0, 2), torch.tensor(2.0), objective())
    torch.testing.assert_close(loss, torch.full((2,), math.log(1 + math.exp(-2))))


# Rows 0 and 1 are mixes of one song; 0 and 2 have one style; nothing is known of row 3's.
RELATED = {"song_G": torch.tensor([0, 0, 1, 2]), "style_G": torch.tensor([5, 6, 5, -1])}


@pytest.mark.parametrize(
    ("changes", "positive", "candidates"),
    [
        ({}, [0], [0, 1, 2, 3]),
        ({"negatives": ("songs",)}, [0], [0, 2, 3]),
        ({"negatives": ("siblings", "augmented")}, [0], [0, 1]),
        ({"negatives": ("augmented",)}, [0], [0]),
        ({"same_style": "ignored"}, [0], [0, 1, 3]),
        ({"same_style": "positive"}, [0, 2], [0, 1, 2, 3]),
        ({"same_style": "positive", "negatives": ("siblings",)}, [0, 2], [0, 1, 2]),
    ],
)
def test_who_attracts_and_who_repels(
    changes: dict[str, Any], positive: list[int], candidates: list[int]
) -> None:
    views = Views(anchor_GE=unit(4, 0), positive_GE=unit(4, 1), **RELATED)
    for rows in (slice(0, 4), slice(0, 1)):
        positive_LG, candidate_LG = relations(views, rows, objective(**changes))
        assert positive_LG[0].nonzero().flatten().tolist() == positive
        assert candidate_LG[0].nonzero().flatten().tolist() == candidates


def test_songs_of_unknown_style_are_not_alike() -> None:
    unknown = torch.full((4,), -1)
    views = Views(
        anchor_GE=unit(4, 0), positive_GE=unit(4, 1), song_G=torch.arange(4), style_G=unknown
    )
    positive_LG, candidate_LG = relations(views, slice(0, 4), objective(same_style="positive"))
    assert torch.equal(positive_LG, torch.eye(4, dtype=torch.bool))
    assert candidate_LG.all()


def test_a_row_without_negatives_costs_nothing_and_teaches_nothing() -> None:
    anchor = unit(4, 0).requires_grad_()
    views = Views(anchor_GE=anchor, positive_GE=unit(4, 1), **RELATED)
    only = objective(negatives=("siblings",))
    loss = contrastive_loss(views, slice(0, 4), torch.tensor(5.0), only)
    assert (loss[:2] > 0).all()
    assert loss[2:].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(loss.sum(), anchor)
    assert gradient.isfinite().all()
    assert gradient[2:].abs().max() == 0


def test_the_weights_of_the_terms_are_factors() -> None:
    views = Views(
        anchor_GE=unit(4, 0),
        positive_GE=unit(4, 1),
        augmented_GE=unit(4, 2),
        partner_G=torch.tensor([2, 3, 0, 1]),
    )

    def loss(segment: float, shared: float) -> Tensor:
        weights = {"segment_weight": segment, "shared_chain_weight": shared}
        return contrastive_loss(views, slice(0, 4), torch.tensor(5.0), objective(**weights))

    torch.testing.assert_close(loss(2.0, 3.0), 2 * loss(1.0, 0.0) + 3 * loss(0.0, 1.0))


def test_the_augmented_anchor_is_a_negative_for_its_own_row_alone() -> None:
    anchor, positive = unit(4, 0), unit(4, 1)
    augmented = unit(4, 2).requires_grad_()
    views = Views(anchor_GE=anchor, positive_GE=positive, augmented_GE=augmented)
    loss = contrastive_loss(views, slice(0, 4), torch.tensor(5.0), objective())
    (gradient,) = torch.autograd.grad(loss[1], augmented)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2, 3]].abs().sum() == 0
    # Moving against the gradient parts it from its content: that lowers the loss.
    nearer = augmented.detach().clone()
    nearer[1] = anchor[1]
    views = Views(anchor_GE=anchor, positive_GE=positive, augmented_GE=nearer)
    assert contrastive_loss(views, slice(0, 4), torch.tensor(5.0), objective())[1] > loss[1]
    without = objective(negatives=("songs", "siblings"))
    plain = Views(anchor_GE=anchor, positive_GE=positive)
    torch.testing.assert_close(
        contrastive_loss(views, slice(0, 4), torch.tensor(5.0), without),
        contrastive_loss(plain, slice(0, 4), torch.tensor(5.0), objective()),
    )


def test_shared_chains_pull_two_songs_together() -> None:
    anchor, positive = unit(4, 0), unit(4, 1)
    partner = torch.tensor([2, -1, 0, -1])
    scale = torch.tensor(5.0)

    def shared_term(augmented: Tensor) -> Tensor:
        views = Views(
            anchor_GE=anchor, positive_GE=positive, augmented_GE=augmented, partner_G=partner
        )
        weighted = contrastive_loss(views, slice(0, 4), scale, objective(shared_chain_weight=0.5))
        return weighted - contrastive_loss(views, slice(0, 4), scale, objective())

    apart = unit(4, 2)
    together = apart.clone()
    together[2] = together[0]
    assert shared_term(apart)[1] == 0
    assert shared_term(apart)[3] == 0
    assert shared_term(together)[0] < shared_term(apart)[0]
    # By hand: the partner against two other chains and the untreated content.
    logits = scale * torch.stack(
        [apart[0] @ apart[2], apart[0] @ apart[1], apart[0] @ apart[3], apart[0] @ anchor[0]]
    )
    expected = 0.5 * (logits.logsumexp(dim=0) - logits[0])
    torch.testing.assert_close(shared_term(apart)[0], expected)


def test_an_augmentation_that_changed_nothing_neither_repels_nor_attracts() -> None:
    anchor, positive, augmented = unit(4, 0), unit(4, 1), unit(4, 2)
    scale, is_changed = torch.tensor(5.0), torch.tensor([True, False, True, False])
    views = Views(
        anchor_GE=anchor,
        positive_GE=positive,
        augmented_GE=augmented,
        partner_G=torch.tensor([2, 3, 0, 1]),
    )
    masked = replace(views, is_changed_G=is_changed)
    for asked, instead in (
        (objective(), objective(negatives=("songs", "siblings"))),
        (objective(shared_chain_weight=1.0, segment_weight=0.0), None),
    ):
        full_G, found_G = (
            contrastive_loss(each, slice(None), scale, asked) for each in (views, masked)
        )
        assert torch.equal(found_G[is_changed], full_G[is_changed])
        expected_G = torch.zeros(4)
        if instead is not None:
            expected_G = contrastive_loss(views, slice(None), scale, instead)
        torch.testing.assert_close(found_G[~is_changed], expected_G[~is_changed])


def test_the_temperature_is_learned_only_if_asked() -> None:
    assert list(Temperature(0.1, learned=False).parameters()) == []
    learned = Temperature(0.1, learned=True)
    assert learned().item() == pytest.approx(10, rel=1e-5)
    assert [p.requires_grad for p in learned.parameters()] == [True]


def test_a_temperature_that_was_held_can_move_again() -> None:
    learned = Temperature(0.001, learned=True)
    learned.limit()
    assert learned().item() == pytest.approx(100, rel=1e-4)
    learned().backward()
    (log_scale,) = learned.parameters()
    assert log_scale.grad is not None
    assert log_scale.grad.item() == pytest.approx(100, rel=1e-4)


def test_a_fixed_temperature_is_what_was_asked_for() -> None:
    fixed = Temperature(0.005, learned=False)
    fixed.limit()
    assert fixed().item() == pytest.approx(200, rel=1e-5)


def test_one_rank_gathers_nothing() -> None:
    rows = unit(3, 0)
    assert gather_rows(rows, [3]) is rows


def test_the_exchange_of_gradients_changes_those_of_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gather(parts: list[Tensor], rows: Tensor) -> None:
        for part in parts:
            part.copy_(rows)

    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "all_gather", gather)
    monkeypatch.setattr(distributed, "all_reduce", lambda gradient: gradient.mul_(2))
    rows, shift = unit(2, 0).requires_grad_(), unit(4, 1).requires_grad_()
    weight = unit(4, 2)
    moved = 1 * shift  # of lower number than the exchange: its gradient is read after it
    ((gather_rows(rows, [2, 2]) + moved) * weight).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, 2 * weight[:2])
    torch.testing.assert_close(shift.grad, weight)


def joint_loss(embedding_PGE: Tensor, rows: slice) -> Tensor:
    views = Views(
        anchor_GE=embedding_PGE[0],
        positive_GE=embedding_PGE[1],
        augmented_GE=embedding_PGE[2],
        partner_G=torch.tensor([3, 4, -1, 0, 1]),
        song_G=torch.tensor([0, 0, 1, 1, 2]),
        style_G=torch.tensor([5, 6, 5, 6, -1]),
    )
    return contrastive_loss(
        views,
        rows,
        torch.tensor(7.0),
        objective(shared_chain_weight=0.5, same_style="positive", negatives=("siblings",)),
    )


def rank_gradient(rank: int, folder: str, embedding_PGE: Tensor) -> None:
    """One of two ranks: rows 0-1 or 2-4 of five; saves its loss sum and its rows' gradient."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    rows = (slice(0, 2), slice(2, 5))[rank]
    own_BPE = embedding_PGE[:, rows].transpose(0, 1).contiguous().requires_grad_()
    joint_PGE = gather_rows(own_BPE, [2, 3]).transpose(0, 1)
    loss = joint_loss(joint_PGE, rows).sum()
    (gradient,) = torch.autograd.grad(loss, own_BPE)
    torch.save((loss.detach(), gradient), Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_of_unequal_size_equal_the_joint_batch(tmp_path: Path) -> None:
    embedding_PGE = torch.stack([unit(5, seed) for seed in range(3)])
    start_ranks(rank_gradient, str(tmp_path), embedding_PGE)
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    joint = embedding_PGE.clone().requires_grad_()
    loss = joint_loss(joint, slice(0, 5)).sum()
    (gradient,) = torch.autograd.grad(loss, joint)
    torch.testing.assert_close(sum(part[0] for part in parts), loss.detach(), atol=1e-5, rtol=0)
    gathered = torch.cat([part[1] for part in parts]).transpose(0, 1)
    torch.testing.assert_close(gathered, gradient, atol=1e-5, rtol=0)
