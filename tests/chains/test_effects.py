"""What every effect promises, and what some of them do to sounds that one can reckon with."""

import math

import pytest
import torch
from torch import Tensor

from mixprint.chains import EFFECTS, HELD_OUT, Effect
from mixprint.chains.effect import rms

RATE_HZ = 44_100


def values_of(effect: Effect, num_signals: int, **given: float) -> dict[str, Tensor]:
    """Values in the middle of all ranges, but for the given ones."""
    values = effect.values(torch.full((num_signals, len(effect.parameters)), 0.5))
    assert given.keys() <= values.keys()
    return values | {name: torch.full((num_signals,), value) for name, value in given.items()}


def applied(name: str, audio_NCT: Tensor, **given: float) -> Tensor:
    effect = EFFECTS[name]
    return effect.apply(audio_NCT, values_of(effect, len(audio_NCT), **given), RATE_HZ)


def tone(frequency_hz: float, num_samples: int = RATE_HZ // 2, level: float = 0.2) -> Tensor:
    """A tone of whole periods, on one signal."""
    time_T = torch.arange(num_samples, dtype=torch.float64) / RATE_HZ
    return (level * torch.sin(2 * math.pi * frequency_hz * time_T)).float().expand(1, 2, -1)


def level_at(audio_T: Tensor, frequency_hz: float) -> float:
    """Amplitude of a frequency that has whole periods."""
    spectrum_F = torch.fft.rfft(audio_T.double())
    place = round(frequency_hz * len(audio_T) / RATE_HZ)
    return float(spectrum_F[place].abs()) * 2 / len(audio_T)


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("rate_hz", [22_050, 96_000])
def test_every_effect_on_every_sound(name: str, rate_hz: int) -> None:
    """Finite, as long as its input, silent in silence, and each signal is on its own."""
    effect = EFFECTS[name]
    generator = torch.Generator().manual_seed(1)
    noise_CT = torch.randn(2, 3_000, generator=generator)
    sounds = {
        "silence": torch.zeros_like(noise_CT),
        "constant": torch.ones_like(noise_CT),
        "clipped": noise_CT.sign(),
        "quiet": 1e-6 * noise_CT,
        "noise": 0.1 * noise_CT,
        "lowest": 0.1 * noise_CT,
        "highest": 0.1 * noise_CT,
    }
    position_NP = torch.rand((len(sounds), len(effect.parameters)), generator=generator)
    position_NP[5], position_NP[6] = 0.0, 1.0
    all_NCT = torch.stack(list(sounds.values()))
    for audio_NCT in (all_NCT, all_NCT[..., :1]):
        before_NCT = audio_NCT.clone()
        result_NCT = effect.apply(audio_NCT, effect.values(position_NP), rate_hz)
        assert audio_NCT.equal(before_NCT)
        assert result_NCT.shape == audio_NCT.shape
        assert result_NCT.dtype == torch.float32
        assert result_NCT.isfinite().all()
        assert not result_NCT[0].any()
    noise_NCT = all_NCT[4:]
    result_NCT = effect.apply(noise_NCT, effect.values(position_NP[4:]), rate_hz)
    assert rms(result_NCT).amax() < 20 * rms(noise_NCT).amax()
    one_NCT = effect.apply(noise_NCT[1:2], effect.values(position_NP[5:6]), rate_hz)
    torch.testing.assert_close(one_NCT, result_NCT[1:2], rtol=0, atol=1e-5)


def test_a_fifth_is_held_out_and_some_of_each_family() -> None:
    families = {effect.family for effect in EFFECTS.values()}
    assert {EFFECTS[name].family for name in HELD_OUT} == families
    assert 0.15 < len(HELD_OUT) / len(EFFECTS) < 0.25


def test_no_mix_is_no_effect() -> None:
    noise_NCT = torch.randn(1, 2, 4_000, generator=torch.Generator().manual_seed(0))
    mixed = [
        name
        for name, effect in EFFECTS.items()
        if effect.parameters and "mix" in {each.name for each in effect.parameters}
    ]
    assert len(mixed) > 10
    for name in mixed:
        torch.testing.assert_close(applied(name, noise_NCT, mix=0.0), noise_NCT, msg=name)
    for name, given in (
        ("bell", {"gain_db": 0.0}),
        ("tremolo", {"depth": 0.0}),
        ("auto_pan", {"depth": 0.0}),
        ("comb_notches", {"amount": 0.0}),
        ("flanger", {"feedback": 0.0}),
        ("haas", {"delay_ms": 0.0}),
    ):
        torch.testing.assert_close(applied(name, noise_NCT, **given), noise_NCT, msg=name)


def test_shelves_reach_their_gain() -> None:
    for name, inside_hz, outside_hz in (("low_shelf", 20, 16_000), ("high_shelf", 20_000, 40)):
        for frequency_hz, expected_db in ((inside_hz, -12.0), (outside_hz, 0.0)):
            result_NCT = applied(name, tone(frequency_hz, RATE_HZ), gain_db=-12.0)
            gain = level_at(result_NCT[0, 0, -RATE_HZ // 2 :], frequency_hz) / 0.2
            assert 20 * math.log10(gain) == pytest.approx(expected_db, abs=0.3), name


def test_echoes_alternate_and_fall() -> None:
    impulse_NCT = torch.zeros(1, 2, RATE_HZ)
    impulse_NCT[..., 10] = 1.0
    delay = RATE_HZ // 4
    given = {"delay_ms": 250.0, "feedback": 0.5, "level_db": -6.0206}
    echo_T = applied("echo", impulse_NCT, **given)[0, 0]
    assert echo_T[10::delay].tolist() == pytest.approx([1.0, 0.5, 0.25, 0.125], rel=1e-4)
    assert int(echo_T.count_nonzero()) == 4
    left_T, right_T = applied("ping_pong", impulse_NCT, **given)[0]
    assert left_T[10::delay].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.125], rel=1e-4)
    assert right_T[10::delay].tolist() == pytest.approx([1.0, 0.0, 0.25, 0.0], rel=1e-4)
    left_T, right_T = applied("haas", impulse_NCT, delay_ms=-10.0)[0]
    assert (int(left_T.argmax()), int(right_T.argmax())) == (451, 10)


def test_tremolo_and_auto_pan_follow_their_oscillator() -> None:
    ones_NCT = torch.ones(1, 2, RATE_HZ)
    quarter = RATE_HZ // 8
    given = {"rate_hz": 2.0, "depth": 0.6, "phase": 0.0}
    gain_T = applied("tremolo", ones_NCT, shape=0.0, **given)[0, 0]
    assert gain_T[::quarter][:4].tolist() == pytest.approx([0.7, 0.4, 0.7, 1.0], abs=1e-3)
    steps_T = applied("tremolo", ones_NCT, shape=1.0, **given)[0, 0]
    assert ((steps_T - 0.4).abs() < 0.02).float().mean() > 0.35
    panned_CT = applied("auto_pan", ones_NCT, **given)[0]
    torch.testing.assert_close(panned_CT.square().sum(dim=0), torch.full((RATE_HZ,), 2.0))
    assert panned_CT[:, quarter].tolist() == pytest.approx([0.4**0.5, 1.6**0.5], abs=1e-3)


def test_modulators_move_frequencies() -> None:
    audio_NCT = tone(1_000.0, RATE_HZ)
    ring_T = applied("ring_modulator", audio_NCT, rate_hz=300.0, mix=1.0)[0, 0]
    shifted_T = applied("frequency_shifter", audio_NCT, rate_hz=300.0, mix=1.0)[0, 0]
    for audio_T, expected in (
        (ring_T, {700.0: 0.1, 1_000.0: 0.0, 1_300.0: 0.1}),
        (shifted_T, {700.0: 0.0, 1_000.0: 0.0, 1_300.0: 0.2}),
    ):
        for frequency_hz, level in expected.items():
            assert level_at(audio_T, frequency_hz) == pytest.approx(level, abs=0.004)


def test_vibrato_moves_the_pitch_by_its_depth() -> None:
    audio_NCT = tone(1_000.0, RATE_HZ)
    result_T = applied("vibrato", audio_NCT, rate_hz=5.0, depth_cents=50.0, phase=0.0)[0, 0]
    crossing_K = ((result_T[:-1] < 0) & (result_T[1:] >= 0)).nonzero()[:, 0]
    step_K = result_T[crossing_K] / (result_T[crossing_K] - result_T[crossing_K + 1])
    period_K = (crossing_K + step_K)[40:].diff()
    ratio = 2 ** (50 / 1200) - 1
    assert float(RATE_HZ / period_K.min() / 1_000) == pytest.approx(1 + ratio, abs=1e-3)
    assert float(RATE_HZ / period_K.max() / 1_000) == pytest.approx(1 - ratio, abs=1e-3)


def test_distortions_make_the_harmonics_that_their_curves_have() -> None:
    audio_NCT = tone(1_000.0, RATE_HZ)
    for name in ("tanh", "hard_clip", "cubic_clip", "foldback", "tube", "fuzz"):
        drive_db = EFFECTS[name].parameters[0].high
        result_T = applied(name, audio_NCT, drive_db=drive_db, **dry_free(name))[0, 0]
        second, third = (level_at(result_T, hz) / level_at(result_T, 1e3) for hz in (2e3, 3e3))
        assert third > 0.1, name
        assert (second > 0.01) == (name in ("tube", "fuzz")), name
    clean_T = applied("tanh", audio_NCT, drive_db=-40.0, mix=1.0)[0, 0]
    torch.testing.assert_close(clean_T, audio_NCT[0, 0], rtol=0, atol=1e-4)


def dry_free(name: str) -> dict[str, float]:
    return {"mix": 1.0} if any(each.name == "mix" for each in EFFECTS[name].parameters) else {}


def test_the_exciter_adds_above_its_frequency_alone() -> None:
    low_NCT, high_NCT = tone(200.0, RATE_HZ), tone(4_000.0, RATE_HZ)
    given = {"frequency_hz": 3_000.0, "drive_db": 20.0, "amount_db": 0.0}
    result_T = applied("exciter", low_NCT + high_NCT, **given)[0, 0]
    assert level_at(result_T, 400.0) < 0.005
    assert level_at(result_T, 12_000.0) > 0.02


def test_a_flanger_that_stands_still_repeats_at_multiples_of_its_delay() -> None:
    impulse_NCT = torch.zeros(1, 2, 1_000)
    impulse_NCT[..., 5] = 1.0
    given = {"delay_ms": 1000 * 44 / RATE_HZ, "depth_ms": 0.0, "feedback": -0.8}
    result_T = applied("flanger", impulse_NCT, **given)[0, 1]
    expected_T = torch.zeros(1_000)
    expected_T[5 : 5 + 8 * 44 : 44] = torch.tensor([(-0.8) ** k for k in range(8)])
    torch.testing.assert_close(result_T, expected_T, rtol=0, atol=1e-4)


def test_a_phaser_cancels_where_the_phase_is_turned() -> None:
    """Three pairs of all-passes turn the centre by three halves of a turn: into its opposite."""
    given = {"frequency_hz": 1_000.0, "octaves": 0.0, "mix": 0.5}
    for frequency_hz, level in ((1_000.0, 0.0), (20.0, 0.2), (20_000.0, 0.2)):
        result_T = applied("phaser", tone(frequency_hz, RATE_HZ), **given)[0, 0]
        assert level_at(result_T[-RATE_HZ // 2 :], frequency_hz) == pytest.approx(level, abs=0.02)


def test_a_vowel_has_its_formants() -> None:
    noise_NCT = torch.randn(1, 2, RATE_HZ, generator=torch.Generator().manual_seed(0))
    for vowel, first_hz, second_hz in ((0.0, 730, 1_090), (2.0, 270, 2_290), (4.0, 300, 870)):
        result_T = applied("formants", noise_NCT, vowel=vowel, q=8.0, mix=1.0)[0, 0]
        gain_F = torch.fft.rfft(result_T).abs() / torch.fft.rfft(noise_NCT[0, 0]).abs()
        # One bin is 1 Hz: mean gains of bands around the formants, and of one far from them.
        at_first, at_second, far = (
            float(gain_F[hz - 10 : hz + 10].median()) for hz in (first_hz, second_hz, 12_000)
        )
        assert min(at_first, at_second) > 8 * far


@pytest.mark.gpu
def test_every_effect_does_the_same_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(3)
    noise_NCT = 0.1 * torch.randn(4, 2, 20_000, generator=generator)
    noise_NCT[0] = 0.0
    for name, effect in EFFECTS.items():
        position_NP = torch.rand((4, len(effect.parameters)), generator=generator)
        expected_NCT = effect.apply(noise_NCT, effect.values(position_NP), RATE_HZ)
        found_NCT = effect.apply(noise_NCT.cuda(), effect.values(position_NP.cuda()), RATE_HZ)
        assert found_NCT.is_cuda, name
        error_N = rms(found_NCT.cpu() - expected_NCT)
        assert (error_N <= 0.01 * rms(expected_NCT)).all(), name
