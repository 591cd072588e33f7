import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, write_audio
from mixprint.audio.levels import loudness_lufs
from mixprint.errors import DataError
from mixprint.evaluation import transfer_benchmark
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.mix_distances import MEASURES, distances
from mixprint.evaluation.transfer_benchmark import (
    BASELINES,
    KINDS,
    NEARER_BY,
    SEPARATED,
    TRUE,
    WORKING_LUFS,
    Method,
    Question,
    Segment,
    Separate,
    blind,
    do_nothing,
    draw_cases,
    match_loudness,
    match_spectrum,
    paired_differences,
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


def run(
    songs: Path,
    num_cases: int,
    methods: dict[str, Method],
    finished: Path,
    separate: Separate | None = None,
) -> list[dict[str, Any]]:
    return run_benchmark(
        draw_cases(songs, num_cases),
        [blind(name, method, {"method": name}) for name, method in methods.items()],
        kinds=[KINDS["mix-to-mix"]],
        standardisation=Standardisation(torch.zeros(64), torch.ones(64)),
        separate=separate,
        segment=Segment(0.0, DURATION_S),
        finished=Finished(finished),
        made_with={},
    )


def test_the_right_answer_is_at_the_truth_and_doing_nothing_is_not(
    songs: Path, tmp_path: Path
) -> None:
    rows = run(songs, 2, {"levels": match_stem_levels}, tmp_path)
    assert len(rows) == 2 * (len(BASELINES) + 1)
    summary = {row["method"]: row for row in summarise(rows, num_bootstrap=50)}
    for measure in MEASURES:
        assert summary["levels"][measure].value == pytest.approx(0, abs=3e-3), measure
        if measure not in ("loudness_lu", "stereo_db"):
            assert summary["nothing"][measure].value > 0.05, measure
    assert summary["levels"]["nearer"] == dict.fromkeys(NEARER_BY, 1)
    assert summary["nothing"]["nearer"] == dict.fromkeys(NEARER_BY, 0)
    differences = {row["method"]: row for row in paired_differences(rows, "nothing")}
    assert "nothing" not in differences
    for name in ("stft", "bands_db"):
        found = differences["levels"][name]
        assert found.low <= found.value <= found.high < 0
        mean = sum(row[name] for row in rows if row["method"] == "nothing") / 2
        assert found.value == pytest.approx(-mean, abs=3e-3)


def test_separated_stems_are_compared_with_the_separated_truth(songs: Path, tmp_path: Path) -> None:
    def separate(audio_CT: Tensor) -> Tensor:
        return torch.stack([audio_CT / len(STEMS)] * len(STEMS))

    rows = run(songs, 1, {}, tmp_path, separate)
    by_stems = {
        stems: next(r for r in rows if (r["stems"], r["method"]) == (stems, "nothing"))
        for stems in (TRUE, SEPARATED)
    }
    # The mixes are the same either way; the stems are not.
    for name in ("stft", "bands_db"):
        assert by_stems[SEPARATED][name] == pytest.approx(by_stems[TRUE][name], rel=1e-4)
    for name in ("features", "stem_stft"):
        assert by_stems[SEPARATED][name] != by_stems[TRUE][name]


def test_paired_differences_are_those_of_the_same_cases() -> None:
    """Cases differ by 10, methods by 1: paired, the interval knows nothing of the cases."""
    rows = [
        {"kind": "k", "stems": "s", "method": method, "case": case, "song": str(case)}
        | dict.fromkeys(MEASURES, 10.0 * case - shift)
        for method, shift in (("a", 0.0), ("b", 1.0))
        for case in range(4)
        if (method, case) != ("b", 3)
    ]
    (found,) = paired_differences(rows, "a", num_bootstrap=100)
    assert (found["method"], found["cases"]) == ("b", 3)
    for name in MEASURES:
        assert (found[name].value, found[name].low, found[name].high) == (-1.0, -1.0, -1.0)


def test_a_run_that_was_killed_goes_on_where_it_was(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []

    def method(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(input_SCT)
        return input_SCT

    monkeypatch.setattr(transfer_benchmark, "distances", lambda *_: dict.fromkeys(MEASURES, 1.0))
    monkeypatch.setattr(transfer_benchmark, "BASELINES", {"nothing": do_nothing})
    with pytest.raises(KeyboardInterrupt):
        run(songs, 4, {"mine": method}, tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.iterdir()}
    # Two whole cases, and the baseline of the third.
    assert len(first) == 2 * 2 + 1
    asked.append(asked[0])
    rows = run(songs, 4, {"mine": method}, tmp_path)
    assert len(asked) == 3 + 2
    assert len(rows) == 4 * 2
    assert {path: path.read_bytes() for path in first} == first
    assert run(songs, 4, {"mine": method}, tmp_path) == rows
    # More cases and another method are added to what is there, and fewer read it.
    assert run(songs, 1, {"mine": method}, tmp_path) == rows[:2]
    assert len(run(songs, 1, {"mine": method, "other": do_nothing}, tmp_path)) == 3
    assert len(asked) == 5


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
    assert draw_cases(songs, 2) == cases[:2]


def test_dry_stems_are_an_input_and_no_style(songs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    shutil.copytree(songs, folder)
    for number, song in enumerate(("one", "two")):
        dry = folder / f"{song}-dry"
        dry.mkdir()
        dry_SCT = 0.5 * dry_stems(number) * torch.tensor([1.0, 0.3, 0.1, 0.0])[:, None, None]
        for stem, stem_CT in zip(STEMS, dry_SCT, strict=True):
            write_audio(dry / f"{stem}.wav", stem_CT, SAMPLE_RATE_HZ, subtype="FLOAT")
        about = {"song": song, "style": "dry", "split": "test", "gain_db": 6.0}
        write_json(dry / "settings.json", about)
    cases = draw_cases(folder, 100)
    assert len(cases) == 4
    segment = Segment(0.0, DURATION_S)
    question = Question(cases[0], KINDS["raw-to-mix"], TRUE, 1.0, segment, None)
    found = [loudness_lufs(stem_CT, SAMPLE_RATE_HZ) for stem_CT in question.input_stems]
    assert found[:3] == pytest.approx([WORKING_LUFS] * 3, abs=0.1)
    assert not question.input_stems[3].any()
    # As loud as they were mixed.
    level_db = 20 * torch.log10(question.dry_song[0].square().mean().sqrt())
    assert float(level_db) == pytest.approx(-20 - 6.02 + 6, abs=0.01)
    assert torch.equal(question.truth_mix, question.truth_stems.sum(0))


def test_the_segment_is_cut_behind_its_lead() -> None:
    assert Segment(4.0, 10.0).lead_s == 2.0
    assert Segment(0.5, 10.0).lead_s == 0.5


def test_songs_without_a_question_are_refused(songs: Path) -> None:
    with pytest.raises(DataError, match="'train'"):
        draw_cases(songs, 1, split="train")
    question = Question(
        draw_cases(songs, 1)[0], KINDS["raw-to-mix"], TRUE, 1.0, Segment(0.0, 1.0), None
    )
    with pytest.raises(DataError, match="one-dry: expected the dry stems of a song"):
        _ = question.input_stems


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
