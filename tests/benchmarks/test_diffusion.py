"""The benchmark of the diffusion separator, with a tiny network."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import diffusion
from benchmarks.diffusion import Job, ideal_ratio_mask, measure, samplings, scores_of
from mixprint.separation import Separator, export_separator, load_separator
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.counterfactual import Excerpt
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.storage.atomic import read_json
from tests.separation.diffusion.trials import WINDOW_S, denoiser, music, scnet
from tests.separation.trials import make_songs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    prior = load_separator(export_separator(scnet(), folder, window_s=WINDOW_S, name="prior"))
    network = DiffusionSeparator(
        denoiser(), window_s=WINDOW_S, sampling=SamplingSettings(), prior=prior.network
    )
    return export_diffusion(network, folder)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "DEFAULT_STEPS", 2)
    monkeypatch.setattr(diffusion, "setup_logging", lambda: None)
    tiny = Separator(TrainedSCNet(scnet(), window_s=WINDOW_S))
    monkeypatch.setattr(diffusion, "load_separator", lambda *_, **__: tiny)
    # Other tests in this process expect what they began with.
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, checkpoint: Path) -> dict[str, Any]:
    arguments = ["--checkpoint", checkpoint, "--songs", f"toys={folder / 'songs'}", "--runs", 0]
    arguments += ["--steps", 1, 2, "--samples", 2, "--duration", 0.05, "--device", "cpu"]
    arguments += ["--finished", folder / "rows", "--out", folder / "out"]
    monkeypatch.setattr(sys, "argv", ["diffusion", *map(str, arguments)])
    diffusion.main()
    return read_json(folder / "out" / "diffusion.json")


def test_a_stopped_run_goes_on(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_songs(tmp_path / "songs", 2, duration_s=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "mean_samples", lambda *_: sys.exit("stopped"))
        with pytest.raises(SystemExit, match="stopped"):
            run(monkeypatch, tmp_path, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "scores", lambda *_: sys.exit("measured again"))
        values = run(monkeypatch, tmp_path, checkpoint)
    found = values["songs"]["toys"]
    rows = {row["estimate"]: row for row in found["quality"]}
    assert rows["silence"]["vocals"] == pytest.approx(0, abs=1e-6)
    # Vocals have a thirtieth of the power of four stems.
    assert rows["the mixture"]["vocals"] == pytest.approx(-10 * math.log10(29), abs=0.2)
    assert rows["ideal ratio mask"]["vocals"] > 0
    expected = {"SCNet", "dpm, 1 step", "dpm, 2 steps", "ddpm, 2 steps", "from the prior, 0.3"}
    assert expected <= rows.keys()
    assert [row["samples"] for row in found["samples"]] == [1, 2]
    assert found["samples"][1]["calibration"] > 0
    assert set(found["checks"]) == {"SCNet", "1 step", "2 steps"}
    assert found["checks"]["2 steps"]["null"]["worst"] < -120
    text = (tmp_path / "out" / "diffusion.md").read_text()
    assert "| silence | 0.00 |" in text
    assert "toys: 2 songs" in text


def test_each_sampling_fits_and_is_another() -> None:
    settings = [
        SamplingSettings().with_changes(each) for each in samplings((1, 8), has_prior=True).values()
    ]
    assert len(set(settings)) == len(settings)
    assert not any("prior" in name for name in samplings((1,), has_prior=False))


def test_a_silent_truth_has_no_score() -> None:
    silent = Excerpt("no vocals", torch.zeros(2, 5000), music(5000))
    found = scores_of(silent, torch.zeros(2, 5000))
    assert found == {"vocals": None, "instrumental": pytest.approx(100)}


def test_the_ideal_ratio_mask_takes_apart_what_does_not_overlap() -> None:
    time_T = torch.arange(44_100) / 44_100
    low_CT, high_CT = (
        torch.sin(2 * math.pi * hz * time_T).expand(2, -1).contiguous() for hz in (300, 5_000)
    )
    found = scores_of(
        Excerpt("tones", low_CT, high_CT), ideal_ratio_mask(Excerpt("", low_CT, high_CT))
    )
    assert found["vocals"] is not None
    assert found["vocals"] > 25


def test_a_method_is_timed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "SPEED_S", 0.1)
    seen = []
    separate = Separator.separate
    monkeypatch.setattr(
        Separator, "separate", lambda self, *args: seen.append(self) or separate(self, *args)
    )
    job = Job(
        checkpoint=str(checkpoint), method="diffusion", threads=1, runs=2, sampling={"steps": 2}
    )
    assert measure(job)["peak_bytes"] > 1e8
    assert len(seen) == 3
    assert seen[0].network.sampling.steps == 2
