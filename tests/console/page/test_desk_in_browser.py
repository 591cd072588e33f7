"""The console's page in a real browser: what it plays is what Python renders.

One browser for all tests, each of which opens the page anew.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs
from mixprint.console.page.building import console_page, live_console
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.pages.clips import FADE_S, faded
from mixprint.pages.comparison import compare
from mixprint.pages.page import ENVIRONMENT
from tests.browser import Tab, browsing
from tests.console.test_rendering import EVERYTHING, error_db, tracks

RATE_HZ = 44_100
NAMES = ("drums", "<b>Baß</b> & “voice”", "keys")
FADED = round(FADE_S * RATE_HZ)
WIDE, SMALL_PHONE = (1280, 900), (360, 780)
NEUTRAL = Settings.neutral(NAMES)
CHANGES = {
    path.replace("b.", f"{NAMES[1]}.", 1) if path.startswith("b.") else path: value
    for path, value in EVERYTHING.items()
}
SETTINGS = NEUTRAL.edit(
    {
        path.replace("a.", "drums.", 1) if path.startswith("a.") else path: value
        for path, value in CHANGES.items()
        if not path.startswith("c.")
    }
    | {"keys.fader_db": -4.0, "keys.room.send_db": -14.0, "keys.room.low_ratio": 1.7}
)
DESK = "document.querySelector('.desk').desk"
AS_TEXT = """
const asText = (buffer) => {
  const bytes = new Uint8Array(buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768)
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
};
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module", name="dry_NCT")
def make_tracks() -> Tensor:
    made_NCT = tracks(5).float()
    made_NCT[2] = made_NCT[2].mean(dim=0)
    # The page fades it once more, which changes nothing where it is silent.
    made_NCT[..., :FADED] = 0.0
    made_NCT[..., -FADED:] = 0.0
    return made_NCT


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory, dry_NCT: Tensor) -> Path:
    path = tmp_path_factory.mktemp("page") / "console.html"
    page = console_page(SETTINGS, dry_NCT, RATE_HZ, before=NEUTRAL, title="A song")
    path.write_text(page, encoding="utf-8")
    return path


def opened(tab: Tab, html: Path, size: tuple[int, int] = WIDE) -> Tab:
    tab.console.clear()
    tab.open(html, size)
    return tab


def rendered(tab: Tab, which: str) -> Tensor:
    """Render in the page as fast as it can; returns mix_CT."""
    texts = tab.run(
        f"""(async () => {{
          {AS_TEXT}
          const buffer = await {DESK}.player.rendered({DESK}.packed({DESK}.{which}));
          return [0, 1].map((c) => asText(buffer.getChannelData(c).buffer));
        }})()"""
    )
    channels = [np.frombuffer(base64.b64decode(text), np.float32).copy() for text in texts]
    return torch.from_numpy(np.stack(channels))


@pytest.fixture(scope="module")
def expected(dry_NCT: Tensor) -> dict[str, Tensor]:
    """Mixes of what the page holds, as Python renders them."""
    step_N11 = dry_NCT.abs().amax(dim=(1, 2), keepdim=True).double() / 32_767
    held_NCT = (dry_NCT / step_N11).round() * step_N11
    return {
        "now": render(held_NCT, SETTINGS, RATE_HZ).sum(dim=0),
        "before": held_NCT.sum(dim=0),
    }


def test_the_page_plays_what_python_renders(
    tab: Tab, html: Path, expected: dict[str, Tensor]
) -> None:
    opened(tab, html)
    found_CT, neutral_CT = rendered(tab, "now"), rendered(tab, "before")
    assert error_db(found_CT, expected["now"]) < -100
    torch.testing.assert_close(neutral_CT, expected["before"].float(), rtol=0, atol=1e-7)
    assert tab.console == []


def test_tracks_that_share_a_room_move_it_together(
    tab: Tab, tmp_path: Path, dry_NCT: Tensor
) -> None:
    dry_NCT = dry_NCT[..., : RATE_HZ // 2].repeat(2, 1, 1)[:5]
    names = ("a", "b", "c", "d", "e")
    times_s = {"a": 0.5, "b": 0.5, "c": 1.0, "d": 3.0}
    settings = replace(Settings.neutral(names), rooms="sends").edit(
        {f"{name}.room.time_s": value for name, value in times_s.items()}
        | {f"{name}.room.send_db": -12.0 for name in times_s}
        | {"a.pan": 0.8, "a.fader_db": -3.0}
    )
    html = tmp_path / "console.html"
    html.write_text(console_page(settings, dry_NCT, RATE_HZ), encoding="utf-8")
    opened(tab, html)
    held_NCT = torch.stack([faded(each_CT, RATE_HZ) for each_CT in dry_NCT])
    assert error_db(rendered(tab, "now"), render(held_NCT, settings, RATE_HZ).sum(dim=0)) < -75
    tab.run(f"{DESK}.change(0, {{'room.time_s': 0.7}}, true)")
    tab.run(f"{DESK}.change(4, {{'room.send_db': -20, 'room.time_s': 2.0}}, true)")
    found = saved(tab, tmp_path)
    changed = {name: found[f"{name}.room.time_s"] for name in names}
    assert changed == {"a": 0.7, "b": 0.7, "c": 1.0, "d": 3.0, "e": 3.0}
    assert tab.console == []


def test_both_versions_are_heard_at_one_loudness(
    tab: Tab, html: Path, expected: dict[str, Tensor]
) -> None:
    opened(tab, html)
    tab.run(f"{DESK}.match()")
    found = tab.run(f"[...{DESK}.measured.values()]")
    for values, mix_CT in zip(found, (expected["before"], expected["now"]), strict=True):
        lufs = loudness_lufs(mix_CT.float(), RATE_HZ)
        assert values["loudness_lufs"] == pytest.approx(lufs, abs=0.02)
        assert values["peak"] == pytest.approx(float(mix_CT.abs().max()), rel=1e-3)
    gains = tab.run(
        f"[false, true].map((each) => {{ {DESK}.hearBefore(each); return {DESK}.level; }})"
    )
    after, before = (value["loudness_lufs"] for value in reversed(found))
    heard = [20 * np.log10(gain) for gain in gains]
    assert heard[1] - heard[0] == pytest.approx(after - before, abs=1e-6)
    assert max(gains) <= 1


def test_settings_move_without_clicks_and_arrive(tab: Tab, html: Path) -> None:
    """A constant through the engine: its largest step, and where it ends."""
    opened(tab, html)
    steps, last = tab.run(
        f"""(() => {{
          const {{ algorithm, fields, master_fields, rate_hz }} = {DESK}.data;
          const channels = [new Float32Array(3 * rate_hz).fill(0.5)];
          const tracks = [{{ level: 1, channels }}];
          const neutral = (own) => own.map((field) => field.neutral);
          const settings = (changes) => ({{
            rooms: "inserts",
            master: neutral(master_fields),
            tracks: [fields.map((field) => changes[field.name] ?? field.neutral)],
          }});
          const desk = {{ algorithm, fields, masterFields: master_fields, tracks, rate_hz }};
          const engine = new ConsoleSound.Engine(desk, settings({{}}));
          const moves = [
            {{ fader_db: -20 }}, {{ pan: 1 }}, {{ "eq.low.gain_db": 12 }}, {{ "drive.mix": 1 }},
            {{ trim_db: 6 }}, {{ "comp.slope": 0.5, "comp.threshold_db": -30 }}, {{ fader_db: 3 }},
          ];
          const steps = [];
          let last = null;
          for (let block = 0; block < 100; block++) last = engine.step()[0][63];
          for (const move of moves) {{
            engine.set(settings(move));
            let largest = 0;
            for (let block = 0; block < 190; block++)
              for (const value of engine.step()[0]) {{
                largest = Math.max(largest, Math.abs(value - last));
                last = value;
              }}
            steps.push(largest);
          }}
          return [steps, last];
        }})()"""
    )
    # At once it would be a step of 0.1 to 1.5.
    assert max(steps) < 0.006
    assert last == pytest.approx(0.5 * 10 ** (3 / 20), rel=1e-12)


def drag(tab: Tab, selector: str, dx: float, dy: float) -> None:
    """Drag an element by pixels, as a mouse does."""
    x, y = tab.run(
        f"""(() => {{
          const element = document.querySelector({json.dumps(selector)});
          element.scrollIntoView({{block: "center"}});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
    )
    mouse: dict[str, Any] = {"button": "left", "clickCount": 1}
    tab.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **mouse)
    for part in (0.5, 1.0):
        where = {"x": x + part * dx, "y": y + part * dy, "buttons": 1}
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", **where)
    tab.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + dx, y=y + dy, **mouse)


def saved(tab: Tab, folder: Path) -> Settings:
    """Save the settings in the page and read them as any other."""
    path = folder / "settings.json"
    path.unlink(missing_ok=True)
    tab.save_downloads(folder)
    tab.click(".save")
    tab.wait("new Promise((done) => setTimeout(() => done(true), 100))")
    for _ in range(100):
        if path.exists() and path.stat().st_size:
            break
        tab.wait("new Promise((done) => setTimeout(() => done(true), 50))")
    return Settings.load(path)


def test_a_fader_is_heard_at_once_and_saved(tab: Tab, html: Path, tmp_path: Path) -> None:
    opened(tab, html)
    assert saved(tab, tmp_path) == SETTINGS
    tab.run(
        f"""(() => {{
          {DESK}.find(".matched input").checked = false;
          window.heard = [];
          const show = {DESK}.player.listener;
          {DESK}.player.listener = (message) => {{
            window.heard.push(message.meters.map(([left]) => left));
            show(message);
          }};
        }})()"""
    )
    tab.click(".play")
    tab.wait(f"{DESK}.player.isPlaying && {DESK}.player.position > 4410")
    tab.click(".strip:nth-child(1) .solo")
    tab.run("document.querySelector('.strip:nth-child(1) .slot').focus()")
    # More than half a second: the tracks sound in bursts.
    loud = "Math.max(...heard.slice(-25).map((row) => row[{}]))"
    tab.run("window.heard = []")
    tab.wait("heard.length > 25")
    assert tab.run(loud.format(3)) > 0.02
    tab.press("Home", 36)
    tab.run("window.heard = []")
    tab.wait("heard.length > 35")
    # The track that is heard alone lies 60 dB lower, the others play on unheard.
    assert tab.run(loud.format(0)) < 0.002
    assert tab.run(loud.format(1)) > 0.02
    assert tab.run(loud.format(3)) < 0.002
    tab.click(".play")
    tab.wait(f"{DESK}.player.isPlaying", False)
    assert saved(tab, tmp_path) == SETTINGS.edit({"drums.fader_db": -60.0})
    assert tab.console == []


def test_controls_are_dragged_typed_reset_and_undone(tab: Tab, html: Path, tmp_path: Path) -> None:
    opened(tab, html)
    # The bell of 250 Hz and +5 dB: two octaves and a half up, and down to zero and below.
    drag(tab, ".handle:nth-of-type(3)", 100, 60)
    found = saved(tab, tmp_path)
    assert 400 < found["drums.eq.bell1.freq_hz"] < 800
    assert found["drums.eq.bell1.gain_db"] < 2.0
    tab.run(
        """(() => {
          const input = document.querySelector('[aria-label="drums comp ratio, number"]');
          input.value = "4:1";
          input.dispatchEvent(new Event("change"));
        })()"""
    )
    assert tab.run(f"{DESK}.now.rows[0]['comp.slope']") == 0.75
    tab.run(
        """document.querySelector('.strip:nth-child(3) .slot')
          .dispatchEvent(new MouseEvent("dblclick"))"""
    )
    assert tab.run(f"{DESK}.now.rows[2].fader_db") == 0.0
    for _ in range(3):
        tab.click(".undo")
    assert saved(tab, tmp_path) == SETTINGS
    tab.click(".redo")
    again = saved(tab, tmp_path)
    assert again["drums.eq.bell1.freq_hz"] == found["drums.eq.bell1.freq_hz"]
    assert tab.console == []


def test_settings_are_loaded_or_refused(tab: Tab, html: Path, tmp_path: Path) -> None:
    opened(tab, html)
    other = NEUTRAL.edit({"keys.pan": -0.25, "master.output_db": -3.0})

    def load(values: object) -> str:
        tab.run(
            f"{DESK}.load(new File([{json.dumps(json.dumps(values))}], 'some.json'))",
        )
        return tab.run("document.querySelector('.told').textContent")

    assert load(other.to_values()) == "some.json is loaded"
    assert saved(tab, tmp_path) == other
    for change, message in (
        ({"version": 99}, "some.json: version: expected 1, found 99"),
        ({"tracks": []}, "tracks: expected drums, "),
        ({"master": {"output_db": 99}}, "master.output_db: expected -60 to 24 dB, found 99"),
        ({"master": {"loud": 1}}, "master.loud: expected a setting of this console"),
    ):
        assert message in load(other.to_values() | change)
    assert saved(tab, tmp_path) == other


def test_playing_ends_or_begins_anew(tab: Tab, html: Path) -> None:
    opened(tab, html)
    end = RATE_HZ * 2
    tab.click(".looped input")
    tab.run(f"{DESK}.player.send({{ seek: {end - 8820} }})")
    tab.click(".play")
    tab.wait(f"{DESK}.player.position >= {end}")
    tab.wait(f"{DESK}.player.isPlaying", False)
    tab.wait("document.querySelector('.play').textContent", "Play")
    tab.click(".looped input")
    tab.click(".play")
    tab.wait(f"{DESK}.player.isPlaying && {DESK}.player.position < {end / 2}")
    tab.run(f"{DESK}.player.send({{ seek: {end - 4410} }})")
    tab.wait(f"{DESK}.player.position > {end - 4410}")
    tab.wait(f"{DESK}.player.position < {end / 2}")
    assert tab.run(f"{DESK}.player.isPlaying")
    assert tab.console == []


EMBEDDED = """
{% extends "pages/comparisons.html" %}
{% from "pages/parts.html" import comparison %}
{% from "console/page/parts.html" import desk, scripts, style %}
{% block style %}{{ super() }}{{ style() }}{% endblock %}
{% block content %}{{ comparison(player) }}{{ desk(first) }}{{ desk(second) }}{% endblock %}
{% block script %}{{ super() }}{{ scripts() }}{% endblock %}
"""


def test_consoles_stand_in_a_page_with_a_player(tab: Tab, tmp_path: Path, dry_NCT: Tensor) -> None:
    html = tmp_path / "page.html"
    page = ENVIRONMENT.from_string(EMBEDDED).render(
        title="title",
        player=compare("pair", {"mix": {"a": dry_NCT[0], "b": dry_NCT[1]}}, RATE_HZ, heard="a"),
        first=live_console(SETTINGS, dry_NCT, RATE_HZ, name="first"),
        second=live_console(NEUTRAL, dry_NCT, RATE_HZ, before=SETTINGS, name="second"),
    )
    html.write_text(page, encoding="utf-8")
    opened(tab, html)
    faders = "[...document.querySelectorAll('.desk')].map((b) => b.desk.now.rows[2].fader_db)"
    assert tab.run(faders) == [-4.0, 0.0]
    tab.click(".comparison .play")
    tab.wait("document.querySelector('.comparison').player.playing")
    tab.click(".desk .play")
    tab.wait(f"{DESK}.player.position > 0")
    assert tab.too_wide() <= 0
    assert tab.console == []


def test_names_are_text_and_a_phone_is_wide_enough(tab: Tab, html: Path) -> None:
    opened(tab, html, SMALL_PHONE)
    assert tab.too_wide() <= 0
    names = "[...document.querySelectorAll('.strip .name')].map((each) => each.textContent)"
    assert tab.run(names) == [*NAMES, "master"]
    tab.click(".strip:nth-child(2) .head")
    assert tab.run("document.querySelector('.inspector h2').textContent") == NAMES[1]
    assert tab.too_wide() <= 0
    assert tab.console == []
