"""Each feature against a value derived by hand, then the invariances and gradients of all.

Signals are 4 s or 10 s long with whole periods, so that means over time are exact.
"""

import math

import pytest
import torch
from torch import Tensor

from mixprint.dsp import loudness
from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, extract, feature_names
from mixprint.features.schema import BAND_EDGES_HZ, MIX_FEATURES, STEM_FEATURES
from mixprint.features.spectral import spectral_constants
from mixprint.stems import STEMS

RATE_HZ = 44_100
FULL_SCALE_SINE_DB = 10 * math.log10(0.5)
# The 40 centres are 86.4 mel apart from 118.2 on; 250 Hz is 344.2 mel, 4 kHz is 2146.1 mel.
NUM_MELS_OF_BAND = {"low": 3, "mid": 21, "high": 16}


def sine(frequency_hz: float, *, phase: float = 0.0, duration_s: float = 4.0) -> Tensor:
    t_T = torch.arange(round(duration_s * RATE_HZ), dtype=torch.float64) / RATE_HZ
    return torch.sin(2 * math.pi * frequency_hz * t_T + phase).float()


def noise(seed: int, *shape: int, duration_s: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, round(duration_s * RATE_HZ), generator=generator)


def coloured_noise(seed: int, exponent: float) -> Tensor:
    """Noise of 10 s whose power density falls with f to the exponent."""
    white_T = noise(seed, duration_s=10.0)
    spectrum_F = torch.fft.rfft(white_T)
    index_F = torch.arange(len(spectrum_F)).clamp_min(1)
    coloured_T = torch.fft.irfft(spectrum_F * index_F ** (exponent / 2), n=len(white_T))
    return 0.3 * coloured_T / coloured_T.abs().max()


def stereo(left_T: Tensor, right_T: Tensor | None = None) -> Tensor:
    return torch.stack([left_T, left_T if right_T is None else right_T])


def measure(*stems_CT: Tensor) -> dict[str, float]:
    """Features by name; stems that are not given are silent."""
    stems_SCT = torch.zeros(len(STEMS), *stems_CT[0].shape)
    for stem, audio_CT in enumerate(stems_CT):
        stems_SCT[stem] = audio_CT
    features_D = extract(stems_SCT.unsqueeze(0), RATE_HZ)[0]
    return dict(zip(FEATURE_NAMES, features_D.tolist(), strict=True))


def rich_stems(seed: int = 0) -> Tensor:
    """Partly correlated stereo noise of varying level: every feature is defined and moves."""
    common = noise(seed, 1, 4, 1)
    stems_BSCT = common + 0.5 * noise(seed + 1, 1, 4, 2)
    swell_T = torch.linspace(0.2, 1.0, stems_BSCT.shape[-1])
    return stems_BSCT * swell_T


def test_schema_has_64_unique_names_in_stem_order() -> None:
    assert len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == len(FEATURE_UNITS) == 64
    assert FEATURE_NAMES[:2] == ("vocals_rms_left_db", "vocals_rms_right_db")
    assert FEATURE_NAMES[14] == "bass_rms_left_db"
    assert FEATURE_NAMES[56:] == tuple(f"{s}_{name}" for name in MIX_FEATURES for s in STEMS)
    assert len(feature_names(("stem",))) == 4 * len(STEM_FEATURES) == 56


@pytest.mark.parametrize("stem", STEMS)
def test_each_stem_is_measured_alike_and_in_its_own_columns(stem: str) -> None:
    # What the other tests derive for one stem holds for all four: 4 x 14 columns.
    audio_CT = stereo(noise(8), 0.5 * noise(9))
    silence_CT = torch.zeros_like(audio_CT)
    expected = measure(audio_CT)
    found = measure(*(audio_CT if name == stem else silence_CT for name in STEMS))
    for name in STEM_FEATURES:
        assert found[f"{stem}_{name}"] == pytest.approx(expected[f"vocals_{name}"]), name
        for other in set(STEMS) - {stem}:
            silent = expected["other_" + name]
            assert found[f"{other}_{name}"] == pytest.approx(silent, abs=1e-6), name
    assert found[f"{stem}_relative_loudness_lu"] == pytest.approx(0, abs=1e-3)


def test_full_scale_sine_reads_its_rms_and_crest() -> None:
    found = measure(stereo(sine(1_000), 0.5 * sine(1_000)))
    assert found["vocals_rms_left_db"] == pytest.approx(FULL_SCALE_SINE_DB, abs=1e-3)
    assert found["vocals_rms_right_db"] == pytest.approx(FULL_SCALE_SINE_DB - 6.0206, abs=1e-3)
    assert found["vocals_crest_left_db"] == pytest.approx(-FULL_SCALE_SINE_DB, abs=0.01)


def test_square_wave_has_no_crest() -> None:
    square_T = torch.where(sine(100, phase=0.001) > 0, 0.5, -0.5)
    found = measure(stereo(square_T))
    assert found["vocals_crest_left_db"] == pytest.approx(0.0, abs=1e-3)
    assert found["vocals_crest_right_db"] == pytest.approx(0.0, abs=1e-3)
    assert found["vocals_rms_left_db"] == pytest.approx(-6.0206, abs=1e-3)


def test_loudness_and_dynamic_range_of_a_steady_tone() -> None:
    found = measure(stereo(0.1 * sine(1_000)))
    assert found["vocals_loudness_lufs"] == pytest.approx(-20.0, abs=0.05)
    assert found["vocals_dynamic_range_lu"] == pytest.approx(0.0, abs=0.01)


def test_dynamic_range_of_a_loud_and_a_quiet_half_is_their_difference() -> None:
    # In 10 s, 21 of the 71 short-term windows hear one half alone: the quartiles lie there.
    tone_T = sine(1_000, duration_s=5.0)
    found = measure(stereo(torch.cat([0.1 * tone_T, 0.1 * 10 ** (-10 / 20) * tone_T])))
    assert found["vocals_dynamic_range_lu"] == pytest.approx(10.0, abs=0.02)


@pytest.mark.parametrize(("band", "frequency_hz"), [("low", 110), ("mid", 1_000), ("high", 8_000)])
def test_a_sine_gives_its_power_to_its_band_alone(band: str, frequency_hz: float) -> None:
    found = measure(stereo(sine(frequency_hz)))
    expected = FULL_SCALE_SINE_DB - 10 * math.log10(NUM_MELS_OF_BAND[band])
    assert found[f"vocals_band_{band}_db"] == pytest.approx(expected, abs=0.05)
    for other in BAND_EDGES_HZ.keys() - {band}:
        assert found[f"vocals_band_{other}_db"] < expected - 40


def test_mel_bands_share_every_bin_without_loss() -> None:
    constants = spectral_constants(RATE_HZ, torch.device("cpu"), torch.float64)
    coverage_F = constants.mel_FM.sum(dim=1)
    # All of it from the first centre (77 Hz) to the last (14.8 kHz).
    bin_hz_F = torch.arange(len(coverage_F)) * RATE_HZ / 2048
    inside_F = (bin_hz_F > 90) & (bin_hz_F < 14_500)
    torch.testing.assert_close(coverage_F[inside_F], torch.ones_like(coverage_F[inside_F]))


@pytest.mark.parametrize(("exponent", "slope"), [(0, 0.0), (-1, -3.0103), (-2, -6.0206)])
def test_coloured_noise_has_its_tilt(exponent: float, slope: float) -> None:
    found = measure(stereo(coloured_noise(3, exponent)))
    assert found["vocals_spectral_tilt_db_per_octave"] == pytest.approx(slope, abs=0.1)


def test_flatness_of_white_noise_is_one_and_of_a_sine_zero() -> None:
    assert measure(stereo(coloured_noise(4, 0)))["vocals_spectral_flatness"] == pytest.approx(
        1, abs=0.01
    )
    assert measure(stereo(sine(1_000)))["vocals_spectral_flatness"] == pytest.approx(0, abs=1e-3)


def test_panned_sine_has_level_difference_and_stays_correlated() -> None:
    angle = math.radians(30)
    left, right = math.cos(angle), math.sin(angle)
    found = measure(stereo(left * sine(500), right * sine(500)))
    assert found["vocals_ild_db"] == pytest.approx(20 * math.log10(left / right), abs=1e-3)
    assert found["vocals_correlation"] == pytest.approx(1, abs=1e-4)
    expected = 20 * math.log10((left - right) / (left + right))
    assert found["vocals_side_mid_ratio_db"] == pytest.approx(expected, abs=1e-2)


def test_quadrature_pair_is_decorrelated_with_side_equal_to_mid() -> None:
    found = measure(stereo(sine(500), sine(500, phase=math.pi / 2)))
    assert found["vocals_correlation"] == pytest.approx(0, abs=1e-4)
    assert found["vocals_side_mid_ratio_db"] == pytest.approx(0, abs=1e-3)
    assert found["vocals_ild_db"] == pytest.approx(0, abs=1e-3)


def test_mono_antiphase_and_one_sided_signals_reach_the_limits() -> None:
    mono = measure(stereo(sine(500)))
    assert mono["vocals_side_mid_ratio_db"] == pytest.approx(-60, abs=0.01)
    antiphase = measure(stereo(sine(500), -sine(500)))
    assert antiphase["vocals_correlation"] == pytest.approx(-1, abs=1e-4)
    assert antiphase["vocals_side_mid_ratio_db"] == pytest.approx(60, abs=0.01)
    left_only = measure(stereo(sine(500), torch.zeros_like(sine(500))))
    assert left_only["vocals_ild_db"] == pytest.approx(60, abs=0.01)
    assert left_only["vocals_correlation"] == pytest.approx(0, abs=1e-4)
    assert left_only["vocals_side_mid_ratio_db"] == pytest.approx(0, abs=1e-3)


def test_relative_loudness_of_two_equal_stems_is_minus_6() -> None:
    tone = stereo(0.1 * sine(1_000))
    found = measure(tone, tone)
    assert found["vocals_relative_loudness_lu"] == pytest.approx(-6.0206, abs=1e-3)
    mix_lufs = found["vocals_loudness_lufs"] + 6.0206
    assert found["drums_relative_loudness_lu"] == pytest.approx(-70 - mix_lufs, abs=1e-3)


def test_relative_loudness_of_unequal_stems_is_each_one_s_part_of_their_sum() -> None:
    tone_CT = stereo(0.05 * sine(1_000))
    found = measure(tone_CT, 10 * tone_CT)
    for stem, factor in zip(STEMS[:2], (1, 10), strict=True):
        part = 20 * math.log10(factor / 11)
        assert found[f"{stem}_relative_loudness_lu"] == pytest.approx(part, abs=1e-3), stem


def test_independent_channels_are_decorrelated_with_side_equal_to_mid() -> None:
    # The estimate of a correlation from 176400 samples scatters by 1 / sqrt(176400) = 0.0024.
    found = measure(stereo(noise(10), noise(11)))
    assert found["vocals_correlation"] == pytest.approx(0, abs=0.01)
    assert found["vocals_side_mid_ratio_db"] == pytest.approx(0, abs=0.1)


def test_windows_and_filter_banks_are_built_once() -> None:
    arguments = (RATE_HZ, torch.device("cpu"), torch.float32)
    assert spectral_constants(*arguments) is spectral_constants(*arguments)
    assert loudness._k_weighting_kernel(*arguments) is loudness._k_weighting_kernel(*arguments)


def test_one_stem_that_buries_another_masks_it() -> None:
    signal = stereo(noise(5))
    found = measure(signal, 10 * signal)
    assert found["vocals_masking"] == pytest.approx(1 / (1 + math.exp(-20 / 6)), abs=0.01)
    assert found["bass_masking"] == pytest.approx(1 / (1 + math.exp(20 / 6)), abs=0.01)


def test_equal_stems_mask_each_other_by_half() -> None:
    signal = stereo(noise(5))
    found = measure(signal, signal)
    assert found["vocals_masking"] == pytest.approx(0.5, abs=0.01)


def test_stems_that_sound_apart_or_alone_are_not_masked() -> None:
    apart = measure(stereo(sine(200)), stereo(sine(5_000)))
    assert apart["vocals_masking"] < 0.05
    assert apart["bass_masking"] < 0.05
    # A silent stem has nothing to cover.
    assert apart["drums_masking"] == pytest.approx(0, abs=1e-4)


def test_gain_moves_levels_and_nothing_else() -> None:
    stems_BSCT = rich_stems()
    change_D = (extract(0.5 * stems_BSCT, RATE_HZ) - extract(stems_BSCT, RATE_HZ))[0]
    for name, change in zip(FEATURE_NAMES, change_D.tolist(), strict=True):
        is_level = any(part in name for part in ("_rms_", "_loudness_lufs", "_band_"))
        expected = -6.0206 if is_level else 0.0
        assert change == pytest.approx(expected, abs=0.02), name


def test_polarity_changes_nothing() -> None:
    stems_BSCT = rich_stems()
    torch.testing.assert_close(extract(-stems_BSCT, RATE_HZ), extract(stems_BSCT, RATE_HZ))


def test_channel_swap_swaps_the_sided_features_and_nothing_else() -> None:
    stems_BSCT = rich_stems() * torch.tensor([1.0, 0.7]).view(1, 1, 2, 1)
    straight = dict(zip(FEATURE_NAMES, extract(stems_BSCT, RATE_HZ)[0].tolist(), strict=True))
    swapped = dict(
        zip(FEATURE_NAMES, extract(stems_BSCT.flip(2), RATE_HZ)[0].tolist(), strict=True)
    )
    for name, value in swapped.items():
        if "_left_" in name or "_right_" in name:
            sided = {"left": "right", "right": "left"}
            expected = straight["_".join(sided.get(part, part) for part in name.split("_"))]
        else:
            expected = -straight[name] if name.endswith("_ild_db") else straight[name]
        assert value == pytest.approx(expected, abs=1e-3), name


def test_a_batch_is_measured_like_its_segments() -> None:
    stems_BSCT = torch.cat([rich_stems(0), rich_stems(7)])
    together_BD = extract(stems_BSCT, RATE_HZ)
    apart_BD = torch.cat([extract(segment.unsqueeze(0), RATE_HZ) for segment in stems_BSCT])
    torch.testing.assert_close(together_BD, apart_BD)


def test_blocks_are_columns_of_the_whole() -> None:
    stems_BSCT = rich_stems()
    full_BD = extract(stems_BSCT, RATE_HZ)
    torch.testing.assert_close(extract(stems_BSCT, RATE_HZ, blocks=("stem",)), full_BD[:, :56])
    torch.testing.assert_close(extract(stems_BSCT, RATE_HZ, blocks=("mix",)), full_BD[:, 56:])


def test_every_feature_has_the_gradient_of_its_differences() -> None:
    # Central differences along a random direction, in double precision, against autograd: equal
    # and not zero for each of the 64. The step is small, because the loudest other stem changes
    # with it in some bin now and then.
    stems_BSCT = rich_stems().double().requires_grad_()
    direction_BSCT = rich_stems(11).double()
    step = 1e-7
    with torch.no_grad():
        difference_D = (
            extract(stems_BSCT + step * direction_BSCT, RATE_HZ)
            - extract(stems_BSCT - step * direction_BSCT, RATE_HZ)
        )[0] / (2 * step)
    features_D = extract(stems_BSCT, RATE_HZ)[0]

    def slopes_of(value: Tensor) -> Tensor:
        (gradient_BSCT,) = torch.autograd.grad(value, stems_BSCT, retain_graph=True)
        assert gradient_BSCT.isfinite().all()
        return (gradient_BSCT * direction_BSCT).sum(dim=(0, 2, 3))

    # A feature of the stem block depends on its own stem alone: four of them in one backward.
    features_SD = features_D[:56].view(len(STEMS), -1)
    slopes_SD = torch.stack([slopes_of(feature_S.sum()) for feature_S in features_SD.unbind(1)], 1)
    slopes_D = torch.stack([slopes_of(feature).sum() for feature in features_D[56:]])
    found_D = torch.cat([slopes_SD.flatten(), slopes_D])
    for name, found, expected in zip(
        FEATURE_NAMES, found_D.tolist(), difference_D.tolist(), strict=True
    ):
        assert found != 0, name
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), name


EDGE_CASES = {
    "silence": torch.zeros(2, round(4 * RATE_HZ)),
    "mono": stereo(noise(1)),
    "dc": torch.full((2, round(4 * RATE_HZ)), 0.25),
    "left only": stereo(noise(1), torch.zeros(round(4 * RATE_HZ))),
    "antiphase": stereo(noise(1), -noise(1)),
    "one click": stereo(torch.nn.functional.one_hot(torch.tensor(70_000), 4 * RATE_HZ).float()),
    "far over full scale": 100 * stereo(noise(1), noise(2)),
    "one bit": stereo(2**-15 * sine(1_000).round()),
}


@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("neighbours", ["silent", "sounding", "alike"])
def test_features_and_gradients_are_finite_on(case: str, neighbours: str) -> None:
    others = {
        "silent": torch.zeros_like(EDGE_CASES[case]),
        "sounding": noise(9, 2),
        "alike": EDGE_CASES[case],
    }[neighbours]
    stems_BSCT = torch.stack([EDGE_CASES[case], others, others, others]).unsqueeze(0)
    stems_BSCT.requires_grad_()
    features_BD = extract(stems_BSCT, RATE_HZ)
    # In one sum: a gradient of any feature that is not finite stays so.
    features_BD.sum().backward()
    assert features_BD.isfinite().all()
    assert stems_BSCT.grad is not None
    assert stems_BSCT.grad.isfinite().all()


def test_silence_reads_the_documented_floors() -> None:
    found = measure(torch.zeros(2, 4 * RATE_HZ))
    expected = {"rms_left_db": -80, "loudness_lufs": -70, "band_mid_db": -80}
    for name in STEM_FEATURES:
        value = expected.get(name.replace("right", "left"), 0)
        if name.startswith("band"):
            value = -80
        assert found[f"bass_{name}"] == pytest.approx(value, abs=1e-3), name
    assert found["bass_relative_loudness_lu"] == 0
    assert found["bass_masking"] == 0


def test_first_call_in_inference_mode_leaves_gradients_working() -> None:
    # Constants are built once: built inside inference mode they would break every later backward.
    rate_hz = 44_056
    stems_BSCT = rich_stems()
    with torch.inference_mode():
        expected_BD = extract(stems_BSCT, rate_hz).clone()
    stems_BSCT.requires_grad_()
    features_BD = extract(stems_BSCT, rate_hz)
    features_BD.sum().backward()
    torch.testing.assert_close(features_BD.detach(), expected_BD)


def test_autocast_and_half_precision_input_are_measured_in_float32() -> None:
    stems_BSCT = rich_stems().bfloat16()
    expected_BD = extract(stems_BSCT.float(), RATE_HZ)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_BD = extract(stems_BSCT, RATE_HZ)
    assert found_BD.dtype == torch.float32
    torch.testing.assert_close(found_BD, expected_BD)


def test_three_seconds_are_enough() -> None:
    assert extract(rich_stems()[..., : 3 * RATE_HZ], RATE_HZ).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "rate_hz", "blocks", "message"),
    [
        ((1, 3, 2, 4 * RATE_HZ), RATE_HZ, ("stem",), "must be"),
        ((4, 2, 4 * RATE_HZ), RATE_HZ, ("stem",), "must be"),
        ((0, 4, 2, 4 * RATE_HZ), RATE_HZ, ("stem",), "must be"),
        ((1, 4, 2, 3 * RATE_HZ - 1), RATE_HZ, ("stem",), "need 3 s"),
        ((1, 4, 2, 4 * RATE_HZ), 22_050, ("stem",), "sample rate"),
        ((1, 4, 2, 4 * RATE_HZ), RATE_HZ, (), "blocks"),
        ((1, 4, 2, 4 * RATE_HZ), RATE_HZ, ("mix", "stem"), "blocks"),
    ],
)
def test_unfit_input_is_refused(
    shape: tuple[int, ...], rate_hz: int, blocks: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        extract(torch.zeros(shape), rate_hz, blocks=blocks)
