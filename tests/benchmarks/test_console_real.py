"""The table of real mixes, of two tracks of a second."""

import logging
from pathlib import Path

import pytest

from benchmarks import console_real
from benchmarks.console import parse, real
from benchmarks.console_real import EQUAL, HUMAN, MONO, RULES, RealMixes, measure, table
from mixprint.audio.files import read_audio, write_audio
from mixprint.controller import shipped
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.objective import TERMS
from tests.console.test_files import RATE_HZ, write_noise


@pytest.fixture(autouse=True)
def _no_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "SHIPPED_CONTROLLER", tmp_path / "none")
    monkeypatch.setattr(console_real, "SECTION_S", 1.0)
    monkeypatch.setattr("benchmarks.console.keep_freed_memory", lambda: None)


def test_what_needs_no_controller_is_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("multitrack/vocals", "multitrack/bass", "mixtures/a")):
        write_noise(tmp_path / f"{name}.wav", 1.0, seed=seed)
    mixture_CT = read_audio(tmp_path / "mixtures" / "a.wav")
    write_audio(tmp_path / "multitrack" / "mixture.wav", mixture_CT, RATE_HZ, subtype="FLOAT")
    asked = RealMixes(
        folder=tmp_path, controller=None, num_steps=2, num_sections=2, num_references=1
    )
    finished = Finished(tmp_path / "finished")
    rows = measure(asked, finished)
    assert [row["method"] for row in rows] == [MONO, EQUAL, RULES, HUMAN]
    assert {row["sections"] for row in rows} == {1}
    by_method = {row["method"]: row for row in rows}
    # What a person has mixed is the reference itself here; a mono mix pays for its empty side.
    assert sum(by_method[HUMAN]["published"].values()) == pytest.approx(0.0, abs=1e-3)
    assert by_method[MONO]["published"]["bark"] > 20
    assert by_method[EQUAL]["published"]["bark"] < 5
    assert by_method[EQUAL]["corrected"]["rms"] < 1  # both are at -16 LUFS
    monkeypatch.setattr(console_real, "_measured", lambda *_: pytest.fail("it is there"))
    assert measure(asked, finished) == rows
    lines = table(rows)
    af = sum(by_method[MONO]["published"].values())
    (line,) = (line for line in lines if line.startswith(f"| {MONO} | 1 | "))
    assert f"| {af:.3f} |" in line
    assert line.count("|") == lines[2].count("|") == 2 * len(TERMS) + 5


def test_tracks_that_are_not_there_are_said_to_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = parse(["--real", str(tmp_path / "none"), "--finished", str(tmp_path)])
    with caplog.at_level(logging.WARNING):
        assert real(args) == []
    assert "the multitracks are not here" in caplog.text
    assert table([]) == ["The multitracks were not at hand."]
