"""A discriminator that tells true mixes of two songs from those of a cascade.

It hears latents of both kinds behind the same codec, so that the codec's own traces tell it
nothing, and knows the two songs, so that a good mix of other songs is no answer.

Shape suffixes: B pair, D dimension of a latent, N frame, W channel, P place that is judged.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from mixprint.cascade.settings import DiscriminatorShape
from mixprint.codec.interface import pooled

_SLOPE = 0.2


class Judgement(NamedTuple):
    """Judgement of a mix at several scales of time.

    Attributes:
        logits: logit_BP of each scale, above 0 for what is taken for true.
        features: of each scale, what its layers hear.
    """

    logits: list[Tensor]
    features: list[list[Tensor]]


class Discriminator(nn.Module):
    """Judges of one shape, each of which hears twice as coarsely as the one before."""

    def __init__(self, latent_dim: int, shape: DiscriminatorShape) -> None:
        """Build it with fresh weights."""
        super().__init__()
        self.judges = nn.ModuleList(_Judge(latent_dim, shape) for _ in range(shape.num_scales))

    def forward(self, mix_BDN: Tensor, input_BDN: Tensor, target_BDN: Tensor) -> Judgement:
        """Judge mixes of inputs and targets."""
        songs_BD = torch.cat([pooled(input_BDN), pooled(target_BDN)], dim=1)
        logits, features = [], []
        for judge in self.judges:
            logit_BP, heard = judge(mix_BDN, songs_BD)
            logits.append(logit_BP)
            features.append(heard)
            mix_BDN = functional.avg_pool1d(mix_BDN, 2, ceil_mode=True)
        return Judgement(logits, features)


class _Judge(nn.Module):
    """Convolutions over a mix; what they hear is compared with what the songs let expect."""

    def __init__(self, latent_dim: int, shape: DiscriminatorShape) -> None:
        super().__init__()
        sizes = pairwise((latent_dim, *shape.channels))
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv1d(before, after, kernel, stride, padding=kernel // 2))
            for (before, after), kernel, stride in zip(
                sizes, shape.kernels, shape.strides, strict=True
            )
        )
        last = shape.channels[-1]
        self.judge = spectral_norm(nn.Conv1d(last, 1, 1))
        # Miyato and Koyama, "cGANs with projection discriminator", arXiv 1802.05637.
        self.expected = spectral_norm(nn.Linear(4 * latent_dim, last))

    def forward(self, mix_BDN: Tensor, songs_BD: Tensor) -> tuple[Tensor, list[Tensor]]:
        x_BWN, heard = mix_BDN, []
        for layer in self.layers:
            x_BWN = functional.leaky_relu(layer(x_BWN), _SLOPE)
            heard.append(x_BWN)
        expected_BW1 = self.expected(songs_BD)[:, :, None]
        logit_BP = self.judge(x_BWN)[:, 0] + (expected_BW1 * x_BWN).mean(dim=1)
        return logit_BP, heard


def hinge_of_discriminator(true: Judgement, made: Judgement) -> Tensor:
    """Return what the discriminator learns from, for each pair: loss_B.

    Source: Lim and Ye, "Geometric GAN", arXiv 1705.02894.
    """
    losses = [
        functional.relu(1 - true_BP).mean(dim=1) + functional.relu(1 + made_BP).mean(dim=1)
        for true_BP, made_BP in zip(true.logits, made.logits, strict=True)
    ]
    return torch.stack(losses).mean(dim=0)


def hinge_of_generator(made: Judgement) -> Tensor:
    """Return what the cascade learns from, for each pair: loss_B."""
    return torch.stack([-logit_BP.mean(dim=1) for logit_BP in made.logits]).mean(dim=0)


def feature_distance(true: Judgement, made: Judgement) -> Tensor:
    """Compare what the layers hear in true and made mixes, for each pair: loss_B.

    Source: Kumar et al., "MelGAN", arXiv 1910.06711, relative to how loud the true features are.
    """
    losses = []
    for true_heard, made_heard in zip(true.features, made.features, strict=True):
        for true_BWN, made_BWN in zip(true_heard, made_heard, strict=True):
            scale_B = true_BWN.detach().abs().mean(dim=(1, 2)).clamp_min(1e-3)
            losses.append((true_BWN.detach() - made_BWN).abs().mean(dim=(1, 2)) / scale_B)
    return torch.stack(losses).mean(dim=0)


def accuracy(true: Judgement, made: Judgement) -> float:
    """Return which part of the places the discriminator judges rightly."""
    right = [(logit_BP > 0).flatten() for logit_BP in true.logits]
    right += [(logit_BP <= 0).flatten() for logit_BP in made.logits]
    return float(torch.cat(right).float().mean())
