"""The report in a real browser, at the width of a phone."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.browser import find_browser
from tests.evaluation.test_evaluate import make_run, run

PHONE = "390,844"
# Looks at the page as a person does: is everything there, does it fit, can it be played?
PROBE = """
<script>
window.addEventListener("load", async () => {
  const playable = await Promise.all([...document.querySelectorAll("audio")].map(
    (audio) => new Promise((done) => {
      audio.onloadedmetadata = () => done(audio.duration);
      audio.onerror = () => done(0);
      audio.load();
      audio.preload = "metadata";
    })));
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify({
    playable,
    images: [...document.images].map((image) => image.naturalWidth),
    shrunk: [...document.images].map((image) => image.clientWidth / image.naturalWidth),
    too_wide: document.documentElement.scrollWidth - window.innerWidth,
  });
  document.body.append(result);
});
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    return find_browser()


def look(browser: str, page: Path, profile: Path) -> tuple[str, list[str]]:
    """Load a page; returns what it became and what stands in the console."""
    done = subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",  # containers do not let it make one
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={PHONE}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_the_report_works_on_a_phone(browser: str, tmp_path: Path) -> None:
    paths = make_run(tmp_path)
    run(paths)
    text = (paths["out_dir"] / "report.html").read_text()
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", f"{PROBE}</body>"))
    became, console = look(browser, page, tmp_path / "profile")
    assert console == []
    match = re.search(r'<pre id="probe">(.*?)</pre>', became)
    assert match, "the page did not load to its end"
    found = json.loads(match[1])
    assert len(found["playable"]) == 16
    # Two tenths of a second, as in the data of the test.
    assert min(found["playable"]) == pytest.approx(0.2, abs=0.05)
    assert len(found["images"]) == 6
    assert min(found["images"]) > 100
    # The smallest letters of the figures are 12 pixels high.
    assert min(found["shrunk"]) > 0.7
    assert found["too_wide"] <= 0


def test_an_error_would_be_noticed(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<script>missing()</script>")
    _, console = look(browser, page, tmp_path / "profile")
    assert len(console) == 1
    assert "missing is not defined" in console[0]
