"""The diffusion separator in `mixprint/weights` really separates; figures: docs/diffusion.md."""

from pathlib import Path
from statistics import fmean

import pytest
from torch import Tensor

from mixprint.separation import Separator, load_separator
from mixprint.separation.diffusion.counterfactual import (
    Excerpt,
    calibration,
    draw_samples,
    level_db,
    other_vocals,
    read_excerpts,
    vocals_of,
)
from mixprint.separation.metrics import utterance_sdr
from mixprint.separation.network import DIFFUSION_WEIGHTS
from mixprint.separation.source import SeparatorSource
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis import DataConfig, generate

NUM_SAMPLES = 4


def by_diffusion(steps: int) -> Separator:
    sampling = {"steps": steps}
    return SeparatorSource(method="diffusion", sampling=sampling, num_stems=2, device="cpu").load()


@pytest.fixture(scope="module")
def excerpts(tmp_path_factory: pytest.TempPathFactory) -> list[Excerpt]:
    """Songs of a seed that no training has met."""
    folder = tmp_path_factory.mktemp("songs")
    config = DataConfig(num_songs=4, styles_per_song=1, duration_s=6.0, seed=99)
    generate(folder, config, num_workers=2)
    return read_excerpts([folder], 5.0, SAMPLE_RATE_HZ)


def mean_sdr(separator: Separator, excerpts: list[Excerpt]) -> float:
    def sdr(excerpt: Excerpt) -> float:
        vocals_CT = vocals_of(separator, excerpt.mixture())
        return utterance_sdr(vocals_CT, excerpt.vocals_CT).item()

    return fmean(map(sdr, excerpts))


def test_it_is_small() -> None:
    assert DIFFUSION_WEIGHTS.stat().st_size <= 6_000_000


def test_one_step_separates_like_scnet(excerpts: list[Excerpt]) -> None:
    assert mean_sdr(by_diffusion(1), excerpts) >= mean_sdr(load_separator(), excerpts) - 0.3


def test_it_finds_far_fewer_vocals_than_scnet_where_there_are_none(
    excerpts: list[Excerpt], shared_dir: Path
) -> None:
    def leak_db(separator: Separator, instrumental_CT: Tensor) -> float:
        return level_db(vocals_of(separator, instrumental_CT), instrumental_CT)

    def better_db(instrumental_CT: Tensor) -> float:
        return leak_db(load_separator(), instrumental_CT) - leak_db(
            by_diffusion(1), instrumental_CT
        )

    assert fmean(better_db(excerpt.instrumental_CT) for excerpt in excerpts) >= 25.0
    (real,) = read_excerpts([shared_dir / "audio" / "musdbhq"], 6.0, SAMPLE_RATE_HZ)
    assert better_db(real.instrumental_CT) >= 8.0


def test_instrumentals_change_little_when_others_sing(excerpts: list[Excerpt]) -> None:
    one = by_diffusion(1)

    def change_db(number: int, excerpt: Excerpt) -> float:
        others_CT = other_vocals(excerpts, number)
        others_CT = others_CT * (excerpt.vocals_CT.norm() / others_CT.norm())
        first_CT, second_CT = (
            mixture_CT - vocals_of(one, mixture_CT)
            for mixture_CT in (excerpt.mixture(), excerpt.instrumental_CT + others_CT)
        )
        return level_db(second_CT - first_CT, excerpt.instrumental_CT)

    assert fmean(change_db(*numbered) for numbered in enumerate(excerpts)) <= -9.0


def test_samples_differ_about_as_much_as_they_err(excerpts: list[Excerpt]) -> None:
    few = by_diffusion(8)
    ratios, gains_db = [], []
    for excerpt in excerpts[1:3]:
        samples_KCT = draw_samples(few, excerpt.mixture(), NUM_SAMPLES)
        ratios.append(calibration(samples_KCT, excerpt.vocals_CT))
        one, mean = (
            utterance_sdr(vocals_CT, excerpt.vocals_CT).item()
            for vocals_CT in (samples_KCT[0], samples_KCT.mean(dim=0))
        )
        gains_db.append(mean - one)
    assert 0.4 <= fmean(ratios) <= 2.0
    # In theory 3 dB by many samples; 2 dB by four of them.
    assert 0.5 < fmean(gains_db) < 3.0
