import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixprint.encoder.model import Film, LogMel, MixEncoder
from mixprint.encoder.settings import FEATURE_FAMILIES, EncoderConfig, TrainConfig
from mixprint.errors import ConfigError
from mixprint.features import FEATURE_NAMES

SAMPLE_RATE_HZ = 32_000
NUM_FEATURES = len(FEATURE_NAMES)


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> EncoderConfig:
    return make_config().encoder_config(SAMPLE_RATE_HZ)


def noise(num_items: int = 2, seconds: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_items, 4, 2, round(seconds * SAMPLE_RATE_HZ))
    return 0.1 * torch.randn(shape, generator=generator)


@pytest.mark.parametrize(
    ("num_mels", "starts"),
    [(128, (*range(0, 101, 10), 108)), (80, tuple(range(0, 61, 10))), (20, (0,))],
)
def test_every_mel_belongs_to_a_band(
    config: EncoderConfig, num_mels: int, starts: tuple[int, ...]
) -> None:
    banded = dataclasses.replace(config, num_mels=num_mels, band_mels=20, band_hop_mels=10)
    assert banded.band_starts == starts
    assert {m for s in starts for m in range(s, s + 20)} == set(range(num_mels))


def test_levels_follow_gain_and_silence_is_the_floor(config: EncoderConfig) -> None:
    log_mel = LogMel(config)
    loud, quiet = log_mel(noise(1)), log_mel(noise(1) / 10)
    torch.testing.assert_close(loud - quiet, torch.full_like(loud, 20 / 25), atol=1e-2, rtol=0)
    silent = log_mel(torch.zeros(1, 4, 2, 96_000))
    torch.testing.assert_close(silent, torch.full_like(silent, -2.0))


def test_a_sine_sounds_in_its_own_channel_and_mel(config: EncoderConfig) -> None:
    time = torch.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    stems = torch.zeros(1, 4, 2, len(time))
    stems[0, 2, 1] = torch.sin(2 * math.pi * 4_000 * time)
    levels = LogMel(config)(stems)[0].mean(dim=-1)
    top_mel = 2595 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    expected = 2595 * math.log10(1 + 4_000 / 700) / (top_mel / (config.num_mels + 1)) - 1
    assert abs(int(levels[5].argmax()) - expected) <= 1
    torch.testing.assert_close(levels[4], torch.full_like(levels[4], -2.0))


# Conditioning and skip: how features reach the embedding; by the last pair not at all.
WAYS = tuple(itertools.product(("film", "prepend", "none"), (True, False)))


@pytest.mark.parametrize(("conditioning", "skip"), WAYS)
def test_embeds_any_length_from_three_seconds_on_the_sphere(
    config: EncoderConfig, conditioning: str, skip: bool
) -> None:
    way = dataclasses.replace(config, conditioning=conditioning, feature_skip=skip)
    encoder = MixEncoder(way).eval()
    for seconds in (3.0, 3.7):
        embedding = encoder(noise(2, seconds), torch.zeros(2, NUM_FEATURES))
        assert embedding.shape == (2, config.embedding_dim)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("n_fft", "hop", "mels", "dim"), [(1024, 256, 128, 768), (2048, 512, 80, 512)]
)
def test_the_published_sizes_work(
    config: EncoderConfig, n_fft: int, hop: int, mels: int, dim: int
) -> None:
    sized = dataclasses.replace(
        config,
        n_fft=n_fft,
        hop_samples=hop,
        num_mels=mels,
        embedding_dim=dim,
        band_mels=20,
        band_hop_mels=10,
    )
    assert MixEncoder(sized)(noise(1), torch.zeros(1, NUM_FEATURES)).shape == (1, dim)


def test_items_of_a_batch_do_not_hear_each_other(config: EncoderConfig) -> None:
    encoder = MixEncoder(config).eval()
    stems, features = noise(3), torch.randn(3, NUM_FEATURES)
    single = torch.cat([encoder(stems[i : i + 1], features[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(encoder(stems, features), single, atol=1e-5, rtol=0)


def test_features_count_only_where_they_condition(config: EncoderConfig) -> None:
    a, b = torch.zeros(1, NUM_FEATURES), torch.ones(1, NUM_FEATURES)
    for conditioning, skip in WAYS:
        way = dataclasses.replace(config, conditioning=conditioning, feature_skip=skip)
        encoder = MixEncoder(way).eval()
        differs = not torch.equal(encoder(noise(1), a), encoder(noise(1), b))
        assert differs == ((conditioning, skip) != ("none", False)), (conditioning, skip)


@pytest.mark.parametrize(("conditioning", "skip"), WAYS[:-1])
def test_a_dropped_family_is_not_seen(config: EncoderConfig, conditioning: str, skip: bool) -> None:
    way = dataclasses.replace(config, conditioning=conditioning, feature_skip=skip)
    encoder = MixEncoder(dataclasses.replace(way, dropped_families=("stereo", "masking"))).eval()
    features = torch.zeros(1, NUM_FEATURES, requires_grad=True)
    encoder(noise(1), features).sum().backward()
    assert features.grad is not None
    endings = FEATURE_FAMILIES["stereo"] + FEATURE_FAMILIES["masking"]
    for name, gradient in zip(FEATURE_NAMES, features.grad[0].tolist(), strict=True):
        assert (gradient == 0) == name.endswith(endings), name


def test_each_feature_is_in_one_family() -> None:
    for name in FEATURE_NAMES:
        assert sum(name.endswith(endings) for endings in FEATURE_FAMILIES.values()) == 1, name


def test_gamma_varies_around_one_and_an_absurd_feature_stays_bounded(
    config: EncoderConfig,
) -> None:
    torch.manual_seed(0)
    gamma, beta = Film(NUM_FEATURES, [64], 0.0)(torch.randn(256, NUM_FEATURES))[0]
    assert gamma.mean().item() == pytest.approx(1, abs=0.1)
    assert beta.mean().item() == pytest.approx(0, abs=0.1)
    encoder = MixEncoder(config).eval()
    far = encoder(noise(1), torch.full((1, NUM_FEATURES), 1e3))
    torch.testing.assert_close(far, encoder(noise(1), torch.full((1, NUM_FEATURES), 1e6)))


def test_silence_has_a_finite_gradient(config: EncoderConfig) -> None:
    stems = torch.zeros(1, 4, 2, 96_000, requires_grad=True)
    MixEncoder(config)(stems, torch.zeros(1, NUM_FEATURES)).sum().backward()
    assert stems.grad is not None
    assert stems.grad.isfinite().all()


def test_every_weight_gets_a_gradient(config: EncoderConfig) -> None:
    for conditioning, skip in WAYS:
        way = dataclasses.replace(config, conditioning=conditioning, feature_skip=skip)
        encoder: nn.Module = MixEncoder(way)
        embedding = encoder(noise(), torch.randn(2, NUM_FEATURES))
        (embedding[0] @ embedding[1]).backward()
        for name, weight in encoder.named_parameters():
            assert weight.grad is not None, name


@pytest.mark.parametrize(
    "changes",
    [
        {"conditioning": "magic"},
        {"band_hop_mels": 13},
        {"band_mels": 25},
        {"film_dropout": 1.0},
        {"embedding_dim": 0},
        {"dropped_families": ("taste",)},
        {"hop_samples": 8_000},
    ],
)
def test_what_cannot_be_built_is_refused_by_name(
    config: EncoderConfig, changes: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("stems_shape", "features_shape"),
    [((1, 4, 2, 95_000), (1, 64)), ((1, 4, 1, 96_000), (1, 64)), ((2, 4, 2, 96_000), (1, 64))],
)
def test_wrong_shapes_are_refused(
    config: EncoderConfig, stems_shape: tuple[int, ...], features_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="must"):
        MixEncoder(config)(torch.zeros(stems_shape), torch.zeros(features_shape))
