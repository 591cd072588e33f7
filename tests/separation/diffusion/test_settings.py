"""Settings: what is not known or does nothing is refused."""

import json

import pytest

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.settings import (
    ConformerConfig,
    DiffusionConfig,
    SamplingSettings,
    UNetConfig,
)


def test_values_and_back() -> None:
    config = DiffusionConfig(backbone="unet", unet=UNetConfig(multipliers=(1, 2, 2)), timesteps=50)
    assert DiffusionConfig.from_values(json.loads(json.dumps(config.to_values()))) == config
    sampling = SamplingSettings(sampler="ddim", eta=0.5, start="prior", strength=0.3)
    assert SamplingSettings.from_values(json.loads(json.dumps(sampling.to_values()))) == sampling


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "transformer"}, "backbone: expected one of .*'bands'"),
        ({"schedule": "sigmoid"}, "schedule"),
        ({"target": "epsilon"}, "target"),
        ({"head": "gain"}, "head"),
        ({"timesteps": -1}, "timesteps: expected 0 to"),
        ({"power": 0.0}, "power"),
        ({"target": "v"}, "target: expected x0 with the head mask"),
        ({"conditioning": 7}, "conditioning: expected an even number"),
    ],
)
def test_an_architecture_that_is_not_known_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiffusionConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "unipc"}, "sampler: expected one of .*'dpm'"),
        ({"start": "silence"}, "start"),
        ({"steps": 0}, "steps: expected 1 to 1000"),
        ({"steps": 1001}, "steps: expected 1 to 1000"),
        ({"sampler": "ddim", "eta": 1.1}, "eta: expected 0 to 1"),
        ({"samples": 0}, "samples"),
        ({"seed": -1}, "seed"),
        ({"eta": 0.5}, "eta: expected 0 with the sampler dpm"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta: expected 0 with the sampler ddpm"),
        ({"sampler": "ddim", "eta": 0.5, "steps": 1}, "eta: expected 0 with one step"),
        ({"strength": 0.5}, "strength: expected 1 with the start noise"),
        ({"start": "mixture"}, "strength: expected less than 1 with the start mixture"),
    ],
)
def test_a_sampling_that_is_not_known_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingSettings(**values)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown keys \\['ct_embed'\\]"):
        DiffusionConfig.from_values({"ct_embed": True})
    with pytest.raises(ConfigError, match="unknown keys \\['shallow_k'\\]"):
        SamplingSettings.from_values({"shallow_k": 50})


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="width: expected a multiple of 8"):
        ConformerConfig(width=12, num_heads=4)
    with pytest.raises(ConfigError, match="kernel: expected an odd"):
        ConformerConfig(kernel=4)
    with pytest.raises(ConfigError, match="multipliers: expected a length of 3"):
        UNetConfig(multipliers=(1, 2))
    with pytest.raises(ConfigError, match="width: expected a multiple of 8"):
        UNetConfig(width=12)
