"""The player that compares sounds, in a real browser: what is heard is measured."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.pages.comparison import compare
from mixprint.pages.page import ENVIRONMENT
from tests.browser import browsing

RATE_HZ = 44_100
PAGE = """
{% extends "pages/comparisons.html" %}
{% from "pages/parts.html" import comparison %}
{% block content %}{{ comparison(player) }}{% endblock %}
"""
# Tones in the middle of the analyser's bins, so that it reads their levels right.
BIN_HZ = RATE_HZ / 4096
LOW_HZ, MIDDLE_HZ, HIGH_HZ = (round(f / BIN_HZ) * BIN_HZ for f in (500, 1000, 2000))
OTHER_LOW_HZ, OTHER_MIDDLE_HZ = (round(f / BIN_HZ) * BIN_HZ for f in (3000, 4000))
# Listens to what goes to the loudspeakers: the strongest frequency, and its level in dB.
LISTEN = """
(async () => {
  const player = document.querySelector(".comparison").player;
  if (!player.ear) {
    player.ear = player.context.createAnalyser();
    player.ear.fftSize = 4096;
    player.ear.smoothingTimeConstant = 0;
    player.output.connect(player.ear);
  }
  await new Promise((done) => setTimeout(done, 250));
  const levels = new Float32Array(player.ear.frequencyBinCount);
  player.ear.getFloatFrequencyData(levels);
  const best = levels.indexOf(Math.max(...levels));
  return [best * player.context.sampleRate / player.ear.fftSize, levels[best]];
})()
"""


def tone(frequency_hz: float, level: float, duration_s: float = 2.0) -> Tensor:
    time_T = torch.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (level * torch.sin(2 * math.pi * frequency_hz * time_T)).expand(2, -1)


def write(path: Path) -> Path:
    parts = {
        "mix": {
            "input": tone(LOW_HZ, 0.4),
            "output": tone(MIDDLE_HZ, 0.1),
            "target": tone(HIGH_HZ, 0.2, duration_s=1.2),
        },
        "</script>": {
            "input": tone(OTHER_LOW_HZ, 0.4),
            "output": tone(OTHER_MIDDLE_HZ, 0.1),
            "target": torch.zeros(2, RATE_HZ),
        },
    }
    player = compare("<b>pair</b>", parts, RATE_HZ, heard="output")
    path.write_text(ENVIRONMENT.from_string(PAGE).render(title="title", player=player))
    return path


def test_switching_keeps_the_position_and_changes_what_is_heard(tmp_path: Path) -> None:
    html = write(tmp_path / "page.html")
    with browsing(tmp_path / "profile") as tab:
        tab.open(html)
        assert tab.too_wide() <= 0
        state = "document.querySelector('.comparison').player"
        tab.click(".play")
        tab.wait(f"{state}.playing")
        frequency_hz, output_db = tab.run(LISTEN)
        assert frequency_hz == pytest.approx(MIDDLE_HZ, abs=1)

        # Away from the end of the loop, so that the position can only grow.
        tab.run(f"{state}.seek(0.5)")
        # The browser tells the position before and after the switch in one breath.
        before_s, after_s = tab.run(
            f"""(() => {{
              const before = {state}.position();
              document.querySelector('.clip input[value="input"]').click();
              return [before, {state}.position()];
            }})()"""
        )
        assert 0 <= after_s - before_s < 0.02
        frequency_hz, input_db = tab.run(LISTEN)
        assert frequency_hz == pytest.approx(LOW_HZ, abs=1)
        # 12 dB apart in the files; equally loud but for the ear's weighting (a fraction of a dB).
        assert input_db == pytest.approx(output_db, abs=1.0)

        tab.click(".matched input")
        frequency_hz, true_db = tab.run(LISTEN)
        # A sine of 0.4 on both sides reads -8 LUFS; equally loud they are at -16.
        assert true_db - input_db == pytest.approx(8.0, abs=1.0)
        tab.click('.clip label:has([value="output"])')
        frequency_hz, quiet_db = tab.run(LISTEN)
        assert true_db - quiet_db == pytest.approx(12.0, abs=0.5)
        assert "output: as it is" in tab.run("document.querySelector('.levels').textContent")

        # A part with an odd name; the target is silent there, and so is not made louder.
        tab.click(".matched input")
        tab.click(".part label:nth-of-type(2)")
        tab.wait("document.querySelector('.comparison').getAttribute('aria-busy')", "false")
        frequency_hz, _ = tab.run(LISTEN)
        assert frequency_hz == pytest.approx(OTHER_MIDDLE_HZ, abs=1)
        assert "target: too quiet" in tab.run("document.querySelector('.levels').textContent")

        tab.click(".play")
        tab.wait(f"{state}.playing", False)
        stands_s = tab.run(f"{state}.position()")
        assert tab.run(f"new Promise(done => setTimeout(() => done({state}.position()), 200))") == (
            stands_s
        )
        assert tab.console == []


def test_a_clip_of_another_length_loops_by_itself(tmp_path: Path) -> None:
    html = write(tmp_path / "page.html")
    with browsing(tmp_path / "profile") as tab:
        tab.open(html)
        tab.click(".play")
        tab.wait("document.querySelector('.comparison').player.playing")
        found = tab.run(
            """(() => {
              const player = document.querySelector('.comparison').player;
              player.seek(1.5);
              return Object.entries(player.clips).map(
                ([name, { buffer }]) =>
                  [name, buffer.duration, player.wrap(1.5, player.loop(buffer))]
              );
            })()"""
        )
        assert found == [
            ["input", pytest.approx(2.0, abs=1e-3), pytest.approx(1.5)],
            ["output", pytest.approx(2.0, abs=1e-3), pytest.approx(1.5)],
            ["target", pytest.approx(1.2, abs=1e-3), pytest.approx(0.3, abs=2e-3)],
        ]
        tab.click('.clip label:has([value="target"])')
        frequency_hz, _ = tab.run(LISTEN)
        assert frequency_hz == pytest.approx(HIGH_HZ, abs=1)
        # The position bar seeks, by keyboard too.
        tab.run("document.querySelector('.position').focus()")
        tab.press("Home", 36)
        assert tab.run("document.querySelector('.comparison').player.position()") < 1.0
        assert tab.console == []


def test_parts_must_have_the_same_clips() -> None:
    sound_CT = tone(500, 0.1, 0.5)
    with pytest.raises(ValueError, match="same clips"):
        compare("x", {"a": {"b": sound_CT}, "c": {"d": sound_CT}}, RATE_HZ, heard="b")
    with pytest.raises(ValueError, match="same clips"):
        compare("x", {"a": {"b": sound_CT}}, RATE_HZ, heard="other")


def test_faults_in_a_page_are_noticed(tmp_path: Path) -> None:
    html = tmp_path / "broken.html"
    html.write_text("<script>missing()</script>")
    with browsing(tmp_path / "profile") as tab:
        tab.open(html)
        assert len(tab.console) == 1
        assert "missing is not defined" in tab.console[0]
