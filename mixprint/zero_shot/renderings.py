"""Renderings of segments, the examples that they make, and what is measured of them.

A *rendering* is a segment of a track as it is, or after a chain of known effects. Renderings of a
group sound alike: mixes of one known style, or segments that went through one chain. An *example*
is a truth, an input that is the same music in another rendering, and a reference of the truth's
group, which is other music.

Shape suffixes: S stem, C channel (of levels: mid, side), T sample, K band, N frame, E embedding,
M rendering.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.collection.shards import SegmentRef, read_segment
from mixprint.collection.tracks import TrackSegments
from mixprint.encoder.augment import apply_chains, draw_chains
from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.settings import AugmentRanges
from mixprint.errors import CheckpointError, TrainingError
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.loading import derive_seed, load_batches
from mixprint.training.measured import own_share
from mixprint.training.ranks import barrier
from mixprint.zero_shot.model import ZeroShotNetwork

log = logging.getLogger("mixprint.zero_shot")

_NO_CHAIN = -1
_PER_FILE = 32  # renderings


@dataclass(frozen=True)
class Rendering:
    """A segment, as it is or after a chain.

    Attributes:
        track: where it comes from.
        reference: the segment.
        chain: seed of the chain; -1: none.
        group: renderings of one group sound alike.
    """

    track: TrackSegments
    reference: SegmentRef
    chain: int
    group: str

    @property
    def music(self) -> tuple[str, int]:
        """Name of the music, however it is mixed."""
        return self.track.song or self.track.track_id, self.reference.segment

    @property
    def style(self) -> str:
        """Name of the style; a style of its own where none is known."""
        return self.track.style or self.track.track_id

    def __str__(self) -> str:
        """Name it in messages."""
        chain = "" if self.chain == _NO_CHAIN else f" chain {self.chain}"
        return f"track {self.reference.track_id} segment {self.reference.segment}{chain}"

    def stems(self, ranges: AugmentRanges, crops: Sequence[slice] = (slice(None),)) -> list[Tensor]:
        """Read stems_SCT of parts of the segment; the chain is put on each part."""
        whole_SCT = read_segment(self.reference)
        parts = [whole_SCT[..., crop] for crop in crops]
        if self.chain == _NO_CHAIN:
            return parts
        chains = draw_chains(1, ranges, torch.Generator().manual_seed(self.chain))
        return [apply_chains(p_SCT.unsqueeze(0), chains, SAMPLE_RATE_HZ)[0] for p_SCT in parts]


@dataclass(frozen=True)
class Example:
    """Numbers of three renderings."""

    input: int
    truth: int
    reference: int


class Renderings:
    """All renderings of some tracks, and the examples that they make."""

    def __init__(
        self,
        tracks: Sequence[TrackSegments],
        *,
        segments_per_track: int,
        num_chains: int,
        seed: int,
    ) -> None:
        """Choose segments and draw chains.

        Args:
            tracks: of one split.
            segments_per_track: the most that are taken of one track, far from each other.
            num_chains: groups of one chain; two renderings each.
            seed: of the choice.

        Raises:
            TrainingError: they make no example.
        """
        plain = [
            Rendering(track, reference, _NO_CHAIN, f"style {track.style}" if track.style else "")
            for track in tracks
            for reference in _evenly_spaced(track.references, segments_per_track)
        ]
        by_style: dict[str, list[Rendering]] = defaultdict(list)
        for item in plain:
            by_style[item.style].append(item)
        self.items = list(plain)
        for number in range(num_chains):
            rng = random.Random(derive_seed(seed, "chain", number))
            first = rng.choice(plain)
            others = [other for other in by_style[first.style] if other.music != first.music]
            if others:
                chain, group = derive_seed(seed, "chain", number, "values"), f"chain {number}"
                pair = (first, rng.choice(others))
                self.items += [replace(item, chain=chain, group=group) for item in pair]
        self._by_music: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._by_group: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            self._by_music[item.music].append(number)
            if item.group:
                self._by_group[item.group].append(number)
        numbers = range(len(self.items))
        self._truths = [n for n in numbers if self._inputs(n) and self._references(n)]
        if not self._truths:
            raise TrainingError(
                "zero-shot: expected segments of which there are two renderings, and other music "
                f"in the style of one, found none among {len(tracks)} tracks; raise "
                "zero_shot.num_chains, or use more songs"
            )

    def _inputs(self, truth: int) -> list[int]:
        return [n for n in self._by_music[self.items[truth].music] if n != truth]

    def _references(self, truth: int) -> list[int]:
        item = self.items[truth]
        found = [n for n in self._by_group.get(item.group, []) if self.items[n].music != item.music]
        # Another song says nothing of this one's notes; where there is none, another segment does.
        elsewhere = [n for n in found if self.items[n].music[0] != item.music[0]]
        return elsewhere or found

    def example(self, *key: object) -> Example:
        """Draw an example; equal keys give equal ones."""
        rng = random.Random(derive_seed(*key))
        truth = rng.choice(self._truths)
        return Example(rng.choice(self._inputs(truth)), truth, rng.choice(self._references(truth)))

    def subset(self, examples: Sequence[Example]) -> tuple[list[Rendering], list[Example]]:
        """Return the renderings of some examples, and the examples renumbered for that list."""
        used = sorted({n for e in examples for n in (e.input, e.truth, e.reference)})
        number = {old: new for new, old in enumerate(used)}
        renamed = [Example(number[e.input], number[e.truth], number[e.reference]) for e in examples]
        return [self.items[n] for n in used], renamed

    def describe(self, example: Example) -> str:
        """Name the segments of an example."""
        return (
            f"input {self.items[example.input]}, truth {self.items[example.truth]}, "
            f"reference {self.items[example.reference]}"
        )


def _evenly_spaced(references: Sequence[SegmentRef], number: int) -> list[SegmentRef]:
    """Take so many at equal distances, the first and the last among them."""
    if len(references) <= number:
        return list(references)
    last = len(references) - 1
    return [references[round(i * last / (number - 1))] for i in range(number)]


@dataclass(frozen=True)
class Measured:
    """Measures of all renderings, each taken once.

    Attributes:
        embedding_ME: by the encoder.
        level_MSCKN: levels in dB of the bands that the network hears, 16-bit.
    """

    embedding_ME: Tensor
    level_MSCKN: Tensor


class RenderingReader(Dataset[Tensor]):
    """Whole renderings for readers: item n is stems_SCT of the rendering n."""

    def __init__(self, items: Sequence[Rendering], ranges: AugmentRanges) -> None:
        """Read nothing yet."""
        self._items, self._ranges = items, ranges

    def __getitem__(self, number: int) -> Tensor:
        """Read a rendering."""
        return self._items[number].stems(self._ranges)[0]


@torch.no_grad()
def measure_renderings(
    items: Sequence[Rendering],
    encoder: Encoder,
    network: ZeroShotNetwork,
    ranges: AugmentRanges,
    *,
    folder: Path,
    num_workers: int,
    device: torch.device,
) -> Measured:
    """Embed renderings and measure their levels, or read what was measured before.

    The work is divided over the ranks by files of some renderings each; all ranks call it.

    Args:
        items: the renderings.
        encoder: on the device.
        network: tells the bands; its weights do not matter.
        ranges: of the chains.
        folder: of the files; for these renderings, encoder and bands only.
        num_workers: readers of this rank.
        device: where to compute.

    Raises:
        TrainingError: a file cannot be read.
    """
    parts = [range(i, min(i + _PER_FILE, len(items))) for i in range(0, len(items), _PER_FILE)]
    paths = [folder / f"{number:05d}.safetensors" for number in range(len(parts))]
    if own := own_share(n for n, path in enumerate(paths) if not path.exists()):
        numbers = [number for n in own for number in parts[n]]
        stems = load_batches(
            RenderingReader(items, ranges),
            numbers,
            num_workers=num_workers,
            pinned=device.type == "cuda",
        )
        with Progress(log, "measured", total=len(numbers), unit="renderings") as shown:
            for n in own:
                embeddings, levels = [], []
                for _ in parts[n]:
                    stems_1SCT = next(stems).unsqueeze(0).to(device)
                    embeddings.append(encoder.embed(stems_1SCT, SAMPLE_RATE_HZ)[0].cpu())
                    level_1SCKN = network.levels_db(network.analyse(stems_1SCT))
                    levels.append(level_1SCKN[0].half().cpu())
                    shown.advance()
                found = {"embedding": torch.stack(embeddings), "level": torch.stack(levels)}
                write_tensors(paths[n], found)
    barrier()
    try:
        loaded = [read_tensors(path) for path in paths]
        if any(not part.keys() >= {"embedding", "level"} for part in loaded):
            raise CheckpointError(f"{folder}: expected embeddings and levels in each file")
    except CheckpointError as error:
        raise TrainingError(f"{folder}: expected what was measured, found: {error}") from error
    return Measured(
        *(torch.cat([part[name] for part in loaded]) for name in ("embedding", "level"))
    )
