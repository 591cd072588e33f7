import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.encoder.augment import (
    EFFECTS,
    Chains,
    apply_chains,
    draw_chains,
)
from mixprint.encoder.settings import PARAMETERS, AugmentRanges, TrainConfig
from mixprint.errors import ConfigError

RATE_HZ = 32_000
T = RATE_HZ


@pytest.fixture
def ranges(make_config: Callable[..., TrainConfig]) -> AugmentRanges:
    return make_config().augment_ranges()


@pytest.fixture
def chain(ranges: AugmentRanges) -> Callable[..., Chains]:
    """Make one chain with a single effect on, of known parameters, on all four stems."""

    def make(effect: str, **values: float) -> Chains:
        drawn = draw_chains(1, ranges, torch.Generator().manual_seed(0))
        assert values.keys() <= set(PARAMETERS)
        given = {
            n: torch.full((1, 4), values[n]) if n in values else drawn.values[n]
            for n in drawn.values
        }
        return Chains(given, {e: torch.full((1, 4), e == effect) for e in EFFECTS})

    return make


def noise(num_items: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(num_items, 4, 2, T, generator=generator)


def sine(frequency_hz: float) -> Tensor:
    time = torch.arange(T) / RATE_HZ
    return torch.sin(2 * math.pi * frequency_hz * time).expand(1, 4, 2, T)


def level_db(audio: Tensor) -> Tensor:
    return 10 * torch.log10(audio.square().mean(dim=-1))


def test_no_effect_changes_nothing(chain: Callable[..., Chains]) -> None:
    torch.testing.assert_close(
        apply_chains(noise(), chain("none"), RATE_HZ), noise(), atol=1e-6, rtol=0
    )


def test_gain_is_exact(chain: Callable[..., Chains]) -> None:
    louder = apply_chains(noise(), chain("gain", gain_db=6.0), RATE_HZ)
    torch.testing.assert_close(louder, noise() * 10 ** (6 / 20), atol=1e-5, rtol=0)


def test_tilt_parts_highs_from_lows_around_the_pivot(chain: Callable[..., Chains]) -> None:
    chains = chain("tilt", tilt_db=6.0)
    for frequency_hz, expected_db in ((20, -3.0), (1_000, 0.0), (15_000, 3.0)):
        tone = sine(frequency_hz)
        # The second half: the first holds the filter's onset.
        change = level_db(apply_chains(tone, chains, RATE_HZ)[..., T // 2 :])
        change = change - level_db(tone[..., T // 2 :])
        assert change.flatten().tolist() == pytest.approx([expected_db] * 8, abs=0.05)


def test_band_limits_halve_the_power_at_their_edges(chain: Callable[..., Chains]) -> None:
    chains = chain("band", highpass_hz=200.0, lowpass_hz=5_000.0)
    expected = {200: -3.01, 1_000: 0.0, 5_000: -3.01, 50: -24.1}
    for frequency_hz, expected_db in expected.items():
        tone = sine(frequency_hz)
        change = level_db(apply_chains(tone, chains, RATE_HZ)[..., T // 2 :])
        change = change - level_db(tone[..., T // 2 :])
        assert change.flatten().tolist() == pytest.approx([expected_db] * 8, abs=0.1)


def test_pan_and_width_by_hand(chain: Callable[..., Chains]) -> None:
    mono = noise()
    mono[:, :, 1] = mono[:, :, 0]
    right = apply_chains(mono, chain("stereo", pan=1.0, width=1.0), RATE_HZ)
    torch.testing.assert_close(right[:, :, 0], torch.zeros(1, 4, T), atol=1e-6, rtol=0)
    torch.testing.assert_close(right[:, :, 1], math.sqrt(2) * mono[:, :, 1], atol=1e-5, rtol=0)
    narrow = apply_chains(noise(), chain("stereo", pan=0.0, width=0.0), RATE_HZ)
    middle = noise().mean(dim=2)
    torch.testing.assert_close(narrow[:, :, 0], middle, atol=1e-5, rtol=0)
    torch.testing.assert_close(narrow[:, :, 1], middle, atol=1e-5, rtol=0)


def test_reverb_adds_a_stereo_tail_to_the_stem_itself(chain: Callable[..., Chains]) -> None:
    stems = torch.zeros(1, 4, 2, T)
    onset = T // 4
    stems[0, 1, :, onset] = 1.0
    wet = apply_chains(stems, chain("reverb", reverb_wet=0.5, reverb_decay_s=0.4), RATE_HZ)
    assert wet[0, [0, 2, 3]].abs().max() < 1e-6  # the others stay silent
    bass = wet[0, 1]
    assert bass[:, :onset].abs().max() < 1e-5  # nothing before the sound
    assert bass[:, onset].tolist() == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-4)
    tail = bass[:, onset + 1 :]
    # Equal power: half in the tail, apart from what lies beyond the segment (-60 dB and less).
    assert tail.square().sum(dim=1).tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    correlation = (tail[0] @ tail[1]) / (tail[0].norm() * tail[1].norm())
    assert abs(float(correlation)) < 0.1
    # -60 dB in 0.4 s is -15 dB in 0.1 s.
    window = round(0.05 * RATE_HZ)
    start = onset + round(0.02 * RATE_HZ)
    early = bass[:, start : start + window].square().sum()
    late_start = start + round(0.1 * RATE_HZ)
    late = bass[:, late_start : late_start + window].square().sum()
    assert 10 * math.log10(float(late / early)) == pytest.approx(-15, abs=1.5)


def test_the_tail_does_not_wrap_around_to_the_start(chain: Callable[..., Chains]) -> None:
    stems = torch.zeros(1, 4, 2, T)
    stems[..., -1] = 1.0
    wet = apply_chains(stems, chain("reverb", reverb_wet=0.5, reverb_decay_s=1.2), RATE_HZ)
    assert wet[..., :-1].abs().max() < 1e-5


def test_the_compressor_narrows_the_range_and_keeps_the_image(chain: Callable[..., Chains]) -> None:
    stems = noise()
    stems[:, :, 1] *= 0.5
    stems[..., : T // 2] *= 0.1
    chains = chain("compressor", threshold_db=-6.0, ratio=8.0, attack_ms=1.0, release_ms=50.0)
    squeezed = apply_chains(stems, chains, RATE_HZ)
    # One gain for both channels: crosswise products, since samples near zero have no ratio.
    left, right = squeezed[:, :, 0] * stems[:, :, 1], squeezed[:, :, 1] * stems[:, :, 0]
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)
    quiet, loud = squeezed[..., : T // 2 - 500], squeezed[..., T // 2 + 500 :]
    assert ((level_db(loud) - level_db(quiet)) < 16).all()
    torch.testing.assert_close(quiet, stems[..., : T // 2 - 500], atol=1e-6, rtol=0)


def test_silence_stays_silent_and_finite(ranges: AugmentRanges) -> None:
    always = dataclasses.replace(ranges, probability=1.0)
    chains = draw_chains(3, always, torch.Generator().manual_seed(1))
    out = apply_chains(torch.zeros(3, 4, 2, T), chains, RATE_HZ)
    assert out.abs().max() == 0


def test_a_seed_gives_the_same_chains_within_their_ranges(ranges: AugmentRanges) -> None:
    one, two = (draw_chains(500, ranges, torch.Generator().manual_seed(3)) for _ in range(2))
    for name in PARAMETERS:
        assert torch.equal(one.values[name], two.values[name])
        low, high = getattr(ranges, name)
        assert one.values[name].min() >= low * (1 - 1e-5) - 1e-5
        assert one.values[name].max() <= high * (1 + 1e-5) + 1e-5
    for effect in EFFECTS:
        assert one.active[effect].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_shared_chain_does_the_same_to_two_songs(ranges: AugmentRanges) -> None:
    drawn = draw_chains(2, ranges, torch.Generator().manual_seed(5))
    shared = drawn.take(torch.tensor([1, 1]))
    both = apply_chains(torch.cat([noise(seed=1), noise(seed=2)]), shared, RATE_HZ)
    single = apply_chains(noise(seed=2), drawn.take(torch.tensor([1])), RATE_HZ)
    torch.testing.assert_close(both[1:], single, atol=1e-6, rtol=0)


def test_more_items_than_fit_at_once_are_the_same_one_by_one(ranges: AugmentRanges) -> None:
    chains = draw_chains(9, ranges, torch.Generator().manual_seed(6))
    stems = noise(9)[..., : T // 2]
    together = apply_chains(stems, chains, RATE_HZ)
    last = apply_chains(stems[8:], chains.take(torch.tensor([8])), RATE_HZ)
    torch.testing.assert_close(together[8:], last, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{"pan": (-2.0, 0.0)}, {"ratio": (4.0, 2.0)}, {"width": (1.0,)}, {"probability": 2.0}],
)
def test_impossible_ranges_are_refused(
    ranges: AugmentRanges, changes: dict[str, tuple[float, ...]]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        dataclasses.replace(ranges, **changes)


def test_the_number_of_chains_must_fit(ranges: AugmentRanges) -> None:
    chains = draw_chains(2, ranges, torch.Generator())
    with pytest.raises(ValueError, match="expected 1 chains, got 2"):
        apply_chains(noise(), chains, RATE_HZ)
