"""Drawn styles: within the ranges, wider than the benchmarks', off as often as asked for."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import MAX_SHARED_ROOMS, ROOM_SHAPE, Settings
from mixprint.console.truth import from_truth
from mixprint.controller.draws import DrawConfig, Style, draw_style
from mixprint.controller.examples import RecipeReader
from mixprint.controller.roles import ROLES
from mixprint.stems import STEMS
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.mixing import free_style, varied
from mixprint.synthesis.style_benchmark import StyleBenchmark

CONFIG = DrawConfig(
    wide_share=0.3,
    eq_probability=0.8,
    comp_probability=0.6,
    drive_probability=0.2,
    room_probability=0.7,
)
NUM_STYLES = 400


def _draw(config: DrawConfig, seed: int = 0) -> list[Style]:
    generator = torch.Generator().manual_seed(seed)
    return [draw_style(generator, config) for _ in range(NUM_STYLES)]


@pytest.fixture(scope="module")
def styles() -> list[Style]:
    return _draw(CONFIG)


def _tracks(styles: list[Style], name: str, role: str = "") -> Tensor:
    """Values of a setting that the styles have for a role, or for all of them."""
    place = next(place for place, each in enumerate(TRACK_FIELDS) if each.name == name)
    rows = slice(None) if not role else ROLES.index(role)
    return torch.stack([style.track_RF[rows, place] for style in styles])


def test_all_settings_lie_in_their_ranges_and_the_same_seed_draws_the_same(
    styles: list[Style],
) -> None:
    def outside(fields: tuple[Field, ...], value_F: Tensor) -> list[str]:
        low_F, high_F = (
            torch.tensor([getattr(f, end) for f in fields], dtype=torch.float64)
            for end in ("low", "high")
        )
        is_out_F = ((value_F < low_F) | (value_F > high_F)).reshape(-1, len(fields)).any(dim=0)
        return [f.name for f, out in zip(fields, is_out_F.tolist(), strict=True) if out]

    assert outside(TRACK_FIELDS, torch.stack([s.track_RF for s in styles])) == []
    assert outside(MASTER_FIELDS, torch.stack([s.master_F for s in styles])) == []
    again, other = _draw(CONFIG)[-1], _draw(CONFIG, seed=1)[-1]
    assert torch.equal(again.track_RF, styles[-1].track_RF)
    assert not torch.equal(other.track_RF, styles[-1].track_RF)


def test_styles_reach_further_than_those_of_the_benchmarks(styles: list[Style]) -> None:
    """For every stem and setting of the benchmarks' draw."""
    benchmark = [free_style(Rng(n)) for n in range(NUM_STYLES)]
    ours = {
        "pan": "pan",
        "width": "width",
        "eq.low.gain_db": "low_shelf_db",
        "eq.bell2.gain_db": "mid_db",
        "eq.high.gain_db": "high_shelf_db",
        "comp.threshold_db": "threshold_db",
        "room.time_s": "reverb_time_s",
    }
    for role in ("vocals", "bass", "drums", "other"):
        for name, theirs in ours.items():
            values = [getattr(style.stems[role], theirs) for style in benchmark]
            own = _tracks(styles, name, role)
            assert own.min() < min(values), (role, name)
            assert own.max() > max(values), (role, name)
        steepest = max(1 - 1 / style.stems[role].ratio for style in benchmark)
        assert _tracks(styles, "comp.slope", role).max() > steepest
        assert _tracks(styles, "comp.slope", role).min() < 0
        attack_s = [style.stems[role].attack_s for style in benchmark]
        assert _tracks(styles, "comp.attack_ms", role).max() > 1_000 * max(attack_s)
        sends = [style.stems[role].reverb_send_db for style in benchmark]
        assert _tracks(styles, "room.send_db", role).max() > max(sends)


@pytest.mark.parametrize(
    ("name", "probability"),
    [("comp.slope", 0.6), ("drive.mix", 0.2), ("room.send_db", 0.7), ("eq.low.gain_db", 0.56)],
)
def test_processors_are_in_use_as_often_as_asked_for(
    styles: list[Style], name: str, probability: float
) -> None:
    neutral = next(f.neutral for f in TRACK_FIELDS if f.name == name)
    used = (_tracks(styles, name) != neutral).double().mean()
    assert used == pytest.approx(probability, abs=0.02)
    off = replace(CONFIG, **{f"{name.partition('.')[0]}_probability": 0.0})
    assert (_tracks(_draw(off)[:20], name) == neutral).all()


def test_usual_styles_sound_like_mixes() -> None:
    """The voice leads, and lies in the middle; guitars lie on either side; rooms go together."""
    usual = _draw(replace(CONFIG, wide_share=0.0, comp_probability=0.0, room_probability=1.0))
    fader_db, pan = _tracks(usual, "fader_db"), _tracks(usual, "pan")
    is_vocal = torch.tensor([role == "vocals" for role in ROLES])
    assert fader_db.mean(dim=0)[is_vocal] >= fader_db.mean(dim=0).max() - 0.5
    assert pan[:, is_vocal].abs().mean() < 0.1 < pan[:, ROLES.index("guitar")].abs().mean()
    assert pan[:, ROLES.index("guitar")].mean().abs() < 0.1
    send_db = _tracks(usual, "room.send_db")
    both = torch.stack([send_db[:, ROLES.index("keys")], send_db[:, ROLES.index("snare")]])
    assert torch.corrcoef(both)[0, 1] > 0.15
    shapes = torch.stack([_tracks(usual, name) for name in ROOM_SHAPE], dim=-1)
    assert max(len(shape_R3.unique(dim=0)) for shape_R3 in shapes) == MAX_SHARED_ROOMS


def test_a_style_is_the_same_for_every_track_of_a_role(styles: list[Style]) -> None:
    names, roles = ("a", "b", "c"), ("guitar", "guitar", "unknown")
    settings = styles[0].settings(names, roles, (3.0, -90.0, 0.0), 44_100)
    first, second, other = settings.tracks.values()
    assert second["pan"] == -first["pan"] != 0
    assert (first["trim_db"], second["trim_db"]) == (3.0, -60.0)
    changed = {"pan", "trim_db"}
    for (field, value), twin in zip(first.items(), second.values, strict=True):
        assert field.name in changed or value == twin
    place = ROLES.index("other")
    assert other.values == tuple(styles[0].track_RF[place].tolist())


# What `free_style` draws and a console does.
_DRAWN = (
    *("eq.low.gain_db", "eq.high.gain_db", "comp.threshold_db", "comp.slope", "room.send_db"),
    *("room.time_s", "width", "pan", "fader_db"),
)


def _place(settings: Settings) -> Tensor:
    """Return where a style lies: its settings on their scales, of the four stems and the master."""
    return torch.tensor(
        [
            field.on_scale(value)
            for strip in settings.strips().values()
            for field, value in strip.items()
            if field.name in _DRAWN
        ]
    )


def test_no_style_of_a_benchmark_is_met(styles: list[Style]) -> None:
    """No drawn style is nearer to one of the benchmark's than those of an unrelated stream are."""
    benchmark, seed = StyleBenchmark(), StyleBenchmark().seed
    rng = {split: getattr(benchmark, split).num_styles for split in ("valid", "test")}
    free = [
        free_style(Rng(seed, split, "style", n))
        for split, count in rng.items()
        for n in range(count)
    ]
    centre_BF, varied_BF = (
        torch.stack([_place(from_truth({"mix": s.to_values()}, s.style)) for s in some])
        for some in (free, [varied(style, Rng("another variation")) for style in free])
    )
    # The stream of a training, even with the seed of the benchmark; and one of another purpose.
    unused: Any = SimpleNamespace()
    stream = RecipeReader(unused, unused, 1, seed, rows=slice(0, 1))
    trained = [draw_style(stream._generator("style", step, 0), CONFIG) for step in range(400)]
    trained_NF, other_NF = (
        torch.stack([_place(s.settings(STEMS, STEMS, [0.0] * 4, 44_100)) for s in some])
        for some in (trained, styles)
    )
    scale_F = other_NF.std(dim=0)

    def nearest(place_NF: Tensor) -> Tensor:
        return torch.cdist(centre_BF / scale_F, place_NF / scale_F).amin(dim=1)

    chance_B = nearest(other_NF)
    assert bool((nearest(trained_NF) > 0.7 * chance_B).all())
    assert float(nearest(trained_NF).mean()) == pytest.approx(float(chance_B.mean()), rel=0.1)
    # A style that was met would show, even with another of the engineer's variations.
    assert bool((nearest(torch.cat([trained_NF, varied_BF])) < 0.5 * chance_B).all())
