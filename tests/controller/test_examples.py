"""Examples: the answer makes the sound, and the reference has the same style."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.console.mixing import Console, Values
from mixprint.console.settings import Settings
from mixprint.controller.draws import DrawConfig, Style
from mixprint.controller.examples import (
    ExampleConfig,
    ExampleMaker,
    MixRecipe,
    Recipe,
    RecipeReader,
)
from mixprint.controller.mixes import (
    Mixing,
    mixed,
    mixed_together,
    separated_by_mask,
    stem_sums,
)
from mixprint.controller.roles import ROLES
from mixprint.controller.segments import (
    Segment,
    SegmentConfig,
    draw_submixed,
    submixed,
    varied,
)
from mixprint.controller.songs import DrySong, SongConfig, song_pool
from mixprint.errors import ConfigError
from mixprint.stems import NUM_STEMS, SAMPLE_RATE_HZ, STEMS
from mixprint.training.pool import MadePool

ROOM_S = 0.2
CPU = torch.device("cpu")
DRAWS = DrawConfig(
    wide_share=0.3,
    eq_probability=0.8,
    comp_probability=0.6,
    drive_probability=0.2,
    room_probability=0.7,
)
CONFIG = ExampleConfig(
    songs=SongConfig(
        pool_size=2,
        refresh_steps=0,
        new_songs=1,
        duration_s=1.5,
        seed=1,
        num_valid=1,
        num_generators=0,
    ),
    segments=SegmentConfig(
        stems_share=0.0,
        submix_probability=0.2,
        track_dropout=0.4,
        solo_share=0.05,
        level_jitter_db=12.0,
    ),
    draws=DRAWS,
    redraws=replace(DRAWS, comp_probability=0.3),
    excerpt_s=0.4,
    lead_s=0.1,
    room_s=ROOM_S,
    examples_per_style=2,
    same_song_share=0.3,
    mix_to_mix_share=0.0,
    restyled_share=0.0,
    masked_share=0.0,
    separated_share=0.0,
    reference_dropout=0.0,
)
NUM_SAMPLES = round(0.4 * SAMPLE_RATE_HZ)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> MadePool[DrySong]:
    return song_pool(tmp_path_factory.mktemp("songs"), CONFIG.songs)


def _recipes(pool: MadePool[DrySong], steps: int = 1, **changes: float) -> list[Recipe]:
    reader = RecipeReader(replace(CONFIG, **changes), pool, batch_size=4, seed=5)
    return [recipe for step in range(steps) for recipe in reader[step]]


def _console(dry_NCT: Tensor, settings: Settings) -> Tensor:
    values = Values.of(settings, SAMPLE_RATE_HZ)
    return Console(dry_NCT, ROOM_S)(values)


def _settings(segment: Segment, style: Style) -> Settings:
    return style.settings(segment.names, segment.roles, segment.trims_db(), SAMPLE_RATE_HZ)


def _dry(recipe: Recipe) -> Segment:
    assert isinstance(recipe.given, Segment)
    return recipe.given


def _style(recipe: Recipe) -> Style:
    assert isinstance(recipe.answer, Style)
    return recipe.answer


def _mixed_by_hand(segment: Segment, *styles: Style) -> Segment:
    """Mix, and mix the stems again in the next style, as tracks named as the stems."""
    for style in styles:
        mixed_NCT = _console(segment.tracks_NCT, _settings(segment, style))
        stems_SCT = stem_sums(mixed_NCT, segment.roles)
        places = [n for n in range(NUM_STEMS) if stems_SCT[n].any()]
        names = tuple(STEMS[place] for place in places)
        segment = Segment(stems_SCT[places], names, names)
    return segment


def test_the_answer_makes_the_truth_of_the_tracks(pool: MadePool[DrySong]) -> None:
    recipes = _recipes(pool)[:2]
    for example in ExampleMaker(CONFIG, CPU, with_truth=True)(recipes):
        assert tuple(example.settings.tracks) == example.names
        expected_NCT = _console(example.tracks_NCT, example.settings)
        torch.testing.assert_close(example.truth_NCT, expected_NCT, rtol=0, atol=1e-4)


def test_a_reference_is_the_sum_of_its_stems_in_the_style_of_the_answer(
    pool: MadePool[DrySong],
) -> None:
    recipes = _recipes(pool)
    maker = ExampleMaker(CONFIG, CPU)
    for recipe, example in zip(recipes[:2], maker(recipes[:2]), strict=True):
        assert recipe.reference is not None
        assert recipe.reference.styles == (recipe.answer,)
        assert example.settings == _settings(_dry(recipe), recipe.answer)
        torch.testing.assert_close(example.stems_SCT.sum(dim=0), example.reference_CT)
        assert example.parts is not None
        torch.testing.assert_close(example.parts.tracks_NCT.sum(dim=0), example.reference_CT)
        reference = recipe.reference.segment
        assert example.parts.settings == _settings(reference, recipe.answer)
        assert example.parts.roles == reference.roles
        whole = _mixed_by_hand(recipe.reference.segment, recipe.answer)
        expected_CT = whole.tracks_NCT.sum(dim=0)[:, -NUM_SAMPLES:]
        torch.testing.assert_close(example.reference_CT, expected_CT, rtol=0, atol=1e-4)
    # Those of one style share the reference; the next ones have another.
    assert recipes[0].reference is recipes[1].reference is not recipes[2].reference
    assert recipes[0].answer is not recipes[2].answer


def test_mixes_made_side_by_side_are_those_made_one_by_one(pool: MadePool[DrySong]) -> None:
    """The first is how a GPU works, the second how a processor does."""
    recipes = _recipes(pool)[1:3]
    mixings = [Mixing(_dry(r).tracks_NCT, _settings(_dry(r), _style(r))) for r in recipes]
    together, alone = mixed_together(mixings, CPU, ROOM_S), mixed(mixings, CPU, ROOM_S)
    assert [len(parts) for parts in alone] == [len(_dry(r).names) for r in recipes]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_mix_to_mix_is_mixed_once_more_and_so_is_its_reference(pool: MadePool[DrySong]) -> None:
    (recipe, *_) = _recipes(pool, mix_to_mix_share=1.0)
    assert isinstance(recipe.given, MixRecipe)
    assert recipe.reference is not None
    assert recipe.reference.styles == (*recipe.given.styles, _style(recipe))
    config = replace(CONFIG, mix_to_mix_share=1.0)
    (example,) = ExampleMaker(config, CPU, with_truth=True)([recipe])
    given = _mixed_by_hand(recipe.given.segment, *recipe.given.styles)
    assert example.names == example.roles == given.names
    for found, expected_NCT in (
        (example.tracks_NCT, given.tracks_NCT),
        (example.truth_NCT, _console(given.tracks_NCT, example.settings)),
        (
            example.reference_CT,
            _mixed_by_hand(recipe.reference.segment, *recipe.reference.styles).tracks_NCT.sum(0),
        ),
    ):
        torch.testing.assert_close(found, expected_NCT[..., -NUM_SAMPLES:], rtol=0, atol=1e-4)


def test_what_is_restyled_becomes_the_same_tracks_in_the_style_of_the_reference(
    pool: MadePool[DrySong],
) -> None:
    config = replace(
        CONFIG, examples_per_style=4, mix_to_mix_share=1.0, restyled_share=1.0, masked_share=1.0
    )
    recipes = RecipeReader(config, pool, batch_size=4, seed=5)[0]
    made = ExampleMaker(config, CPU)(recipes)
    mixes: dict[int, MixRecipe] = {}
    for recipe, example in zip(recipes, made, strict=True):
        assert isinstance(recipe.given, MixRecipe)
        assert isinstance(recipe.answer, MixRecipe)
        assert recipe.reference is not None
        mixes |= {id(mix): mix for mix in (recipe.given, recipe.answer, recipe.reference)}
        assert recipe.answer.styles[0] is recipe.reference.styles[0]
        assert recipe.answer.styles[0] is not recipe.given.styles[0]
        assert recipe.answer.segment is recipe.given.segment
        assert recipe.reference.segment is not recipe.given.segment
        assert not example.knows_settings
        assert example.truth_NCT is not None
        sounds = ((example.tracks_NCT, recipe.given), (example.truth_NCT, recipe.answer))
        for found_NCT, mix in sounds:
            expected = _mixed_by_hand(mix.segment, *mix.styles)
            assert example.names == example.roles == expected.names
            # What a mask takes from one stem it gives to another.
            torch.testing.assert_close(
                found_NCT.sum(0), expected.tracks_NCT.sum(0)[..., -NUM_SAMPLES:], rtol=0, atol=1e-4
            )
    # Four different examples of four mixes.
    assert len({(id(r.given), id(r.reference)) for r in recipes}) == len(mixes) == 4


def test_examples_follow_from_seed_and_step_alone_on_any_number_of_ranks(
    pool: MadePool[DrySong], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(steps: tuple[int, ...]) -> list[tuple[int, Settings, Tensor]]:
        reader = RecipeReader(CONFIG, pool, batch_size=4, seed=5)
        return [
            (r.row, _settings(_dry(r), _style(r)), _dry(r).tracks_NCT)
            for step in steps
            for r in reader[step]
        ]

    whole = drawn((0, 1))[4:]
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setattr(
            "mixprint.controller.examples.rank_and_world", lambda rank=rank: (int(rank), 2)
        )
        parts += drawn((1,))
    for one, other in itertools.zip_longest(whole, parts):
        assert one[:2] == other[:2]
        assert torch.equal(one[2], other[2])
    assert whole[0][1] != whole[1][1]


def test_references_drop_out_and_stems_are_known_as_often_as_asked_for(
    pool: MadePool[DrySong],
) -> None:
    recipes = _recipes(
        pool, steps=15, reference_dropout=0.25, masked_share=0.5, separated_share=0.2
    )
    references = [recipe.reference for recipe in recipes]
    assert references.count(None) / len(references) == pytest.approx(0.25, abs=0.15)
    kinds = [mix.stems for mix in {id(mix): mix for mix in references if mix}.values()]
    assert kinds.count("masked") / len(kinds) == pytest.approx(0.5, abs=0.25)
    assert kinds.count("separated") / len(kinds) == pytest.approx(0.2, abs=0.19)
    counts = [len(_dry(recipe).names) for recipe in recipes]
    assert min(counts) == 1
    assert max(counts) >= 8
    without = next(recipe for recipe in recipes if recipe.reference is None)
    (example,) = ExampleMaker(CONFIG, CPU)([without])
    assert (example.reference_CT, example.stems_SCT, example.stems) == (None, None, "")


def test_the_real_separator_hears_the_mix_and_its_absence_is_an_error(
    pool: MadePool[DrySong],
) -> None:
    config = replace(CONFIG, separated_share=1.0)
    with pytest.raises(ConfigError, match="separated_share: expected 0 where there is no"):
        ExampleMaker(config, CPU)

    def quarters(mixture_CT: Tensor) -> Tensor:
        return mixture_CT.expand(NUM_STEMS, -1, -1) / NUM_STEMS

    recipes = RecipeReader(config, pool, batch_size=1, seed=5)
    (example,) = ExampleMaker(config, CPU, separate=quarters)(recipes[0])
    assert example.stems == "separated"
    torch.testing.assert_close(example.stems_SCT, quarters(example.reference_CT))


def test_a_mask_separates_with_leaks_and_loses_nothing_of_the_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    time_T = torch.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones_ST = torch.stack([torch.sin(6.283 * hz * time_T) for hz in (200, 230, 2_000, 9_000)])
    true_SCT = 0.1 * tones_ST[:, None].repeat(1, 2, 1)
    parts_SCT = separated_by_mask(true_SCT, generator)
    torch.testing.assert_close(parts_SCT.sum(dim=0), true_SCT.sum(dim=0), rtol=0, atol=1e-4)

    def error_db(stem: int) -> float:
        error = (parts_SCT[stem] - true_SCT[stem]).square().mean()
        return 10 * float(torch.log10(error / true_SCT[stem].square().mean()))

    # Neighbours leak into each other; what lies alone is found.
    assert -20 < error_db(0) < -1
    assert error_db(3) < -25


def test_tracks_come_in_any_order_at_any_level_and_stems_as_one() -> None:
    names, roles = ("kick", "snare", "hat", "bass"), ("kick", "snare", "hats", "bass")
    dry = Segment(torch.rand(4, 2, 100), names, roles)
    config = SegmentConfig(
        stems_share=0.0,
        submix_probability=0.0,
        track_dropout=0.0,
        solo_share=0.0,
        level_jitter_db=6.0,
    )
    orders = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = varied(dry, generator, config)
        orders.add(found.names)
        for name, role, track_CT in zip(found.names, found.roles, found.tracks_NCT, strict=True):
            gain_CT = track_CT / dry.tracks_NCT[names.index(name)]
            assert role == roles[names.index(name)]
            assert gain_CT.max() - gain_CT.min() < 1e-5
            assert 10 ** (-6 / 20) <= gain_CT.mean() <= 10 ** (6 / 20)
    assert len(orders) > 10
    generator = torch.Generator().manual_seed(0)
    assert draw_submixed(generator, config) == frozenset()
    stems = draw_submixed(generator, replace(config, stems_share=1.0))
    assert stems == set(STEMS)
    summed = submixed(dry, stems)
    assert summed.names == summed.roles == ("bass", "drums")
    torch.testing.assert_close(summed.tracks_NCT[1], dry.tracks_NCT[:3].sum(dim=0))
    solo = varied(dry, generator, replace(config, solo_share=1.0))
    assert len(solo.names) == 1


def test_an_excerpt_longer_than_a_song_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"at most the 1\.5 s of a song together, found 0\.1 and 2"
    ):
        replace(CONFIG, excerpt_s=2.0)
    with pytest.raises(ConfigError, match=r"expected a sum of at most 1, found 0\.6 and 0\.5"):
        replace(CONFIG, masked_share=0.6, separated_share=0.5)


def test_every_role_that_is_given_is_known(pool: MadePool[DrySong]) -> None:
    roles = {role for recipe in _recipes(pool, steps=3) for role in _dry(recipe).roles}
    assert len(roles) > 3
    assert roles < set(ROLES)
