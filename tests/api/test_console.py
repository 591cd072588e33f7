"""The console for programs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mixprint import Settings, recover, render
from mixprint.audio.files import read_audio, write_audio
from mixprint.cli import app
from mixprint.errors import AudioError, ConfigError, DataError
from tests.console.test_files import RATE_HZ, write_noise


def test_a_mix_is_that_of_the_command(tmp_path: Path) -> None:
    song, out = tmp_path / "song", tmp_path / "out"
    for seed, name in enumerate(("bass", "drums")):
        write_noise(song / f"{name}.wav", 2.0 - seed, rate_hz=48_000, seed=seed)
    options = ["--output_dir", str(out), "--set", "drums.pan=0.5", "--set", "bass.width=0"]
    assert CliRunner().invoke(app, ["console", "render", str(song), *options]).exit_code == 0
    settings = Settings.load(out / "settings.json")
    mixed = render(song, settings)
    assert (mixed.sample_rate_hz, mixed.audio.dtype) == (48_000, np.float32)
    written_CT = read_audio(out / "mix.wav", sample_rate_hz=48_000).numpy()
    np.testing.assert_array_equal(mixed.audio, written_CT)
    np.testing.assert_allclose(sum(mixed.tracks.values()), mixed.audio, atol=1e-6)
    # Files, arrays and tensors, in any order.
    drums_CT = read_audio(song / "drums.wav", sample_rate_hz=48_000)
    for drums in (song / "drums.wav", drums_CT, drums_CT.numpy()):
        tracks = {"drums": drums, "bass": str(song / "bass.wav")}
        again = render(tracks, settings, sample_rate_hz=48_000)
        np.testing.assert_array_equal(again.audio, mixed.audio)


def test_a_mix_of_arrays_is_taken_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    parts = {
        name: 0.1
        * torch.randn(2, 2 * RATE_HZ, generator=generator)
        * torch.rand(8, generator=generator).repeat_interleave(RATE_HZ // 4)
        for name in ("a", "b")
    }
    mix_CT = -(0.5 * parts["a"] + torch.tensor([[0.3], [1.0]]) * parts["b"]).roll(20, -1)
    found = recover(parts, mix_CT.numpy(), num_steps=2, locked=["*.room", "a.pan"])
    assert (found.alignment.polarity, round(found.alignment.delay_s * RATE_HZ)) == (-1, 20)
    assert found.settings["b.pan"] == pytest.approx(0.7, abs=0.1)
    assert found.settings["a.pan"] == 0.0
    assert 0.0 < found.distance < 0.5


@pytest.mark.parametrize(
    ("tracks", "error", "message"),
    [
        ({}, ConfigError, "tracks: expected 1 to 32, found 0"),
        ({"a.b": torch.zeros(2, 9)}, ConfigError, "without dots"),
        ({"a": torch.zeros(3, 9)}, ValueError, "a: expected .channels, samples. of 1 or 2"),
        ({"a": torch.zeros(2, 0)}, AudioError, "a: expected audio, found 0 samples"),
        ({"a": "nowhere.wav"}, AudioError, "nowhere.wav: expected audio"),
        ({"a": torch.zeros(2, 50_000)}, DataError, "mix: expected sound, found silence in the tr"),
    ],
    ids=["none", "dots", "channels", "empty", "missing", "silent"],
)
def test_what_cannot_be_taken_apart_is_refused(
    tracks: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        recover(tracks, torch.rand(2, 50_000))


def test_settings_of_other_tracks_are_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.zeros(2, 100), RATE_HZ)
    with pytest.raises(ConfigError, match="expected those of the tracks a, found those of b"):
        render([tmp_path / "a.wav"], Settings.neutral(["b"]))
