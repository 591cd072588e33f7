"""Parameters of a separator's training: what is refused, and what a model leaves out."""

import json
from typing import Any

import pytest

from mixprint.errors import ConfigError
from mixprint.separation.scnet.settings import DEFAULT_MODEL, SeparatorTrainConfig
from tests.separation.trials import separator_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modell": {}}, "modell"),
        ({"variant": "deep"}, "variant"),
        ({"num_processes": 0}, "num_processes"),
        ({"training": {"epochs": 3}}, "epochs"),
        ({"training": {"segment_s": "4"}}, "segment_s"),
        ({"training": {"segment_s": 0.0}}, "segment_s: expected a value above 0, found 0.0"),
        ({"training": {"precision": "float16"}}, "precision"),
        ({"training": {"max_minutes": 0.0}}, "max_minutes"),
        ({"training": {"valid_steps": 0}}, "valid_steps"),
        ({"training": {"num_workers": -1}}, "num_workers"),
        ({"training": {"ema_decay": 1.0}}, "ema_decay"),
        ({"training": {"betas": [0.9]}}, "betas"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"training": 3}, "training"),
        ({"remix": {"gain": 1.0}}, "gain"),
        ({"remix": {"tempo_range": 0.9}}, "tempo_range"),
        ({"songs": {"pool_size": 0}}, "pool_size"),
        ({"model": {"num_dplayer": 3}}, "num_dplayer"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        separator_config(changes)


def test_round_trip() -> None:
    config = separator_config({"variant": "plain", "model": {"num_dplayer": 2}})
    assert SeparatorTrainConfig.from_values(json.loads(json.dumps(config.to_values()))) == config
    assert config.identity().keys() == config.to_values().keys() - {
        "num_processes",
        "device",
        "download",
    }


def test_a_model_that_is_named_is_completed_by_the_shipped_one() -> None:
    model = separator_config({"model": {"num_dplayer": 2}}).model
    assert model is not None
    assert (model.num_dplayer, model.dims) == (2, DEFAULT_MODEL.dims)
    assert separator_config().model is None
