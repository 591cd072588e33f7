"""The commands `mixprint console ...`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mixprint.audio.files import read_audio, write_audio
from mixprint.cli import app
from mixprint.console.settings import Settings
from tests.console.test_files import RATE_HZ, write_noise

runner = CliRunner()


@pytest.fixture
def song(tmp_path: Path) -> Path:
    for seed, name in enumerate(("drums", "vocals")):
        write_noise(tmp_path / "song" / f"{name}.wav", 4.0, seed=seed)
    return tmp_path / "song"


def test_tracks_are_rendered_by_changed_settings(song: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    changes = ["--set", "vocals.fader_db=-6", "--set", "vocals.fader_db+=2", "--set", "drums.pan=1"]
    result = runner.invoke(
        app, ["console", "render", str(song), "--output_dir", str(out), *changes]
    )
    assert result.exit_code == 0, result.output
    assert f"listen to {out / 'mix.wav'}" in result.stdout
    used = Settings.load(out / "settings.json")
    assert (used["vocals.fader_db"], used["drums.pan"]) == (-4.0, 1.0)
    half = ["--settings", str(out / "settings.json"), "--amount", "vocals=0", "--amount", "0.5"]
    again = ["console", "render", str(song), "--output_dir", str(tmp_path / "half"), *half]
    assert runner.invoke(app, again).exit_code == 0
    halved = Settings.load(tmp_path / "half" / "settings.json")
    assert (halved["vocals.fader_db"], halved["drums.pan"]) == (0.0, 0.5)
    vocals_CT = read_audio(tmp_path / "half" / "tracks" / "vocals.wav")
    assert torch.equal(vocals_CT, read_audio(song / "vocals.wav"))


def test_rooms_are_shared_on_request(song: Path, tmp_path: Path, caplog: Any) -> None:
    out = tmp_path / "out"
    sets = ["--set", "vocals.room.send_db=-10", "--set", "vocals.pan=1", "--rooms", "sends"]
    with caplog.at_level("INFO", "mixprint.console"):
        result = runner.invoke(
            app, ["console", "render", str(song), "--output_dir", str(out), *sets]
        )
    assert result.exit_code == 0, result.output
    assert Settings.load(out / "settings.json").rooms == "sends"
    assert "vocals: send +3.0 dB" in caplog.text
    back = ["console", "show", str(out / "settings.json"), "--rooms", "inserts"]
    refused = runner.invoke(app, back)
    assert refused.exit_code == 2
    assert "--rooms: expected sends" in refused.stderr


def test_a_name_may_hold_an_equals_sign(tmp_path: Path) -> None:
    Settings.neutral(["a=b"]).save(tmp_path / "s.json")
    changes = ["--set", "a=b.fader_db-=2", "--set", "a=b.fader_db=-=1"]
    result = runner.invoke(app, ["console", "show", str(tmp_path / "s.json"), *changes])
    assert "## a=b\n\n- fader at -3.0 dB\n" in result.stdout


def test_settings_are_said_in_words(tmp_path: Path) -> None:
    Settings.neutral(["bass"]).edit({"bass.eq.low.gain_db": 3.0}).save(tmp_path / "s.json")
    result = runner.invoke(
        app, ["console", "show", str(tmp_path / "s.json"), "--set", "bass.width=0"]
    )
    assert result.exit_code == 0, result.output
    assert "## bass\n\n- +3.0 dB shelf below 120 Hz\n- mono\n" in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "vocals.fader_db"], "--set: expected a setting and its value"),
        (["--set", "vocals.loud=1"], "vocals: expected one of trim_db"),
        (["--set", "vocals.pan=2"], "vocals.pan: expected -1 to 1, found 2"),
        (["--set", "bass.pan=0"], "bass.pan: expected one of drums, vocals, master"),
        (["--amount", "all"], "--amount: expected a number, found 'all'"),
        (["--amount", "3"], "expected 0 to 2, found 3"),
    ],
)
def test_wrong_changes_are_told_before_the_work(
    song: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    arguments = ["console", "render", str(song), "--output_dir", str(tmp_path / "out"), *changes]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_mix_is_taken_apart(song: Path, tmp_path: Path) -> None:
    parts = [read_audio(song / f"{name}.wav") for name in ("drums", "vocals")]
    mix_CT = 0.5 * parts[0] + torch.tensor([[0.2], [1.0]]) * parts[1]
    write_audio(tmp_path / "mix.wav", -mix_CT.roll(50, -1), RATE_HZ, subtype="FLOAT")
    options = ["--mix", str(tmp_path / "mix.wav"), "--output_dir", str(tmp_path / "out")]
    result = runner.invoke(
        app, ["console", "recover", str(song), *options, "--num_steps", "0", "--lock", "*.room"]
    )
    assert result.exit_code == 0, result.output
    assert "mix: delay +1.13 ms, polarity inverted, drift +0.0 ppm" in result.stdout
    found = Settings.load(tmp_path / "out" / "settings.json")
    heard_db = {name: found[f"{name}.trim_db"] + found[f"{name}.fader_db"] for name in found.tracks}
    assert heard_db == pytest.approx({"drums": -6.0, "vocals": 0.0}, abs=1.5)
    assert found["vocals.pan"] == pytest.approx(0.8, abs=0.1)


def test_pairs_are_checked(tmp_path: Path) -> None:
    dry_CT = write_noise(tmp_path / "raw" / "a.wav", 12.0)
    write_noise(tmp_path / "raw" / "b.wav", 12.0, seed=1)
    (tmp_path / "mixed").mkdir()
    write_audio(tmp_path / "mixed" / "a.wav", dry_CT, RATE_HZ, subtype="FLOAT")
    write_noise(tmp_path / "mixed" / "b.wav", 12.0, seed=2)
    folders = [str(tmp_path / "raw"), str(tmp_path / "mixed")]
    result = runner.invoke(app, ["console", "check-pairs", *folders])
    assert result.exit_code == 1
    assert "a: delay +0.00 ms, polarity kept, drift +0.0 ppm, likeness 1.00" in result.stdout
    assert "failed: b: expected the same music at the same speed" in result.stderr
    assert "1 can be used, 1 cannot" in result.stdout


def test_settings_go_to_a_program_and_come_back(song: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back.json"
    changes = ["--set", "vocals.fader_db=-6", "--set", "drums.width=0.5", "--tempo_bpm", "120"]
    arguments = [str(song), "--output_dir", str(out), "--to", "dawproject,settings", *changes]
    result = runner.invoke(app, ["console", "export", *arguments])
    assert result.exit_code == 0, result.output
    assert "note: drums: width 50 % is left out" in result.stdout
    assert f"exported to {out}: dawproject, settings" in result.stdout
    arguments = [str(out / "song.dawproject"), "--output", str(back), "--tracks", str(song)]
    result = runner.invoke(app, ["console", "import", *arguments])
    assert result.exit_code == 0, result.output
    assert f"read 2 tracks and the master into {back}" in result.stdout
    assert Settings.load(back) == Settings.load(out / "settings.json")
    again = runner.invoke(app, ["console", "import", *arguments])
    assert again.exit_code == 1
    assert "expected a new file, found that of another call" in again.stderr
    assert runner.invoke(app, ["console", "import", *arguments, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("x.als", b"", 2, "expected settings.json"),
        ("x.json", b"{}", 1, "expected the format 'mixprint console'"),
        ("x.dawproject", b"PK", 1, "expected a ZIP archive, found none"),
    ],
)
def test_what_cannot_be_imported_is_told(
    tmp_path: Path, name: str, content: bytes, code: int, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments = [str(tmp_path / name), "--output", str(tmp_path / "out.json")]
    result = runner.invoke(app, ["console", "import", *arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "out.json").exists()
