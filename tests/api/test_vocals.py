"""One voice, mixed: `process_vocal` and `AudioProcessor`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mixprint import AudioProcessor, process_vocal
from mixprint.api.vocals import FALLBACK_NOTE, SILENT_NOTE
from mixprint.audio.files import read_audio, write_audio
from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.controller import shipped
from mixprint.errors import AudioError, CheckpointError, ConfigError, DataError
from tests.api.tiny_controller import write_controller
from tests.console.test_files import RATE_HZ, write_noise


@pytest.fixture(autouse=True)
def none_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "SHIPPED_CONTROLLER", tmp_path / "shipped" / "controller")


def noise(num_samples: int = RATE_HZ) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def test_a_voice_is_mixed_by_rule_where_no_controller_is_there(tmp_path: Path) -> None:
    write_noise(tmp_path / "voice.wav", 1.0)
    done = process_vocal(tmp_path / "voice.wav", out=tmp_path / "out")
    assert (done.way, done.notes, done.spread) == ("rule", (FALLBACK_NOTE,), None)
    assert done.audio.shape == (2, RATE_HZ)
    assert any("LUFS" in words or "dBTP" in words for words in done.words)
    mix_CT = read_audio(tmp_path / "out" / "mix.wav")
    assert torch.allclose(mix_CT, torch.from_numpy(done.audio), atol=1e-6)
    assert Settings.load(tmp_path / "out" / "settings.json").tracks == done.settings.tracks
    assert f"## Why\n\n- {done.words[0]}" in (tmp_path / "out" / "sheet.md").read_text()
    # Asked for, there is nothing to remark; and the settings can be changed and rendered again.
    asked = process_vocal(tmp_path / "voice.wav", use_ml_model=False)
    assert asked.notes == ()
    assert np.array_equal(asked.audio, done.audio)
    # What lies in the folder is found out before any work, and no file that is read is lost.
    with pytest.raises(DataError, match="a mix of the console of another call"):
        process_vocal(tmp_path / "missing.wav", out=tmp_path / "out")
    with pytest.raises(DataError, match="which would be written over"):
        process_vocal(
            noise(), reference=tmp_path / "out" / "mix.wav", out=tmp_path / "out", overwrite=True
        )
    louder = process_vocal(
        tmp_path / "voice.wav", settings=done.settings.edit({"vocals.fader_db": "+=6"})
    )
    assert louder.way == "settings"
    assert np.allclose(louder.audio, 10 ** (6 / 20) * done.audio, atol=1e-5)


def test_a_voice_is_mixed_by_a_controller_with_or_without_a_reference(
    tmp_path: Path, loaded: list[object]
) -> None:
    folder = write_controller(tmp_path / "controller")
    alone = process_vocal(noise(), controller=folder, out=tmp_path / "out")
    assert alone.way == "controller"
    assert alone.spread is not None
    assert any("+-" in words for words in alone.words)
    kept = Spread.load(tmp_path / "out" / "spread.json")
    assert kept.of(alone.settings) == alone.spread.of(alone.settings)
    assert loaded == []
    reference = write_noise(tmp_path / "song.wav", 1.0, seed=3)
    like = process_vocal(noise(), controller=folder, reference=tmp_path / "song.wav")
    assert len(loaded) == 1
    assert like.settings != alone.settings
    # An array of the same song, and its stems, which need no separator.
    same = process_vocal(noise(), controller=folder, reference=reference)
    assert same.settings == like.settings
    # An array has the rate that is told, whatever that of the voice's file is.
    write_audio(tmp_path / "voice.wav", torch.from_numpy(noise(12_000))[None], 24_000)
    by_file, by_array = (
        process_vocal(tmp_path / "voice.wav", controller=folder, reference=given).settings
        for given in (tmp_path / "song.wav", reference)
    )
    assert by_array == by_file
    stems = dict.fromkeys(("vocals", "bass", "drums", "other"), reference / 4)
    assert process_vocal(noise(), controller=folder, reference=stems).settings == like.settings
    with pytest.raises(CheckpointError, match="make train-controller"):
        process_vocal(noise(), reference=tmp_path / "song.wav")
    with pytest.raises(ConfigError, match="expected none for settings by rule"):
        process_vocal(noise(), reference=tmp_path / "song.wav", use_ml_model=False)
    with pytest.raises(ConfigError, match="expected those of one track, found 2"):
        process_vocal(noise(), settings=Settings.neutral(["a", "b"]))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((RATE_HZ,), np.float64),
        ((1, RATE_HZ), np.float32),
        ((2, RATE_HZ), np.float32),
        ((RATE_HZ, 2), np.int16),
        ((RATE_HZ, 1), np.int32),
    ],
)
def test_an_application_gets_back_what_it_gave(shape: tuple[int, ...], dtype: type) -> None:
    voice = noise()
    scale = -float(np.iinfo(dtype).min) if np.issubdtype(dtype, np.integer) else 1.0
    axis = 0 if shape[0] != RATE_HZ else -1
    given = voice if len(shape) == 1 else np.stack([voice] * min(shape), axis=axis)
    given = (given * scale).astype(dtype)
    processor = AudioProcessor(use_ml_model=False)
    made = processor.process(given, RATE_HZ)
    assert (made.shape, made.dtype) == (shape, np.dtype(dtype))
    assert processor.last is not None
    # The right channel where there is one: not the left one twice, nor samples as channels.
    wanted = processor.last.audio[1 if min(shape) == 2 else slice(None)]
    wanted = wanted if wanted.ndim == 1 else wanted.mean(axis=0)
    last = made if made.ndim == 1 else made.take(-1, axis=axis)
    assert np.allclose(last / scale, wanted, atol=1e-4)


def test_what_an_application_may_give_by_mistake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write_song: Callable[..., Path]
) -> None:
    processor = AudioProcessor()  # none is shipped
    silence = np.zeros((2, 1_000), np.float32)
    assert np.array_equal(processor.process(silence, RATE_HZ), silence)
    assert processor.last is not None
    assert processor.last.notes == (SILENT_NOTE,)
    short = processor.process(noise(500), 8_000)
    assert short.shape == (500,)
    assert np.isfinite(short).all()
    assert processor.last.notes == (FALLBACK_NOTE,)
    assert FALLBACK_NOTE in caplog.text
    with pytest.raises(AudioError, match="NaN"):
        processor.process(np.full(1_000, np.nan), RATE_HZ)
    with pytest.raises(AudioError, match="found 0 samples"):
        processor.process(np.zeros(0, np.float32), RATE_HZ)
    with pytest.raises(AudioError, match="found 0 samples"):
        processor.process(np.zeros((0, 2), np.float32), RATE_HZ)
    for wrong in (np.zeros((3, 1_000)), np.zeros((2, 2, 9)), np.zeros(9, np.uint8), np.zeros(())):
        with pytest.raises(ValueError, match="expected floats or 16 or 32 bit"):
            processor.process(wrong, RATE_HZ)
    with pytest.raises(ConfigError, match="expected 8000 to 384000, found 0"):
        processor.process(noise(), 0)
    with pytest.raises(CheckpointError, match="nowhere"):
        AudioProcessor(model_path=tmp_path / "nowhere")
