"""Prediction of what was done: which effects a chain put on each stem, and with which settings.

The head sees a pair: the embedding of a segment and that of the same segment behind a chain. A song
has been mixed before, and no listener can tell which compressor in it is new; what was done is the
difference between the two. The head serves the training alone: encoders are written without it.

Shape suffixes: B pair of this rank, E embedding, S stem, P number of a description (see
`mixprint.chains.described`), H hidden, X effect.

Source: that predicting effect chains teaches an encoder more than contrast alone, StemFX (ISMIR
2026).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.chains import Chains, described, description_names
from mixprint.stems import NUM_STEMS

_HIDDEN = 512
_HUBER_DELTA = 0.2  # of positions on a parameter's scale, 0 to 1
# Loss of guessing the middle for a position that is spread evenly over 0 to 1: the integral of the
# Huber loss.
_GUESSED_HUBER = _HUBER_DELTA**3 / 3 + _HUBER_DELTA / 4 - _HUBER_DELTA**2 / 2


class PredictionHead(nn.Module):
    """Small network from a pair of embeddings to the description of the chains between them."""

    is_presence_P: Tensor

    def __init__(self, embedding_dim: int, effects: Sequence[str], mean_presence: float) -> None:
        """Start out from how probable each effect is.

        Args:
            embedding_dim: of the encoder.
            effects: names of the effects in the order of the descriptions.
            mean_presence: part of the chains that an effect is in.
        """
        super().__init__()
        is_presence = [name in set(effects) for name in description_names(effects)]
        self.register_buffer("is_presence_P", torch.tensor(is_presence), persistent=False)
        self.mean_presence = mean_presence
        self.hidden = nn.Sequential(nn.Linear(2 * embedding_dim, _HIDDEN), nn.GELU())
        self.out = nn.Linear(_HIDDEN, NUM_STEMS * len(is_presence))
        with torch.no_grad():
            bias_SP = self.out.bias.view(NUM_STEMS, -1)
            bias_SP.zero_()
            bias_SP[:, self.is_presence_P] = math.log(mean_presence / (1 - mean_presence))
        # Numbers of an embedding on the unit sphere are as small as the root of their count.
        self._scale = math.sqrt(embedding_dim)

    def forward(self, original_BE: Tensor, processed_BE: Tensor) -> Tensor:
        """Predict logits of presence and of positions: logits_BSP."""
        pair_BX = self._scale * torch.cat([original_BE, processed_BE], dim=-1)
        logits: Tensor = self.out(self.hidden(pair_BX)).unflatten(-1, (NUM_STEMS, -1))
        return logits


def prediction_losses(
    head: PredictionHead, logits_BSP: Tensor, chains: Chains, rows: slice
) -> tuple[Tensor, Tensor]:
    """Compare predictions of this rank with what was done.

    Both losses are 1 for a prediction that knows only how chains are drawn, 0 for a perfect one.

    Args:
        head: tells which numbers are presences.
        logits_BSP: of this rank's pairs.
        chains: of the whole batch.
        rows: of this rank in it.

    Returns:
        shares of the presence loss (cross-entropy, over its value when only the probability is
        known) and of the parameter loss (Huber, over its value in the middle, parameters of absent
        effects left out): the sum over all ranks is the loss of the batch.
    """
    target_GSP, weight_GSP = (x.to(logits_BSP.device) for x in described(chains))
    target_BSP, is_presence_P = target_GSP[rows], head.is_presence_P
    surprise = functional.binary_cross_entropy_with_logits(
        logits_BSP[..., is_presence_P], target_BSP[..., is_presence_P], reduction="sum"
    )
    num_presences = target_GSP[..., is_presence_P].numel()
    weight_GSP = weight_GSP * ~is_presence_P
    huber_BSP = functional.huber_loss(
        logits_BSP.sigmoid(), target_BSP, reduction="none", delta=_HUBER_DELTA
    )
    error = (weight_GSP[rows] * huber_BSP).sum() / weight_GSP.sum().clamp_min(1)
    return surprise / num_presences / _entropy(head.mean_presence), error / _GUESSED_HUBER


def _entropy(probability: float) -> float:
    """Return the entropy of an event in nats."""
    rest = 1 - probability
    return -probability * math.log(probability) - rest * math.log(rest)
