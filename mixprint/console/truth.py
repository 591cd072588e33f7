"""Settings of generated mixes, as the console's."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mixprint.console.schema import MASTER, TRACK_FIELDS_BY_NAME
from mixprint.console.settings import Settings
from mixprint.errors import DataError
from mixprint.schema import shortened

# As in `mixprint.synthesis.mixing`.
PEAK_DBFS = -1.0
_LOW_HZ, _HIGH_HZ, _MID_Q = 150.0, 5_000.0, 0.8
_MASTER_LOW_HZ, _MASTER_HIGH_HZ = 120.0, 8_000.0
_MASTER_ATTACK_MS, _MASTER_RELEASE_MS = 20.0, 200.0


def from_truth(truth: Mapping[str, Any], where: str) -> Settings:
    """Read the settings of a generated mix.

    Its level is not among them: the generator brings the highest sample, of the mix or of a stem,
    to `PEAK_DBFS`; see `peak_gain_db`.

    Args:
        truth: content of the mix's `settings.json`.
        where: its name, for messages.

    Raises:
        DataError: it is no such file.
    """
    try:
        stems, master = truth["mix"]["stems"], truth["mix"]["master"]
        changes = {
            f"{stem}.{name}": value
            for stem, values in stems.items()
            for name, value in _track(values).items()
        }
        changes |= {f"{MASTER}.{name}": value for name, value in _master(master).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where}: expected the settings of a generated mix, found {shortened(truth)}"
        ) from error
    return Settings.neutral(list(stems)).edit(changes)


def peak_gain_db(mixed_NCT: Tensor) -> float:
    """Return the gain that brings a mix to the level of a generated one."""
    peak = max(float(mixed_NCT.abs().max()), float(mixed_NCT.sum(dim=0).abs().max()))
    return PEAK_DBFS - 20 * math.log10(peak) if peak > 0 else 0.0


def _track(stem: Mapping[str, float]) -> dict[str, float]:
    lowest_hz = TRACK_FIELDS_BY_NAME["eq.bell2.freq_hz"].low
    bell = "eq.bell2" if stem["mid_hz"] >= lowest_hz else "eq.bell1"
    return {
        "eq.low.gain_db": stem["low_shelf_db"],
        "eq.low.freq_hz": _LOW_HZ,
        f"{bell}.gain_db": stem["mid_db"],
        f"{bell}.freq_hz": stem["mid_hz"],
        f"{bell}.q": _MID_Q,
        "eq.high.gain_db": stem["high_shelf_db"],
        "eq.high.freq_hz": _HIGH_HZ,
        **_compressor(stem, 1_000 * stem["attack_s"], 1_000 * stem["release_s"]),
        "room.send_db": max(stem["reverb_send_db"], TRACK_FIELDS_BY_NAME["room.send_db"].low),
        "room.time_s": stem["reverb_time_s"],
        "width": stem["width"],
        "pan": stem["pan"],
        "fader_db": stem["gain_db"],
    }


def _master(master: Mapping[str, float]) -> dict[str, float]:
    return {
        "eq.low.gain_db": master["low_shelf_db"],
        "eq.low.freq_hz": _MASTER_LOW_HZ,
        "eq.high.gain_db": master["high_shelf_db"],
        "eq.high.freq_hz": _MASTER_HIGH_HZ,
        **_compressor(master, _MASTER_ATTACK_MS, _MASTER_RELEASE_MS),
    }


def _compressor(
    values: Mapping[str, float], attack_ms: float, release_ms: float
) -> dict[str, float]:
    return {
        "comp.threshold_db": values["threshold_db"],
        "comp.slope": 1 - 1 / values["ratio"],
        "comp.attack_ms": attack_ms,
        "comp.release_ms": release_ms,
        "comp.knee_db": 0.0,
    }
