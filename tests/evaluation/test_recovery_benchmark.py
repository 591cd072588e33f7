"""References that may hear the truth, and pairs: on a tiny song of the generator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixprint.console.recovery import Recovery
from mixprint.console.settings import Settings
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.evaluation import recovery_benchmark
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.recovery_benchmark import (
    MEAN_STYLE,
    PAIR_MEASURES,
    RECOVERY,
    STYLE_KNOWN,
    Recoveries,
    as_settings,
    levelled,
    mean_style,
    oracle,
    run_pairs,
    style_known,
    summarise_pairs,
)
from mixprint.evaluation.transfer_benchmark import (
    KINDS,
    TRUE,
    Case,
    Question,
    Segment,
    draw_cases,
    mix_settings,
)
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.dataset import write_mix
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.mixing import free_style, mix, varied
from mixprint.synthesis.style_benchmark import DRY, write_dry

SEGMENT = Segment(0.5, 1.5)
DURATION_S = 2.0


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two songs of bursts of noise, in two styles each, and dry."""
    folder = tmp_path_factory.mktemp("songs")
    time_T = np.arange(round(DURATION_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    for song in ("one", "two"):
        dry = {}
        for number, stem in enumerate(STEMS):
            noise_CT = np.stack([Rng(song, stem, side).noise(len(time_T)) for side in (0, 1)])
            dry[stem] = 0.3 * noise_CT * (np.sin(2 * np.pi * (number + 1) * time_T) > 0)
        about = {"song": song, "split": "test"}
        write_dry(folder / f"{song}-{DRY}", dry, {**about, "style": DRY})
        for style in ("a", "b"):
            settings = varied(free_style(Rng(style), style), Rng(song, style))
            truth = {**about, "style": style, "mix": settings.to_values()}
            write_mix(folder / f"{song}-{style}", mix(dry, settings), truth)
    return folder


@pytest.fixture(scope="module")
def cases(songs: Path) -> list[Case]:
    return draw_cases(songs, 10)


def raw(case: Case, room_size: float = 1.0) -> Question:
    return Question(case, KINDS["raw-to-mix"], TRUE, room_size, SEGMENT, None)


def error_db(found: Tensor, expected: Tensor) -> float:
    error = (found - expected).square().mean() / expected.square().mean()
    return float(10 * torch.log10(error))


def truth_found(question: Question) -> Settings:
    """The true settings, as a recovery would find them on stems at the working level."""
    settings, _ = levelled(question, as_settings(mix_settings(question.case.truth)))
    given = question.cut(question.dry_song).square().sum((1, 2))
    gain_db = 10 * torch.log10(given / question.led_input.square().sum((1, 2)))
    return settings.edit(
        {f"{stem}.trim_db": float(x) for stem, x in zip(STEMS, gain_db, strict=True)}
    )


def test_settings_in_a_file_are_those_of_their_stems(songs: Path, cases: list[Case]) -> None:
    """Names are sorted in files; the stems of a mix are in the order of `STEMS`."""
    question = raw(cases[0])
    assert list(as_settings(mix_settings(cases[0].truth)).tracks) == list(STEMS)
    _, truth = levelled(question, as_settings(mix_settings(cases[0].truth)))
    assert error_db(truth, question.truth_stems) < -60


def test_the_style_known_is_near_and_not_the_truth(cases: list[Case]) -> None:
    question = raw(cases[0])
    known = style_known().find(question)
    near, far = (
        float(multi_resolution_stft(x_SCT.sum(0), question.truth_mix))
        for x_SCT in (known, question.input_stems)
    )
    assert 0.01 < near < 0.4 * far


def test_another_room_has_other_echoes_at_the_same_level(cases: list[Case]) -> None:
    own, other = raw(cases[0]), raw(cases[0], 1.4)
    levels = [q.truth_stems.square().sum() for q in (own, other)]
    assert float(10 * torch.log10(levels[1] / levels[0])) == pytest.approx(0.0, abs=1.0)
    assert -25 < error_db(other.truth_mix, own.truth_mix) < -3
    # All mixes of a question are in it.
    mixed = [
        Question(cases[0], KINDS["mix-to-mix, other room"], TRUE, size, SEGMENT, None).input_stems
        for size in (1.0, 1.4)
    ]
    assert error_db(*mixed) > -30


def test_a_recovery_is_made_once_for_oracle_and_pairs(
    songs: Path, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What finds the truth is at the truth, in its mix and in what it does."""
    cases = cases[:1]
    truths = {id_of(q.led_truth): truth_found(q) for q in map(raw, cases)}
    made = []

    def recover(tracks_NCT: Tensor, mix_CT: Tensor, *_: Any, **options: Any) -> Recovery:
        assert options == {"preroll_s": 0.5, "num_steps": 7}
        made.append(mix_CT)
        return Recovery(truths[id_of(mix_CT)], 0.0)

    monkeypatch.setattr(recovery_benchmark, "recover", recover)
    recoveries = Recoveries(Finished(tmp_path), 7)
    output_SCT = oracle(recoveries).find(raw(cases[0]))
    assert error_db(output_SCT, raw(cases[0]).truth_stems) < -30
    rows = run_pairs(cases, recoveries, segment=SEGMENT, finished=Finished(tmp_path))
    # The oracle had it already.
    assert len(made) == 1
    assert run_pairs(cases, recoveries, segment=SEGMENT, finished=Finished(tmp_path)) == rows
    assert len(made) == 1
    summary = {row["method"]: row for row in summarise_pairs(rows, num_bootstrap=20)}
    assert {row["pairs"] for row in summary.values()} == {1}
    for name in PAIR_MEASURES:
        found = {method: row[name].value for method, row in summary.items()}
        assert found[RECOVERY] < 0.25 * found[MEAN_STYLE], name
        assert found[RECOVERY] < found[STYLE_KNOWN] < found[MEAN_STYLE], name


def id_of(audio_CT: Tensor) -> float:
    return float(audio_CT.abs().sum())


def test_what_is_heard_in_no_mix_has_no_median() -> None:
    row: Mapping[str, Any] = {name: [1.0, None, 3.0] for name in PAIR_MEASURES} | {
        "time_percent": [None, None],
        "method": "m",
        "song": "s",
    }
    (found,) = summarise_pairs([row], num_bootstrap=5)
    assert found["eq_db"].value == 2.0
    assert found["time_percent"] is None


def test_the_mean_style_is_that_of_the_training_styles() -> None:
    found = mean_style()
    assert list(found.tracks) == list(STEMS)
    # Drawn from -6 to 4 dB, 48 times: the mean lies within three of its standard errors.
    assert found["drums.eq.low.gain_db"] == pytest.approx(-1.0, abs=3 * 10 / 12**0.5 / 48**0.5)
