"""The true console settings of generated mixes.

Shape suffixes: N mix, V setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixprint.collection.catalogue import Track
from mixprint.collection.locations import read_beside
from mixprint.collection.sources import SETTINGS
from mixprint.errors import DataError
from mixprint.evaluation.retrieval import FloatArray

SYNTHETIC = "synthetic"
# What a setting belongs to, by the last part of its name; others are a family of their own.
FAMILIES: Mapping[str, str] = {
    "gain_db": "gain",
    "pan": "pan",
    "width": "width",
    "low_shelf_db": "EQ",
    "mid_hz": "EQ",
    "mid_db": "EQ",
    "high_shelf_db": "EQ",
    "threshold_db": "compression",
    "ratio": "compression",
    "attack_s": "compression",
    "release_s": "compression",
    "reverb_send_db": "reverb",
    "reverb_time_s": "reverb",
}


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings that all mixes have and in which they differ.

    Attributes:
        names: for example `vocals.gain_db` and `master.ratio`.
        values_NV: one row per mix.
    """

    names: tuple[str, ...]
    values_NV: FloatArray

    @property
    def families(self) -> tuple[str, ...]:
        """Return the family of each setting."""
        last = [name.rpartition(".")[2] for name in self.names]
        return tuple(FAMILIES.get(name, name) for name in last)


def read_settings(tracks: Sequence[Track]) -> Settings:
    """Read the settings of generated mixes from the files beside their audio.

    Raises:
        DataError: a mix is not generated, its file is missing or broken, or there is no setting
            that all mixes have and in which they differ.
    """
    if others := [track.title for track in tracks if track.source != SYNTHETIC]:
        raise DataError(f"console settings: known of generated mixes only, not of {others[:3]}")
    found = [dict(_numbers(_mix_of(track))) for track in tracks]
    shared = [name for name in found[0] if all(name in values for values in found)]
    values_NV = np.array([[values[name] for name in shared] for values in found])
    differs_V = np.ptp(values_NV, axis=0) > 0
    if not differs_V.any():
        raise DataError(f"console settings: {len(tracks)} mixes differ in none")
    names = tuple(name for name, differs in zip(shared, differs_V, strict=True) if differs)
    return Settings(names, values_NV[:, differs_V])


def _mix_of(track: Track) -> Mapping[str, object]:
    path, truth = read_beside(track.uri, SETTINGS)
    mix = truth.get("mix") if isinstance(truth, Mapping) else None
    if not isinstance(mix, Mapping):
        raise DataError(f"{path}: expected the settings of the console under 'mix', found {mix!r}")
    return mix


def _numbers(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Return the numbers of nested mappings; the level `stems` is left out of their names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, prefix if key == "stems" else f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
