"""Validation of a separator in training: scores on songs that were held out, and on others."""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.progress import Progress
from mixprint.separation.material.songs import Song, check_bad_songs, find_songs
from mixprint.separation.metrics import (
    MUSEVAL_SDR,
    UTTERANCE_SDR,
    Scores,
    mean_sdr,
    median_sdr,
    score_separator,
)
from mixprint.separation.scnet.settings import TrainingConfig
from mixprint.separation.separator import Separator
from mixprint.stems import STEMS

log = logging.getLogger("mixprint.separation.training")

HELD_OUT = "held_out"
RESERVED_NAMES = ("step", "minutes", HELD_OUT)
METRIC_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # MLflow refuses some other characters
_DIGITS = 3  # of a score in dB: what differs beyond is no difference
_AVERAGE = f".{UTTERANCE_SDR}.average"


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


class ValidSongs:
    """Songs to validate on; one that turns out to be broken is left out from then on."""

    def __init__(self, songs: Sequence[Song], config: TrainingConfig) -> None:
        self._songs, self._num_found, self._config = list(songs), len(songs), config
        self._reasons: list[str] = []

    def score(self, separator: Separator) -> Scores:
        """Score like `score_separator`, without the songs that cannot be read.

        Raises:
            DataError: these are too many.
        """
        readable: list[Song] = []
        per_song: list[Scores] = []
        with Progress(log, "validated", total=len(self._songs), unit="songs") as shown:
            for song in self._songs:
                if (scores := self._score_song(separator, song)) is not None:
                    readable.append(song)
                    per_song.append(scores)
                average = _over_songs(per_song)[UTTERANCE_SDR].get("average")
                shown.advance(note="" if average is None else f"SDR {average:.2f} dB")
        self._songs = readable
        return _over_songs(per_song)

    def _score_song(self, separator: Separator, song: Song) -> Scores | None:
        """Score one song; None if it cannot be read."""
        try:
            return score_separator(
                separator, [song.path], max_duration_s=self._config.valid_s or None
            )
        except DataError as error:
            self._reasons.append(str(error))
            check_bad_songs(self._reasons, self._num_found, self._config.max_bad_fraction)
            log.warning("left out a song to validate on: %s", error)
            return None


def _over_songs(per_song: Sequence[Scores]) -> Scores:
    """Summarise the scores of songs as `score_separator` does."""
    # A stem that is silent has no figure; the summaries want to see that.
    silent = dict.fromkeys(STEMS, math.nan)
    return {
        measure: summary([silent | scores[measure] for scores in per_song])
        for measure, summary in ((UTTERANCE_SDR, mean_sdr), (MUSEVAL_SDR, median_sdr))
    }


class Validation:
    """All songs that a separator in training is validated on.

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
        self._songs = {name: ValidSongs(songs, config) for name, songs in named.items()}
        names = {name: [song.path.name for song in songs] for name, songs in named.items()}
        self.basis = fingerprint({"valid_s": config.valid_s, **names})

    def measure(self, separator: Separator) -> dict[str, float]:
        """Return `<songs>.<measure>.<stem>` -> decibels; a stem without a figure is left out."""
        return {
            f"{name}.{measure}.{stem}": value
            for name, songs in self._songs.items()
            for measure, by_stem in songs.score(separator).items()
            for stem, value in by_stem.items()
        }


def mean_score(metrics: Mapping[str, float]) -> float | None:
    """Return the figure that validations are compared by: that of held-out songs if possible.

    Args:
        metrics: of `Validation.measure`.

    Returns:
        the mean of the average utterance SDR in dB; None where no song has one.
    """
    averages = {name: value for name, value in metrics.items() if name.endswith(_AVERAGE)}
    if any(name.startswith(f"{HELD_OUT}.") for name in metrics):
        averages = {n: v for n, v in averages.items() if n == f"{HELD_OUT}{_AVERAGE}"}
    known = [round(value, _DIGITS) for value in averages.values() if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def described(entry: Mapping[str, float]) -> dict[str, object]:
    """Return an entry of the history as a checkpoint describes its validation, by songs."""
    nested: dict[str, object] = {"step": entry["step"], "minutes": entry["minutes"]}
    for name, value in entry.items():
        songs, *rest = name.removeprefix("valid.").rsplit(".", 2)
        if name.startswith("valid.") and len(rest) == 2:
            measure, stem = rest
            by_measure = nested.setdefault(songs, {})
            assert isinstance(by_measure, dict)
            by_measure.setdefault(measure, {})[stem] = round(value, _DIGITS)
    return nested
