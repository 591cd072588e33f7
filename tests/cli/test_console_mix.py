"""The commands `console mix` and `describe`, and `mix` and `describe` for programs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mixprint import describe, mix, render
from mixprint.api import models
from mixprint.api.mixing import excerpt_of, predict
from mixprint.api.references import Excerpt, busiest_of_files, read_reference
from mixprint.audio.files import read_audio, write_audio
from mixprint.audio.streamed_levels import stream_levels
from mixprint.cli import app
from mixprint.console.settings import Settings
from mixprint.controller import shipped
from mixprint.controller.checkpoint import load_controller
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.transfer.methods import console_search
from mixprint.transfer.style import Style
from tests.api.tiny_controller import write_controller
from tests.cli.stand_ins import LevelEncoder
from tests.console.test_files import RATE_HZ, write_noise

runner = CliRunner()


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tracks, one short, and a place where no controller is shipped."""
    monkeypatch.setattr(shipped, "SHIPPED_CONTROLLER", tmp_path / "shipped" / "controller")
    write_noise(tmp_path / "song" / "vocals.wav", 1.2, seed=1)
    write_noise(tmp_path / "song" / "guitar.wav", 0.8, seed=2)
    write_noise(tmp_path / "reference.wav", 1.2, seed=3)
    return tmp_path / "song"


def test_tracks_are_mixed_like_a_reference(tmp_path: Path, tracks: Path) -> None:
    controller = write_controller(tmp_path / "controller")
    out = tmp_path / "out"
    given = ["--reference", tmp_path / "reference.wav", "--controller", controller]
    Settings.neutral(["guitar", "vocals"]).edit({"guitar.pan": 0.3}).save(tmp_path / "kept.json")
    changes = ["--settings", tmp_path / "kept.json", "--lock", "guitar", "--set", "vocals.pan=-0.5"]
    printed = run(
        *("console", "mix", tracks, "--output_dir", out, *given, *changes),
        *("--amount", "master=0", "--export", "apo"),
    )
    found = Settings.load(out / "settings.json")
    assert found["guitar.pan"] == 0.3
    assert found["guitar.trim_db"] == 0.0
    assert found["vocals.pan"] == -0.5
    assert found.master == Settings.neutral(["a"]).master
    assert "mixed like reference" in printed
    assert re.search(r"^- fader at .* dB \+-\d", printed, re.MULTILINE)
    assert "- 50 % to the left\n" in printed  # a person's own: no spread
    assert (out / "export" / "export.json").is_file()
    assert run("console", "show", out / "settings.json").strip() in printed
    # The same for programs; a mix is the sum of its tracks, which `render` makes again.
    mixed = mix(
        tracks,
        tmp_path / "reference.wav",
        start=Settings.load(tmp_path / "kept.json"),
        locked=["guitar"],
        amount={"master": 0.0},
        controller=controller,
    )
    assert mixed.settings.edit({"vocals.pan": -0.5}).tracks == found.tracks
    assert np.allclose(mixed.audio, sum(mixed.tracks.values()), atol=1e-5)
    assert mixed.spread is not None
    again = render(tracks, found)
    assert np.allclose(again.audio, read_audio(out / "mix.wav").numpy(), atol=1e-5)


def test_a_mix_has_the_peak_of_its_reference_and_a_voice_alone_has_not(
    tmp_path: Path, tracks: Path
) -> None:
    controller = write_controller(tmp_path / "controller")
    reference_CT = read_audio(tmp_path / "reference.wav")
    voice_CT = read_audio(tracks / "vocals.wav")
    for gain in (0.5, 0.1):
        stems = dict.fromkeys(STEMS, gain / len(STEMS) * reference_CT)
        mixed = mix(tracks, stems, controller=controller)
        found, wanted = (
            stream_levels([torch.as_tensor(x)]).true_peak_dbtp
            for x in (mixed.audio, gain * reference_CT)
        )
        assert found == pytest.approx(wanted, abs=0.2)
        alone = mix({"vocals": voice_CT}, stems, controller=controller)
        read = read_reference(stems, torch.device("cpu"))
        predicted, _ = predict(
            load_controller(controller),
            excerpt_of(voice_CT[None], SAMPLE_RATE_HZ),
            ["vocals"],
            read,
            device=torch.device("cpu"),
        )
        assert alone.settings.master == predicted.master


def test_without_a_reference_or_with_a_saved_style(
    tmp_path: Path, tracks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_encoder", lambda *_: LevelEncoder())
    library = tmp_path / "lib"
    run("styles", "add", tmp_path / "reference.wav", "--library", library, "--segment_duration", 3)
    style = Style.load(library / "reference.json")
    assert style.embedding_E is not None
    controller = write_controller(
        tmp_path / "controller", encoder="level", embedding_dim=len(style.embedding_E)
    )
    alone = mix(tracks, controller=controller).settings
    styled = mix(tracks, library / "reference.json", controller=controller).settings
    assert alone != styled
    assert alone == mix(tracks, controller=controller).settings
    # What it hears in a finished mix, and the nearest of the library.
    output = tmp_path / "heard.json"
    given = ["--library", library, "--controller", controller, "--output", output]
    printed = run("describe", tmp_path / "reference.wav", *given)
    assert printed.startswith("reference, beside typical tracks:\n  vocals: ")
    assert "near reference: likeness 1.00, distance 0.00" in printed
    assert "+-" in printed
    found = describe(tmp_path / "reference.wav", controller=controller)
    assert Settings.load(output) == found.settings
    assert list(found.settings.tracks) == list(STEMS)
    assert found.nearest == ()
    of_style = describe(library / "reference.json", controller=controller)
    assert of_style.settings != found.settings
    assert of_style.title == "reference"


def test_what_is_missing_is_said_before_any_work(tmp_path: Path, tracks: Path) -> None:
    out = ["--output_dir", tmp_path / "out"]
    printed = run("console", "mix", tracks, *out, code=1)
    assert "make train-controller" in printed
    assert "--controller" in printed
    printed = run("describe", tmp_path / "reference.wav", code=1)
    assert "make train-controller" in printed
    both = ["--reference", tracks, "--style", tmp_path / "s.json"]
    assert "found both" in run("console", "mix", tracks, *out, *both, code=2)
    printed = run("console", "mix", tracks, *out, "--num_steps", 3, code=2)
    assert "expected a reference or a style to fit 3 steps to, found none" in printed
    controller = write_controller(tmp_path / "controller")
    printed = run(
        *("console", "mix", tracks, *out, "--controller", controller, "--reference", tracks),
        code=2,
    )
    assert "expected the stems of a reference, vocals, bass, drums, other" in printed
    assert not (tmp_path / "out").exists()
    mine = tmp_path / "out" / "export" / "notes.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    given = [*out, "--controller", controller, "--export", "apo"]
    assert "other files there: notes.md" in run("console", "mix", tracks, *given, code=1)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [mine]


def test_a_fit_goes_on_from_the_prediction_and_leaves_what_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_search, "TRACK_SPREADS", {"fader_db": 6.0})
    monkeypatch.setattr(console_search, "MASTER_SPREADS", {})
    controller = write_controller(tmp_path / "controller")
    noises = [write_noise(tmp_path / f"{n}.wav", 3.0, seed=n) for n in range(6)]
    stems = {stem: (0.2 + n) * noises[n] for n, stem in enumerate(STEMS)}
    tracks = {"vocals": noises[4], "guitar": noises[5]}
    before, after = (
        mix(tracks, stems, controller=controller, num_steps=steps, locked=["guitar"])
        for steps in (0, 2)
    )
    assert after.settings.tracks["guitar"] == before.settings.tracks["guitar"]
    assert after.settings["vocals.fader_db"] != before.settings["vocals.fader_db"]
    assert after.settings["vocals.pan"] == before.settings["vocals.pan"]
    assert after.spread is not None
    assert before.spread is not None
    left, whole = (each.spread.of(each.settings)["vocals"] for each in (after, before))
    assert 0 < left["fader_db"] < whole["fader_db"]
    assert left["pan"] == whole["pan"]
    assert after.spread.of(after.settings)["guitar"] == {}


def test_a_track_that_is_silent_where_all_others_sound_has_its_level(tmp_path: Path) -> None:
    """That of all of the song, from files in blocks as from audio at once."""
    noise_CT = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 16 * 4_000)))
    late_CT = 0.01 * noise_CT
    late_CT[:, : 14 * 4_000] = 0
    noise_CT[:, 13 * 4_000 :] *= 1e-3
    paths = [tmp_path / f"{name}.wav" for name in ("early", "late")]
    for path, audio_CT in zip(paths, (0.1 * noise_CT, late_CT), strict=True):
        write_audio(path, audio_CT.float(), 4_000, subtype="FLOAT")
    heard = busiest_of_files(paths)
    assert heard.audio_NCT.shape == (2, 2, 10 * RATE_HZ)
    assert heard.trim_db == pytest.approx([0.0, 20.0], abs=0.7)
    tracks_NCT = torch.stack([read_audio(path) for path in paths])
    again = excerpt_of(tracks_NCT, RATE_HZ)
    assert again.trim_db == pytest.approx(heard.trim_db, abs=0.01)
    assert torch.allclose(again.audio_NCT, heard.audio_NCT, atol=1e-6)
    # Of the late track hiss alone is heard there, which is not brought to the working level.
    hiss_NCT = heard.audio_NCT[..., : 3 * RATE_HZ].clone()
    hiss_NCT[1] = 1e-3 * hiss_NCT[0].flip(-1)
    controller = load_controller(write_controller(tmp_path / "controller"))
    settings, _ = predict(
        controller,
        Excerpt(hiss_NCT, heard.trim_db),
        ["early", "late"],
        device=torch.device("cpu"),
    )
    assert settings["early.trim_db"] == pytest.approx(0.0, abs=0.7)
    assert settings["late.trim_db"] == pytest.approx(heard.trim_db[1])


def test_a_song_is_described_silent_stems_and_all(tmp_path: Path, tracks: Path) -> None:
    noise_CT = write_noise(tmp_path / "x.wav", 1.0)
    stems = dict.fromkeys(STEMS, noise_CT) | {"bass": 0 * noise_CT}
    found = describe(stems, controller=write_controller(tmp_path / "controller"))
    assert found.words["bass"] == ["silent"]
    assert found.words["drums"] != ["silent"]
    assert found.settings.sample_rate_hz == RATE_HZ
