"""Predicted settings with their spread, and the gates of processors."""

from collections.abc import Mapping
from dataclasses import dataclass

from mixprint.console.settings import Settings


@dataclass(frozen=True)
class Prediction:
    """Settings that a controller has predicted.

    Attributes:
        settings: in units; processors whose gate is closed are neutral.
        spread: strip -> setting -> standard deviation in the setting's unit, for all tracks and
            `master`; of settings on a logarithmic scale half of what one deviation down and up
            spans. Trims follow from the tracks, and have none.
        gates: strip -> group (`eq`, `comp`, `drive`, `room`) -> probability that it is in use.
    """

    settings: Settings
    spread: Mapping[str, Mapping[str, float]]
    gates: Mapping[str, Mapping[str, float]]
