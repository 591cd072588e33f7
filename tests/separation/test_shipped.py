"""The separator in `mixprint/weights` really separates; its model card has the full figures."""

from pathlib import Path

import pytest

from mixprint.audio.files import read_audio
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.separation import Separator, load_separator
from mixprint.separation.metrics import evaluate_separator, utterance_sdr
from mixprint.separation.network import DEFAULT_WEIGHTS
from mixprint.stems import STEMS
from mixprint.synthesis import DataConfig, generate


@pytest.fixture(scope="module")
def separator() -> Separator:
    return load_separator()


def test_it_is_small() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size <= 8_000_000


def test_it_separates_generated_songs_of_an_unseen_seed(
    separator: Separator, tmp_path: Path
) -> None:
    config = DataConfig(num_songs=4, styles_per_song=1, duration_s=6.0, seed=99)
    scores = evaluate_separator(separator, generate(tmp_path, config, num_workers=2))
    assert scores["average"] >= 6.0, scores


def test_it_separates_real_music(separator: Separator, shared_dir: Path) -> None:
    scores = evaluate_separator(separator, [shared_dir / "audio" / "musdbhq"])
    # Silence scores 0 dB, the mixture itself about -5 dB.
    assert min(scores[stem] for stem in STEMS) > 1.0, scores
    assert scores["average"] >= 4.0, scores


@pytest.mark.parametrize("song", ["fishin.ogg", "rock_example.mp3"])
def test_bfloat16_is_near_float32_for_stems_that_hardly_sound(shared_dir: Path, song: str) -> None:
    audio_CT = read_audio(shared_dir / "audio" / "mixtures" / song, start_s=2.0, duration_s=8.0)
    separator = load_separator()
    exact_SCT = separator.separate(audio_CT)
    separator.precision = "bfloat16"
    assert utterance_sdr(separator.separate(audio_CT), exact_SCT).min() > 40.0


def test_a_standardisation_lies_beside_it() -> None:
    standardisation = Standardisation.load(DEFAULT_WEIGHTS.parent / "standardisation.json")
    assert len(standardisation.mean_D) == len(FEATURE_NAMES)
    assert bool((standardisation.std_D > 0).all())
