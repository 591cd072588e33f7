import math

import pytest
import torch

from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.evaluation.baselines import NUM_MELS, log_mel_mean, untrained_encoder
from mixprint.features import FEATURE_NAMES, Standardisation

RATE_HZ = 44_100


def test_log_mel_of_silence_and_of_a_level() -> None:
    noise_BSCT = 0.1 * torch.randn(2, 4, 2, RATE_HZ, generator=torch.Generator().manual_seed(0))
    noise_BSCT[:, 1] = 0
    level_BSCM = log_mel_mean(noise_BSCT, RATE_HZ).view(2, 4, 2, NUM_MELS)
    assert (level_BSCM[:, 1] == -80).all()
    # Ten times the amplitude is 20 dB more, far above the floor.
    louder_BSCM = log_mel_mean(10 * noise_BSCT, RATE_HZ).view(2, 4, 2, NUM_MELS)
    rise = (louder_BSCM - level_BSCM)[:, 0]
    torch.testing.assert_close(rise, torch.full_like(rise, 20.0), atol=0.05, rtol=0)


def test_log_mel_knows_frequency_and_side() -> None:
    time_T = torch.arange(RATE_HZ) / RATE_HZ
    stems_BSCT = torch.zeros(1, 4, 2, RATE_HZ)
    stems_BSCT[0, 2, 1] = torch.sin(2 * math.pi * 1_000 * time_T)
    level_SCM = log_mel_mean(stems_BSCT, RATE_HZ).view(4, 2, NUM_MELS)
    highest = int(level_SCM[2, 1].argmax())
    # HTK mels: 1 kHz is mel 1000 of 3923 at half the rate, so the 16th of 64 centres.
    assert highest == round(1_000 / (2595 * math.log10(1 + RATE_HZ / 2 / 700)) * 65) - 1
    assert level_SCM[2, 1, highest] > -10
    assert (level_SCM[2, 0] == -80).all()


def make_encoder() -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        sample_rate_hz=RATE_HZ,
        n_fft=1024,
        hop_samples=512,
        num_mels=16,
        band_mels=8,
        band_hop_mels=8,
        conv_channels=2,
        embedding_dim=8,
        conditioning="film",
        film_dropout=0.0,
    )
    ones_D = torch.ones(len(FEATURE_NAMES))
    standardisation = Standardisation(0 * ones_D, ones_D)
    return Encoder(MixEncoder(config), standardisation, metadata={}, fingerprint="x")


def test_untrained_weights_depend_on_the_seed_alone() -> None:
    encoder = make_encoder()
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    state = torch.get_rng_state()
    first, second, other = (untrained_encoder(encoder, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in before.items():
        assert torch.equal(encoder.model.state_dict()[name], value)
        assert torch.equal(first.model.state_dict()[name], second.model.state_dict()[name])
    weights = [e.model.state_dict()["project.weight"] for e in (encoder, first, other)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert first.fingerprint != other.fingerprint != encoder.fingerprint


def test_both_embed_the_same_audio() -> None:
    encoder = make_encoder()
    stems_BSCT = torch.randn(1, 4, 2, 3 * RATE_HZ, generator=torch.Generator().manual_seed(1))
    trained_BE = encoder.embed(stems_BSCT, RATE_HZ)
    untrained_BE = untrained_encoder(encoder, 1).embed(stems_BSCT, RATE_HZ)
    assert untrained_BE.norm().item() == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(trained_BE, untrained_BE)
