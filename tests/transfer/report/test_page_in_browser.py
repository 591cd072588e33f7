"""The pages of transferred pairs in a real browser."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import write_audio
from mixprint.console.settings import Settings
from mixprint.errors import AudioError
from mixprint.features import FEATURE_NAMES, extract
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.transfer.jobs import Done, Failure
from mixprint.transfer.report.page import MIXES, STEM_FOLDERS, write_report
from mixprint.transfer.report.summary import write_summary
from tests.browser import PHONE, browsing

Make = Callable[..., Tensor]
WIDE = (1100, 900)


def stems_of(make_stems: Make) -> dict[str, Tensor]:
    """Make the songs of a pair, all pairs the same."""
    drums_down = torch.tensor([1.0, 1.0, 0.5, 1.0]).view(-1, 1, 1)
    stems = {"input": make_stems(seed=1), "target": make_stems(4.0, seed=2)}
    return stems | {"output": drums_down * stems["input"]}


@cache
def features_of(make_stems: Make) -> dict[str, dict[str, float]]:
    """Measure them, once for all pairs."""
    found = {}
    for song, stems_SCT in stems_of(make_stems).items():
        values_D = extract(stems_SCT.unsqueeze(0), SAMPLE_RATE_HZ)[0]
        found[song] = dict(zip(FEATURE_NAMES, values_D.tolist(), strict=True))
    return found


def make_pair(folder: Path, make_stems: Make, **more: Any) -> tuple[Path, dict[str, Any]]:
    """Write what a transfer leaves: an output that is the input with half the drums."""
    stems = stems_of(make_stems)
    features = features_of(make_stems)
    for song, stems_SCT in stems.items():
        write_audio(folder / MIXES[song], stems_SCT.sum(0), SAMPLE_RATE_HZ, subtype="PCM_24")
        for stem, stem_CT in zip(STEMS, stems_SCT, strict=True):
            path = folder / STEM_FOLDERS[song] / f"{stem}.wav"
            write_audio(path, stem_CT, SAMPLE_RATE_HZ, subtype="FLOAT")
    metrics = {
        "input_audio": "/songs/a.wav",
        "input_title": f"{'a-long-name-' * 8}<b>",
        "target_audio": "gs://bucket/b.wav",
        "targets": [{"title": "b"}],
        "optimize_target": "features",
        "method": "console",
        "hyperparameters": {"segment_offset": 0.0, "segment_duration": 10.0, "lr": 0.001},
        "initial_feature_distance": 2.0,
        "final_feature_distance": 0.5,
        "initial_embedding_distance": None,
        "final_embedding_distance": None,
        "converged": True,
        "num_steps_run": 2,
        "iterations": [
            {"step": step, "feature_distance": 2.0 - 0.75 * step, "embedding_distance": None}
            for step in range(3)
        ],
        "stems_left_alone": [],
        "settings": None,
        "features": features,
        "notes": ["a note"],
        "output": {
            "gain_db": 0.0,
            "true_peak_dbtp": -3.0,
            "loudness_lufs": -20.0,
            "input_loudness_lufs": -19.0,
            "target_loudness_lufs": -18.0,
        },
        "device": "cpu",
        "timings": {"total_s": 12.0, "separation_s": 1.0, "optimisation_s": 10.0},
    }
    return folder, metrics | more


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_the_page_of_a_pair(tmp_path: Path, make_stems: Make, size: tuple[int, int]) -> None:
    pair = make_pair(tmp_path / "pair", make_stems)
    html = tmp_path / "pair" / "report.html"
    write_report(html, pair[1])
    assert html.stat().st_size < 6e6
    with browsing(tmp_path / "profile") as tab:
        tab.open(html, size)
        assert tab.too_wide() <= 0
        text = tab.run("document.body.innerText")
        assert "<b> in the mix of b" in text
        # Half the amplitude; the target's own drums are told beside.
        assert "drums: 6.0 dB quieter (target" in text
        # What was not touched comes forward as the mix becomes quieter.
        assert "LU further in front of the mix" in text.split("bass: ")[1].split("drums: ")[0]
        player = "document.querySelector('.comparison').player"
        tab.click(".play")
        tab.wait(f"{player}.playing")
        tab.wait(f"{player}.position() > 0.1")
        asked_s = time.monotonic()
        position_s = tab.run(f"{player}.position()")
        tab.click('.part label:has([value="drums"])')
        tab.wait("document.querySelector('.comparison').getAttribute('aria-busy')", "false")
        # The play has gone on where it was, but for the time that this took.
        passed_s = time.monotonic() - asked_s
        moved_s = (tab.run(f"{player}.position()") - position_s) % 3
        assert 0 < moved_s <= passed_s + 0.1
        durations = tab.run(
            f"Object.entries({player}.clips).map(([name, clip]) => [name, clip.buffer.duration])"
        )
        assert dict(durations) == pytest.approx({"input": 3, "output": 3, "target": 4}, abs=0.01)
        images = tab.run("[...document.images].map((image) => image.naturalWidth)")
        assert len(images) == 1
        assert images[0] > 500
        assert tab.console == []


def test_the_page_of_several_transfers(tmp_path: Path, make_stems: Make) -> None:
    methods = ("console", "tcn", "zero-shot", "louder")
    done = [
        Done(*make_pair(tmp_path / song / method, make_stems, method=method, input_audio=song))
        for song in ("song 1", "song 2", "song 3")
        for method in methods
    ]
    done.append(Done(*make_pair(tmp_path / "song 1" / "again", make_stems, input_audio="song 1")))
    for each in done:
        (each.folder / "report.html").touch()
    html = tmp_path / "report.html"
    failures = [Failure("table.csv, line 3", AudioError("too_short", "a <b>song</b> of 0.2 s"))]
    summary = write_summary(tmp_path, [*done, *failures])
    assert html.stat().st_size < 9e6
    with browsing(tmp_path / "profile") as tab:
        tab.open(html)
        assert tab.too_wide() <= 0
        cells = "[...document.querySelectorAll('table')].map(t => t.rows[1].cells[0].innerText)"
        assert tab.run(cells) == [
            "console, features",
            "table.csv, line 3",
            f"console, features ({Path('song 1') / 'console'})",
            "console, features",
            "console, features",
        ]
        medians = "[...document.querySelector('table').rows].slice(1).map(r => r.innerText)"
        assert len(tab.run(medians)) == len(summary["methods"]) == len(methods)
        # Input, target and outputs of the first two pairs fit; the third's are links.
        clips = (
            "[...document.querySelectorAll('.comparison')]"
            ".map(c => [...c.querySelectorAll('.clip label')].map(l => l.innerText))"
        )
        first, second = (set(names) for names in tab.run(clips)[:2])
        assert len(first) == 7
        assert second == {"input", "target", *(f"{method}, features" for method in methods)}
        tab.click(".play")
        player = "document.querySelector('.comparison').player"
        tab.wait(f"{player}.position() > 0.1")
        tab.click('.clip label:has([value="tcn, features"])')
        tab.wait("document.querySelector('.comparison').getAttribute('aria-busy')", "false")
        assert tab.run(f"{player}.playing")
        links = tab.run("[...document.querySelectorAll('a')].map((a) => decodeURI(a.href))")
        assert len(links) == 4 * len(done)
        assert all(Path(link.removeprefix("file://")).is_file() for link in links)
        assert tab.console == []


def test_the_settings_that_were_found_are_told(tmp_path: Path, make_stems: Make) -> None:
    settings = Settings.neutral(STEMS).edit({"drums.fader_db": -6.0, "master.comp.slope": 0.5})
    folder, metrics = make_pair(tmp_path / "pair", make_stems, settings=settings.to_values())
    write_report(folder / "report.html", metrics)
    text = (folder / "report.html").read_text()
    assert "drums: fader at -6.0 dB" in text
    assert "vocals: nothing" in text
    assert "master: compressed 2.0:1" in text
