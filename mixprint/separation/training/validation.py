"""Validation of a separator in training: figures of songs that were held out, and of others."""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.progress import Progress
from mixprint.separation.material.songs import Song, check_bad_songs, find_songs
from mixprint.separation.metrics import Scores
from mixprint.separation.training.settings import TrainingConfig

log = logging.getLogger("mixprint.separation.training")

HELD_OUT = "held_out"
RESERVED_NAMES = ("step", "minutes", HELD_OUT)
METRIC_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # MLflow refuses some other characters
DIGITS = 3  # of a score in dB: what differs beyond is no difference


def check_names(names: Iterable[str]) -> None:
    """Refuse names of validation songs that the history or a metric cannot have.

    Raises:
        ConfigError: names the first of them.
    """
    for name in names:
        if name in RESERVED_NAMES or not METRIC_NAME.fullmatch(name):
            raise ConfigError(
                f"extra_valid: expected names of letters, digits, `_`, `-` and `.`, other than "
                f"{', '.join(RESERVED_NAMES)}, found {name!r}"
            )


class _ValidSongs:
    """Songs to validate on; one that turns out to be broken is left out from then on."""

    def __init__(self, songs: Sequence[Song], config: TrainingConfig) -> None:
        self._songs, self._num_found, self._config = list(songs), len(songs), config
        self._reasons: list[str] = []

    def measured(
        self, measure: Callable[[Song], Scores], note: Callable[[Sequence[Scores]], str]
    ) -> list[Scores]:
        """Measure the songs, without those that cannot be read.

        Raises:
            DataError: these are too many.
        """
        readable: list[Song] = []
        per_song: list[Scores] = []
        with Progress(log, "validated", total=len(self._songs), unit="songs") as shown:
            for song in self._songs:
                if (scores := self._of_song(measure, song)) is not None:
                    readable.append(song)
                    per_song.append(scores)
                shown.advance(note=note(per_song))
        self._songs = readable
        return per_song

    def _of_song(self, measure: Callable[[Song], Scores], song: Song) -> Scores | None:
        """Measure one song; None if it cannot be read."""
        try:
            return measure(song)
        except DataError as error:
            self._reasons.append(str(error))
            check_bad_songs(self._reasons, self._num_found, self._config.max_bad_fraction)
            log.warning("left out a song to validate on: %s", error)
            return None


class SongValidation:
    """All songs that a separator in training is validated on; a kind's own is a subclass.

    Attributes:
        basis: tells them from others.
    """

    def __init__(
        self, held_out: Sequence[Song], extra: Mapping[str, str | Path], config: TrainingConfig
    ) -> None:
        """Find the songs.

        Args:
            held_out: of those that it learns from.
            extra: name -> folder of more.
            config: of the training.

        Raises:
            DataError: too many of a folder's songs cannot be used.
        """
        bad = config.max_bad_fraction
        named = {name: find_songs(Path(f), max_bad_fraction=bad) for name, f in extra.items()}
        if held_out := held_out[: config.max_valid_songs]:
            named = {HELD_OUT: list(held_out), **named}
        self._songs = {name: _ValidSongs(songs, config) for name, songs in named.items()}
        names = {name: [song.path.name for song in songs] for name, songs in named.items()}
        self.basis = fingerprint({"valid_s": config.valid_s, **names})

    def measured(
        self,
        measure: Callable[[Song], Scores],
        summary: Callable[[Sequence[Scores]], Scores],
        note: Callable[[Scores], str],
    ) -> dict[str, float]:
        """Measure all songs.

        Args:
            measure: gives the figures of a song.
            summary: of the figures of songs.
            note: what is shown of the summary of the songs so far.

        Returns:
            `<songs>.<measure>.<stem>` -> figure; a stem without a figure is left out.
        """
        return {
            f"{name}.{what}.{stem}": value
            for name, songs in self._songs.items()
            for what, by_stem in summary(
                songs.measured(measure, lambda so_far: note(summary(so_far)))
            ).items()
            for stem, value in by_stem.items()
        }


def mean_score(metrics: Mapping[str, float], figures: Sequence[str]) -> float | None:
    """Return what validations are compared by: figures of held-out songs if possible.

    Args:
        metrics: of a validation.
        figures: `<measure>.<stem>`, in dB.

    Returns:
        the mean of these figures; None where no song has one.
    """
    known = {n: v for n, v in metrics.items() if n.endswith(tuple(f".{f}" for f in figures))}
    if any(name.startswith(f"{HELD_OUT}.") for name in metrics):
        known = {n: v for n, v in known.items() if n in {f"{HELD_OUT}.{f}" for f in figures}}
    values = [round(value, DIGITS) for value in known.values() if not math.isnan(value)]
    return sum(values) / len(values) if values else None


def described(entry: Mapping[str, float]) -> dict[str, object]:
    """Return an entry of the history as a checkpoint describes its validation, by songs."""
    nested: dict[str, object] = {"step": entry["step"], "minutes": entry["minutes"]}
    for name, value in entry.items():
        songs, *rest = name.removeprefix("valid.").rsplit(".", 2)
        if name.startswith("valid.") and len(rest) == 2:
            measure, stem = rest
            by_measure = nested.setdefault(songs, {})
            assert isinstance(by_measure, dict)
            by_measure.setdefault(measure, {})[stem] = round(value, DIGITS)
    return nested
