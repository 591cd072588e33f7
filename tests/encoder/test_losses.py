import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

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
)


def unit(num_rows: int, seed: int, dim: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num_rows, dim, generator=generator), dim=-1)


def test_equal_embeddings_cost_the_logarithm_of_the_candidates() -> None:
    same = torch.ones(5, 4) / 2
    scale = torch.tensor(10.0)
    target = torch.arange(5)
    torch.testing.assert_close(
        info_nce(same, same, target, scale, None), torch.full((5,), math.log(5))
    )
    torch.testing.assert_close(
        info_nce(same, same, target, scale, same), torch.full((5,), math.log(6))
    )


def test_two_orthogonal_pairs_by_hand() -> None:
    eye = torch.eye(2)
    loss = contrastive_loss(Views(anchor_GE=eye, positive_GE=eye), slice(0, 2), torch.tensor(2.0))
    torch.testing.assert_close(loss, torch.full((2,), math.log(1 + math.exp(-2))))


def test_the_augmented_anchor_is_a_negative_for_its_own_row_alone() -> None:
    anchor, positive = unit(4, 0), unit(4, 1)
    augmented = unit(4, 2).requires_grad_()
    views = Views(anchor_GE=anchor, positive_GE=positive, augmented_GE=augmented)
    loss = contrastive_loss(views, slice(0, 4), torch.tensor(5.0))
    (gradient,) = torch.autograd.grad(loss[1], augmented)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2, 3]].abs().sum() == 0
    # Moving against the gradient parts it from its content: that lowers the loss.
    nearer = augmented.detach().clone()
    nearer[1] = anchor[1]
    views = Views(anchor_GE=anchor, positive_GE=positive, augmented_GE=nearer)
    assert contrastive_loss(views, slice(0, 4), torch.tensor(5.0))[1] > loss[1]


def test_shared_chains_pull_two_songs_together() -> None:
    anchor, positive = unit(4, 0), unit(4, 1)
    partner = torch.tensor([2, -1, 0, -1])
    scale = torch.tensor(5.0)

    def shared_term(augmented: Tensor) -> Tensor:
        views = Views(
            anchor_GE=anchor, positive_GE=positive, augmented_GE=augmented, partner_G=partner
        )
        weighted = contrastive_loss(views, slice(0, 4), scale, shared_chain_weight=0.5)
        return weighted - contrastive_loss(views, slice(0, 4), scale)

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


def test_the_temperature_is_learned_only_if_asked() -> None:
    assert list(Temperature(0.1, learned=False).parameters()) == []
    learned = Temperature(0.1, learned=True)
    assert learned().item() == pytest.approx(10, rel=1e-5)
    assert [p.requires_grad for p in learned.parameters()] == [True]


def test_one_rank_gathers_nothing() -> None:
    rows = unit(3, 0)
    assert gather_rows(rows, [3]) is rows


def joint_loss(embedding_PGE: Tensor, rows: slice) -> Tensor:
    views = Views(
        anchor_GE=embedding_PGE[0],
        positive_GE=embedding_PGE[1],
        augmented_GE=embedding_PGE[2],
        partner_G=torch.tensor([3, 4, -1, 0, 1]),
    )
    return contrastive_loss(views, rows, torch.tensor(7.0), shared_chain_weight=0.5)


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


def test_two_ranks_of_unequal_size_equal_the_joint_batch(
    tmp_path: Path, start_ranks: Callable[..., None]
) -> None:
    embedding_PGE = torch.stack([unit(5, seed) for seed in range(3)])
    start_ranks(rank_gradient, str(tmp_path), embedding_PGE)
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    joint = embedding_PGE.clone().requires_grad_()
    loss = joint_loss(joint, slice(0, 5)).sum()
    (gradient,) = torch.autograd.grad(loss, joint)
    torch.testing.assert_close(sum(part[0] for part in parts), loss.detach(), atol=1e-5, rtol=0)
    gathered = torch.cat([part[1] for part in parts]).transpose(0, 1)
    torch.testing.assert_close(gathered, gradient, atol=1e-5, rtol=0)
