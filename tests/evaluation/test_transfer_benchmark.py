from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, write_audio
from mixprint.errors import DataError
from mixprint.evaluation.transfer_benchmark import (
    BASELINES,
    MEASURES,
    SEPARATED,
    TRUE,
    distances,
    draw_cases,
    match_loudness,
    match_spectrum,
    run_benchmark,
    summarise,
)
from mixprint.features import Standardisation
from mixprint.stems import STEMS
from mixprint.storage.atomic import write_json

SAMPLE_RATE_HZ = 44_100
DURATION_S = 3.5
# A style is a level per stem here, so that the truth can be reached: by matching each stem's level.
STYLES_DB = {"loud drums": (-6.0, -6.0, 0.0, -9.0), "loud vocals": (0.0, -12.0, -12.0, -6.0)}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number, (song, style) in enumerate(product(("one", "two"), STYLES_DB)):
        dry_SCT = dry_stems(seed=number // 2)
        path = folder / f"{song}-{style}"
        path.mkdir()
        for stem, stem_CT, gain_db in zip(STEMS, dry_SCT, STYLES_DB[style], strict=True):
            audio_CT = stem_CT * 10 ** (gain_db / 20)
            write_audio(path / f"{stem}.wav", audio_CT, SAMPLE_RATE_HZ, subtype="FLOAT")
        write_json(path / "settings.json", {"song": song, "style": style, "split": "test"})
    return folder


def dry_stems(seed: int) -> Tensor:
    """Make noise that is different in each song, of equal level."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(STEMS), 2, round(DURATION_S * SAMPLE_RATE_HZ))
    noise_SCT = torch.randn(shape, generator=generator)
    return 0.1 * noise_SCT / noise_SCT.square().mean((1, 2), keepdim=True).sqrt()


@pytest.fixture
def standardisation() -> Standardisation:
    return Standardisation(torch.zeros(64), torch.ones(64))


def match_stem_levels(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
    level_2S11 = [x.square().mean((1, 2), keepdim=True).sqrt() for x in (input_SCT, target_SCT)]
    return input_SCT * level_2S11[1] / level_2S11[0]


def test_the_right_answer_is_at_the_truth_and_doing_nothing_is_not(
    songs: Path, standardisation: Standardisation
) -> None:
    cases = draw_cases(songs, 4)
    rows = run_benchmark(
        cases,
        {"levels": match_stem_levels},
        standardisation=standardisation,
        separate=None,
        start_s=0.0,
        duration_s=DURATION_S,
    )
    assert len(rows) == len(cases) * (len(BASELINES) + 1)
    summary = summarise(rows, num_bootstrap=50)[TRUE]
    for measure in MEASURES:
        found = {method: values[measure].value for method, values in summary.items()}
        assert found["levels"] == pytest.approx(0, abs=2e-3), measure
        if measure in ("stft", "features"):
            assert found["nothing"] > 0.05, measure
    assert summary["levels"]["nearer"] == 1
    assert summary["nothing"]["nearer"] == 0


def test_separated_stems_are_compared_with_the_separated_truth(
    songs: Path, standardisation: Standardisation
) -> None:
    def separate(audio_CT: Tensor) -> Tensor:
        return torch.stack([audio_CT / len(STEMS)] * len(STEMS))

    rows = run_benchmark(
        draw_cases(songs, 1),
        {},
        standardisation=standardisation,
        separate=separate,
        start_s=0.0,
        duration_s=DURATION_S,
    )
    by_stems = {
        stems: next(r for r in rows if (r["stems"], r["method"]) == (stems, "nothing"))
        for stems in (TRUE, SEPARATED)
    }
    # The mixes are the same either way; the stems are not.
    assert by_stems[SEPARATED]["stft"] == pytest.approx(by_stems[TRUE]["stft"], rel=1e-4)
    assert by_stems[SEPARATED]["features"] != by_stems[TRUE]["features"]


def test_cases_are_songs_in_turn_and_never_their_own_target(songs: Path) -> None:
    cases = draw_cases(songs, 100)
    assert len(cases) == len(set(cases)) == 4  # two songs, two directions
    assert [case.input_song for case in cases[:2]] == ["one", "two"]
    for case in cases:
        song, style = case.truth.name.split("-")
        assert case.input.name.startswith(song)
        assert not case.input.name.endswith(style)
        assert case.target.name.endswith(style)
        assert not case.target.name.startswith(song)
    assert draw_cases(songs, 100) == cases


def test_songs_without_a_question_are_refused(songs: Path) -> None:
    with pytest.raises(DataError, match="'train'"):
        draw_cases(songs, 1, split="train")


def test_baselines_reach_what_they_aim_at(standardisation: Standardisation) -> None:
    target_SCT = 0.5 * dry_stems(3)
    # A shelf that a graphic equaliser can take back: the difference of neighbouring samples.
    input_SCT = dry_stems(4)
    input_SCT[..., 1:] = input_SCT[..., 1:] - 0.6 * input_SCT[..., :-1]
    for method in (match_loudness, match_spectrum):
        output_SCT = method(input_SCT, target_SCT)
        wrong = distances(output_SCT, target_SCT, target_SCT.sum(0), standardisation)
        assert wrong["loudness_lu"] < 0.1
    before, after = (
        spectrum_db(stems.sum(0)) - spectrum_db(target_SCT.sum(0))
        for stems in (input_SCT, match_spectrum(input_SCT, target_SCT))
    )
    assert float(before.std()) > 3
    assert float(after.std()) < 0.7


def spectrum_db(audio_CT: Tensor) -> Tensor:
    """Measure levels of octaves from 62.5 Hz on."""
    power_F = torch.fft.rfft(audio_CT).abs().square().sum(0)
    hz_F = torch.fft.rfftfreq(audio_CT.shape[-1], 1 / SAMPLE_RATE_HZ)
    edges = [62.5 * 2**n for n in range(9)]
    parts = [power_F[(hz_F >= low) & (hz_F < 2 * low)].sum() for low in edges[:-1]]
    return 10 * torch.log10(torch.stack(parts))


def test_stereo_is_measured(songs: Path, standardisation: Standardisation) -> None:
    stems_SCT = torch.stack(
        [read_audio(songs / "one-loud drums" / f"{stem}.wav") for stem in STEMS]
    )
    mono_SCT = stems_SCT.mean(1, keepdim=True).expand(-1, 2, -1)
    found = distances(mono_SCT, stems_SCT, stems_SCT.sum(0), standardisation)
    # Noise that is independent left and right has side as loud as mid; mono has none: 60 dB of
    # limit in three of six numbers.
    assert found["stereo_db"] == pytest.approx(30, abs=1)
