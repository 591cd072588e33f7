"""Parameters of small trainings of separators."""

from collections.abc import Mapping
from typing import Any

import yaml

from mixprint.separation.scnet.settings import SeparatorTrainConfig
from tests.components.workplace import REPOSITORY


def separator_config(changes: Mapping[str, Any] | None = None) -> SeparatorTrainConfig:
    """Return the parameters of `params.yaml`, with changes laid over them."""
    overrides = [f"separator.{key}={yaml.safe_dump(v)}" for key, v in (changes or {}).items()]
    return SeparatorTrainConfig.load(REPOSITORY / "params.yaml", overrides=overrides)
