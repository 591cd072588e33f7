import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.encoder.checkpoint import load_checkpoint, save_checkpoint
from mixprint.encoder.descriptor_model import NUM_INPUTS, DescriptorEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import ConfigError
from mixprint.features import Standardisation
from mixprint.features.schema import FEATURE_NAMES
from tests.encoder.conftest import descriptor_config, make_stems

RATE_HZ = 44_100


@pytest.fixture(scope="module", name="stems_BSCT")
def stems() -> Tensor:
    return make_stems(3, 2, sample_rate_hz=RATE_HZ)


def config(**changes: object) -> EncoderConfig:
    return dataclasses.replace(descriptor_config().encoder_config(RATE_HZ), **changes)


def make_encoder(**changes: object) -> DescriptorEncoder:
    torch.manual_seed(5)
    return DescriptorEncoder(config(**changes)).eval()


def test_levels_are_relative_to_the_stem_and_the_mix(stems_BSCT: Tensor) -> None:
    encoder = make_encoder()
    before_BSD = encoder.describe(stems_BSCT)
    assert before_BSD.shape == (2, 4, NUM_INPUTS)
    louder_BSD = encoder.describe(2 * stems_BSCT)
    change_BSD = louder_BSD - before_BSD
    # All is louder: only the loudness of the whole tells it.
    assert change_BSD[..., -1].sub(6.0206).abs().max() < 0.01
    # Levels of bands have a floor.
    assert change_BSD[..., :-1].abs().max() < 0.3
    factor_S11 = torch.tensor([2.0, 1.0, 1.0, 1.0])[:, None, None]
    balance_BSD = encoder.describe(factor_S11 * stems_BSCT) - before_BSD
    # One stem is louder: it stands out by less than 6 dB, and the others are behind it.
    assert (balance_BSD[:, 0, -2] > 0.1).all()
    assert (balance_BSD[:, 1:, -2] < 0).all()
    assert balance_BSD[..., :-2].abs().max() < 0.3


def test_silent_stems_are_embedded(stems_BSCT: Tensor) -> None:
    quiet_BSCT = stems_BSCT.clone()
    quiet_BSCT[:, 1] = 0.0
    encoder = make_encoder()
    for heard_BSCT in (quiet_BSCT, torch.zeros_like(stems_BSCT)):
        embedding_BE = encoder(heard_BSCT)
        assert embedding_BE.isfinite().all()
        assert torch.allclose(embedding_BE.norm(dim=-1), torch.ones(2))


def test_inputs_are_standardised(stems_BSCT: Tensor) -> None:
    encoder = make_encoder()
    described_ND = encoder.describe(stems_BSCT).flatten(0, 1)
    encoder.standardise(described_ND)
    assert torch.allclose(encoder.mean_D, described_ND.mean(dim=0))
    # A number that never varies is no reason for infinities.
    assert (encoder.deviation_D >= 1e-3).all()
    assert encoder(stems_BSCT).isfinite().all()


def test_each_stem_has_a_part_of_the_embedding_of_its_own(stems_BSCT: Tensor) -> None:
    encoder = make_encoder()
    described_BSD = encoder.describe(stems_BSCT)
    changed_BSD = described_BSD.clone()
    changed_BSD[:, 2] += 10.0
    before_BSE, after_BSE = (
        encoder.embed_described(x).unflatten(-1, (4, -1)) for x in (described_BSD, changed_BSD)
    )
    turned_BS = 1 - torch.cosine_similarity(before_BSE, after_BSE, dim=-1)
    assert turned_BS[:, [0, 1, 3]].abs().max() < 1e-6
    assert turned_BS[:, 2].min() > 1e-4


def test_it_learns_with_noise_and_embeds_without(stems_BSCT: Tensor) -> None:
    encoder = make_encoder(descriptor_noise=0.5, descriptor_dropout=0.0)
    described_BSD = encoder.describe(stems_BSCT)
    one_BE, other_BE = (encoder.embed_described(described_BSD) for _ in range(2))
    assert torch.equal(one_BE, other_BE)
    encoder.train()
    assert not torch.allclose(encoder.embed_described(described_BSD), one_BE)


def test_a_loaded_one_embeds_as_the_saved_one(stems_BSCT: Tensor, tmp_path: Path) -> None:
    encoder = make_encoder()
    encoder.standardise(encoder.describe(stems_BSCT).flatten(0, 1))
    zeros_D = torch.zeros(len(FEATURE_NAMES))
    standardisation = Standardisation(zeros_D, zeros_D + 1)
    save_checkpoint(tmp_path, encoder, standardisation, {})
    loaded = load_checkpoint(tmp_path)
    heard_BSCT = stems_BSCT.clone().requires_grad_()
    embedding_BE = loaded.embed(heard_BSCT, RATE_HZ)
    assert torch.equal(embedding_BE, encoder(stems_BSCT))
    embedding_BE[:, 0].sum().backward()
    assert heard_BSCT.grad is not None
    assert heard_BSCT.grad.isfinite().all()
    assert (heard_BSCT.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_what_does_not_fit_is_refused(stems_BSCT: Tensor) -> None:
    with pytest.raises(ConfigError, match="sample rate of 44100 Hz"):
        DescriptorEncoder(config(sample_rate_hz=48_000))
    with pytest.raises(ConfigError, match="multiple of 4"):
        DescriptorEncoder(config(embedding_dim=18))
    with pytest.raises(ConfigError, match="descriptor_noise must be >= 0"):
        config(descriptor_noise=-1.0)
    with pytest.raises(ConfigError, match="backbone must be one of"):
        config(backbone="spectra")
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"stems_BSCT must be \(B, 4, 2, T\)"):
        encoder(stems_BSCT[:, :3])
    with pytest.raises(ValueError, match=r"at least 3.0 s"):
        encoder(stems_BSCT[..., :RATE_HZ])
