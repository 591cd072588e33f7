"""Examples that an SCNet learns from.

Shape suffixes: B batch of this rank, S stem, C channel, T sample, F frequency row.
"""

from collections.abc import Sequence

from torch.utils.data import Dataset

from mixprint.separation.material.remix import Remixer
from mixprint.separation.training.task import Batch
from mixprint.stems import STEMS


class Examples(Dataset[Batch]):
    """Examples of a rank, by the number of the step."""

    def __init__(
        self, remixer: Remixer, rows: range, num_bins: int, sources: Sequence[str]
    ) -> None:
        self._remixer, self._rows, self._num_bins = remixer, rows, num_bins
        self._order = [STEMS.index(stem) for stem in sources]

    def __getitem__(self, step: int) -> Batch:
        size, first = len(self._rows), self._rows.start
        stems_BSCT = self._remixer.batch(step, size, first)
        gain_BSF = self._remixer.equalisers(step, size, self._num_bins, first)
        return stems_BSCT[:, self._order], gain_BSF[:, self._order]
