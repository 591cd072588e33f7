"""Diffusion separators on disk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixprint.errors import CheckpointError
from mixprint.separation import Separator, export_separator, load_separator
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.model import Denoiser
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.scnet import checkpoint as scnet_checkpoint
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.storage.atomic import read_json, write_json
from tests.separation.diffusion.trials import WINDOW_S, denoiser, music, scnet, separator

SAMPLING = SamplingSettings(steps=2, sampler="ddim", eta=0.5, seed=3)


def _network(prior: TrainedSCNet | None = None, num_stems: int = 2) -> DiffusionSeparator:
    network = denoiser()
    _fill(network)
    return DiffusionSeparator(
        network, window_s=WINDOW_S, sampling=SAMPLING, prior=prior, num_stems=num_stems
    )


def _fill(network: Denoiser) -> None:
    """Give it scales that float16 does not hold, and other weights that it does."""
    network.compression.scales_F.copy_(torch.linspace(0.1, 1.1, len(network.compression.scales_F)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())


def test_there_and_back(tmp_path: Path) -> None:
    network = _network()
    path = export_diffusion(network, tmp_path, training={"steps": 3})
    loaded = load_separator(path)
    assert isinstance(loaded.network, DiffusionSeparator)
    assert loaded.network.sampling == SAMPLING
    assert loaded.network.denoiser.config == network.denoiser.config
    assert loaded.normalised
    assert loaded.window_s == WINDOW_S
    assert loaded.stems == ("vocals", "instrumental")
    audio_CT = music(5000)
    assert torch.equal(loaded.separate(audio_CT), Separator(network).separate(audio_CT))
    assert set(loaded.fingerprint) == {"model", "checkpoint_sha256", "config_sha256"}
    assert read_json(path.with_suffix(".json"))["training"] == {"steps": 3}
    types = {key: value.dtype for key, value in load_file(path).items()}
    assert types.pop("compression.scales_F") == torch.float32
    assert set(types.values()) == {torch.float16}


def test_the_prior_is_found_by_its_hash(tmp_path: Path) -> None:
    scnet_path = export_separator(scnet(), tmp_path, window_s=WINDOW_S, name="first")
    prior = load_separator(scnet_path).network
    assert isinstance(prior, TrainedSCNet)
    path = export_diffusion(_network(prior, num_stems=4), tmp_path)
    loaded = load_separator(path)
    assert loaded.stems == ("vocals", "bass", "drums", "other")
    assert loaded.network.prior.fingerprint == prior.fingerprint
    # Another in its place is not taken for it.
    export_separator(scnet(), tmp_path, window_s=WINDOW_S, name="first", dtype=torch.float32)
    with pytest.raises(CheckpointError, match=r"diffusion\.json: prior: expected 'first' with"):
        load_separator(path)


def test_a_prior_from_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="prior from a checkpoint"):
        export_diffusion(separator(), tmp_path)


def test_scales_that_cannot_be_are_refused(tmp_path: Path) -> None:
    network = _network()
    network.denoiser.compression.scales_F[3] = 0
    path = export_diffusion(network, tmp_path)
    with pytest.raises(CheckpointError, match="scales_F: expected values above 0"):
        load_separator(path)


@pytest.mark.parametrize("backbone", ["conformer", "unet"])
def test_a_window_that_takes_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    network = DiffusionSeparator(
        denoiser(backbone=backbone), window_s=WINDOW_S, sampling=SamplingSettings()
    )
    path = export_diffusion(network, tmp_path)
    # 20 frames of 129 rows, of which a conformer makes a 16th with 24 values each, and a U-Net an
    # eighth with 16 of two.
    num_values = {"conformer": 20 * 129 * 24 / 16, "unet": 20 * 129 * 16 / 8}[backbone]
    monkeypatch.setattr(scnet_checkpoint, "MAX_WINDOW_VALUES", num_values + 1)
    load_separator(path)
    monkeypatch.setattr(scnet_checkpoint, "MAX_WINDOW_VALUES", num_values - 1)
    with pytest.raises(CheckpointError, match="expected a window of at most"):
        load_separator(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"backbone": "gru"}}, "backbone: expected one of"),
        ({"sampling": {"sampler": "unipc"}}, "sampler: expected one of"),
        ({"num_stems": 3}, "num_stems: expected one of"),
        ({"num_stems": 4}, "expected a separator with a prior"),
        ({"sample_rate_hz": 48_000}, "for 48000 Hz"),
        ({"window_s": 1e9}, "window_s"),
        ({"config": {"conditioning": 10}}, "do not fit the configuration"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict, message: str
) -> None:
    path = export_diffusion(_network(), tmp_path)
    values = read_json(path.with_suffix(".json"))
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    write_json(path.with_suffix(".json"), values)
    with pytest.raises(CheckpointError, match=message):
        load_separator(path)
