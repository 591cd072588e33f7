"""`mixprint console fit`: an engineer's own style, from pairs to a mix of a single voice."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from mixprint.audio.files import write_audio
from mixprint.cli import app
from mixprint.console import levels
from mixprint.console.settings import Settings
from mixprint.controller import fits, shipped
from mixprint.controller.own_style import OwnStyleConfig, held_out, read_fits
from tests.console.test_rendering import RATE_HZ, tracks

runner = CliRunner()
LENGTH = round(1.3 * RATE_HZ)
SMALL = {
    "fit_steps": 0,
    "max_distance": 1.5,
    "valid_share": 0.34,
    "prior_strength": 0.5,
    "pairs": {
        "excerpt_s": 1.0,
        "examples_per_reference": 3,
        "masked_share": 0.0,
        "track_dropout": 0.0,
    },
    "phases": [
        {
            "objective": "likelihood",
            "num_steps": 8,
            "batch_size": 8,
            "learning_rate": 1.0e-3,
            "likelihood_weight": 0.0,
            "prior_weight": 0.0,
        }
    ],
    "width": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_examples": 6,
    "num_audio": 1,
    "num_valid": 1,
    "context_s": 0.1,
    "valid_steps": 8,
}


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def write(path: Path, audio_CT: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, audio_CT, RATE_HZ, subtype="FLOAT")


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Pairs of an engineer who turns voices half to the right and guitars to the left."""
    monkeypatch.setattr(shipped, "SHIPPED_CONTROLLER", tmp_path / "none is shipped")
    # Pans are found at once; how near levels and tones come does not matter here.
    monkeypatch.setattr(levels, "_NUM_STEPS", 30)
    monkeypatch.setattr(levels, "_NUM_CUT_STEPS", 5)
    raw, mixed = tmp_path / "raw", tmp_path / "mixed"
    right, left = torch.tensor([[0.5], [1.0]]), torch.tensor([[1.0], [0.5]])
    for seed in range(2):
        voice_CT = tracks(seed, LENGTH, 1)[0, :1].float().repeat(2, 1)
        write(raw / f"vocals {seed}.wav", voice_CT[:1])
        write(mixed / f"vocals {seed}.wav", right * voice_CT)
    voice_CT, guitar_CT = tracks(5, LENGTH, 2).float()
    write(raw / "song" / "vocals.wav", voice_CT)
    write(raw / "song" / "guitar.wav", guitar_CT)
    write(mixed / "song" / "vocals.wav", right * voice_CT)
    write(mixed / "song" / "guitar.wav", left * guitar_CT)
    write(raw / "other.wav", voice_CT)
    write(mixed / "other.wav", torch.zeros(2, LENGTH))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return raw, mixed


def test_a_style_is_learned_from_pairs_and_used_for_one_voice(
    tmp_path: Path, pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine"
    given = ["console", "fit", "--pairs", *pairs, "--config", tmp_path / "small.yaml"]
    given += ["--device", "cpu"]
    printed = run(*given, "--output_dir", out)
    assert "3 pairs are learned from, 1 left out" in printed
    assert "other.wav: other: expected sound, found silence" in printed
    assert "the mean of the engineer's settings" in printed
    listed = json.loads((out / "pairs.json").read_text())
    assert list(listed["used"]) == ["song", "vocals 0", "vocals 1"]
    by_name = {fit.name: fit for fit in read_fits(out)}
    assert by_name["song"].settings["guitar.pan"] == pytest.approx(-0.5, abs=0.1)
    # One mono voice without a reference is mixed as this engineer does, from the best weights.
    voice = tmp_path / "Lead Vox.wav"
    write(voice, tracks(9, LENGTH, 1)[0, :1].float())
    run("console", "mix", voice, "--controller", out, "--output_dir", tmp_path / "mix")
    settings = Settings.load(tmp_path / "mix" / "settings.json")
    # Of 6 examples of 2 pairs 6 tracks are voices, a quarter of the range to the right, and 3 are
    # guitars. What was known counts as half a pair, 1.5 examples: see `Prior.adapt`.
    common = (6 * 0.25 - 3 * 0.25) / (9 + 1.5)
    assert settings["Lead Vox.pan"] == pytest.approx(2 * (6 * 0.25 + 1.5 * common) / 7.5, abs=0.01)
    # What was found is found once; and a controller can be trained further.
    monkeypatch.setattr(fits, "recover_excerpt", None)
    printed = run(*given, "--from", out, "--output_dir", out, code=2)
    assert "expected a controller outside of" in printed
    (tmp_path / "again").mkdir()
    (out / "fits").rename(tmp_path / "again" / "fits")
    printed = run(*given, "--from", out, "--output_dir", tmp_path / "again")
    assert "the controller that it started from" in printed
    inside = pairs[1] / "out"
    assert "expected a folder apart" in run(*given, "--output_dir", inside, code=2)


def test_pairs_are_held_out_by_their_names(tmp_path: Path) -> None:
    config = OwnStyleConfig.layered()
    settings = Settings.neutral(["a"])

    def held(num_pairs: int) -> list[str]:
        known = [
            fits.Fit(f"song {number}", settings, tmp_path, "", 0.0) for number in range(num_pairs)
        ]
        train, valid = held_out(known, config)
        assert len(train) + len(valid) == max(num_pairs, 2)
        return [fit.name for fit in valid]

    assert held(1) == ["song 0"]
    assert len(held(2)) == 1
    assert len(held(300)) == config.num_valid
    assert len(set(held(100)) - set(held(101))) <= 1
