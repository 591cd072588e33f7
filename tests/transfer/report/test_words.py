import pytest

from mixprint.features.schema import FEATURE_NAMES
from mixprint.stems import STEMS
from mixprint.transfer.report.words import describe_changes, sentence

# A stem of -20 LUFS whose bands lie 10 dB below its loudness, in stereo.
STEM = {
    "rms_left_db": -20.0,
    "rms_right_db": -20.0,
    "crest_left_db": 12.0,
    "crest_right_db": 12.0,
    "loudness_lufs": -20.0,
    "dynamic_range_lu": 3.0,
    "band_low_db": -30.0,
    "band_mid_db": -30.0,
    "band_high_db": -30.0,
    "spectral_tilt_db_per_octave": -4.0,
    "spectral_flatness": 0.2,
    "ild_db": 0.0,
    "correlation": 0.5,
    "side_mid_ratio_db": -10.0,
    "relative_loudness_lu": -6.0,
    "masking": 0.4,
}


def song(**changes: float) -> dict[str, float]:
    """All stems alike, but for the named features, by how much they differ."""
    values = {f"{stem}_{name}": value for stem in STEMS for name, value in STEM.items()}
    assert values.keys() == set(FEATURE_NAMES)
    for name, change in changes.items():
        values[name] += change
    return values


def told(stem: str, output: dict[str, float], target: dict[str, float], **more: object) -> str:
    features = {"input": song(), "target": song(**target), "output": song(**output)}
    return sentence(stem, describe_changes(features, **more)[stem])


def test_a_quieter_stem_is_quieter_and_nothing_else() -> None:
    names = ("loudness_lufs", "band_low_db", "band_mid_db", "band_high_db")
    output = {f"drums_{name}": -2.1 for name in names}
    target = {f"drums_{name}": -3.0 for name in names}
    expected = "drums: 2.1 dB quieter (target 3.0 dB)"
    assert told("drums", output, target) == expected
    assert told("bass", output, target) == "bass: hardly changed"


@pytest.mark.parametrize(
    ("feature", "change", "words"),
    [
        ("relative_loudness_lu", 1.5, "1.5 LU further in front of the mix"),
        ("relative_loudness_lu", -2.0, "2.0 LU further back in the mix"),
        ("band_low_db", -2.0, "−2.0 dB below 250 Hz"),
        ("band_mid_db", 1.5, "+1.5 dB from 250 Hz to 4 kHz"),
        ("band_high_db", 3.0, "+3.0 dB above 4 kHz"),
        ("dynamic_range_lu", 2.0, "2.0 LU more between loud and soft"),
        ("ild_db", 3.0, "3.0 dB to the left"),
        ("ild_db", -3.0, "3.0 dB to the right"),
        ("correlation", -0.25, "0.25 less alike left and right"),
        ("spectral_flatness", 0.1, "0.10 noisier"),
        ("masking", -0.1, "0.10 less covered by the others"),
        ("side_mid_ratio_db", 1.4377, "18 % wider"),  # 20 lg 1.18
        ("side_mid_ratio_db", -6.0206, "50 % narrower"),
        ("side_mid_ratio_db", 12.0412, "4.0 times as wide"),
        ("side_mid_ratio_db", -45.0, "made mono"),
    ],
)
def test_words_and_units(feature: str, change: float, words: str) -> None:
    name = f"vocals_{feature}"
    assert told("vocals", {name: change}, {name: 0.0}) == f"vocals: {words} (target as the input)"


def test_the_target_may_ask_for_the_opposite() -> None:
    expected = "bass: 2.0 dB to the left (target 3.0 dB to the right)"
    assert told("bass", {"bass_ild_db": 2.0}, {"bass_ild_db": -3.0}) == expected


def test_crest_is_the_mean_of_both_sides() -> None:
    output = {"drums_crest_left_db": 3.0, "drums_crest_right_db": 1.0}
    assert told("drums", output, {}).startswith("drums: 2.0 dB peakier")


def test_from_mono_to_stereo_is_no_percentage() -> None:
    features = {
        "input": song(bass_side_mid_ratio_db=-50.0),
        "target": song(),
        "output": song(bass_side_mid_ratio_db=-2.0),
    }
    assert sentence("bass", describe_changes(features)["bass"]) == (
        "bass: made stereo from mono (target made stereo from mono)"
    )


def test_two_kinds_of_mono_are_the_same() -> None:
    features = {
        "input": song(bass_side_mid_ratio_db=-50.0),
        "target": song(bass_side_mid_ratio_db=-35.0),
        "output": song(bass_side_mid_ratio_db=-40.0),
    }
    assert sentence("bass", describe_changes(features)["bass"]) == "bass: hardly changed"


def test_what_moved_most_comes_first_and_only_so_much() -> None:
    output = {
        "other_ild_db": 2.0,
        "other_band_high_db": -4.0,
        "other_correlation": 0.15,
        "other_masking": 0.3,
        "other_dynamic_range_lu": 1.2,
    }
    changes = describe_changes({"input": song(), "target": song(), "output": song(**output)})
    words = [change.text for change in changes["other"]]
    # In just noticeable steps: 0.3 / 0.05 = 6, 4, 3, 2; the fifth is left out.
    assert words == [
        "0.30 more covered by the others",
        "−4.0 dB above 4 kHz",
        "0.15 more alike left and right",
        "2.0 dB to the left",
    ]


def test_silent_stems_and_stems_left_alone() -> None:
    silence = {"vocals_loudness_lufs": -50.0}
    assert told("vocals", silence, silence) == "vocals: left as it is: silent in the target"
    assert told("vocals", {}, {}, left_alone=["vocals"]) == "vocals: left as it is"


def test_a_missing_feature_is_named() -> None:
    features = {"input": song(), "target": song(), "output": song()}
    del features["target"]["bass_masking"]
    with pytest.raises(ValueError, match=r"target.*bass_masking"):
        describe_changes(features)
