import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.train import join as command
from mixprint.encoder.building import build_encoder
from mixprint.encoder.checkpoint import Encoder, load_checkpoint, save_checkpoint
from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.joined_model import JoinedEncoder, join
from mixprint.errors import CheckpointError, ConfigError
from mixprint.evaluation.baselines import untrained_encoder
from mixprint.features import Standardisation
from mixprint.features.schema import FEATURE_NAMES
from tests.encoder.conftest import descriptor_config, make_stems

RATE_HZ = 44_100
EMBEDDING_DIM = 16


@pytest.fixture(scope="module", name="stems_BSCT")
def stems() -> Tensor:
    return make_stems(3, 2, sample_rate_hz=RATE_HZ)


def save(folder: Path, backbone: str, metadata: dict[str, object], **changes: object) -> Encoder:
    """An untrained encoder on disk."""
    torch.manual_seed(len(backbone))
    config = descriptor_config(backbone=backbone, embedding_dim=EMBEDDING_DIM)
    model = build_encoder(dataclasses.replace(config.encoder_config(RATE_HZ), **changes))
    if isinstance(model, DescriptorEncoder):
        described_BSD = model.describe(make_stems(4, 2, sample_rate_hz=RATE_HZ))
        model.standardise(described_BSD.flatten(0, 1))
    zeros_D = torch.zeros(len(FEATURE_NAMES))
    save_checkpoint(folder, model, Standardisation(zeros_D - 20, zeros_D + 10), metadata)
    return load_checkpoint(folder)


@pytest.fixture(scope="module", name="parts")
def two_encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    save(folder / "bands", "bands", {"data_fingerprint": "a", "epoch": 3})
    save(folder / "descriptors", "descriptors", {"data_fingerprint": "b", "effects": ["bell"]})
    return folder / "bands", folder / "descriptors"


def test_similarities_are_the_weighted_means_of_those_of_both(
    stems_BSCT: Tensor, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    command.run(bands=parts[0], descriptors=parts[1], share=0.3, out_dir=tmp_path)
    joined, bands, descriptors = map(load_checkpoint, (tmp_path, *parts))
    one_E, other_E = joined.embed(stems_BSCT, RATE_HZ)
    assert one_E.shape == (2 * EMBEDDING_DIM,)
    assert torch.allclose(one_E.norm(), torch.ones(()))
    seen = [torch.dot(*encoder.embed(stems_BSCT, RATE_HZ)) for encoder in (bands, descriptors)]
    assert torch.allclose(one_E @ other_E, 0.7 * seen[0] + 0.3 * seen[1], atol=1e-5)
    assert (seen[0] - seen[1]).abs() > 1e-3


def test_its_description_tells_both_trainings(parts: tuple[Path, Path], tmp_path: Path) -> None:
    command.run(bands=parts[0], descriptors=parts[1], share=0.5, out_dir=tmp_path)
    metadata = load_checkpoint(tmp_path).metadata
    assert metadata["effects"] == ["bell"]
    assert metadata["bands"]["epoch"] == 3
    assert metadata["descriptors"]["data_fingerprint"] == "b"
    assert metadata["data_fingerprint"] not in ("a", "b")


def test_gradients_reach_the_audio_by_both(
    stems_BSCT: Tensor, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    command.run(bands=parts[0], descriptors=parts[1], share=0.5, out_dir=tmp_path)
    joined = load_checkpoint(tmp_path)
    for half in (slice(EMBEDDING_DIM), slice(EMBEDDING_DIM, None)):
        heard_BSCT = stems_BSCT.clone().requires_grad_()
        joined.embed(heard_BSCT, RATE_HZ)[:, half][:, 0].sum().backward()
        assert heard_BSCT.grad is not None
        assert heard_BSCT.grad.isfinite().all()
        assert heard_BSCT.grad.abs().max() > 0


def test_an_untrained_one_knows_what_inputs_usually_are(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    command.run(bands=parts[0], descriptors=parts[1], share=0.5, out_dir=tmp_path)
    joined = load_checkpoint(tmp_path)
    assert isinstance(joined.model, JoinedEncoder)
    joined.model.descriptors.mean_D.fill_(7.0)
    fresh = untrained_encoder(joined, seed=1).model
    assert isinstance(fresh, JoinedEncoder)
    assert (fresh.descriptors.mean_D == 7.0).all()
    assert not torch.equal(fresh.descriptors.first.weight, joined.model.descriptors.first.weight)


def test_what_cannot_be_joined_is_refused(parts: tuple[Path, Path], tmp_path: Path) -> None:
    bands, descriptors = (load_checkpoint(folder).model for folder in parts)
    with pytest.raises(CheckpointError, match="found DescriptorEncoder and MixEncoder"):
        join(descriptors, bands, 0.5)
    with pytest.raises(ConfigError, match="descriptor_share must lie between 0 and 1, got 1"):
        join(bands, descriptors, 1.0)
    longer = save(tmp_path, "descriptors", {}, embedding_dim=2 * EMBEDDING_DIM)
    with pytest.raises(CheckpointError, match=r"one embedding_dim .* found 16 \(bands\) and 32"):
        join(bands, longer.model, 0.5)
    with pytest.raises(ConfigError, match="embedding_dim that is even, got 17"):
        JoinedEncoder(dataclasses.replace(bands.config, embedding_dim=17))
    with pytest.raises(ConfigError, match=r"train.backbone must be one of \('bands', 'desc"):
        descriptor_config(backbone="joined")
