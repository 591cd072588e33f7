"""Training examples: determinism, and each alteration alone."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile as sf
import torch

from mixprint.errors import ConfigError, DataError
from mixprint.separation.remix import (
    RemixConfig,
    Remixer,
    find_songs,
    read_stems,
    split_songs,
)
from mixprint.stems import STEMS

NUM_SAMPLES = 8000
PLAIN = RemixConfig(
    **{
        field.name: 0.0
        for field in dataclasses.fields(RemixConfig)
        if field.name.endswith("_probability")
    },
    gain_range_db=0.0,
)


@pytest.fixture
def songs_dir(tmp_path: Path, make_songs: Callable[..., Path]) -> Path:
    return make_songs(tmp_path / "songs", 4, compositions=3)


def _remixer(folder: Path, seed: int = 0, **changes: float) -> Remixer:
    config = dataclasses.replace(PLAIN, **changes)
    return Remixer(find_songs(folder), config, num_samples=NUM_SAMPLES, seed=seed)


def test_batches_depend_on_seed_and_step_alone(songs_dir: Path) -> None:
    first, again = (
        Remixer(find_songs(songs_dir), RemixConfig(), num_samples=NUM_SAMPLES, seed=1)
        for _ in range(2)
    )
    batches = [first.batch(step, 2) for step in range(3)]
    assert torch.equal(again.batch(2, 2), batches[2])
    assert torch.equal(again.equalisers(2, 2, 9), first.equalisers(2, 2, 9))
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(_remixer(songs_dir, seed=2).batch(0, 2), batches[0])


def test_without_alterations_an_example_is_an_excerpt_of_one_song(songs_dir: Path) -> None:
    example_SCT = _remixer(songs_dir).batch(0, 1)[0]
    songs_SCT = [read_stems(song) for song in find_songs(songs_dir)]
    first = example_SCT[0, 0, 0]
    matches = [
        stems_SCT[..., start : start + NUM_SAMPLES]
        for stems_SCT in songs_SCT
        for start in (stems_SCT[0, 0] == first).nonzero().flatten().tolist()
        if start + NUM_SAMPLES <= stems_SCT.shape[-1]
    ]
    assert any(torch.equal(example_SCT, match) for match in matches)


def test_remixed_stems_have_the_level_that_was_set(songs_dir: Path) -> None:
    remixer = _remixer(
        songs_dir,
        remix_probability=1.0,
        speed_probability=1.0,
        double_other_probability=1.0,
        saturation_probability=1.0,
        level_dbfs=-20.0,
        level_range_db=0.0,
    )
    rms = remixer.batch(0, 3).square().mean(dim=(2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.1), rtol=1e-4, atol=0)


def test_one_stem_at_least_stays(songs_dir: Path) -> None:
    batch_BSCT = _remixer(songs_dir, dropout_probability=1.0).batch(0, 8)
    assert (batch_BSCT.abs().amax(dim=(2, 3)) > 0).sum(dim=1).tolist() == [1] * 8


def test_polarity_sides_and_width(songs_dir: Path) -> None:
    plain = _remixer(songs_dir).batch(0, 1)
    inverted = _remixer(songs_dir, invert_probability=1.0).batch(0, 1)
    torch.testing.assert_close(inverted, -plain)
    swapped = _remixer(songs_dir, swap_probability=1.0).batch(0, 1)
    torch.testing.assert_close(swapped, plain.flip(2))
    mono = _remixer(songs_dir, width_probability=1.0, width_limit=0.0).batch(0, 1)
    torch.testing.assert_close(mono, plain.mean(dim=2, keepdim=True).expand_as(plain))


def test_equalisers_stay_within_their_range(songs_dir: Path) -> None:
    assert torch.equal(_remixer(songs_dir).equalisers(0, 2, 2049), torch.ones(2, 4, 2049))
    gain = _remixer(songs_dir, equaliser_probability=1.0, equaliser_range_db=6.0)
    gain_BSF = gain.equalisers(0, 4, 2049)
    assert gain_BSF.log10().abs().max() * 20 <= 6.0 + 1e-4
    assert gain_BSF.std() > 0.05
    # Smooth: a third of an octave changes it by less than the whole range.
    step_db = 20 * (gain_BSF[..., 1260] / gain_BSF[..., 1000]).log10()
    assert step_db.abs().max() < 6.0


def test_lowpass_cuts_all_stems_at_one_frequency(songs_dir: Path) -> None:
    remixer = _remixer(songs_dir, lowpass_probability=1.0)
    remixer.config = dataclasses.replace(remixer.config, lowpass_hz=(11_025.0, 11_025.0))
    expected = torch.ones(2, 4, 2049)
    expected[..., 1025:] = 0
    assert torch.equal(remixer.equalisers(0, 2, 2049), expected)


def test_split_keeps_compositions_together(songs_dir: Path) -> None:
    songs = find_songs(songs_dir)
    train, valid = split_songs(songs, 1)
    assert {s.composition for s in train}.isdisjoint(s.composition for s in valid)
    assert len(train) + len(valid) == 4
    assert split_songs(list(reversed(songs)), 1)[1] == list(reversed(valid))
    with pytest.raises(DataError, match="hold out"):
        split_songs(songs, 3)


def test_mono_stems_are_read_as_stereo(tmp_path: Path) -> None:
    for stem in STEMS:
        sf.write(tmp_path / f"{stem}.wav", torch.ones(100).numpy() * 0.5, 44_100)
    assert read_stems(find_songs(tmp_path)[0], 10, 20).shape == (4, 2, 20)


def test_what_is_wrong_with_the_data_is_said(
    tmp_path: Path, make_songs: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match="found none"):
        find_songs(tmp_path)
    make_songs(tmp_path, 1, duration_s=0.1)
    with pytest.raises(DataError, match="at least"):
        _remixer(tmp_path)
    sf.write(tmp_path / "song0" / "bass.wav", torch.zeros(100, 2).numpy(), 48_000)
    with pytest.raises(DataError, match="48000"):
        find_songs(tmp_path)
    (tmp_path / "song0" / "bass.wav").unlink()
    with pytest.raises(DataError, match=r"bass\.wav"):
        find_songs(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"dropout_probability": 1.5}, {"gain_range_db": -1.0}, {"lowpass_hz": (2.0, 1.0)}],
)
def test_wrong_values_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RemixConfig(**wrong)


def test_linear_speed_change_keeps_the_length(songs_dir: Path) -> None:
    remixer = _remixer(songs_dir, remix_probability=1.0, speed_probability=1.0)
    assert remixer.batch(0, 2).shape == (2, 4, 2, NUM_SAMPLES)
    assert math.isfinite(remixer.batch(1, 2).sum().item())
