"""Drawn examples as the source of a training: songs made on the fly, mixed by the console."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from mixprint.controller.examples import (
    Example,
    ExampleConfig,
    ExampleMaker,
    Recipe,
    RecipeReader,
    Separate,
)
from mixprint.controller.songs import song_pool
from mixprint.fingerprint import code_version, fingerprint
from mixprint.training.pool import MakingAhead

_CODE = "mixprint.controller.examples"


class DrawnExamples:
    """Source of examples (`mixprint.controller.measured.Source`).

    Attributes:
        batch_size: examples that are made side by side: those of one style and its reference.
        fingerprint: of all that they follow from.
    """

    def __init__(
        self,
        config: ExampleConfig,
        folder: Path,
        *,
        valid: bool,
        seed: int,
        separate: Separate | None = None,
        separator_fingerprint: str = "",
    ) -> None:
        """Draw nothing yet.

        Args:
            config: parameters of the examples.
            folder: receives songs while they are needed.
            valid: whether they are of the songs for validation, one example a style.
            seed: of all that is drawn.
            separate: separates mixes, where the parameters ask for it.
            separator_fingerprint: of that separator.
        """
        if valid:
            config = replace(config, examples_per_style=1)
        self._config, self._valid = config, valid
        self._separate = separate
        self._pool = song_pool(folder, config.songs, valid=valid)
        self._seed = seed
        self.batch_size = config.examples_per_style
        self.fingerprint = fingerprint(
            {
                "config": asdict(config),
                "valid": valid,
                "seed": seed,
                "separator": separator_fingerprint if config.separated_share > 0 else "",
                "code": code_version(_CODE),
            }
        )

    def recipes(self) -> Dataset[list[Recipe]]:
        """Return recipes of whole batches, whatever the number of ranks."""
        rows = slice(0, self.batch_size)
        seed = self._seed + self._valid
        return RecipeReader(self._config, self._pool, self.batch_size, seed, rows=rows)

    def made(
        self, recipes: list[Recipe], device: torch.device, *, with_truth: bool
    ) -> Sequence[Example]:
        """Mix a batch."""
        maker = ExampleMaker(self._config, device, with_truth=with_truth, separate=self._separate)
        return maker(recipes)

    @contextmanager
    def running(self, number: int) -> Iterator[Callable[[int], None]]:
        """Make songs ahead of a batch, and forget those that are not drawn any more."""
        num_generators = 0 if self._valid else self._config.songs.num_generators
        with MakingAhead(self._pool, num_generators, number) as ahead:
            yield ahead.reached
