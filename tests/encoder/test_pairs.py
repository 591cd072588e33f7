from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.collection.shards import SegmentRef, read_index, read_segment
from mixprint.collection.tracks import TrackSegments, overlapping, tracks_of_split
from mixprint.encoder.data import (
    NO_PARTNER,
    Batch,
    BatchReader,
    Epochs,
    SegmentSource,
    chain_partners,
    plan_epoch,
    whole_songs,
)
from mixprint.errors import DataError
from mixprint.features.table import read_features
from mixprint.training.loading import load_batches

RATE_HZ, SEGMENT_S = 32_000, 3.0


def make_tracks(num_songs: int, num_mixes: int) -> list[TrackSegments]:
    """Tracks of 24 s in 10 s segments: the last one overlaps its predecessor."""
    return [
        TrackSegments(
            f"{song}-{mix}",
            f"{song}",
            tuple(
                SegmentRef(Path("none"), 0, f"{song}-{mix}", i, start)
                for i, start in enumerate((0.0, 10.0, 14.0))
            ),
        )
        for song in range(num_songs)
        for mix in range(num_mixes)
    ]


def plan(tracks: list[TrackSegments], **changes: Any) -> Any:
    return plan_epoch(
        tracks,
        **{
            "batch_size": 8,
            "siblings_per_batch": 4,
            "styles_meet": False,
            "stored_s": 10.0,
            "seed": 1,
            "epoch": 1,
        }
        | changes,
    )


def test_an_epoch_shows_each_track_once_in_near_equal_batches() -> None:
    batches = plan(make_tracks(7, 3))
    assert sorted(map(len, batches)) == [7, 7, 7]
    counts = Counter(pair.track.track_id for batch in batches for pair in batch)
    assert len(counts) == 21
    assert set(counts.values()) == {1}


def test_pairs_are_two_segments_that_share_no_audio() -> None:
    for epoch in range(20):
        for pair in (pair for batch in plan(make_tracks(4, 2), epoch=epoch) for pair in batch):
            anchor, positive = (pair.track.references[i] for i in (pair.anchor, pair.positive))
            assert not overlapping(anchor, positive, 10.0)


def test_overlapping_segments_are_paired_if_there_are_no_others() -> None:
    tracks = [TrackSegments(t.track_id, t.song, t.references[1:]) for t in make_tracks(4, 1)]
    assert all(pair.anchor != pair.positive for batch in plan(tracks) for pair in batch)


def test_mixes_of_a_song_share_a_batch() -> None:
    for batch in plan(make_tracks(8, 3), batch_size=6):
        assert set(Counter(pair.track.song for pair in batch).values()) == {3}


@pytest.mark.parametrize("siblings", [1, 2])
def test_no_more_mixes_of_a_song_share_a_batch_than_asked_for(siblings: int) -> None:
    tracks = make_tracks(12, 4)
    for epoch in range(10):
        batches = plan(tracks, batch_size=4, siblings_per_batch=siblings, epoch=epoch)
        counts = [Counter(pair.track.song for pair in batch) for batch in batches]
        # Groups of one song lie a quarter or half of the twelve batches apart.
        assert max(max(count.values()) for count in counts) <= siblings
        assert sum(map(len, batches)) == len(tracks)


def in_styles(num_songs: int, num_styles: int) -> list[TrackSegments]:
    """Songs in two neighbouring styles each."""
    return [
        replace(track, style=f"style {(int(track.song) + int(track.track_id[-1])) % num_styles}")
        for track in make_tracks(num_songs, 2)
    ]


def test_mixes_of_a_style_share_a_batch_if_asked_to() -> None:
    tracks = in_styles(24, 6)

    def kin(styles_meet: bool) -> int:
        """Pairs of different songs in one style that share a batch, in twenty epochs."""
        batches = [b for e in range(20) for b in plan(tracks, styles_meet=styles_meet, epoch=e)]
        return sum(
            a.track.style == b.track.style and a.track.song != b.track.song
            for batch in batches
            for a, b in combinations(batch, 2)
        )

    # The first style gathers 8 songs, which are 28 pairs in two batches of four: 12 and more.
    assert kin(True) > 2 * kin(False)
    batches = plan(tracks, styles_meet=True)
    assert sorted(p.track.track_id for b in batches for p in b) == sorted(
        t.track_id for t in tracks
    )
    assert all(set(Counter(p.track.song for p in batch).values()) == {2} for batch in batches)
    assert batches != plan(tracks, styles_meet=True, epoch=2)


def test_tracks_without_a_known_style_come_along() -> None:
    tracks = [*in_styles(6, 3), *(replace(t, song=f"x{t.song}") for t in make_tracks(6, 1))]
    pairs = [pair for batch in plan(tracks, styles_meet=True) for pair in batch]
    assert len(pairs) == 18
    assert not any(pair.track.style for pair in pairs[-6:])


def test_apart_from_siblings_the_order_is_a_shuffle() -> None:
    first = Counter(plan(make_tracks(5, 1), epoch=e)[0][0].track.song for e in range(500))
    assert set(first) == set("01234")
    assert min(first.values()) > 60


def test_every_pair_of_segments_comes_up() -> None:
    (track,) = make_tracks(1, 1)
    drawn = Counter(
        (pair.anchor, pair.positive) for e in range(400) for pair in plan([track], epoch=e)[0]
    )
    # Segments 1 and 2 overlap; the four ordered pairs that do not are equally likely.
    assert set(drawn) == {(0, 1), (1, 0), (0, 2), (2, 0)}
    assert min(drawn.values()) > 70


def test_steps_number_the_batches_of_all_epochs() -> None:
    tracks = make_tracks(7, 3)
    settings = {
        "batch_size": 8,
        "siblings_per_batch": 4,
        "styles_meet": False,
        "stored_s": 10.0,
        "seed": 1,
    }
    epochs = Epochs(tracks, **settings)
    assert epochs.steps_per_epoch == 3
    expected = [batch for epoch in (1, 2, 3, 4) for batch in plan(tracks, epoch=epoch)]
    assert [epochs.batch(step) for step in range(12)] == expected
    assert epochs.batch(1) == expected[1]  # long dropped, and made again


def test_whole_songs_are_chosen_up_to_a_number_of_tracks() -> None:
    tracks = make_tracks(20, 3)
    chosen = whole_songs(tracks, 10, seed=1)
    assert set(Counter(t.song for t in chosen).values()) == {3}
    assert len(chosen) == 9
    assert chosen == [t for t in tracks if t in chosen]
    assert whole_songs(tracks[::-1], 10, seed=1) == chosen[::-1]
    assert whole_songs(tracks, 10, seed=2) != chosen
    assert whole_songs(tracks, 60, seed=1) == tracks
    assert len(whole_songs(make_tracks(5, 1), 1, seed=1)) == 2


def test_the_plan_depends_on_seed_and_epoch_alone() -> None:
    tracks = make_tracks(6, 2)
    assert plan(tracks) == plan(tracks)
    assert plan(tracks) != plan(tracks, epoch=2)
    assert plan(tracks) != plan(tracks, seed=2)


def test_partners_are_mutual_and_of_different_songs() -> None:
    (batch,) = plan(make_tracks(3, 3), batch_size=16)
    partners = chain_partners(batch, same_style=False)
    assert partners.count(NO_PARTNER) == 1
    for i, partner in enumerate(partners):
        if partner != NO_PARTNER:
            assert partners[partner] == i
            assert batch[i].track.song != batch[partner].track.song
    (alone,) = plan(make_tracks(1, 4))
    assert chain_partners(alone, same_style=False) == [NO_PARTNER] * 4


def test_partners_are_of_one_style_if_asked_for() -> None:
    tracks = [*in_styles(6, 3), *(replace(t, song=f"x{t.song}") for t in make_tracks(3, 1))]
    (batch,) = plan(tracks, batch_size=16)
    partners = chain_partners(batch, same_style=True)
    # Four songs in each style are two pairs, unless a song falls on itself; none is unknown.
    for i, partner in enumerate(partners):
        if not batch[i].track.style:
            assert partner == NO_PARTNER
        elif partner != NO_PARTNER:
            assert batch[i].track.style == batch[partner].track.style
            assert batch[i].track.song != batch[partner].track.song
            assert partners[partner] == i
    assert sum(partner != NO_PARTNER for partner in partners) == 12


def make_source(tiny_set: Any, segment_s: float = SEGMENT_S, cache_gib: float = 0) -> SegmentSource:
    table = read_features(tiny_set.features_dir / "features.parquet")
    return SegmentSource(table, segment_s=segment_s, sample_rate_hz=RATE_HZ, cache_gib=cache_gib)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ranks_together_read_the_batch_whatever_the_workers(
    tiny_set: Any, num_workers: int
) -> None:
    tracks = tracks_of_split(read_index(tiny_set.stems_dir), tiny_set.tracks, "train")
    source = make_source(tiny_set)
    epochs = make_epochs(tracks)
    loaded = [read_all(source, epochs, range(3), r, 2, num_workers) for r in range(2)]
    for step, parts in enumerate(zip(*loaded, strict=True)):
        stems_PBSCT = torch.cat([part.stems_PBSCT for part in parts], dim=1)
        features_PBD = torch.cat([part.features_PBD for part in parts], dim=1)
        for b, pair in enumerate(epochs.batch(step)):
            for p, index in enumerate((pair.anchor, pair.positive)):
                reference = pair.track.references[index]
                assert torch.equal(stems_PBSCT[p, b], read_segment(reference))
                assert torch.equal(features_PBD[p, b], source.features(reference))


def test_reading_goes_on_at_any_step(tiny_set: Any) -> None:
    tracks = tracks_of_split(read_index(tiny_set.stems_dir), tiny_set.tracks, "train")
    source, epochs = make_source(tiny_set), make_epochs(tracks)
    whole = read_all(source, epochs, range(4), 0, 1, 0)
    rest = read_all(source, epochs, range(2, 4), 0, 1, 1)
    for expected, batch in zip(whole[2:], rest, strict=True):
        assert torch.equal(expected.stems_PBSCT, batch.stems_PBSCT)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_reading_process_comes_out_as_it_is(tiny_set: Any, num_workers: int) -> None:
    tracks = tracks_of_split(read_index(tiny_set.stems_dir), tiny_set.tracks, "train")
    source = make_source(tiny_set, segment_s=4.0)
    with pytest.raises(DataError, match=r"^\S+: expected segments of at least 128000 samples"):
        read_all(source, make_epochs(tracks), range(1), 0, 1, num_workers)


def make_epochs(tracks: list[TrackSegments]) -> Epochs:
    return Epochs(
        tracks,
        batch_size=4,
        siblings_per_batch=4,
        styles_meet=False,
        stored_s=SEGMENT_S,
        seed=1,
    )


def read_all(
    source: SegmentSource, epochs: Epochs, steps: range, rank: int, world_size: int, workers: int
) -> list[Batch]:
    reader = BatchReader(source, epochs, rank, world_size)
    return list(load_batches(reader, steps, num_workers=workers, pinned=False))


def test_the_cache_gives_the_same_and_keeps_to_its_room(tiny_set: Any) -> None:
    references = read_index(tiny_set.stems_dir)
    num_bytes = 4 * 2 * 96_000 * 4
    source = make_source(tiny_set, cache_gib=2.5 * num_bytes / 2**30)
    for reference in [*references, *references[:1], *references[:1]]:
        stems, whole = source.stems(reference)
        assert whole
        assert torch.equal(stems, read_segment(reference))
        assert source._cache_bytes <= 2 * num_bytes


def test_crops_lie_inside_and_have_no_features(tiny_set: Any) -> None:
    reference = read_index(tiny_set.stems_dir)[0]
    source = make_source(tiny_set, segment_s=2.0)
    whole = read_segment(reference)
    for crop, start in ((0.0, 0), (0.999999999, 32_000)):
        stems, is_whole = source.stems(reference, crop)
        assert not is_whole
        assert torch.equal(stems, whole[..., start : start + 64_000])


def test_segments_that_do_not_fit_are_named(tiny_set: Any) -> None:
    reference = read_index(tiny_set.stems_dir)[0]
    with pytest.raises(DataError, match=f"track {reference.track_id}, segment 0"):
        make_source(tiny_set, segment_s=4.0).stems(reference)
    unknown = SegmentRef(reference.shard_path, 0, "stranger", 7, 0.0)
    with pytest.raises(DataError, match="track stranger, segment 7"):
        make_source(tiny_set).features(unknown)
