"""The sub-bands one after the other: the yardstick for speed and exactness of `encoder.bands`.

The same weights, in the order of the architecture's description and in plain torch operations:
for each band Conv2D, norm, FiLM, ReLU and pool, twice.

Shape suffixes: B batch, I input channel, M mel, N frame, K sub-band, H hidden channel (all bands
together), O hidden channel of a band, R mel of a sub-band.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import POOL


def looped_bands(encoder: MixEncoder, levels_BIMN: Tensor, films: Sequence[Tensor]) -> Tensor:
    """Run the two blocks of an encoder that is conditioned by FiLM.

    Args:
        encoder: whose weights are used.
        levels_BIMN: from its `log_mel`.
        films: film_2BH of each block.

    Returns:
        x_BKORN as `MixEncoder.bands` gives it.
    """
    config = encoder.config
    outputs = []
    for band, start in enumerate(config.band_starts):
        x_BORN = levels_BIMN[:, :, start : start + config.band_mels]
        for block, film_2BH in zip((encoder.block_1, encoder.block_2), films, strict=True):
            size = block.conv.out_channels // len(config.band_starts)
            own = slice(band * size, (band + 1) * size)
            x_BORN = functional.conv2d(x_BORN, block.conv.weight[own], padding=3)
            x_BORN = functional.group_norm(x_BORN, 1, eps=block.norm.eps)
            gamma_BO11, beta_BO11 = film_2BH[..., own, None, None]
            x_BORN = torch.addcmul(beta_BO11, x_BORN, gamma_BO11)
            x_BORN = functional.max_pool2d(functional.relu(x_BORN), POOL)
        outputs.append(x_BORN)
    return torch.stack(outputs, dim=1)
