"""Training examples: determinism, and each alteration alone."""

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import soundfile as sf
import torch

from mixprint.errors import ConfigError, DataError
from mixprint.separation.material.pool import FixedPool
from mixprint.separation.material.remix import Remixer, stretched
from mixprint.separation.material.songs import find_songs, read_stems
from mixprint.stems import STEMS
from tests.separation.trials import make_songs, separator_config

NUM_SAMPLES = 8000
CONFIG = separator_config().remix
PLAIN = dataclasses.replace(
    CONFIG,
    **{name: 0.0 for name in vars(CONFIG) if name.endswith("_probability")},
    gain_range_db=0.0,
)


@pytest.fixture
def songs_dir(tmp_path: Path) -> Path:
    return make_songs(tmp_path / "songs", 4, compositions=3)


def _remixer(folder: Path, seed: int = 0, **changes: float) -> Remixer:
    config = dataclasses.replace(PLAIN, **changes)
    pool = FixedPool(find_songs(folder))
    return Remixer(pool, config, num_samples=NUM_SAMPLES, seed=seed)


def test_batches_depend_on_seed_and_step_alone(songs_dir: Path) -> None:
    first, again = (
        Remixer(FixedPool(find_songs(songs_dir)), CONFIG, num_samples=NUM_SAMPLES, seed=1)
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


def test_parts_of_a_batch_are_those_of_the_whole(songs_dir: Path) -> None:
    remixer = Remixer(FixedPool(find_songs(songs_dir)), CONFIG, num_samples=NUM_SAMPLES, seed=1)
    for whole, parts in (
        (remixer.batch(3, 4), [remixer.batch(3, 2, first) for first in (0, 2)]),
        (remixer.equalisers(3, 4, 9), [remixer.equalisers(3, 2, 9, first) for first in (0, 2)]),
    ):
        assert torch.equal(whole, torch.cat(parts))


def test_a_shifted_stem_is_taken_from_nearby(songs_dir: Path) -> None:
    changes = {"shift_probability": 1.0, "shift_range_s": 0.01}
    example_SCT = _remixer(songs_dir, **changes).batch(0, 1)[0]
    whole = _remixer(songs_dir).batch(0, 1)[0]
    songs_SCT = [read_stems(song) for song in find_songs(songs_dir)]
    starts = []
    for stem in range(4):
        found = [
            int((song_SCT[stem, 0] == example_SCT[stem, 0, 0]).nonzero()[0])
            for song_SCT in songs_SCT
            if (song_SCT[stem, 0, : -NUM_SAMPLES + 1] == example_SCT[stem, 0, 0]).any()
        ]
        starts.append(found[0])
    assert len(set(starts)) > 1
    assert max(starts) - min(starts) <= 2 * 441
    assert whole.shape == example_SCT.shape


def _pitch_hz(audio_CT: torch.Tensor) -> float:
    """Find the strongest frequency, away from the ends."""
    middle_T = audio_CT[0, len(audio_CT[0]) // 4 : -len(audio_CT[0]) // 4]
    power_F = torch.fft.rfft(middle_T * torch.hann_window(len(middle_T))).abs()
    return float(power_F.argmax()) * 44_100 / len(middle_T)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_stretching_keeps_the_pitch(factor: float) -> None:
    time_T = torch.arange(44_100) / 44_100
    sine_CT = 0.3 * torch.sin(2 * math.pi * 1000 * time_T).expand(2, -1)
    out_CT = stretched(sine_CT, round(44_100 * factor))
    assert out_CT.shape == (2, round(44_100 * factor))
    assert _pitch_hz(out_CT) == pytest.approx(1000, abs=3)
    assert out_CT[:, 8_000:-8_000].square().mean().sqrt().item() == pytest.approx(
        0.3 / math.sqrt(2), rel=0.05
    )


def test_stretching_by_nothing_changes_nothing() -> None:
    noise_CT = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stretched(noise_CT, 20_000), noise_CT, rtol=0, atol=1e-5)
    assert torch.equal(stretched(torch.zeros(2, 5_000), 4_000), torch.zeros(2, 4_000))


def test_pitch_and_tempo_are_changed_apart(tmp_path: Path) -> None:
    time_T = torch.arange(2 * 44_100) / 44_100
    # A tone whose level doubles in a second.
    tone_T = 0.1 * torch.sin(2 * math.pi * 1000 * time_T) * 2**time_T
    for stem in STEMS:
        (tmp_path / "song").mkdir(exist_ok=True)
        sf.write(tmp_path / "song" / f"{stem}.wav", tone_T.numpy(), 44_100, subtype="FLOAT")

    def make_clip(**changes: float) -> torch.Tensor:
        config = dataclasses.replace(PLAIN, remix_probability=1.0, **changes)
        pool = FixedPool(find_songs(tmp_path))
        return Remixer(pool, config, num_samples=44_100, seed=3).batch(0, 1)[0, 0]

    def doubling_s(audio_CT: torch.Tensor) -> float:
        early, late = (audio_CT[0, i : i + 4410].square().mean() for i in (11_025, 30_000))
        return (30_000 - 11_025) / 44_100 / (0.5 * float((late / early).log2()))

    plain, tempo = make_clip(), make_clip(tempo_probability=1.0, tempo_range=0.3)
    pitch = make_clip(pitch_probability=1.0, pitch_range_semitones=7.0)
    assert _pitch_hz(plain) == pytest.approx(1000, abs=3)
    assert doubling_s(plain) == pytest.approx(1.0, rel=0.03)
    assert _pitch_hz(tempo) == pytest.approx(1000, abs=3)
    assert abs(doubling_s(tempo) - 1) > 0.05
    assert abs(_pitch_hz(pitch) - 1000) > 30
    assert doubling_s(pitch) == pytest.approx(1.0, rel=0.03)


def test_a_broken_song_is_left_out_and_another_drawn(
    songs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    songs = find_songs(songs_dir)
    for stem in STEMS:
        audio_TC, rate_hz = sf.read(songs[0].path / f"{stem}.wav", dtype="float32")
        audio_TC[:] = math.nan
        sf.write(songs[0].path / f"{stem}.wav", audio_TC, rate_hz, subtype="FLOAT")

    def remixer(max_bad_fraction: float) -> Remixer:
        return Remixer(
            FixedPool(songs),
            PLAIN,
            num_samples=NUM_SAMPLES,
            seed=0,
            max_bad_fraction=max_bad_fraction,
        )

    with caplog.at_level(logging.WARNING, "mixprint.separation.material.remix"):
        batch = remixer(0.25).batch(0, 8)
    assert batch.isfinite().all()
    assert caplog.text.count("song0/vocals.wav: expected finite samples") == 1
    assert torch.equal(remixer(0.25).batch(0, 8), batch)
    with pytest.raises(DataError, match=r"at most 0 of 4 songs .* found 1: .*song0"):
        remixer(0.0).batch(0, 8)


def test_a_song_that_is_too_short_is_named(tmp_path: Path) -> None:
    make_songs(tmp_path, 1, duration_s=0.1)
    with pytest.raises(DataError, match=r"song0: expected at least 0\.2 s, found 0\.1 s"):
        _remixer(tmp_path).batch(0, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"dropout_probability": 1.5}, {"gain_range_db": -1.0}, {"lowpass_hz": (2.0, 1.0)}],
)
def test_wrong_values_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        dataclasses.replace(CONFIG, **wrong)


def test_linear_speed_change_keeps_the_length(songs_dir: Path) -> None:
    remixer = _remixer(songs_dir, remix_probability=1.0, speed_probability=1.0)
    assert remixer.batch(0, 2).shape == (2, 4, 2, NUM_SAMPLES)
    assert math.isfinite(remixer.batch(1, 2).sum().item())
