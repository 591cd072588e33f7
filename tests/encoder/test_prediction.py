import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.chains import Chains, described, draw_chains
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.prediction import PredictionHead, prediction_losses
from mixprint.encoder.settings import TrainConfig
from tests.encoder.conftest import make_set
from tests.encoder.trials import quick_input, run

EFFECTS = ("compressor", "room", "pan", "channel_swap")
LENGTHS = (0, 1, 2)
WHOLE = slice(None)


def drawn(num_chains: int, seed: int = 0) -> Chains:
    generator = torch.Generator().manual_seed(seed)
    return draw_chains(num_chains, generator, lengths=LENGTHS, effects=EFFECTS)


def make_head(embedding_dim: int) -> PredictionHead:
    torch.manual_seed(0)
    return PredictionHead(embedding_dim, EFFECTS, mean_presence=1 / len(EFFECTS))


def logits_of(target_BSP: Tensor, head: PredictionHead) -> Tensor:
    """Return the logits of who knows all."""
    return torch.where(head.is_presence_P, 40 * target_BSP - 20, torch.logit(target_BSP, eps=1e-6))


def test_knowing_nothing_costs_one_and_knowing_all_costs_nothing() -> None:
    chains, head = drawn(4_000), make_head(4)
    target_BSP, _ = described(chains)
    ignorant_BSP = torch.where(head.is_presence_P, math.log(1 / 3), 0.0).expand_as(target_BSP)
    losses = prediction_losses(head, ignorant_BSP, chains, WHOLE)
    assert [float(loss) for loss in losses] == pytest.approx([1.0, 1.0], abs=0.02)
    # Without weights the head starts there.
    torch.nn.init.zeros_(head.out.weight)
    assert torch.allclose(head(torch.zeros(1, 4), torch.ones(1, 4))[0], ignorant_BSP[0])
    losses = prediction_losses(head, logits_of(target_BSP, head), chains, WHOLE)
    assert [float(loss) for loss in losses] == pytest.approx([0.0, 0.0], abs=1e-4)


def test_parameters_of_absent_effects_do_not_count() -> None:
    chains, head = drawn(6), make_head(4)
    target_BSP, weight_BSP = described(chains)
    logits_BSP = torch.randn(target_BSP.shape, generator=torch.Generator().manual_seed(1))
    logits_BSP.requires_grad_()
    sum(prediction_losses(head, logits_BSP, chains, WHOLE)).backward()
    assert logits_BSP.grad is not None
    assert (logits_BSP.grad[weight_BSP == 0] == 0).all()
    assert (logits_BSP.grad[weight_BSP == 1] != 0).all()
    assert (weight_BSP == 0).any()


def test_ranks_add_up_to_the_batch() -> None:
    chains, head = drawn(5), make_head(4)
    logits_BSP = torch.randn(5, 4, len(head.is_presence_P))
    whole = prediction_losses(head, logits_BSP, chains, WHOLE)
    parts = [
        prediction_losses(head, logits_BSP[rows], chains, rows)
        for rows in (slice(0, 2), slice(2, 5))
    ]
    for loss, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(first + second, loss)


def test_the_loss_falls_where_embeddings_tell_what_was_done() -> None:
    chains, head = drawn(48), make_head(16)
    target_BSP, _ = described(chains)
    generator = torch.Generator().manual_seed(2)
    original_BE = torch.nn.functional.normalize(torch.randn(48, 16, generator=generator), dim=-1)
    done_BE = target_BSP.flatten(1) @ torch.randn(target_BSP[0].numel(), 16, generator=generator)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        logits_BSP = head(original_BE, original_BE + 0.1 * done_BE)
        presence, parameters = prediction_losses(head, logits_BSP, chains, WHOLE)
        (presence + parameters).backward()
        optimizer.step()
        losses.append((presence.item(), parameters.item()))
    assert losses[-1][0] < 0.1 * losses[0][0]
    assert losses[-1][1] < 0.3 * losses[0][1]


def test_a_training_predicts_beside_contrast_or_alone_and_leaves_no_head(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    data: Any = make_set(
        tmp_path / "songs", dict.fromkeys("ab", "train") | dict.fromkeys("cd", "valid")
    )
    chains = {"augmentation": "chains", "chain_lengths": (0, 2), "prediction_weight": 0.5}
    chains |= {"valid_chains": 2}
    with quick_input():
        both = run(make_config(epochs=1, **chains), data, tmp_path / "both")
        alone = make_config(epochs=1, contrast_weight=0.0, **chains)
        # One song of the validation has no partner behind a chain.
        fewer = data.tracks[:-2]
        first, second = (
            run(alone, data, tmp_path / name, tracks=fewer) for name in ("alone", "again")
        )
    entry = both.best
    assert entry["train.loss"] == pytest.approx(
        entry["train.contrast_loss"] + 0.5 * entry["train.prediction_loss"]
    )
    assert entry["train.prediction_loss"] == pytest.approx(
        entry["train.presence_loss"] + entry["train.parameter_loss"]
    )
    assert 0 < entry["valid.chain_mrr"] <= 1
    assert not first.best.keys() & {"train.contrast_loss", "valid.chain_mrr"}
    assert first.best["train.loss"] == pytest.approx(0.5 * first.best["train.prediction_loss"])
    assert first.best["train.loss"] == second.best["train.loss"]
    exported = load_checkpoint(tmp_path / "both").model
    assert exported.state_dict().keys() == MixEncoder(exported.config).state_dict().keys()
    weights = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("alone", "again")]
    assert weights[0] == weights[1]
