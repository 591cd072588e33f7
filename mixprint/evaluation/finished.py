"""Results of a long benchmark, kept one by one, so that a run that died goes on where it was."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.schema import checked_mapping
from mixprint.storage.atomic import read_json, write_json

log = logging.getLogger("mixprint.evaluation")


@dataclass(frozen=True)
class Finished:
    """A folder of results, each in a file that is named by what it follows from.

    Results of other code or other settings lie beside them and are not read: nothing that cost
    hours is removed. Several processes may share the folder.

    Attributes:
        folder: holds the results; made when the first one is written.
    """

    folder: Path

    def result(
        self, made_with: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return a result: the one that is there, or a new one, which is kept.

        Args:
            made_with: what it follows from, as JSON holds it.
            make: makes it; what it raises goes through, and nothing is kept.

        Raises:
            DataError: the folder cannot be written.
        """
        path = self._path(made_with)
        if path.exists():
            try:
                return checked_mapping("", read_json(path)["result"])
            except (ConfigError, DataError, TypeError, KeyError) as error:
                log.warning("%s: unreadable, so it is made anew: %s", path, error)
        made = dict(make())
        write_json(path, {"made_with": dict(made_with), "result": made})
        return made

    def _path(self, made_with: Mapping[str, Any]) -> Path:
        return self.folder / f"{fingerprint(dict(made_with))}.json"
