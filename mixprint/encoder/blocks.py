"""Blocks of measured views, from which an encoder on descriptors learns.

A block holds segments of several songs, each as it is and behind the same few chains of effects.
The descriptions of all its stems are measured once and kept beside the states of the training.
Stems are described one by one, so each pair of views that is learned from combines them anew: with
the chain of another number on each stem, a block of 8 mixes has thousands of each song.

    <folder>/00000.safetensors  a block: descriptions, and what its chains are

Each block is drawn from its number, so what was lost is measured again, and equal.

Shape suffixes: I song of a block, C mix of a block (0: nothing done), S stem, D number of a
description, L place in a chain, P parameter, N pair, T sample.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.chains import Chains as EffectChains
from mixprint.chains.drawing import NONE
from mixprint.chains.registry import MAX_PARAMETERS
from mixprint.checkpoints.torchfile import write_tensors
from mixprint.collection.tracks import TrackSegments
from mixprint.encoder.augmentation import Augmentation
from mixprint.encoder.data import SegmentSource
from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.losses import numbered
from mixprint.encoder.settings import MAX_CHAIN_LENGTH
from mixprint.errors import TrainingError
from mixprint.progress import Progress
from mixprint.stems import NUM_STEMS
from mixprint.training.loading import derive_seed
from mixprint.training.measured import own_share, read_measured
from mixprint.training.ranks import barrier

log = logging.getLogger("mixprint.encoder")

# Pairs of a batch that come from one block: they are what is hardest to tell apart.
_PAIRS_PER_BLOCK = 4
# How often nothing is done to a stem, and to a whole pair, of which then the style is shared alone.
_UNTOUCHED_STEMS = 0.2
_UNTOUCHED_PAIRS = 0.15


class Measured(NamedTuple):
    """Tensors of a block.

    Attributes:
        described_ICSD: descriptions, in half precision.
        effect_CSL: effects of the chains, as in `mixprint.chains.Chains`; `NONE` of fixed chains.
        position_CSLP: their parameters.
    """

    described_ICSD: Tensor
    effect_CSL: Tensor
    position_CSLP: Tensor


@dataclass(frozen=True)
class Segment:
    """Segment of a block.

    Attributes:
        track: of the collection.
        number: of the segment in it.
        crop: where it begins, 0..1 of the room that it has.
    """

    track: TrackSegments
    number: int
    crop: float


def plan_blocks(
    tracks: Sequence[TrackSegments],
    *,
    num_blocks: int,
    num_songs: int,
    styles_meet: bool,
    seed: int,
) -> list[list[Segment]]:
    """Choose the segments of each block.

    Args:
        tracks: of the training.
        num_blocks: how many.
        num_songs: segments of a block; of other songs as far as there are so many.
        styles_meet: whether the songs of a block have one known style; the styles come in turn.
        seed: of the training.

    Raises:
        TrainingError: there are not two songs to a block.
    """
    groups: dict[str, dict[str, list[TrackSegments]]] = defaultdict(lambda: defaultdict(list))
    for track in tracks:
        if track.style or not styles_meet:
            groups[track.style if styles_meet else ""][track.song].append(track)
    usable = [groups[name] for name in sorted(groups) if len(groups[name]) > 1]
    if not usable:
        raise TrainingError(
            "expected at least two songs"
            + (" of one known style (train.same_style: positive)" if styles_meet else "")
            + f" in the train split, found {len(tracks)} tracks without"
        )
    blocks = []
    for number in range(num_blocks):
        turn, place = divmod(number, len(usable))
        order = random.Random(derive_seed(seed, "order", turn)).sample(usable, len(usable))
        rng = random.Random(derive_seed(seed, "block", number))
        songs, names = order[place], sorted(order[place])
        rng.shuffle(names)
        chosen = (rng.choice(songs[names[n % len(names)]]) for n in range(num_songs))
        blocks.append([Segment(t, rng.randrange(len(t.references)), rng.random()) for t in chosen])
    return blocks


class Blocks:
    """Blocks of a training, all measured.

    Attributes:
        measured: of all `B` of them, which comes first: described_BICSD and so on.
        song_BI: number of the song of each segment.
        style_B: number of what untreated songs of a block have in common: their style, or nothing.
    """

    def __init__(self, plan: Sequence[Sequence[Segment]], measured: Sequence[Measured]) -> None:
        """Join blocks, in the order of their plan."""
        self.measured = Measured(*(torch.stack(each) for each in zip(*measured, strict=True)))
        songs = [segment.track.song for block in plan for segment in block]
        self.song_BI = numbered(songs).view(len(plan), -1)
        styles = [block[0].track.style for block in plan]
        self.style_B = numbered([style or f"block {n}" for n, style in enumerate(styles)])

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self.song_BI)


class Pairs(NamedTuple):
    """Pairs of views of a batch: two songs of a block behind the same chains.

    Attributes:
        block_N: the block.
        place_2N: which of its songs the two are.
        mix_NS: number of the chain on each stem.
        identity_N: equal where the mix is the same.
    """

    block_N: Tensor
    place_2N: Tensor
    mix_NS: Tensor
    identity_N: Tensor


def draw_pairs(
    blocks: Blocks,
    num_pairs: int,
    mixes: Sequence[int],
    *,
    styles_meet: bool,
    generator: torch.Generator,
) -> Pairs:
    """Draw the pairs of a batch.

    Args:
        blocks: to draw from.
        num_pairs: of the batch.
        mixes: numbers of the chains to choose from.
        styles_meet: whether songs of a block have a style in common, so that pairs to which nothing
            is done can be drawn, too.
        generator: of the draw.
    """
    num_blocks = min(len(blocks), -(-num_pairs // _PAIRS_PER_BLOCK))
    order_B = torch.randperm(len(blocks), generator=generator)[:num_blocks]
    block_N = order_B[torch.arange(num_pairs) % num_blocks]
    song_NI = blocks.song_BI[block_N]
    first_N = torch.randint(song_NI.shape[1], (num_pairs,), generator=generator)
    is_other_NI = song_NI != song_NI.gather(1, first_N[:, None])
    second_N = torch.multinomial(is_other_NI.float(), 1, generator=generator)[:, 0]
    shape = (num_pairs, NUM_STEMS)
    place_NS = torch.randint(len(mixes), shape, generator=generator)
    drawn_NS = torch.tensor(list(mixes))[place_NS]
    is_untouched_NS = torch.rand(shape, generator=generator) < _UNTOUCHED_STEMS
    # Something is done to each pair, unless it has a style.
    is_untouched_NS &= ~is_untouched_NS.all(dim=1, keepdim=True)
    if styles_meet:
        is_untouched_NS |= torch.rand(num_pairs, 1, generator=generator) < _UNTOUCHED_PAIRS
    mix_NS = torch.where(is_untouched_NS, 0, drawn_NS)
    num_mixes = blocks.measured.described_ICSD.shape[2]
    code_N = (mix_NS * num_mixes ** torch.arange(NUM_STEMS)).sum(dim=1)
    # Chains of two blocks are never the same; untreated songs of one style are the same mix.
    owner_N = torch.where(code_N == 0, blocks.style_B[block_N], block_N)
    num_codes = num_mixes**NUM_STEMS
    return Pairs(block_N, torch.stack([first_N, second_N]), mix_NS, owner_N * num_codes + code_N)


def described_views(blocks: Blocks, pairs: Pairs, rows: slice) -> Tensor:
    """Gather what a rank learns from: described_3NSD of both songs, and of the first untreated."""
    block_N1 = pairs.block_N[rows, None]
    stem_S = torch.arange(NUM_STEMS)
    described = blocks.measured.described_ICSD
    mix_NS = pairs.mix_NS[rows]
    return torch.stack(
        [
            described[block_N1, place_N[rows, None], mix, stem_S]
            for place_N, mix in (
                (pairs.place_2N[0], mix_NS),
                (pairs.place_2N[1], mix_NS),
                (pairs.place_2N[0], torch.zeros_like(mix_NS)),
            )
        ]
    )


def chains_of(blocks: Blocks, pairs: Pairs, effects: Sequence[str]) -> EffectChains:
    """Return what was done to the songs of each pair."""
    block_N1, stem_S = pairs.block_N[:, None], torch.arange(NUM_STEMS)
    effect_NSL = blocks.measured.effect_CSL[block_N1, pairs.mix_NS, stem_S]
    position_NSLP = blocks.measured.position_CSLP[block_N1, pairs.mix_NS, stem_S]
    return EffectChains(tuple(effects), effect_NSL, position_NSLP, torch.zeros(effect_NSL.shape))


class BlockMaker:
    """Maker of blocks: reads segments, puts them behind chains, and describes them."""

    def __init__(
        self,
        source: SegmentSource,
        augmentation: Augmentation,
        model: DescriptorEncoder,
        *,
        num_mixes: int,
        sample_rate_hz: int,
        device: torch.device,
    ) -> None:
        """Take what all blocks have in common."""
        self._source, self._augmentation, self._model = source, augmentation, model
        self._num_mixes, self._sample_rate_hz = num_mixes, sample_rate_hz
        self._device = device

    @torch.no_grad()
    def made(self, number: int, segments: Sequence[Segment]) -> Measured:
        """Make a block."""
        read = [self._source.stems(s.track.references[s.number], s.crop)[0] for s in segments]
        stems_ISCT = torch.stack(read).to(self._device)
        mixes = [self._model.describe(stems_ISCT)]
        shape = (self._num_mixes, NUM_STEMS, MAX_CHAIN_LENGTH)
        effect_CSL = torch.full(shape, NONE)
        position_CSLP = torch.zeros(*shape, MAX_PARAMETERS)
        for mix in range(1, self._num_mixes):
            chains = self._augmentation.draw_mix(number, mix, len(segments))
            if isinstance(chains, EffectChains):
                effect_CSL[mix] = chains.effect_BSL[0]
                position_CSLP[mix] = chains.position_BSLP[0]
            processed_ISCT = self._augmentation.apply(stems_ISCT, chains, self._sample_rate_hz)
            mixes.append(self._model.describe(processed_ISCT))
        described_ICSD = torch.stack(mixes, dim=1).half().cpu()
        return Measured(described_ICSD, effect_CSL, position_CSLP)


def measure_blocks(plan: Sequence[Sequence[Segment]], maker: BlockMaker, folder: Path) -> Blocks:
    """Measure blocks, or read what was measured before.

    The work is divided over the ranks; all ranks call it.

    Args:
        plan: segments of each block.
        maker: makes one of them.
        folder: of the files; for this plan and maker only.

    Raises:
        TrainingError: a file cannot be read.
    """
    if own := own_share(n for n in range(len(plan)) if not _path(folder, n).exists()):
        with Progress(log, "measured", total=len(own), unit="blocks") as shown:
            for number in own:
                made = maker.made(number, plan[number])
                write_tensors(_path(folder, number), made._asdict())
                shown.advance()
    barrier()
    read = (read_measured(_path(folder, n), Measured._fields) for n in range(len(plan)))
    return Blocks(plan, [Measured(*(found[name] for name in Measured._fields)) for found in read])


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"
