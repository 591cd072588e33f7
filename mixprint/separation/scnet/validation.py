"""Validation of an SCNet in training: SDRs of the four stems."""

import math
from collections.abc import Sequence

from mixprint.separation.material.songs import Song
from mixprint.separation.metrics import (
    MUSEVAL_SDR,
    UTTERANCE_SDR,
    Scores,
    mean_sdr,
    median_sdr,
    score_separator,
)
from mixprint.separation.separator import Separator
from mixprint.separation.training.validation import SongValidation
from mixprint.stems import STEMS

# What validations are compared by.
SCORED = (f"{UTTERANCE_SDR}.average",)


class Validation(SongValidation):
    """Songs that an SCNet in training is validated on."""

    def measure(self, separator: Separator, max_duration_s: float | None) -> dict[str, float]:
        """Score all songs.

        Args:
            separator: the separator.
            max_duration_s: see `score_separator`.

        Returns:
            `<songs>.<measure>.<stem>` -> decibels; a stem without a figure is left out.
        """

        def score(song: Song) -> Scores:
            return score_separator(separator, [song.path], max_duration_s=max_duration_s)

        return self.measured(score, _over_songs, _shown)


def _over_songs(per_song: Sequence[Scores]) -> Scores:
    """Summarise the scores of songs as `score_separator` does."""
    # A stem that is silent has no figure; the summaries want to see that.
    silent = dict.fromkeys(STEMS, math.nan)
    return {
        measure: summary([silent | scores[measure] for scores in per_song])
        for measure, summary in ((UTTERANCE_SDR, mean_sdr), (MUSEVAL_SDR, median_sdr))
    }


def _shown(scores: Scores) -> str:
    average = scores[UTTERANCE_SDR].get("average")
    return "" if average is None else f"SDR {average:.2f} dB"
