"""Batches of the training, made by readers.

Every random choice is derived from the seed, the step and the row, so the number of processes
changes no example.

Shape suffixes: B example of this rank, P crop of one example, S stem, C channel (of levels: mid,
side), T sample, K band, N frame, E embedding; 2 is input and truth, or input and reference.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from mixprint.encoder.settings import AugmentRanges
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.ranks import rank_and_world
from mixprint.zero_shot.renderings import Example, Measured, Renderings
from mixprint.zero_shot.settings import ZeroShotTrainConfig


class LevelBatch(NamedTuple):
    """This rank's part of a batch of the first phase.

    Attributes:
        pair_2BE: noisy embeddings of input and reference.
        level_2BSCKN: levels in dB of input and truth, 16-bit.
    """

    pair_2BE: Tensor
    level_2BSCKN: Tensor


class AudioBatch(NamedTuple):
    """This rank's part of a batch of the second phase.

    Attributes:
        pair_2BE: noisy embeddings of input and reference.
        crop_2BPSCT: crops of input and truth.
        whole_SCT: the input of the first example, where the embedding of its output is compared.
        reference_E: what it is compared with.
    """

    pair_2BE: Tensor
    crop_2BPSCT: Tensor
    whole_SCT: Tensor | None
    reference_E: Tensor | None


class ExampleReader(Dataset[LevelBatch | AudioBatch]):
    """Parts of batches for readers: item n is this rank's part of the batch of step n."""

    def __init__(
        self,
        config: ZeroShotTrainConfig,
        renderings: Renderings,
        measured: Measured,
        ranges: AugmentRanges,
        segment_samples: int,
    ) -> None:
        """Read nothing yet.

        Args:
            config: the section `zero_shot`.
            renderings: of the train split.
            measured: of these.
            ranges: of the chains.
            segment_samples: length of a segment.
        """
        self._config, self._renderings, self._measured = config, renderings, measured
        self._ranges, self._segment_samples = ranges, segment_samples
        self._rank, self._world_size = rank_and_world()

    def examples(self, step: int) -> list[tuple[int, Example]]:
        """Draw this rank's examples of a step, with their rows in the whole batch."""
        size, seed = self._config.phase(step).batch_size, self._config.seed
        rows = rank_rows(size, self._rank, self._world_size)
        draw = self._renderings.example
        return [(row, draw(seed, step, row)) for row in range(rows.start, rows.stop)]

    def __getitem__(self, step: int) -> LevelBatch | AudioBatch:
        """Read the batch of a step."""
        rows = self.examples(step)
        pair_2BE = self._noisy_pairs(step, rows)
        if self._config.phase(step).hears_audio:
            whole_SCT, reference_E = self._whole(step, rows)
            return AudioBatch(pair_2BE, self._crops(step, rows), whole_SCT, reference_E)
        return LevelBatch(pair_2BE, self._levels(step, rows))

    def _noisy_pairs(self, step: int, rows: Sequence[tuple[int, Example]]) -> Tensor:
        """Return pair_2BE with noise: exact embeddings would be learned by heart."""
        embedding_ME = self._measured.embedding_ME
        embedding_dim = embedding_ME.shape[-1]
        pair_2BE = torch.empty(2, len(rows), embedding_dim)
        for place, (row, example) in enumerate(rows):
            exact_2E = embedding_ME[[example.input, example.reference]]
            seed = derive_seed(self._config.seed, "noise", step, row)
            noise_2E = torch.randn(exact_2E.shape, generator=torch.Generator().manual_seed(seed))
            noise_2E *= self._config.embedding_noise / math.sqrt(embedding_dim)
            pair_2BE[:, place] = functional.normalize(exact_2E + noise_2E, dim=-1)
        return pair_2BE

    def _levels(self, step: int, rows: Sequence[tuple[int, Example]]) -> Tensor:
        """Cut level_2BSCKN out of what was measured."""
        level_MSCKN = self._measured.level_MSCKN
        num_frames = level_MSCKN.shape[-1]
        frame_s = self._config.hop_samples / SAMPLE_RATE_HZ
        length = min(num_frames, round(self._config.level_s / frame_s))
        level_2BSCKN = level_MSCKN.new_empty(2, len(rows), *level_MSCKN.shape[1:-1], length)
        for place, (row, example) in enumerate(rows):
            first = self._rng(step, row).randrange(num_frames - length + 1)
            pair = [example.input, example.truth]
            level_2BSCKN[:, place] = level_MSCKN[pair, ..., first : first + length]
        return level_2BSCKN

    def _crops(self, step: int, rows: Sequence[tuple[int, Example]]) -> Tensor:
        """Read crop_2BPSCT; of a short segment a crop is all of it."""
        config = self._config
        wanted = round((config.context_s + config.crop_s) * SAMPLE_RATE_HZ)
        length = min(wanted, self._segment_samples)
        num_crops = config.crops_per_example
        crop_2BPSCT = torch.empty(2, len(rows), num_crops, NUM_STEMS, NUM_CHANNELS, length)
        for place, (row, example) in enumerate(rows):
            rng = self._rng(step, row)
            firsts = [rng.randrange(self._segment_samples - length + 1) for _ in range(num_crops)]
            crops = [slice(first, first + length) for first in firsts]
            for side, number in enumerate((example.input, example.truth)):
                parts = self._renderings.items[number].stems(self._ranges, crops)
                crop_2BPSCT[side, place] = torch.stack(parts)
        return crop_2BPSCT

    def _whole(
        self, step: int, rows: Sequence[tuple[int, Example]]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Read the first example of the whole batch, where this step compares its embedding."""
        every = self._config.embedding_steps
        if every == 0 or step % every or not rows or rows[0][0] > 0:
            return None, None
        example = rows[0][1]
        (whole_SCT,) = self._renderings.items[example.input].stems(self._ranges)
        return whole_SCT, self._measured.embedding_ME[example.reference]

    def _rng(self, step: int, row: int) -> random.Random:
        return random.Random(derive_seed(self._config.seed, "crop", step, row))
