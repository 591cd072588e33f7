"""A listener takes the whole test in a real browser, and the analysis reads what was saved."""

import json
import time
from pathlib import Path

import pytest

from mixprint.listening.analyse import analyse
from mixprint.listening.generate import ANCHOR, REFERENCE, UNCHANGED, make_test
from mixprint.storage.atomic import read_json
from tests.browser import PHONE, TIMEOUT_S, Tab, browsing
from tests.listening.conftest import WriteResult

SCORES = {REFERENCE: 100, ANCHOR: 13, UNCHANGED: 35, "optimise, features": 82, "tcn, features": 61}
WIDE = (1100, 900)
# The strongest frequency of what goes to the loudspeakers.
LISTEN = """
(async () => {
  if (!player.ear) {
    player.ear = player.context.createAnalyser();
    player.ear.fftSize = 8192;
    player.ear.smoothingTimeConstant = 0;
    player.output.connect(player.ear);
  }
  await new Promise((done) => setTimeout(done, 400));
  const levels = new Float32Array(player.ear.frequencyBinCount);
  player.ear.getFloatFrequencyData(levels);
  return levels.indexOf(Math.max(...levels)) * player.context.sampleRate / player.ear.fftSize;
})()
"""


@pytest.fixture
def test_dir(tmp_path: Path, write_result: WriteResult) -> Path:
    for pair, truth in ((1, False), (2, True)):
        for method in ("optimise", "tcn"):
            folder = tmp_path / "batch" / method / f"p{pair}"
            write_result(folder, pair=pair, method=method, truth=truth)
    make_test(tmp_path / "batch", tmp_path / "test", max_trials=8, seed=1)
    return tmp_path / "test"


def begin(tab: Tab, test_dir: Path, listener: str, size: tuple[int, int]) -> None:
    tab.open(test_dir / "index.html", size)
    assert tab.too_wide() <= 0
    assert tab.run("byId('start').disabled")
    tab.click("#listener")
    for letter in listener:
        tab.press(letter, text=letter)
    tab.click("#start")
    tab.wait("trial !== null && trial.ready")


def rate_all(tab: Tab) -> None:
    """Hear everything by keys, and rate it: the best by the keyboard, the rest by the slider."""
    tab.press("r", 82)
    tab.wait("player.playing")
    order = tab.run("trial.order")
    assert set(order) == SCORES.keys()
    for letter, condition in zip("abcde", order, strict=True):
        assert tab.run("byId('next').disabled")
        tab.press(letter, ord(letter.upper()))
        assert tab.run("player.heard") == letter.upper()
        assert tab.run("document.activeElement.dataset.name") == letter.upper()
        if SCORES[condition] == 100:
            tab.press("End", 35)
        else:
            tab.run(
                f"document.activeElement.value = {SCORES[condition]};"
                "document.activeElement.dispatchEvent(new Event('input'))"
            )
    assert tab.run("byId('missing').textContent") == ""


def finish(tab: Tab, folder: Path) -> Path:
    """Take both trials and save; gives the file."""
    tab.save_downloads(folder)
    for _ in range(2):
        tab.wait("trial.ready")
        rate_all(tab)
        tab.click("#next")
    tab.wait("!byId('end').hidden")
    tab.click("#export")
    end_s = time.monotonic() + TIMEOUT_S
    while not (saved := list(folder.glob("*.json"))):
        assert time.monotonic() < end_s, "nothing was saved"
        time.sleep(0.05)
    return saved[0]


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_a_whole_session(tmp_path: Path, test_dir: Path, size: tuple[int, int]) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    with browsing(tmp_path / "profile") as tab:
        begin(tab, test_dir, "Ann 7", size)
        assert tab.too_wide() <= 0
        # What is on the screen and in the addresses tells nothing of what is compared.
        page = tab.run("document.getElementById('trial').innerText + document.title").lower()
        assert not any(word in page for word in ("tcn", "optimise", "anchor", "unchanged"))
        saved = finish(tab, folder)
        assert tab.console == []
    assert saved.name.startswith("listener-Ann-7-")
    values = read_json(saved)
    assert values["fingerprint"] == read_json(test_dir / "test.json")["fingerprint"]
    assert values["listener"] == "Ann 7"
    for trial in values["trials"]:
        assert set(trial["order"]) == SCORES.keys()
        assert all(trial["plays"][condition] >= 1 for condition in SCORES)
        assert trial["seconds"] > 0
    found = analyse([test_dir, saved], tmp_path / "out" / "results.json")
    assert found["refused"] == []
    assert {name: v["mean"] for name, v in found["conditions"].items()} == SCORES


def test_switching_plays_another_sound_at_the_same_place(tmp_path: Path, test_dir: Path) -> None:
    test = read_json(test_dir / "test.json")
    # Of the tones in the data, by pair: the truth is the reference of the second.
    tones = {
        "t01": {REFERENCE: 950, UNCHANGED: 350, "optimise, features": 710, "tcn, features": 610},
        "t02": {REFERENCE: 800, UNCHANGED: 400, "optimise, features": 760, "tcn, features": 660},
    }
    assert [trial["has_truth"] for trial in test["trials"]] == [False, True]
    with browsing(tmp_path / "profile") as tab:
        begin(tab, test_dir, "b", PHONE)
        asked = tab.run("trial.asked.trial")
        question = tab.run("byId('question').textContent")
        assert ("mixing style" in question) == (asked == "t01")
        tab.click("#reference")
        tab.wait("player.playing")
        assert tab.run(LISTEN) == pytest.approx(tones[asked][REFERENCE], abs=6)
        for name, hertz in tones[asked].items():
            button = "ABCDE"[tab.run("trial.order").index(name)]
            before_s, after_s = tab.run(
                f"""(() => {{
                  player.seek(0.2);
                  const before = player.position();
                  document.querySelector('button[data-name="{button}"]').click();
                  return [before, player.position()];
                }})()"""
            )
            assert 0 <= after_s - before_s < 0.02
            assert tab.run(LISTEN) == pytest.approx(hertz, abs=6)
        # A shorter loop: the position stays in it.
        tab.run("byId('to').value = 300; byId('to').dispatchEvent(new Event('input'))")
        positions = tab.run(
            """(async () => {
              const found = [];
              for (let i = 0; i < 20; i++) {
                found.push(player.position());
                await new Promise((done) => setTimeout(done, 40));
              }
              return found;
            })()"""
        )
        assert max(positions) <= 0.31
        assert "0.0 to 0.3 s" in tab.run("byId('region').textContent")
        tab.press(" ", 32)
        tab.wait("player.playing", False)
        assert tab.console == []


def test_the_order_follows_from_the_name(tmp_path: Path, test_dir: Path) -> None:
    with browsing(tmp_path / "profile") as tab:

        def order(listener: str) -> str:
            begin(tab, test_dir, listener, PHONE)
            return json.dumps(tab.run("session.trials.map((t) => [t.asked.trial, t.order])"))

        first = order("a")
        assert order("a") == first
        orders = {first} | {order(name) for name in "bcde"}
        assert len(orders) == 5
        assert tab.console == []
