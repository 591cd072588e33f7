"""Stems, features and embeddings for programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from mixprint import embed, measure, separate
from mixprint.audio.files import read_audio, write_audio
from mixprint.cli import app, exits
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.errors import AudioError, ConfigError
from mixprint.features import FEATURE_NAMES, extract
from mixprint.separation import Separator
from mixprint.stems import STEMS
from mixprint.weights import SHIPPED_ENCODER
from tests.cli.stand_ins import QuarterSeparator
from tests.separation.diffusion.trials import separator as diffusion_separator

MakeAudio = Callable[..., Tensor]


def test_stems_are_those_that_the_command_writes(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "setup_logging", lambda: None)
    song = write_song(tmp_path / "a.wav", 1.5)
    arguments = ["separate", str(song), "--out", str(tmp_path), "--device", "cpu"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    stems = separate(song, device="cpu")
    assert tuple(stems) == STEMS
    for stem, audio_CT in stems.items():
        written_CT = read_audio(tmp_path / "a" / f"{stem}.wav").numpy()
        assert audio_CT.dtype == np.float32
        np.testing.assert_array_equal(audio_CT, written_CT)


def test_a_file_an_array_and_a_tensor_are_one_song(
    tmp_path: Path, make_audio: MakeAudio, loaded: list[QuarterSeparator]
) -> None:
    audio_CT = make_audio(4.0, sample_rate_hz=48_000)
    write_audio(tmp_path / "a.wav", audio_CT, 48_000, subtype="FLOAT")
    for song in (audio_CT, audio_CT.numpy(), audio_CT.double().requires_grad_()):
        stems = separate(song, sample_rate_hz=48_000)
        np.testing.assert_array_equal(
            4 * stems["bass"], read_audio(tmp_path / "a.wav", sample_rate_hz=44_100).numpy()
        )
    assert len(loaded) == 1


def test_stems_are_those_that_the_separator_has(make_audio: MakeAudio) -> None:
    audio_CT = make_audio(0.2)
    two = Separator(diffusion_separator(steps=1))
    stems = separate(audio_CT, separator=two)
    assert list(stems) == ["vocals", "instrumental"]
    np.testing.assert_allclose(sum(stems.values()), audio_CT.numpy(), atol=1e-6)


def test_what_needs_four_stems_divides_the_instrumental(make_audio: MakeAudio) -> None:
    audio_CT = make_audio(3.0)
    network = diffusion_separator(steps=1)
    known = measure(
        separate(audio_CT, separator=Separator(network.configured(num_stems=4))),
        segment_duration=3.0,
    )
    found = measure(audio_CT, segment_duration=3.0, separator=Separator(network))
    assert found == pytest.approx(known, rel=0.02, abs=0.02)


def test_one_channel_is_on_both_sides(make_audio: MakeAudio, loaded: list[Any]) -> None:
    mono_T = make_audio(0.5)[0]
    for song in (mono_T, mono_T.unsqueeze(0)):
        np.testing.assert_array_equal(separate(song)["drums"], (mono_T / 4).expand(2, -1).numpy())


def test_features_are_those_of_the_segment(make_audio: MakeAudio, loaded: list[Any]) -> None:
    audio_CT = make_audio(5.0)
    found = measure(audio_CT, segment_duration=3.0, segment_offset=1.5)
    segment_SCT = (audio_CT[:, 66_150:198_450] / 4).expand(4, -1, -1)
    expected_D = extract(segment_SCT.unsqueeze(0), 44_100)[0]
    assert found == dict(zip(FEATURE_NAMES, expected_D.tolist(), strict=True))


def test_stems_are_not_separated_again(make_audio: MakeAudio, loaded: list[Any]) -> None:
    audio_CT = make_audio(3.0)
    stems = separate(audio_CT)
    assert measure(dict(reversed(stems.items())), segment_duration=3.0) == measure(
        audio_CT, segment_duration=3.0, separator=loaded[0]
    )
    loaded.clear()
    measure(stems, segment_duration=3.0, separator="another")
    assert loaded == []


def test_an_embedding_is_that_of_the_encoder(make_audio: MakeAudio, loaded: list[Any]) -> None:
    audio_CT = make_audio(3.5)
    found_E = embed(audio_CT, segment_duration=3.0, segment_offset=0.5, device="cpu")
    encoder = load_checkpoint(SHIPPED_ENCODER)
    segment_SCT = (audio_CT[:, 22_050:] / 4).expand(4, -1, -1)
    np.testing.assert_array_equal(found_E, encoder.embed(segment_SCT.unsqueeze(0), 44_100)[0])
    assert np.linalg.norm(found_E) == pytest.approx(1.0, abs=1e-6)
    same_E = embed(separate(audio_CT), segment_duration=3.0, segment_offset=0.5, encoder=encoder)
    np.testing.assert_array_equal(found_E, same_E)


@pytest.mark.parametrize(
    ("audio", "error", "message"),
    [
        (torch.zeros(3, 200_000), ValueError, r"1 or 2 channels, got \(3, 200000\)"),
        (torch.zeros(1, 2, 9), ValueError, "1 or 2 channels"),
        (np.zeros((2, 200_000), np.int16), ValueError, "floats at full scale"),
        (torch.full((2, 200_000), torch.nan), AudioError, "array: expected finite"),
        (torch.zeros(2, 100_000), AudioError, "3 s from 0 s on, found 2.268 s"),
        (torch.zeros(2, 0), AudioError, "found 0.000 s"),
        ({"vocals": torch.zeros(2, 200_000)}, ValueError, "stems must be exactly"),
        ("nowhere.wav", AudioError, "nowhere.wav: expected audio"),
    ],
    ids=["channels", "axes", "integers", "nan", "short", "empty", "stems", "file"],
)
def test_what_is_no_song_is_refused(
    loaded: list[Any], audio: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(audio, segment_duration=3.0)


def test_an_empty_song_and_a_short_segment_are_refused(loaded: list[Any]) -> None:
    with pytest.raises(AudioError, match="expected audio, found 0 samples"):
        separate(torch.zeros(2, 0))
    for function in (measure, embed):
        with pytest.raises(ConfigError, match="segment_duration: expected at least"):
            function(torch.zeros(2, 200_000), segment_duration=1.0)
