"""Parameters of a training: what is refused, and what blocks leave out."""

import json
from typing import Any

import pytest

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.settings import DEFAULT_BLOCKS
from mixprint.separation.diffusion.training_settings import DiffusionTrainConfig
from mixprint.separation.scnet.architecture import SCNetConfig
from tests.separation.trials import diffusion_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modell": {}}, "modell"),
        ({"model": {"backbone": "resnet"}}, "backbone"),
        ({"model": {"depth": 3}}, "depth"),
        ({"model": {"blocks": {"width": 3}}}, "width"),
        ({"model": {"unet": {"multipliers": [1, 2]}}}, "multipliers"),
        ({"model": 3}, "model"),
        ({"sampling": {"sampler": "heun"}}, "sampler"),
        ({"sampling": {"eta": 0.5}}, "eta"),
        ({"training": {"waveform_weight": 0.1}}, "waveform_weight"),
        ({"training": {"no_vocal_fraction": 0.6, "vocal_only_fraction": 0.5}}, "of 1 at most"),
        ({"training": {"noise_only_fraction": 1.0}}, "noise_only_fraction"),
        ({"training": {"vocal_weight": -1.0}}, "vocal_weight"),
        ({"training": {"prior_dropout": 1.5}}, "prior_dropout"),
        ({"training": {"valid_sampling_steps": 1}}, "valid_sampling_steps"),
        ({"training": {"max_steps": 0}}, "max_minutes"),
        ({"training": {"patience": -1}}, "patience"),
        ({"initial": None}, "initial"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diffusion_config(changes)


def test_round_trip() -> None:
    config = diffusion_config()
    assert DiffusionTrainConfig.from_values(json.loads(json.dumps(config.to_values()))) == config
    assert config.identity().keys() == config.to_values().keys() - {
        "num_processes",
        "device",
        "download",
    }


def test_blocks_that_are_left_out_are_those_of_what_it_starts_from() -> None:
    config = diffusion_config({"model": {"blocks": None}})
    blocks = SCNetConfig(dims=(4, 8), hop_size=2048)
    assert config.architecture(blocks).blocks == blocks
    assert config.architecture().blocks == DEFAULT_BLOCKS
    assert config.completed(config.architecture(blocks)).architecture().blocks == blocks
