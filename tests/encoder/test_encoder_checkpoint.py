import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixprint.encoder.checkpoint import load_checkpoint, save_checkpoint
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import CheckpointError
from mixprint.features import Standardisation, extract
from mixprint.fingerprint import file_sha256

RATE_HZ = 32_000


def noise() -> Tensor:
    return 0.1 * torch.randn(1, 4, 2, 3 * RATE_HZ, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path, make_config: Callable[..., TrainConfig]) -> tuple[Path, MixEncoder]:
    torch.manual_seed(0)
    model = MixEncoder(make_config(dropped_families=("masking",)).encoder_config(RATE_HZ))
    standardisation = Standardisation.fit(torch.randn(8, 64))
    save_checkpoint(tmp_path, model, standardisation, {"metrics": {"valid.loss": 1.5}})
    return tmp_path, model


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_loaded_encoder_embeds_as_the_saved_one(saved: tuple[Path, MixEncoder]) -> None:
    folder, model = saved
    encoder = load_checkpoint(folder)
    assert encoder.model.config == model.config
    assert encoder.metadata == {"metrics": {"valid.loss": 1.5}}
    features = encoder.standardisation.apply(extract(noise(), RATE_HZ))
    with torch.no_grad():
        expected = model.eval()(noise(), features)
    torch.testing.assert_close(encoder.embed(noise(), RATE_HZ), expected)
    assert load_checkpoint(folder).fingerprint == encoder.fingerprint


def test_a_gradient_reaches_every_stem_and_no_weight(saved: tuple[Path, MixEncoder]) -> None:
    encoder = load_checkpoint(saved[0])
    stems = noise().requires_grad_()
    encoder.embed(stems, RATE_HZ)[0, 0].backward()
    assert stems.grad is not None
    assert stems.grad.isfinite().all()
    assert (stems.grad.abs().amax(dim=(0, 3)) > 0).all()
    assert all(weight.grad is None for weight in encoder.model.parameters())


def test_another_rate_is_refused(saved: tuple[Path, MixEncoder]) -> None:
    with pytest.raises(ValueError, match="32000 Hz, got 44100 Hz"):
        load_checkpoint(saved[0]).embed(noise(), 44_100)


def test_other_weights_have_another_fingerprint(
    saved: tuple[Path, MixEncoder], tmp_path: Path
) -> None:
    folder, model = saved
    before = load_checkpoint(folder)
    with torch.no_grad():
        model.project.bias.add_(1)
    save_checkpoint(folder, model, before.standardisation, before.metadata)
    assert load_checkpoint(folder).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "expected the description of a mixprint-encoder"),
        (lambda c: c.update(format_version=2), "format version 1, found 2"),
        (lambda c: c.pop("metadata"), "metadata"),
        (lambda c: c["standardisation"].update(schema_version=9), "feature schema 1, found 9"),
        (lambda c: c["architecture"].pop("n_fft"), "architecture"),
        (lambda c: c["architecture"].update(magic=1), "magic"),
        (lambda c: c["architecture"].update(conditioning="magic"), "conditioning"),
        (
            lambda c: c["architecture"].update(embedding_dim=17),
            r"project\.weight is .* expected .*17",
        ),
        (lambda c: c["architecture"].update(conditioning="none"), r"film\.heads.* is unknown"),
        (lambda c: c.update(weights_sha256="0" * 64), "SHA-256"),
    ],
)
def test_a_mismatch_is_refused_by_name(
    saved: tuple[Path, MixEncoder], change: Callable[[dict], object], message: str
) -> None:
    edit(saved[0], change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved[0])


def test_a_missing_weight_is_named(saved: tuple[Path, MixEncoder]) -> None:
    path = saved[0] / "weights.safetensors"
    weights = load_file(path)
    del weights["pool.score.0.bias"]
    save_file(weights, path)
    edit(saved[0], lambda c: c.update(weights_sha256=file_sha256(path)))
    with pytest.raises(CheckpointError, match=r"pool\.score\.0\.bias is missing"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
@pytest.mark.parametrize("content", [None, b"broken"])
def test_missing_or_broken_files_are_named(
    saved: tuple[Path, MixEncoder], name: str, content: bytes | None
) -> None:
    path = saved[0] / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(saved[0])
