"""Examples that a diffusion separator learns from, and what is drawn for them.

Numbers that are drawn for a batch are spread evenly over it, so that each step meets all levels of
noise and the wanted share of each kind of example (as the times of Kingma et al., "Variational
Diffusion Models", arXiv 2107.00630, appendix I).

Shape suffixes: B example of a batch, S stem, C channel, T sample, F frequency row, N frame.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.separation.diffusion.model import VOCALS
from mixprint.separation.diffusion.training_settings import DiffusionTrainingConfig
from mixprint.separation.material.remix import Remixer
from mixprint.separation.separator import song_level
from mixprint.separation.training.task import Batch
from mixprint.stems import STEMS
from mixprint.training.loading import derive_seed

_VOCALS = STEMS.index(VOCALS)
# Mixtures below it are not brought to the level of the training: -60 dB of full scale.
LEAST_LEVEL = 1e-3


def uniform_draws(batch_size: int, *key: object) -> Tensor:
    """Draw numbers, independent of each other: uniform_B, from 0 up to 1.

    Args:
        batch_size: so many.
        key: what they follow from.
    """
    generator = torch.Generator().manual_seed(derive_seed(*key))
    return torch.rand(batch_size, dtype=torch.float64, generator=generator)


def spread_draws(batch_size: int, *key: object) -> Tensor:
    """Draw numbers that lie evenly in 0 to 1: uniform_B, above 0 up to 1; see `uniform_draws`."""
    shift = uniform_draws(1, *key)
    return 1 - (shift + torch.arange(batch_size, dtype=torch.float64) / batch_size) % 1


def drawn_noise(shape: tuple[int, ...], device: torch.device, *key: object) -> Tensor:
    """Draw complex noise, of deviation 1 in real and imaginary parts; see `uniform_draws`."""
    generator = torch.Generator(device).manual_seed(derive_seed(*key))
    return torch.view_as_complex(torch.randn(*shape, 2, device=device, generator=generator))


class Examples(Dataset[Batch]):
    """Examples of a rank, by the number of the step."""

    def __init__(
        self,
        remixer: Remixer,
        rows: range,
        num_bins: int,
        level_dbfs: float,
        config: DiffusionTrainingConfig,
    ) -> None:
        self._remixer, self._rows, self._num_bins = remixer, rows, num_bins
        self._level_dbfs, self._config = level_dbfs, config

    def __getitem__(self, step: int) -> Batch:
        """Return stems_BSCT in the order of `STEMS`, and gain_BSF of their spectra."""
        size, first = len(self._rows), self._rows.start
        stems_BSCT = self._remixer.batch(step, size, first)
        self._leave_out(stems_BSCT, step)
        level_db = self._drawn("level", step, is_spread=False) * 2 - 1
        level_db = self._level_dbfs + level_db * self._config.level_range_db
        for stems_SCT, wanted_db in zip(stems_BSCT, level_db.tolist(), strict=True):
            level = max(song_level([stems_SCT.sum(dim=0)]), LEAST_LEVEL)
            stems_SCT *= 10 ** (wanted_db / 20) / level
        return stems_BSCT, self._remixer.equalisers(step, size, self._num_bins, first)

    def _leave_out(self, stems_BSCT: Tensor, step: int) -> None:
        """Make some examples without vocals, and some with nothing else."""
        without, alone = self._config.no_vocal_fraction, self._config.vocal_only_fraction
        for stems_SCT, drawn in zip(stems_BSCT, self._drawn("kind", step).tolist(), strict=True):
            if drawn <= without:
                stems_SCT[_VOCALS] = 0
            elif drawn <= without + alone:
                stems_SCT[[index for index in range(len(STEMS)) if index != _VOCALS]] = 0

    def _drawn(self, what: str, step: int, *, is_spread: bool = True) -> Tensor:
        draws = spread_draws if is_spread else uniform_draws
        numbers_B = draws(self._config.batch_size, self._config.seed, what, step)
        return numbers_B[self._rows.start : self._rows.stop]
