import pytest
import torch

from mixprint.collection.shards import read_index, read_segment
from mixprint.collection.tracks import tracks_of_split
from mixprint.zero_shot import data as zero_shot_data
from mixprint.zero_shot.data import AudioBatch, ExampleReader, LevelBatch
from mixprint.zero_shot.renderings import Measured, Renderings
from tests.zero_shot.trials import Collection, config, make_collection, ranges

NUM_FRAMES, NUM_BANDS, EMBEDDING_DIM = 1_000, 6, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("zero-shot"))


@pytest.fixture(scope="module")
def renderings(data: Collection) -> Renderings:
    tracks = tracks_of_split(read_index(data.stems_dir), data.tracks, "train")
    return Renderings(tracks, segments_per_track=2, num_chains=2, seed=1)


def reader(
    renderings: Renderings, monkeypatch: pytest.MonkeyPatch, rank: int = 0, world_size: int = 1
) -> ExampleReader:
    monkeypatch.setattr(zero_shot_data, "rank_and_world", lambda: (rank, world_size))
    M = len(renderings.items)
    generator = torch.Generator().manual_seed(0)
    measured = Measured(
        torch.nn.functional.normalize(torch.randn(M, EMBEDDING_DIM, generator=generator), dim=-1),
        torch.randn(M, 4, 2, NUM_BANDS, NUM_FRAMES, generator=generator).half(),
    )
    used = config(audio_batch_size=3, crops_per_example=2, embedding_noise=0.4)
    samples = read_segment(renderings.items[0].reference).shape[-1]
    return ExampleReader(used, renderings, measured, ranges(), samples)


LEVEL_STEP, AUDIO_STEP, EMBEDDING_STEP = 2, 5, 6  # the first phase has 4 steps


@pytest.mark.parametrize("step", [LEVEL_STEP, AUDIO_STEP])
def test_ranks_read_the_rows_of_one(
    renderings: Renderings, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = reader(renderings, monkeypatch)[step]
    parts = [reader(renderings, monkeypatch, rank, 2)[step] for rank in range(2)]
    for value, *of_ranks in zip(whole[:2], *(part[:2] for part in parts), strict=True):
        assert value is not None
        assert torch.equal(torch.cat(of_ranks, dim=1), value)


@pytest.mark.parametrize("step", [LEVEL_STEP, AUDIO_STEP])
def test_a_rank_without_examples_reads_empty_batches(
    renderings: Renderings, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    batch = reader(renderings, monkeypatch, 0, 9)[step]
    assert [value.shape[:2] for value in batch[:2] if value is not None] == [(2, 0), (2, 0)]


def test_a_crop_is_a_piece_of_its_rendering_and_noise_keeps_embeddings_at_length_1(
    renderings: Renderings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reader(renderings, monkeypatch)
    batch = made[AUDIO_STEP]
    assert isinstance(batch, AudioBatch)
    assert batch.crop_2BPSCT.shape == (2, 3, 2, 4, 2, round(0.5 * 44_100))
    for place, (_, example) in enumerate(made.examples(AUDIO_STEP)):
        for side, number in enumerate((example.input, example.truth)):
            (whole_SCT,) = renderings.items[number].stems(ranges())
            found_T = batch.crop_2BPSCT[side, place, 1, 0, 0]
            if renderings.items[number].chain < 0:
                windows = whole_SCT[0, 0].unfold(0, len(found_T), 1)
                assert (windows[:, :4] == found_T[:4]).all(dim=1).any()
    torch.testing.assert_close(batch.pair_2BE.norm(dim=-1), torch.ones(2, 3))


def test_one_step_in_some_compares_the_embedding_of_the_first_example(
    renderings: Renderings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reader(renderings, monkeypatch)
    for step, expected in ((AUDIO_STEP, False), (EMBEDDING_STEP, True)):
        batch = made[step]
        assert isinstance(batch, AudioBatch)
        assert (batch.whole_SCT is not None) == (batch.reference_E is not None) == expected
    (_, example), *_ = made.examples(EMBEDDING_STEP)
    assert batch.whole_SCT is not None
    (whole_SCT,) = renderings.items[example.input].stems(ranges())
    assert torch.equal(batch.whole_SCT, whole_SCT)
    other = reader(renderings, monkeypatch, 1, 2)[EMBEDDING_STEP]
    assert isinstance(other, AudioBatch)
    assert other.whole_SCT is None, "the first example of the whole batch is the first rank's"


def test_levels_are_cut_where_the_example_is(
    renderings: Renderings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = reader(renderings, monkeypatch)[LEVEL_STEP]
    assert isinstance(batch, LevelBatch)
    # A second at 128 samples a frame.
    assert batch.level_2BSCKN.shape == (2, 4, 4, 2, NUM_BANDS, round(44_100 / 128))
    assert batch.level_2BSCKN.dtype == torch.float16
