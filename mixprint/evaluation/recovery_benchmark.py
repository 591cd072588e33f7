"""Recovery measured: what a console reaches that may hear the truth.

- the *oracle*: the console fitted to the truth from the input of any question, which is as near as
  its controls come;
- the *style known*: dry stems mixed with the target's own settings, the true style with another
  of the engineer's variations: what a perfect reader of styles reaches;
- *pairs*: dry stems and truth are given, the settings are found and held against the true ones by
  what they do (`mixprint.evaluation.console_effects`), beside the mean style and the style known.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixprint.console.recovery import NUM_STEPS, recover
from mixprint.console.rendering import render
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings
from mixprint.console.truth import from_truth, peak_gain_db
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.evaluation.console_effects import EFFECTS, console_effects, effect_differences
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.mix_distances import band_level_distance_db
from mixprint.evaluation.retrieval import Estimate, bootstrap
from mixprint.evaluation.transfer_benchmark import (
    KINDS,
    TRUE,
    Answer,
    Case,
    Question,
    Segment,
    mix_settings,
)
from mixprint.fingerprint import code_version
from mixprint.progress import progress
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.mixing import MixSettings
from mixprint.synthesis.style_benchmark import StyleBenchmark

log = logging.getLogger("mixprint.evaluation")

ORACLE, STYLE_KNOWN, MEAN_STYLE, RECOVERY = "oracle", "style known", "mean style", "recovery"
PAIR_DISTANCES: Mapping[str, str] = {"stft": "1", "bands_db": "dB", "stem_stft": "1"}
PAIR_MEASURES: Mapping[str, str] = {**PAIR_DISTANCES, **EFFECTS}
"""Measure -> unit, of distances to the true mix and of effects."""


@dataclass(frozen=True)
class Recoveries:
    """Settings that make the truth of the input, found once for each question.

    Attributes:
        finished: keeps them.
        num_steps: of the search.
    """

    finished: Finished
    num_steps: int = NUM_STEPS

    def made_with(self) -> dict[str, Any]:
        """Inputs of the recoveries, beside the question."""
        code = code_version("mixprint.console.recovery", "mixprint.console.rendering")
        return {"recovery": self.num_steps, "code": code}

    def settings(self, question: Question) -> Settings:
        """Return the settings, found now or earlier."""
        key = {**self.made_with(), "question": _without_target(question)}
        found = self.finished.result(key, partial(self._found, question))
        return Settings.from_values(found, "recovered settings")

    def _found(self, question: Question) -> dict[str, Any]:
        found = recover(
            question.led_input,
            question.led_truth,
            SAMPLE_RATE_HZ,
            STEMS,
            preroll_s=question.segment.lead_s,
            num_steps=self.num_steps,
        )
        return found.settings.to_values()

    def output(self, question: Question) -> Tensor:
        """Return the input's stems_SCT mixed with these settings."""
        mixed_SCT = render(question.led_input, self.settings(question), SAMPLE_RATE_HZ)
        return mixed_SCT[..., question.num_lead :].float()


def _without_target(question: Question) -> dict[str, Any]:
    """Return what a recovery follows from: all of a question but the target's mix."""
    made_with = question.made_with
    mixes = made_with.pop("mixes")
    # Of dry stems, the input's own mix means nothing either.
    heard = [mixes[2], *mixes[3:4]] if question.kind.is_raw else [mixes[0], *mixes[2:4]]
    return {**made_with, "mixes": heard}


def oracle(recoveries: Recoveries, max_cases: int | None = None) -> Answer:
    """Return the console fitted to the truth as an answer."""
    return Answer(
        name=ORACLE,
        find=recoveries.output,
        made_with={"reference": ORACLE, **recoveries.made_with()},
        max_cases=max_cases,
    )


def style_known() -> Answer:
    """Return the target's own settings, applied to the dry stems, as an answer."""
    code = code_version("mixprint.evaluation.recovery_benchmark")
    return Answer(
        name=STYLE_KNOWN,
        find=lambda question: levelled(question, _target_settings(question))[1],
        made_with={"reference": STYLE_KNOWN, "code": code},
        only_raw=True,
    )


def mean_style() -> Settings:
    """Average the styles of the training songs: what is right on average."""
    benchmark = StyleBenchmark()
    styles = {
        style.style: style
        for split, number in benchmark.songs()
        if split == "train"
        for style in benchmark.styles(split, number)
    }
    return Settings.mean([as_settings(style) for style in styles.values()])


def as_settings(settings: MixSettings) -> Settings:
    """Return the generator's settings as the console's."""
    return from_truth({"mix": settings.to_values()}, settings.style)


def _target_settings(question: Question) -> Settings:
    return as_settings(mix_settings(question.case.target))


def levelled(question: Question, settings: Settings) -> tuple[Settings, Tensor]:
    """Mix the dry song with settings, brought to the peak of a generated mix.

    Returns:
        the settings with this output level, and the segment of the stems, stems_SCT.
    """
    mixed_SCT = render(question.dry_song, settings, SAMPLE_RATE_HZ)
    gain_db = peak_gain_db(mixed_SCT)
    path = f"{MASTER}.output_db"
    output_SCT = question.cut(mixed_SCT)[..., question.num_lead :] * amplitude(gain_db)
    return settings.edit({path: settings[path] + gain_db}), output_SCT.float()


def run_pairs(
    cases: Sequence[Case],
    recoveries: Recoveries,
    *,
    segment: Segment,
    finished: Finished,
) -> list[dict[str, Any]]:
    """Take the truths of cases apart, each once.

    Args:
        cases: see `draw_cases`; their truths and the dry stems of these are looked at, and the
            settings of their targets.
        recoveries: finds the settings; those that the oracle found of dry stems are used again.
        segment: what is heard.
        finished: keeps each row.

    Returns:
        one row per truth and method (`MEAN_STYLE`, `STYLE_KNOWN`, `RECOVERY`): `pair`, `song`,
        `method`, `PAIR_DISTANCES`, and of each of `EFFECTS` the difference per stem, None where it
        is not heard.
    """
    first = list({case.truth: case for case in reversed(cases)}.values())[::-1]
    code = code_version("mixprint.evaluation.recovery_benchmark")
    rows = []
    for number, case in enumerate(progress(first, len(first), "taken apart", "mixes", log)):
        question = Question(case, KINDS["raw-to-mix"], TRUE, 1.0, segment, None)
        key = {"pair": question.made_with, **recoveries.made_with(), "code": code}
        found = finished.result(key, partial(_pair_rows, question, recoveries))
        rows += [{"pair": number, "song": case.input_song, **row} for row in found["rows"]]
    return rows


def _pair_rows(question: Question, recoveries: Recoveries) -> dict[str, Any]:
    dry_SCT = question.cut(question.dry_song)
    lead = question.num_lead
    truth, _ = levelled(question, as_settings(mix_settings(question.case.truth)))
    true_effects = console_effects(dry_SCT, truth, SAMPLE_RATE_HZ, lead)
    rows = []
    for method, settings in (
        (MEAN_STYLE, mean_style()),
        (STYLE_KNOWN, _target_settings(question)),
        (RECOVERY, recoveries.settings(question)),
    ):
        if method == RECOVERY:
            tracks_SCT, output_SCT = question.led_input, recoveries.output(question)
        else:
            tracks_SCT = dry_SCT
            settings, output_SCT = levelled(question, settings)
        effects = console_effects(tracks_SCT, settings, SAMPLE_RATE_HZ, lead)
        rows.append(
            {
                "method": method,
                **_pair_distances(output_SCT, question),
                **effect_differences(effects, true_effects),
            }
        )
    return {"rows": rows}


@torch.no_grad()
def _pair_distances(output_SCT: Tensor, question: Question) -> dict[str, float]:
    output_CT, truth_CT = output_SCT.sum(0), question.truth_mix
    found = {
        "stft": multi_resolution_stft(output_CT, truth_CT),
        "bands_db": band_level_distance_db(output_CT, truth_CT),
        "stem_stft": multi_resolution_stft(output_SCT, question.truth_stems).mean(),
    }
    return {name: float(value) for name, value in found.items()}


def summarise_pairs(
    rows: Sequence[Mapping[str, Any]], *, num_bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Gather the rows of `run_pairs`.

    Returns:
        per method: `method`, `pairs`, and each of `PAIR_MEASURES`: the mean over a mix's stems in
        which it is heard, as the median over the mixes with its 95 % interval (whole songs
        resampled); None where it is heard in no mix.
    """
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        measured = {name: _median(own, name, num_bootstrap, seed) for name in PAIR_MEASURES}
        found.append({"method": method, "pairs": len(own)} | measured)
    return found


def _median(
    rows: Sequence[Mapping[str, Any]], name: str, num_bootstrap: int, seed: int
) -> Estimate | None:
    values, songs = [], []
    for row in rows:
        of_stems = row[name] if isinstance(row[name], list) else [row[name]]
        heard = [value for value in of_stems if value is not None]
        if heard:
            values.append([float(np.mean(heard))])
            songs.append(row["song"])
    if not values:
        return None
    _, song_Q = np.unique(songs, return_inverse=True)
    return bootstrap(
        np.array(values), song_Q, lambda x_Q1: float(np.median(x_Q1)), num_bootstrap, seed
    )
