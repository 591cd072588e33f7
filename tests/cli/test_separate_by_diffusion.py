"""The commands `separate` and `check-separator` with a diffusion separator."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mixprint.audio.files import read_audio, write_audio
from mixprint.cli import app
from mixprint.separation import export_separator, loading, source
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.loading import load_separator
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import read_json
from tests.separation.diffusion.trials import HOP, WINDOW_S, denoiser, level_db, music, scnet
from tests.separation.trials import make_songs

runner = CliRunner()
LENGTH = 40 * HOP


@pytest.fixture(autouse=True)
def real_separators(stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "load_separator", load_separator)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    prior = load_separator(export_separator(scnet(), folder, window_s=WINDOW_S, name="prior"))
    network = DiffusionSeparator(
        denoiser(), window_s=WINDOW_S, sampling=SamplingSettings(steps=2), prior=prior.network
    )
    return export_diffusion(network, folder)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    write_audio(path, music(LENGTH), SAMPLE_RATE_HZ)
    return path


def separate(song: Path, out: Path, *options: str) -> dict:
    """Separate, and return the report."""
    result = runner.invoke(app, ["separate", str(song), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    return read_json(out / song.stem / "separation.json")


def by_diffusion(checkpoint: Path, *options: str) -> list[str]:
    return ["--method", "diffusion", "--checkpoint", str(checkpoint), *options]


def test_two_stems_null(tmp_path: Path, song: Path, checkpoint: Path) -> None:
    report = separate(song, tmp_path / "out", *by_diffusion(checkpoint))
    assert report["files"] == ["vocals.wav", "instrumental.wav"]
    assert report["settings"]["sampling"] == SamplingSettings(steps=2).to_values()
    parts = [read_audio(tmp_path / "out" / "song" / name) for name in report["files"]]
    audio_CT = read_audio(song)
    assert level_db(sum(parts) - audio_CT, audio_CT) < -120


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (["--stems", "4"], [f"{stem}.wav" for stem in STEMS]),
        (["--stems", "2"], ["vocals.wav", "instrumental.wav"]),
        (["--stems", "vocals"], ["vocals.wav"]),
        (["--stems", "drums,vocals"], ["drums.wav", "vocals.wav"]),
        (["--two-stems", "drums"], ["drums.wav", "no_drums.wav"]),
        (["--two-stems", "vocals"], ["vocals.wav", "no_vocals.wav"]),
    ],
)
def test_stems_by_number_and_by_name(
    tmp_path: Path, song: Path, checkpoint: Path, options: list[str], files: list[str]
) -> None:
    report = separate(song, tmp_path / "out", *by_diffusion(checkpoint, *options))
    assert report["files"] == files
    # The prior is run for no more than it is needed for.
    has_four = any(name in "".join(options) for name in ("4", "drums"))
    assert ("bass" in report["levels"]) == has_four
    assert report["null_depth_db"] < -120


def test_options_of_the_sampling_reach_the_network(
    tmp_path: Path, song: Path, checkpoint: Path
) -> None:
    options = "--sampler ddim --eta 0.5 --steps 4 --samples 2 --start prior --strength 0.6"
    options += " --spacing 3 --prior --seed 7"
    report = separate(song, tmp_path / "out", *by_diffusion(checkpoint, *options.split()))
    assert report["settings"]["sampling"] == {
        "sampler": "ddim",
        "eta": 0.5,
        "steps": 4,
        "samples": 2,
        "start": "prior",
        "strength": 0.6,
        "spacing": 3.0,
        "prior": True,
        "seed": 7,
    }
    assert "uncertainty.png" in report["files"]
    assert set(report["uncertainty_db"]) == {"vocals", "instrumental"}


def test_the_same_again_is_there_and_another_seed_is_refused(
    tmp_path: Path, song: Path, checkpoint: Path
) -> None:
    arguments = ["separate", str(song), "--out", str(tmp_path / "out")]
    arguments += by_diffusion(checkpoint)
    assert "1 separated" in runner.invoke(app, arguments).stderr
    assert "1 there already" in runner.invoke(app, [*arguments, "--seed", "0"]).stderr
    other = runner.invoke(app, [*arguments, "--seed", "1"])
    assert other.exit_code == 1
    assert "stems made in the same way" in other.stderr
    assert "1 separated" in runner.invoke(app, [*arguments, "--seed", "1", "--overwrite"]).stderr


def test_a_start_with_the_mixture_warns(tmp_path: Path, song: Path, checkpoint: Path) -> None:
    arguments = by_diffusion(checkpoint, "--start", "mixture")
    result = runner.invoke(app, ["separate", str(song), "--out", str(tmp_path / "o"), *arguments])
    assert "note: the samples began with the mixture" in result.stderr
    report = read_json(tmp_path / "o" / "song" / "separation.json")
    assert report["settings"]["sampling"]["strength"] == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--eta", "0.5"], "only ddim has a choice"),
        (["--strength", "0.5"], "expected 1 with the start noise"),
        (["--start", "prior", "--strength", "1"], "nothing is left"),
        (["--steps", "0"], "steps: expected 1 to 1000"),
        (["--sampler", "unipc"], "--sampler"),
        (["--stems", "3"], "'3'"),
        (["--stems", "vocals,instrumental,drums"], "instrumental or parts of it"),
        (["--compile"], "compile: expected the method scnet"),
    ],
)
def test_what_does_nothing_or_is_unknown_exits_with_2(
    tmp_path: Path, song: Path, checkpoint: Path, options: list[str], message: str
) -> None:
    arguments = ["separate", str(song), "--out", str(tmp_path / "out")]
    result = runner.invoke(app, [*arguments, *by_diffusion(checkpoint, *options)])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "5", "--seed", "1"], "expected steps, seed with the method diffusion only"),
        (["--stems", "2"], "expected a number with the method diffusion only"),
        (["--stems", "instrumental"], "found 'instrumental'"),
    ],
)
def test_scnet_takes_nothing_of_it(
    tmp_path: Path, song: Path, options: list[str], message: str
) -> None:
    result = runner.invoke(app, ["separate", str(song), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_the_other_method_is_refused(
    tmp_path: Path, song: Path, checkpoint: Path
) -> None:
    other = checkpoint.with_name("prior.safetensors")
    for method, path in (("diffusion", other), ("scnet", checkpoint)):
        arguments = ["--out", str(tmp_path / "o"), "--method", method, "--checkpoint", str(path)]
        result = runner.invoke(app, ["separate", str(song), *arguments])
        assert result.exit_code == 2
        assert f"expected a separator of the method {method}, found" in result.stderr


def test_without_a_checkpoint_the_shipped_one_is_taken(
    tmp_path: Path, song: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loading.SHIPPED, "diffusion", checkpoint)
    arguments = ["separate", str(song), "--method", "diffusion", "--device", "cpu"]
    for out, named in (("a", []), ("b", ["--checkpoint", str(checkpoint)])):
        result = runner.invoke(app, [*arguments, "--out", str(tmp_path / out), *named])
        assert result.exit_code == 0, result.stderr
    # Not the files' bytes: they hold the second in which they were written.
    first, second = (read_audio(next((tmp_path / out).rglob("vocals.wav"))) for out in "ab")
    assert torch.equal(first, second)
    monkeypatch.setitem(loading.SHIPPED, "diffusion", tmp_path / "missing.safetensors")
    result = runner.invoke(app, [*arguments, "--out", str(tmp_path / "c")])
    assert result.exit_code == 1
    assert "missing.safetensors: expected a separator's checkpoint, found no" in result.stderr


def test_bad_songs_are_named_and_processes_share_the_others(
    tmp_path: Path, song: Path, checkpoint: Path
) -> None:
    write_audio(tmp_path / "other.wav", music(LENGTH, 1), SAMPLE_RATE_HZ)
    (tmp_path / "bad.wav").write_text("no audio")
    arguments = [str(song), str(tmp_path / "other.wav"), str(tmp_path / "bad.wav")]
    arguments += ["--out", str(tmp_path / "out"), "--jobs", "2", "--device", "cpu"]
    result = runner.invoke(app, ["separate", *arguments, *by_diffusion(checkpoint)])
    assert result.exit_code == 1, result.output
    assert "2 separated, 0 there already, 1 failed" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["other", "song"]


def test_checks_are_printed_and_written(tmp_path: Path, checkpoint: Path) -> None:
    songs = make_songs(tmp_path / "songs", 2, duration_s=0.1)
    out = tmp_path / "checks.json"
    arguments = ["check-separator", str(songs), "--out", str(out), "--calibration_samples", "2"]
    result = runner.invoke(app, [*arguments, *by_diffusion(checkpoint)])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()[1:]}
    assert lines["null"][3:5] == ["-120", "kept"]
    assert lines["no_vocals"][3] == "vocals"
    values = read_json(out)
    assert [row["song"] for row in values["songs"]] == ["song0", "song1"]
    assert values["summary"].keys() == lines.keys()
    assert values["summary"]["null"]["worst"] == max(row["null"] for row in values["songs"])


def test_a_place_for_the_findings_is_looked_at_first(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["check-separator", "nowhere", "--out", str(tmp_path)]
    result = runner.invoke(app, [*arguments, *by_diffusion(checkpoint)])
    assert result.exit_code == 1
    assert "expected a file to write to, found a folder" in result.stderr


def test_a_limit_that_is_not_kept_is_an_error(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = make_songs(tmp_path / "songs", 1, duration_s=0.1)
    monkeypatch.setattr(DiffusionSeparator, "normalised", False)
    result = runner.invoke(app, ["check-separator", str(songs), *by_diffusion(checkpoint)])
    assert result.exit_code == 1
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("gain"))
    assert "NOT KEPT" in line
