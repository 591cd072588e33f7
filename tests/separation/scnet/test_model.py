"""SCNet against the published names and shapes and the reference vectors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from benchmarks.plain_scnet import PlainSCNet
from mixprint.errors import ConfigError
from mixprint.separation.scnet.architecture import SCNetConfig
from mixprint.separation.scnet.model import build_scnet, deepened

TINY = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}


def _vector(shared_dir: Path, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    path = shared_dir / "reference" / "scnet" / f"{name}.safetensors"
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", ["scnet-small", "scnet-large", "scnet-masked-large"])
def test_tensors_are_the_published_ones(shared_dir: Path, name: str) -> None:
    published = json.loads(
        (shared_dir / "reference" / "scnet" / "checkpoint-tensors.json").read_text()
    )[name]
    with torch.device("meta"):
        model = build_scnet(published["config"], published["variant"])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == published["tensors"]
    assert sum(p.numel() for p in model.parameters()) == published["parameters"]


@pytest.mark.parametrize("name", ["scnet-tiny", "scnet-tiny-alt", "scnet-masked-tiny"])
def test_output_is_the_references(shared_dir: Path, name: str) -> None:
    metadata, tensors = _vector(shared_dir, name)
    model = build_scnet(json.loads(metadata["config"]), metadata["variant"]).eval()
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    model.load_state_dict(state)
    with torch.inference_mode():
        output_BSCT = model(tensors["input"])
    assert (output_BSCT - tensors["output"]).abs().max() < 1e-4 * tensors["output"].abs().max()
    torch.testing.assert_close(output_BSCT, tensors["output"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "masked"])
@pytest.mark.parametrize(
    "changes", [{}, {"dims": [4, 16, 32, 64], "conv_kernel": 5, "expand": 2, "num_dplayer": 4}]
)
def test_output_is_that_of_the_plain_network(variant: str, changes: dict) -> None:
    torch.manual_seed(0)
    # In float64: how float32 rounds differs from processor to processor.
    model = build_scnet({**TINY, **changes}, variant).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():  # a fresh norm or embedding would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
    audio_BCT = torch.randn(2, 2, 6000, dtype=torch.float64)
    with torch.inference_mode():
        expected_BSCT = PlainSCNet(model)(audio_BCT)
        output_BSCT = model(audio_BCT)
    scale = expected_BSCT.abs().max()
    torch.testing.assert_close(output_BSCT / scale, expected_BSCT / scale, rtol=0, atol=1e-6)
    assert scale > 0.01


@pytest.mark.parametrize("variant", ["plain", "masked"])
@pytest.mark.parametrize("length", [1, 127, 128, 129, 256, 4000])
def test_output_is_as_long_as_the_input(variant: str, length: int) -> None:
    model = build_scnet(TINY, variant).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 2, length)).shape == (2, 4, 2, length)


@pytest.mark.parametrize("variant", ["plain", "masked"])
@pytest.mark.parametrize("length", [1, 128, 300, 1024, 5000])
def test_analysis_has_even_frames_and_is_inverted(variant: str, length: int) -> None:
    model = build_scnet(TINY, variant)
    audio_BCT = torch.randn(3, 2, length)
    spectrum = model.analyse(audio_BCT)
    assert spectrum.shape[:3] == (3, 2, 257)
    assert spectrum.shape[-1] % 2 == 0
    torch.testing.assert_close(model.synthesise(spectrum, length), audio_BCT, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_batch_entries_do_not_touch_each_other(variant: str) -> None:
    torch.manual_seed(0)
    model = build_scnet(TINY, variant).eval()
    audio_BCT = torch.randn(3, 2, 2000)
    with torch.inference_mode():
        alone = torch.cat([model(audio_BCT[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(model(audio_BCT), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_every_parameter_gets_a_gradient_even_from_silence(variant: str) -> None:
    torch.manual_seed(0)
    model = build_scnet(TINY, variant)
    audio_BCT = torch.randn(2, 2, 2000)
    audio_BCT[1] = 0
    model(audio_BCT).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_dplayer": 3},
        {"dims": [2, 8]},
        {"unknown_key": 1},
        {"band_stride": [1, 4]},
        {"sources": ["vocals"]},
        {"nfft": "4096"},
        {"conv_kernel": 4},
        {"conv_kernel": -1},
        {"dims": [4, 10**12]},
        {"dims": [4] * 40},
        {"nfft": 10**12},
        {"win_size": 10**12},
        {"win_size": 1024, "nfft": 512},
        {"hop_size": 0},
        {"band_kernel": [3, 4, 10**12]},
        {"band_stride": [1, 0, 16]},
        {"compress": 0},
        {"conv_depths": [3, 2, 10**12]},
        {"num_dplayer": 10**12},
        {"expand": 10**12},
    ],
)
def test_wrong_configuration_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_scnet({**TINY, **wrong}, "plain")


@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_new_layers_change_nothing_and_can_learn(variant: str) -> None:
    torch.manual_seed(0)
    network = build_scnet(TINY, variant)
    deeper = deepened(network, 6)
    audio_BCT = 0.1 * torch.randn(1, 2, 4000)
    assert torch.allclose(deeper(audio_BCT), network(audio_BCT), atol=1e-6)
    deeper(audio_BCT).square().sum().backward()
    for layer in deeper.separation_net.dp_modules[2:]:
        for linear in layer.linear_layers:
            assert linear.weight.grad.abs().sum() > 0


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match="sparse"):
        build_scnet(TINY, "sparse")


def test_configuration_round_trip() -> None:
    config = SCNetConfig.from_values(TINY)
    assert SCNetConfig.from_values(json.loads(json.dumps(config.to_values()))) == config
