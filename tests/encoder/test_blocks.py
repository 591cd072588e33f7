from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.chains.drawing import NONE
from mixprint.collection.shards import read_index, read_segment
from mixprint.collection.tracks import TrackSegments, tracks_of_split
from mixprint.encoder.augmentation import Augmentation
from mixprint.encoder.blocks import (
    BlockMaker,
    Blocks,
    Measured,
    chains_of,
    described_views,
    draw_pairs,
    measure_blocks,
    plan_blocks,
)
from mixprint.encoder.data import SegmentSource
from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.errors import TrainingError
from mixprint.features.table import read_features
from tests.encoder.conftest import SEGMENT_S, TinySet, descriptor_config, make_set

RATE_HZ = 44_100
NUM_MIXES, NUM_STEMS, WIDTH = 5, 4, 3


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    splits = dict.fromkeys("abcd", "train")
    return make_set(tmp_path_factory.mktemp("songs"), splits, sample_rate_hz=RATE_HZ)


def tracks_of(songs: TinySet, styles: str = "") -> list[TrackSegments]:
    """Take the tracks a0, a1, b0 ... with the styles of the letters, or none."""
    catalogue = [
        replace(track, style=styles[n] if styles else "") for n, track in enumerate(songs.tracks)
    ]
    return tracks_of_split(read_index(songs.stems_dir), catalogue, "train")


def plan(songs: TinySet, styles: str = "", **changes: Any) -> Any:
    values: dict[str, Any] = {
        "num_blocks": 6, "num_songs": 3, "styles_meet": bool(styles), "seed": 1,
    }  # fmt: skip
    return plan_blocks(tracks_of(songs, styles), **(values | changes))


def made_up(songs: TinySet, styles: str = "") -> Blocks:
    """Blocks whose descriptions tell block, song, mix and stem."""
    segments = plan(songs, styles)
    shape = (3, NUM_MIXES, NUM_STEMS)
    measured = []
    for block in range(len(segments)):
        numbers = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), dim=-1)
        described = torch.cat([torch.full((*shape, 1), block), numbers], dim=-1).float()
        effect = torch.arange(NUM_MIXES * NUM_STEMS).view(NUM_MIXES, NUM_STEMS, 1)
        measured.append(Measured(described, effect + 100 * block, effect[..., None] / 100))
    return Blocks(segments, measured)


def pairs_of(blocks: Blocks, *, styles_meet: bool, mixes: Any = (1, 3), seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return draw_pairs(blocks, 400, mixes, styles_meet=styles_meet, generator=generator)


def test_a_block_has_other_songs_and_follows_from_its_number(songs: TinySet) -> None:
    blocks = plan(songs)
    assert all(len({s.track.song for s in block}) == 3 for block in blocks)
    assert plan(songs, num_blocks=9)[:6] == blocks
    assert plan(songs, seed=2) != blocks
    assert len({str(block) for block in blocks}) == 6
    # More segments than songs: songs come again.
    assert [len({s.track.song for s in b}) for b in plan(songs, num_songs=6)] == [4] * 6


def test_the_songs_of_a_block_share_a_style_and_styles_come_in_turn(songs: TinySet) -> None:
    # Style x: a0, b0, c0; y: a1, d1; z: b1 alone, which no block can be made of; c1, d0: unknown.
    styles = {"a0": "x", "b0": "x", "c0": "x", "a1": "y", "d1": "y", "b1": "z"}
    letters = [styles.get(track.track_id, "") for track in songs.tracks]
    blocks = plan(songs, letters, num_blocks=4)
    named = [{s.track.style for s in block} for block in blocks]
    assert all(len(names) == 1 for names in named)
    assert [set.union(*named[n : n + 2]) for n in (0, 2)] == [{"x", "y"}] * 2
    with pytest.raises(TrainingError, match="two songs of one known style"):
        plan(songs, "abcdefgh")


def test_partners_are_other_songs_behind_the_same_chains(songs: TinySet) -> None:
    blocks = made_up(songs)
    pairs = pairs_of(blocks, styles_meet=False)
    first_N, second_N = pairs.place_2N
    song_NI = blocks.song_BI[pairs.block_N]
    assert (song_NI.gather(1, first_N[:, None]) != song_NI.gather(1, second_N[:, None])).all()
    assert set(pairs.mix_NS.unique().tolist()) == {0, 1, 3}
    # Something is done to each pair, and to most of its stems.
    assert (pairs.mix_NS > 0).any(dim=1).all()
    assert 0.1 < (pairs.mix_NS == 0).float().mean() < 0.3
    assert all(bool(((pairs.block_N == b).sum()) > 30) for b in range(6))
    again, other = (pairs_of(blocks, styles_meet=False, seed=seed) for seed in (0, 1))
    assert torch.equal(again.mix_NS, pairs.mix_NS)
    assert not torch.equal(other.mix_NS, pairs.mix_NS)


def test_a_mix_is_the_same_where_block_and_chains_are(songs: TinySet) -> None:
    blocks = made_up(songs)
    pairs = pairs_of(blocks, styles_meet=False)
    keys = [(b, *mix) for b, mix in zip(pairs.block_N.tolist(), pairs.mix_NS.tolist(), strict=True)]
    same_NN = torch.tensor([[one == other for other in keys] for one in keys])
    assert torch.equal(pairs.identity_N[:, None] == pairs.identity_N, same_NN)


def test_what_nothing_is_done_to_has_its_style_in_common(songs: TinySet) -> None:
    blocks = made_up(songs, "xyxyxyxy")
    pairs = pairs_of(blocks, styles_meet=True)
    is_untouched_N = (pairs.mix_NS == 0).all(dim=1)
    assert 0.1 < is_untouched_N.float().mean() < 0.25
    style_N = blocks.style_B[pairs.block_N][is_untouched_N]
    same_NN = pairs.identity_N[is_untouched_N, None] == pairs.identity_N[is_untouched_N]
    assert torch.equal(same_NN, style_N[:, None] == style_N)
    assert same_NN.any(dim=1).all()
    assert not same_NN.all()


def test_views_and_chains_are_those_of_the_pairs(songs: TinySet) -> None:
    blocks = made_up(songs)
    pairs = pairs_of(blocks, styles_meet=False)
    rows = slice(10, 30)
    views_3NSD = described_views(blocks, pairs, rows)
    chains = chains_of(blocks, pairs, [f"effect {n}" for n in range(1000)])
    for n in range(20):
        for stem in range(NUM_STEMS):
            block, mix = int(pairs.block_N[10 + n]), int(pairs.mix_NS[10 + n, stem])
            first, second = pairs.place_2N[:, 10 + n].tolist()
            expected = [[block, first, mix, stem], [block, second, mix, stem]]
            assert views_3NSD[:2, n, stem].tolist() == expected
            assert views_3NSD[2, n, stem].tolist() == [block, first, 0, stem]
            number = mix * NUM_STEMS + stem
            assert chains.effect_BSL[10 + n, stem].tolist() == [100 * block + number]
            assert chains.position_BSLP[10 + n, stem].item() == pytest.approx(number / 100)


@pytest.fixture(scope="module")
def maker(songs: TinySet) -> BlockMaker:
    config = descriptor_config(augmentation="alternating")
    return BlockMaker(
        SegmentSource(
            read_features(songs.features_dir / "features.parquet"),
            segment_s=SEGMENT_S,
            sample_rate_hz=RATE_HZ,
            cache_gib=0.1,
        ),
        Augmentation(config),
        DescriptorEncoder(config.encoder_config(RATE_HZ)),
        num_mixes=3,
        sample_rate_hz=RATE_HZ,
        device=torch.device("cpu"),
    )


def test_segments_are_described_as_they_are_and_behind_each_chain(
    songs: TinySet, maker: BlockMaker
) -> None:
    config = descriptor_config()
    augmentation, model = Augmentation(config), DescriptorEncoder(config.encoder_config(RATE_HZ))
    segments = plan(songs, num_blocks=1, num_songs=2)[0]
    made = maker.made(4, segments)
    read = [read_segment(s.track.references[s.number]) for s in segments]
    stems_ISCT = torch.stack(read)
    for mix in range(3):
        heard_ISCT = stems_ISCT
        if mix:
            chains = augmentation.draw_mix(4, mix, 2)
            heard_ISCT = augmentation.apply(stems_ISCT, chains, RATE_HZ)
        expected_ISD = model.describe(heard_ISCT).half()
        assert torch.equal(made.described_ICSD[:, mix], expected_ISD), mix
    # In turn: the first chain is one of many effects, the second the fixed one.
    assert (made.effect_CSL[1, :, 0] != NONE).all()
    assert (made.effect_CSL[[0, 2]] == NONE).all()


def test_what_was_measured_is_kept_and_what_is_lost_is_measured_again(
    songs: TinySet, maker: BlockMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = plan(songs, num_blocks=2, num_songs=2)
    whole = measure_blocks(segments, maker, tmp_path)
    (tmp_path / "00001.safetensors").unlink()
    numbers: list[int] = []
    original = BlockMaker.made

    def noted(maker: BlockMaker, number: int, segments: Any) -> Measured:
        numbers.append(number)
        return original(maker, number, segments)

    monkeypatch.setattr(BlockMaker, "made", noted)
    again = measure_blocks(segments, maker, tmp_path)
    assert numbers == [1]
    for one, other in zip(whole.measured, again.measured, strict=True):
        assert torch.equal(one, other)
    (tmp_path / "00000.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError, match=r"00000.safetensors: expected what was measured"):
        measure_blocks(segments, maker, tmp_path)
