"""Pairs of segments for contrastive training.

Everything random is decided in a plan that depends on the seed and the epoch alone. The order is
therefore the same for any number of ranks and reading processes, which only divide the work, and
a training can go on from any step with others.

Shape suffixes: P view (anchor, positive), B pair of this rank, S stem, C channel, T sample,
D features.
"""

import logging
import random
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mixprint.collection.shards import SegmentRef, read_segment
from mixprint.collection.tracks import TrackSegments, overlapping
from mixprint.errors import DataError
from mixprint.features.table import FeatureTable
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ
from mixprint.training.loading import derive_seed, rank_rows

log = logging.getLogger("mixprint.encoder")

NO_PARTNER = -1
_GIB = 1 << 30
_PLANS_KEPT = 2  # reading processes run ahead into the next epoch


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

    def pin_memory(self) -> "Batch":
        """Lay the tensors where a GPU fetches them by itself; `DataLoader` asks for it."""
        features_PBD = None if self.features_PBD is None else self.features_PBD.pin_memory()
        return Batch(self.stems_PBSCT.pin_memory(), features_PBD)


def whole_songs(tracks: Sequence[TrackSegments], limit: int, seed: int) -> list[TrackSegments]:
    """Choose whole songs, at random but always the same ones, up to a number of tracks.

    Args:
        tracks: tracks of any number of songs.
        limit: number of tracks; two are taken in any case, so that there is one to confuse with.
        seed: of the choice.

    Returns:
        the tracks in the order in which they came.
    """
    num_mixes = Counter(track.song for track in tracks)
    chosen: set[str] = set()
    num_tracks = 0
    for song in sorted(num_mixes, key=lambda song: derive_seed(seed, "song", song)):
        if num_tracks > 1 and num_tracks + num_mixes[song] > limit:
            break
        chosen.add(song)
        num_tracks += num_mixes[song]
    return [track for track in tracks if track.song in chosen]


def plan_epoch(
    tracks: Sequence[TrackSegments],
    *,
    batch_size: int,
    siblings_per_batch: int,
    styles_meet: bool,
    stored_s: float,
    seed: int,
    epoch: int,
) -> list[list[Pair]]:
    """Plan the batches of an epoch: one pair of each track.

    Mixes of a song come in groups, so that they mostly share a batch: the same song in another
    style is the hardest negative there is, and the one that tells the mix from the song. The
    groups of one song lie at equal distances in the epoch, from a random start. Where a song has
    one mix only, this is a plain shuffle.

    Where styles shall meet, each known style in turn, in a random order, gathers the groups that
    have a mix of it; so the mixes of a style mostly share a batch, too.

    Args:
        tracks: tracks with at least two segments.
        batch_size: most pairs in a batch; batches are of nearly equal size.
        siblings_per_batch: most mixes in a group.
        styles_meet: whether mixes of the same known style shall share batches.
        stored_s: length of the stored segments: those that overlap are paired only if a track
            has no others.
        seed: seed of the run.
        epoch: number of the epoch.
    """
    rng = random.Random(derive_seed(seed, "epoch", epoch))
    songs: dict[str, list[TrackSegments]] = defaultdict(list)
    for track in tracks:
        songs[track.song].append(track)
    placed: list[tuple[float, list[TrackSegments]]] = []
    for song in sorted(songs):
        mixes = songs[song]
        rng.shuffle(mixes)
        starts = range(0, len(mixes), siblings_per_batch)
        offset = rng.random()
        placed += [
            ((i + offset) / len(starts), mixes[start : start + siblings_per_batch])
            for i, start in enumerate(starts)
        ]
    placed.sort(key=lambda item: item[0])
    groups = [group for _, group in placed]
    if styles_meet:
        groups = _gathered(groups, rng)
    pairs = [_draw_pair(track, stored_s, rng) for group in groups for track in group]
    num_batches = -(-len(pairs) // batch_size)
    borders = [i * len(pairs) // num_batches for i in range(num_batches + 1)]
    return [pairs[a:b] for a, b in pairwise(borders)]


def _gathered(
    groups: Sequence[list[TrackSegments]], rng: random.Random
) -> list[list[TrackSegments]]:
    """Let each known style, in a random order, gather the groups that hold a mix of it."""
    styles = sorted({track.style for group in groups for track in group if track.style})
    rng.shuffle(styles)
    turn = {style: number for number, style in enumerate(styles)}
    unknown = len(styles)
    # The sort is stable: what one style gathers keeps its random order.
    return sorted(groups, key=lambda group: min(turn.get(t.style, unknown) for t in group))


def _draw_pair(track: TrackSegments, stored_s: float, rng: random.Random) -> Pair:
    """Draw any two segments, as long as they share audio if the track has some that do not."""
    references = track.references
    has_apart = not overlapping(references[0], references[-1], stored_s)
    while True:
        anchor, positive = rng.sample(range(len(references)), 2)
        if not has_apart or not overlapping(references[anchor], references[positive], stored_s):
            return Pair(track, anchor, positive, rng.random(), rng.random())


class Epochs:
    """The plans of all epochs, with those made last kept.

    Attributes:
        steps_per_epoch: number of batches, equal in all epochs.
    """

    def __init__(
        self,
        tracks: Sequence[TrackSegments],
        *,
        batch_size: int,
        siblings_per_batch: int,
        styles_meet: bool,
        stored_s: float,
        seed: int,
    ) -> None:
        """Take what `plan_epoch` takes."""
        self._plan = partial(
            plan_epoch,
            tracks,
            batch_size=batch_size,
            siblings_per_batch=siblings_per_batch,
            styles_meet=styles_meet,
            stored_s=stored_s,
            seed=seed,
        )
        self._kept: OrderedDict[int, list[list[Pair]]] = OrderedDict()
        self.steps_per_epoch = len(self.plan(1))

    def plan(self, epoch: int) -> list[list[Pair]]:
        """Return the batches of an epoch; the first epoch is number 1."""
        if epoch not in self._kept:
            self._kept[epoch] = self._plan(epoch=epoch)
        while len(self._kept) > _PLANS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[epoch]

    def batch(self, step: int) -> list[Pair]:
        """Return the batch of a step; steps are counted from 0 through all epochs."""
        finished, index = divmod(step, self.steps_per_epoch)
        return self.plan(finished + 1)[index]


def chain_partners(batch: Sequence[Pair], *, same_style: bool) -> list[int]:
    """Find for each pair of a batch the one that takes the same augmentation chain.

    The same chain on two songs makes two mixes that have the chain in common. If the songs were
    mixed in one style before, they have the whole mix in common, in a style that nobody drew.

    Args:
        batch: the pairs; the mixes of a song lie together.
        same_style: whether partners must be of the same known style.

    Returns:
        number of the partner, which is of another song, or `NO_PARTNER`.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(batch):
        if pair.track.style or not same_style:
            alike[pair.track.style if same_style else ""].append(number)
    partners = [NO_PARTNER] * len(batch)
    for numbers in alike.values():
        # The first half is laid beside the second, so that partners mostly are different songs.
        half = len(numbers) // 2
        for i, j in zip(numbers[:half], numbers[half : 2 * half], strict=True):
            if batch[i].track.song != batch[j].track.song:
                partners[i], partners[j] = j, i
    return partners


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
        self._rows: Mapping[tuple[str, int], int] = {key: row for row, key in enumerate(keys)}
        self._features_BD = table.features_BD
        self._num_samples = round(segment_s * sample_rate_hz)
        self._cache: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._cache_bytes, self._room_bytes = 0, cache_gib * _GIB

    def features(self, reference: SegmentRef) -> Tensor:
        """Return features_D of a whole segment.

        Raises:
            DataError: the table does not list the segment.
        """
        key = (reference.track_id, reference.segment)
        if key not in self._rows:
            raise DataError(
                f"features: expected track {key[0]}, segment {key[1]} of {reference.shard_path}, "
                "found no such row: compute the features again"
            )
        return self._features_BD[self._rows[key]]

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


def batch_bytes(num_pairs: int, segment_s: float) -> float:
    """Say what the stems of a batch take in memory, in float32.

    Args:
        num_pairs: of the batch.
        segment_s: what is heard of a segment.
    """
    bytes_per_segment = 4 * NUM_STEMS * NUM_CHANNELS * SAMPLE_RATE_HZ * segment_s
    return 2 * num_pairs * bytes_per_segment


class BatchReader(Dataset[Batch]):
    """Parts of batches for readers: an item is this rank's part of the batch of a step."""

    def __init__(self, source: SegmentSource, epochs: Epochs, rank: int, world_size: int) -> None:
        self._source, self._epochs = source, epochs
        self._rank, self._world_size = rank, world_size

    def __getitem__(self, step: int) -> Batch:
        batch = self._epochs.batch(step)
        pairs = batch[rank_rows(len(batch), self._rank, self._world_size)]
        anchors = [(pair.track.references[pair.anchor], pair.anchor_crop) for pair in pairs]
        positives = [(pair.track.references[pair.positive], pair.positive_crop) for pair in pairs]
        items = anchors + positives
        loaded = [self._source.stems(*item) for item in items]
        # In a reading process this stacks straight into memory that it shares with the training.
        stems = default_collate([stems for stems, _ in loaded])
        stems_PBSCT = stems.unflatten(0, (2, len(pairs)))
        if not all(whole for _, whole in loaded):
            return Batch(stems_PBSCT, None)
        features = [self._source.features(reference) for reference, _ in items]
        return Batch(stems_PBSCT, torch.stack(features).unflatten(0, (2, len(pairs))))
