"""Pairs of segments for contrastive training.

Everything random is decided in a plan that depends on the seed and the epoch alone. The order is
therefore the same for any number of ranks and reading processes, which only divide the work.

Shape suffixes: P view (anchor, positive), B pair of this rank, S stem, C channel, T sample,
D features.
"""

import hashlib
import logging
import random
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixprint.catalogue import Track
from mixprint.errors import DataError
from mixprint.features.table import FeatureTable
from mixprint.shards import SegmentRef, read_segment

log = logging.getLogger("mixprint.encoder")

NO_PARTNER = -1
_GIB = 1 << 30


@dataclass(frozen=True)
class TrackSegments:
    """The segments of one track, in order of time."""

    track_id: str
    song: str
    references: tuple[SegmentRef, ...]


@dataclass(frozen=True)
class Pair:
    """Two segments of one track: same mix, other content.

    Attributes:
        track: where the segments come from.
        anchor: index of the first segment in the track.
        positive: index of the second.
        anchor_crop: where a crop starts, 0..1 of the room that it has.
        positive_crop: the same for the second.
    """

    track: TrackSegments
    anchor: int
    positive: int
    anchor_crop: float
    positive_crop: float


@dataclass(frozen=True)
class Batch:
    """This rank's part of a batch.

    Attributes:
        stems_PBSCT: anchors, then positives.
        features_PBD: their features from the table, not standardised; None for crops, whose
            features are not in the table.
    """

    stems_PBSCT: Tensor
    features_PBD: Tensor | None


def derive_seed(*parts: object) -> int:
    """Mix a seed with what it is for, equal on every machine and in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch wants it signed


def tracks_of_split(
    references: Iterable[SegmentRef], tracks: Iterable[Track], split: str
) -> list[TrackSegments]:
    """Gather the segments of each track of a split.

    Args:
        references: all segments of the shards.
        tracks: the catalogue.
        split: `train`, `valid` or `test`.

    Returns:
        tracks with at least two segments, sorted by track id: one segment has no positive.
    """
    by_track: dict[str, list[SegmentRef]] = defaultdict(list)
    for reference in references:
        by_track[reference.track_id].append(reference)
    found = [
        TrackSegments(
            track.track_id,
            track.song,
            tuple(sorted(by_track[track.track_id], key=lambda r: r.segment)),
        )
        for track in sorted(tracks, key=lambda t: t.track_id)
        if track.split == split and track.track_id in by_track
    ]
    usable = [track for track in found if len(track.references) > 1]
    if len(usable) < len(found):
        log.warning(
            "%s: %d of %d tracks left out, they have one segment only",
            split,
            len(found) - len(usable),
            len(found),
        )
    return usable


def overlapping(a: SegmentRef, b: SegmentRef, segment_s: float) -> bool:
    """Tell whether two segments of one track share audio."""
    return abs(a.start_s - b.start_s) < segment_s - 1e-6


def plan_epoch(
    tracks: Sequence[TrackSegments], *, batch_size: int, stored_s: float, seed: int, epoch: int
) -> list[list[Pair]]:
    """Plan the batches of an epoch: one pair of each track.

    All mixes of a song come one after the other, so that they mostly share a batch: the same
    song in another style is the hardest negative there is, and the one that tells the mix from
    the song. Where a song has one mix only, this is a plain shuffle.

    Args:
        tracks: tracks with at least two segments.
        batch_size: most pairs in a batch; batches are of nearly equal size.
        stored_s: length of the stored segments: those that overlap are paired only if a track
            has no others.
        seed: seed of the run.
        epoch: number of the epoch.
    """
    rng = random.Random(derive_seed(seed, "epoch", epoch))
    songs: dict[str, list[TrackSegments]] = defaultdict(list)
    for track in tracks:
        songs[track.song].append(track)
    groups = [songs[song] for song in sorted(songs)]
    rng.shuffle(groups)
    pairs = []
    for group in groups:
        rng.shuffle(group)
        pairs += [_draw_pair(track, stored_s, rng) for track in group]
    num_batches = -(-len(pairs) // batch_size)
    borders = [i * len(pairs) // num_batches for i in range(num_batches + 1)]
    return [pairs[a:b] for a, b in pairwise(borders)]


def _draw_pair(track: TrackSegments, stored_s: float, rng: random.Random) -> Pair:
    count = len(track.references)
    ordered = [(i, j) for i in range(count) for j in range(count) if i != j]
    apart = [
        (i, j)
        for i, j in ordered
        if not overlapping(track.references[i], track.references[j], stored_s)
    ]
    anchor, positive = rng.choice(apart or ordered)
    return Pair(track, anchor, positive, rng.random(), rng.random())


def chain_partners(batch: Sequence[Pair]) -> list[int]:
    """Give each pair of a batch the one that takes the same augmentation chain.

    The second half of the batch is laid beside the first: songs lie together in a batch, so
    partners mostly are different songs; where they are not, and for the odd one out, there is
    `NO_PARTNER`.
    """
    half = len(batch) // 2
    partners = [NO_PARTNER] * len(batch)
    for i in range(half):
        if batch[i].track.song != batch[i + half].track.song:
            partners[i], partners[i + half] = i + half, i
    return partners


def rank_rows(size: int, rank: int, world_size: int) -> slice:
    """Give a rank its consecutive rows of a batch; sizes differ by one at most."""
    return slice(rank * size // world_size, (rank + 1) * size // world_size)


class SegmentSource:
    """Reads segments with their features and keeps those read last in memory."""

    def __init__(
        self, table: FeatureTable, *, segment_s: float, sample_rate_hz: int, cache_gib: float
    ) -> None:
        """Index the features.

        Args:
            table: features of all segments.
            segment_s: what is heard of a segment.
            sample_rate_hz: rate of the stems.
            cache_gib: memory for segments read before.
        """
        keys = zip(table.track_ids, table.segments, strict=True)
        self._features: Mapping[tuple[str, int], Tensor] = dict(
            zip(keys, table.features_BD, strict=True)
        )
        self._num_samples = round(segment_s * sample_rate_hz)
        self._cache: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._cache_bytes, self._room_bytes = 0, cache_gib * _GIB

    def features(self, reference: SegmentRef) -> Tensor:
        """Give features_D of a whole segment.

        Raises:
            DataError: the table does not list the segment.
        """
        key = (reference.track_id, reference.segment)
        if key not in self._features:
            raise DataError(
                f"features: expected track {key[0]}, segment {key[1]} of {reference.shard_path}, "
                "found no such row: compute the features again"
            )
        return self._features[key]

    def stems(self, reference: SegmentRef, crop: float = 0.0) -> tuple[Tensor, bool]:
        """Read stems_SCT of the length that is heard, and tell whether that is the whole segment.

        Args:
            reference: the segment.
            crop: where the crop starts, 0..1 of the room that it has.

        Raises:
            DataError: the segment is shorter than what shall be heard.
        """
        stems_SCT = self._read(reference)
        room = stems_SCT.shape[-1] - self._num_samples
        if room < 0:
            raise DataError(
                f"{reference.shard_path}: expected segments of at least {self._num_samples} "
                f"samples (train.segment_s), found {stems_SCT.shape[-1]} in track "
                f"{reference.track_id}, segment {reference.segment}"
            )
        start = int(crop * (room + 1))
        return stems_SCT[..., start : start + self._num_samples], room == 0

    def _read(self, reference: SegmentRef) -> Tensor:
        key = (reference.track_id, reference.segment)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        stems_SCT = read_segment(reference)
        num_bytes = stems_SCT.numel() * stems_SCT.element_size()
        if num_bytes <= self._room_bytes:
            self._cache[key] = stems_SCT
            self._cache_bytes += num_bytes
        while self._cache_bytes > self._room_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= dropped.numel() * dropped.element_size()
        return stems_SCT


class _Batches(Dataset[Batch]):
    """One item is this rank's part of one batch."""

    def __init__(self, source: SegmentSource, batches: Sequence[Sequence[Pair]]) -> None:
        self._source, self._batches = source, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        pairs = self._batches[index]
        anchors = [(pair.track.references[pair.anchor], pair.anchor_crop) for pair in pairs]
        positives = [(pair.track.references[pair.positive], pair.positive_crop) for pair in pairs]
        views = [anchors, positives]
        loaded = [[self._source.stems(*item) for item in view] for view in views]
        stems_PBSCT = torch.stack([torch.stack([stems for stems, _ in view]) for view in loaded])
        if not all(whole for view in loaded for _, whole in view):
            return Batch(stems_PBSCT, None)
        features_PBD = torch.stack(
            [torch.stack([self._source.features(ref) for ref, _ in view]) for view in views]
        )
        return Batch(stems_PBSCT, features_PBD)


def load_batches(
    source: SegmentSource,
    plan: Sequence[Sequence[Pair]],
    *,
    rank: int,
    world_size: int,
    num_workers: int,
) -> Iterable[Batch]:
    """Read this rank's part of each batch, in the order of the plan.

    Args:
        source: reads segments.
        plan: the batches of the epoch.
        rank: this process.
        world_size: number of processes.
        num_workers: reading processes; 0 reads here.
    """
    parts = [batch[rank_rows(len(batch), rank, world_size)] for batch in plan]
    return DataLoader(_Batches(source, parts), batch_size=None, num_workers=num_workers)
