"""Spread of predicted settings: how sure they are.

    spread.json
    {"format": "mixprint console spread", "version": 1, "settings": {...},
     "spread": {"vocals": {"eq.high.gain_db": 0.8, ...}, "master": {...}}}

It holds the settings that were predicted, too: where a person has changed one since, its spread
says nothing any more.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mixprint.console.schema import VERSION
from mixprint.console.settings import Settings, Strip
from mixprint.errors import ConfigError, DataError
from mixprint.schema import parse_json, read_text, shortened
from mixprint.storage.atomic import write_json
from mixprint.text import shown

FORMAT = "mixprint console spread"
FILE_NAME = "spread.json"


@dataclass(frozen=True)
class Spread:
    """Spread of predicted settings.

    Attributes:
        predicted: the settings.
        values: strip -> setting -> standard deviation in the setting's unit.
    """

    predicted: Settings
    values: Mapping[str, Mapping[str, float]]

    def of(self, settings: Settings) -> dict[str, dict[str, float]]:
        """Return the spread of what in settings is as it was predicted, by strip and setting."""
        before, now = self.predicted.strips(), settings.strips()
        return {
            strip: {
                name: spread
                for name, spread in spreads.items()
                if strip in now and now[strip][name] == before[strip][name]
            }
            for strip, spreads in self.values.items()
        }

    def save(self, path: Path) -> None:
        """Write spread.json.

        Raises:
            DataError: it cannot be written.
        """
        write_json(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "settings": self.predicted.to_values(),
                "spread": {name: dict(values) for name, values in self.values.items()},
            },
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read spread.json.

        Raises:
            DataError: it cannot be read, is of another kind or version, or names a setting that
                there is not.
        """
        values: Any = parse_json(read_text(path), shown(path))
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise DataError(f"{shown(path)}: expected the format {FORMAT!r}, found another")
        if values.get("version") != VERSION:
            raise DataError(
                f"{shown(path)}: expected version {VERSION}, found "
                f"{shortened(values.get('version'))}"
            )
        predicted = Settings.from_values(values.get("settings"), shown(path))
        spreads, strips = values.get("spread"), predicted.strips()
        if not isinstance(spreads, dict) or not spreads.keys() <= strips.keys():
            raise DataError(
                f"{shown(path)}: expected spreads of {', '.join(strips)}, found "
                f"{shortened(spreads)}"
            )
        try:
            return cls(predicted, {n: _checked(strips[n], of) for n, of in spreads.items()})
        except ConfigError as error:
            raise DataError(f"{shown(path)}: {error}") from error

    @classmethod
    def beside(cls, settings_path: Path) -> Self | None:
        """Read what lies beside a settings.json; None where nothing does.

        Raises:
            DataError: see `load`.
        """
        path = settings_path.with_name(FILE_NAME)
        return cls.load(path) if path.is_file() else None


def _checked(strip: Strip, values: Any) -> dict[str, float]:
    """Check the spreads of a strip, as a file has them.

    Raises:
        ConfigError: one is of no setting, or no number of 0 or more.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"expected spreads by setting, found {shortened(values)}")
    for name, spread in values.items():
        strip.place(name)
        is_number = isinstance(spread, int | float) and not isinstance(spread, bool)
        if not is_number or not 0 <= spread < math.inf:
            raise ConfigError(f"{name}: expected a spread of 0 or more, found {shortened(spread)}")
    return {name: float(spread) for name, spread in values.items()}
