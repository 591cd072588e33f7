from dataclasses import asdict

import pytest

from mixprint.config import load_params
from mixprint.errors import ConfigError
from mixprint.schema import checked
from mixprint.zero_shot.settings import ZeroShotConfig, ZeroShotTrainConfig
from tests.encoder.conftest import REPOSITORY
from tests.zero_shot.tiny_model import CONFIG


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_size", 4),
        ("num_bands", 1),
        ("dilations", ()),
        ("hop_samples", 100),
        ("room_decays_s", ()),
        ("room_s", 0.0),
        ("sample_rate_hz", 22_050),
    ],
)
def test_an_architecture_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        checked("zero_shot", asdict(CONFIG) | {name: value}, ZeroShotConfig)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio_batch_size", 0),
        ("segments_per_track", 1),
        ("crop_s", 0.1),
        ("max_grad_norm", 0.0),
        ("valid_steps", 0),
        ("hop_samples", 100),
        ("level_learning_rate", 0.0),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object) -> None:
    values = load_params(REPOSITORY / "params.yaml")["zero_shot"] | {name: value}
    with pytest.raises(ConfigError, match=name):
        ZeroShotTrainConfig.from_values(values)
