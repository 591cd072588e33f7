"""Distances of rivals' clips, in closed form."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs
from mixprint.errors import DataError
from mixprint.evaluation.rivals import (
    RIVALS,
    TARGET,
    at_reference_loudness,
    measure_clip,
    paper_distance,
    rival_clips,
    summarise_clips,
    through_mp3,
)
from mixprint.stems import SAMPLE_RATE_HZ


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, 2 * SAMPLE_RATE_HZ, generator=generator)


def test_the_level_means_nothing_and_equal_audio_has_no_distance() -> None:
    audio_CT = noise(1)
    assert paper_distance(0.25 * audio_CT, audio_CT) == pytest.approx(0, abs=1e-3)
    assert loudness_lufs(at_reference_loudness(audio_CT), SAMPLE_RATE_HZ) == pytest.approx(-23.0)


def test_channels_of_other_levels_have_a_known_distance() -> None:
    """Of one sound on both sides, one is turned up by g and one down by h, g^2 + h^2 = 2.

    All magnitudes differ by g and h: the convergence is the root mean square of g - 1 and h - 1,
    the logarithms differ by ln g and ln h.
    """
    mono_CT = noise(2)[:1].expand(2, -1)
    g = 1.2
    h = math.sqrt(2 - g**2)
    expected = math.sqrt(((g - 1) ** 2 + (h - 1) ** 2) / 2) + (math.log(g) - math.log(h)) / 2
    found = paper_distance(mono_CT * torch.tensor([[g], [h]]), mono_CT)
    assert found == pytest.approx(expected, rel=1e-3)


def test_mp3_keeps_time_and_sound() -> None:
    time_T = torch.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    audio_CT = 0.2 * torch.sin(2 * math.pi * torch.tensor([[440.0], [660.0]]) * time_T)
    decoded_CT = through_mp3(audio_CT)
    assert decoded_CT.shape == audio_CT.shape
    made_CT, given_CT = (x_CT[:, 4_410:-4_410] for x_CT in (decoded_CT, audio_CT))
    # The encoder turns all down by 0.26 dB, which the distance makes up for.
    gain = (made_CT * given_CT).sum() / given_CT.square().sum()
    assert 20 * math.log10(float(gain)) == pytest.approx(0.0, abs=0.3)
    error = (made_CT - gain * given_CT).square().mean() / given_CT.square().mean()
    assert 10 * math.log10(float(error)) < -60


def test_clips_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected clips as <clip>/target\.mp3, found none"):
        rival_clips(tmp_path)
    (tmp_path / "01").mkdir()
    (tmp_path / "01" / f"{TARGET}.mp3").touch()
    with pytest.raises(DataError, match=r"01: expected original\.mp3"):
        rival_clips(tmp_path)


def test_the_published_clips_measure_as_published(shared_dir: Path) -> None:
    """Doing nothing 1.30, StemFX 1.18, as shared/audio/rivals/README.md says of the first clip."""
    clip = rival_clips(shared_dir / "audio" / "rivals")[0]
    rows = measure_clip(clip, {})
    (nothing, free, *others) = summarise_clips(rows)
    assert len(others) == len(RIVALS) - 2
    assert nothing["mean"] == pytest.approx(1.30, abs=0.006)
    assert free["clips"] == {"01": pytest.approx(1.18, abs=0.006)}
