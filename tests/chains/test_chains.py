"""Chains are drawn from a seed, applied in order, and described."""

import dataclasses

import pytest
import torch
from torch import Tensor

from mixprint.chains import (
    EFFECTS,
    HELD_OUT,
    MAX_LENGTH,
    Chains,
    Effect,
    Parameter,
    apply_chains,
    described,
    description_names,
    draw_chains,
)
from mixprint.chains.applying import MAX_RAISE_DB
from mixprint.chains.drawing import LEVEL_RANGE_DB, NONE
from mixprint.chains.effect import rms
from mixprint.chains.registry import table

RATE_HZ = 44_100


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_cover_everything_that_is_trained() -> None:
    chains = draw_chains(500, seeded())
    length_BS = (chains.effect_BSL != NONE).sum(dim=-1)
    counts = length_BS.flatten().bincount().tolist()
    assert len(counts) == MAX_LENGTH + 1
    assert min(counts) > 0.7 * 2000 / 9
    drawn = chains.effect_BSL.unique().tolist()
    assert drawn == list(range(-1, len(chains.effects)))
    assert set(chains.effects) == EFFECTS.keys() - HELD_OUT
    # None twice in a chain, and none behind its end.
    for effects_L in chains.effect_BSL.flatten(0, 1).tolist():
        used = [number for number in effects_L if number != NONE]
        assert effects_L == used + [NONE] * (MAX_LENGTH - len(used))
        assert len(set(used)) == len(used)
    assert 0 <= chains.position_BSLP.min() < 0.001
    assert 0.999 < chains.position_BSLP.max() <= 1
    assert LEVEL_RANGE_DB * 0.99 < chains.level_db_BSL.max() <= LEVEL_RANGE_DB


def test_equal_seeds_draw_equal_chains() -> None:
    one, same, other = (draw_chains(4, seeded(seed), lengths=(3,)) for seed in (0, 0, 1))
    for field in ("effect_BSL", "position_BSLP", "level_db_BSL"):
        assert getattr(one, field).equal(getattr(same, field))
        assert not getattr(one, field).equal(getattr(other, field))
    assert len(one.take(torch.tensor([3, 0]))) == 2
    assert one.take(torch.tensor([3, 0])).effect_BSL[0].equal(one.effect_BSL[3])


def test_chains_elsewhere_differ_in_phases_alone() -> None:
    chains = draw_chains(3, seeded(), lengths=(2,), effects=("tremolo", "bell"))
    moved = chains.at_other_times(seeded(5))
    is_other_BSLP = moved.position_BSLP != chains.position_BSLP
    phase = [each.name for each in EFFECTS["tremolo"].parameters].index("phase")
    expected_BSLP = torch.zeros_like(is_other_BSLP)
    expected_BSLP[..., phase] = chains.effect_BSL == 0
    assert is_other_BSLP.equal(expected_BSLP)
    assert all(map(torch.equal, described(moved), described(chains)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"effects": ("bell", "no_such")}, r"unknown effects \['no_such'\]"),
        ({"effects": ("bell", "bell")}, "each once"),
        ({"lengths": (9,)}, "0 to 8"),
        ({"lengths": (2,), "effects": ("bell",)}, "0 to 1"),
        ({"lengths": ()}, "some"),
    ],
)
def test_impossible_draws_say_so(wrong: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_chains(1, seeded(), **{"lengths": (1,), **wrong})  # type: ignore[arg-type]


def test_together_is_one_after_the_other() -> None:
    """Grouped by effect, or each stem by itself through each of its effects: one result."""
    chains = draw_chains(3, seeded(2), lengths=(0, 1, 4, 8))
    stems_BSCT = 0.2 * torch.randn(3, 4, 2, 6_000, generator=seeded())
    before_BSCT = stems_BSCT.clone()
    together_BSCT = apply_chains(stems_BSCT, chains, RATE_HZ)
    assert stems_BSCT.equal(before_BSCT)
    for b in range(3):
        for s in range(4):
            audio_NCT = stems_BSCT[b, s][None]
            for number, position_P, level_db in zip(
                chains.effect_BSL[b, s].tolist(),
                chains.position_BSLP[b, s],
                chains.level_db_BSL[b, s],
                strict=True,
            ):
                if number != NONE:
                    audio_NCT = step(audio_NCT, chains.effects[number], position_P, level_db)
            torch.testing.assert_close(together_BSCT[b, s], audio_NCT[0], rtol=0, atol=1e-5)


def step(audio_NCT: Tensor, name: str, position_P: Tensor, level_db: Tensor) -> Tensor:
    effect = EFFECTS[name]
    result_NCT = effect.apply(audio_NCT, effect.values(position_P[None]), RATE_HZ)
    if effect.sets_level:
        return result_NCT
    factor = (rms(audio_NCT) / rms(result_NCT)).clamp_max(10 ** (MAX_RAISE_DB / 20))
    return result_NCT * factor * 10 ** (level_db / 20)


def test_levels_change_as_drawn() -> None:
    noise_BSCT = torch.randn(1, 3, 2, 8_000, generator=seeded())
    chains = draw_chains(1, seeded(), num_stems=3, lengths=(1,), effects=("tanh",))
    result_BSCT = apply_chains(noise_BSCT, chains, RATE_HZ)
    change_db_S = 20 * torch.log10(rms(result_BSCT[0]) / rms(noise_BSCT[0]))
    torch.testing.assert_close(change_db_S, chains.level_db_BSL[0, :, 0], rtol=0, atol=1e-3)
    gains = draw_chains(1, seeded(), num_stems=3, lengths=(1,), effects=("gain",))
    gain_db_S = EFFECTS["gain"].parameters[0].value(gains.position_BSLP[0, :, 0, 0])
    factor_BSCT = apply_chains(noise_BSCT, gains, RATE_HZ) / noise_BSCT
    torch.testing.assert_close(20 * torch.log10(factor_BSCT.mean(dim=(2, 3)))[0], gain_db_S)
    # What a filter has taken away does not come back as noise.
    low_BSCT = torch.ones(1, 1, 2, 40_000)
    one = draw_chains(1, seeded(), num_stems=1, lengths=(1,), effects=("high_pass_24",))
    assert apply_chains(low_BSCT, one, RATE_HZ)[..., 30_000:].abs().amax() < 0.01


def test_stems_that_do_not_fit_say_so() -> None:
    chains = draw_chains(2, seeded())
    for shape in ((2, 3, 2, 10), (2, 4, 1, 10)):
        with pytest.raises(ValueError, match=r"chains of \(segments, stems\) \(2, 4\)"):
            apply_chains(torch.zeros(shape), chains, RATE_HZ)


def test_descriptions_name_what_was_done() -> None:
    effects = ("bell", "tremolo", "gain")
    names = description_names(effects)
    assert names == [
        *("bell", "bell.frequency_hz", "bell.gain_db", "bell.q"),
        *("tremolo", "tremolo.rate_hz", "tremolo.depth", "tremolo.shape"),
        *("gain", "gain.gain_db"),
    ]
    position_BSLP = torch.zeros(1, 2, MAX_LENGTH, 12)
    position_BSLP[0, 0, 0, :4] = torch.tensor([0.1, 0.2, 0.3, 0.9])
    position_BSLP[0, 0, 1, :3] = torch.tensor([0.4, 0.5, 0.6])
    effect_BSL = torch.full((1, 2, MAX_LENGTH), NONE)
    effect_BSL[0, 0, :2] = torch.tensor([1, 0])
    chains = Chains(effects, effect_BSL, position_BSLP, torch.zeros(1, 2, MAX_LENGTH))
    target_BSP, weight_BSP = described(chains)
    torch.testing.assert_close(
        target_BSP[0, 0], torch.tensor([1, 0.4, 0.5, 0.6, 1, 0.1, 0.2, 0.3, 0, 0])
    )
    assert weight_BSP[0, 0].tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert not target_BSP[0, 1].any()
    assert weight_BSP[0, 1].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_parameters_turn_positions_into_values_and_back() -> None:
    for parameter, middle in (
        (Parameter("a", "Hz", 10.0, 1_000.0, "log"), 100.0),
        (Parameter("b", "dB", -6.0, 18.0), 6.0),
    ):
        position = torch.tensor([0.0, 0.5, 1.0])
        value = parameter.value(position)
        torch.testing.assert_close(value, torch.tensor([parameter.low, middle, parameter.high]))
        torch.testing.assert_close(parameter.position(value), position)
    for low, high in ((1.0, 1.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="no log range"):
            Parameter("c", "Hz", low, high, "log")


def test_an_effect_may_draw_its_parameters_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    bell: Effect = dataclasses.replace(EFFECTS["bell"], draw=lambda number_NP: number_NP.square())
    plain = draw_chains(2, seeded(), lengths=(1,), effects=("bell",))
    monkeypatch.setitem(EFFECTS, "bell", bell)
    squared = draw_chains(2, seeded(), lengths=(1,), effects=("bell",))
    assert squared.position_BSLP.equal(plain.position_BSLP.square())


def test_the_table_lists_all() -> None:
    lines = table().splitlines()
    assert len(lines) == 2 + len(EFFECTS)
    assert "| filters | gain | gain_db -12 to 12 dB |" in lines
