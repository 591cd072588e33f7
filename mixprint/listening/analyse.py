"""Analyse the result files of a listening test.

A listener's score of a condition is the mean over the trials. Its mean over listeners stands with
its 95 % interval by Student's t, so the interval says what other listeners of the same kind would
have said of the same pairs. Listeners are screened afterwards by the rule of ITU-R BS.1534-3: who
rates the hidden reference below 90 in more than 15 % of the trials is left out, and named.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from mixprint.errors import ConfigError, DataError
from mixprint.listening.generate import REFERENCE, TEST_NAME, UNCHANGED
from mixprint.pages.colours import PALETTE
from mixprint.pages.page import is_page, write_page
from mixprint.schema import (
    Length,
    Range,
    WithOthers,
    as_record,
    read_record,
    shortened,
)
from mixprint.storage.atomic import read_json, write_json
from mixprint.storage.outputs import check_file
from mixprint.text import shown

KIND = "mixprint listening results"
PAGE_TITLE = "Results of the listening test"
SCREEN_SCORE = 90.0
SCREEN_FRACTION = 0.15
CONFIDENCE = 0.95
DPI = 110

# trial -> condition -> score
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Session:
    """Ratings of one listener.

    Attributes:
        path: the file.
        listener: the name that the listener gave.
        fingerprint: of the test.
        scores: trial -> condition -> 0 to 100.
    """

    path: Path
    listener: str
    fingerprint: str
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class _Rated(WithOthers):
    """A trial of a result file."""

    trial: Annotated[str, Length(1, 200)]
    scores: Annotated[Mapping[str, Annotated[float, Range(0.0, 100.0)]], Length(1, 100)]


@dataclass(frozen=True, kw_only=True)
class _Results(WithOthers):
    """A result file."""

    listener: Annotated[str, Length(1, 1_000)]
    fingerprint: str
    trials: Annotated[tuple[_Rated, ...], Length(1, 10_000)]


@dataclass(frozen=True, kw_only=True)
class _Trial(WithOthers):
    trial: str
    conditions: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Test(WithOthers):
    """Part of a test.json that is read."""

    fingerprint: str
    trials: tuple[_Trial, ...]


def read_session(path: Path) -> Session:
    """Read a result file.

    Raises:
        DataError: it is no result of a listening test, or a score is missing or out of range.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise DataError(f"{path}: expected the results of a listening test, found something else")
    known = as_record(values, path, _Results)
    scores: dict[str, Mapping[str, float]] = {}
    for number, trial in enumerate(known.trials, start=1):
        if trial.trial in scores:
            raise DataError(
                f"{path}: trial {number}: expected a name of its own, found "
                f"{shortened(trial.trial)} twice"
            )
        scores[trial.trial] = trial.scores
    return Session(path, known.listener, known.fingerprint, scores)


def find_files(places: Sequence[Path], *, leave_out: Path) -> tuple[list[Path], Path | None]:
    """Find result files, and the test that they belong to.

    Args:
        places: result files, and folders of them.
        leave_out: what the analysis writes, which may lie in such a folder.

    Returns:
        the files, and the test's test.json if a folder holds one.

    Raises:
        DataError: there is no file, or there is more than one test.
    """
    files: list[Path] = []
    tests = []
    for place in places:
        if place.is_dir():
            found = sorted(place.glob("*.json"))
            tests += [path for path in found if path.name == TEST_NAME]
            files += [path for path in found if path.name != TEST_NAME]
        else:
            files.append(place)
    files = [path for path in dict.fromkeys(files) if path.resolve() != leave_out.resolve()]
    if not files:
        raise DataError(f"{', '.join(map(str, places))}: expected result files, found none")
    if len(tests) > 1:
        raise DataError(f"expected the results of one test, found {tests[0]} and {tests[1]}")
    return files, tests[0] if tests else None


def read_sessions(
    files: Iterable[Path], test: _Test | None
) -> tuple[list[Session], list[dict[str, str]]]:
    """Read result files; those that cannot be used are named with the reason.

    All must come from one test: the given one, else that of the first readable file. Every trial
    and condition of it must be rated, once per listener.

    Args:
        files: see `find_files`.
        test: what test.json holds, if it is known.

    Returns:
        the sessions, and `file` and `reason` of what was refused.
    """
    sessions: list[Session] = []
    refused = []
    wanted = test.fingerprint if test else None
    plan = {trial.trial: set(trial.conditions) for trial in test.trials} if test else None
    for path in files:
        try:
            session = read_session(path)
            if wanted is None:
                wanted = session.fingerprint
                plan = {trial: set(rated) for trial, rated in session.scores.items()}
            _check_belongs(session, wanted, plan or {}, sessions)
        except DataError as error:
            refused.append({"file": str(path), "reason": str(error)})
            continue
        sessions.append(session)
    return sessions, refused


def _check_belongs(
    session: Session, wanted: str, plan: Mapping[str, set[str]], others: Sequence[Session]
) -> None:
    """Refuse results of another test, incomplete ones, and a listener's second ones."""
    where = session.path
    if session.fingerprint != wanted:
        raise DataError(
            f"{where}: expected results of the test {wanted[:8]}, found {session.fingerprint[:8]}"
        )
    found = {trial: set(rated) for trial, rated in session.scores.items()}
    if found != plan:
        unlike = sorted(t for t in plan.keys() | found.keys() if plan.get(t) != found.get(t))
        raise DataError(
            f"{where}: expected the trials and conditions of the test, found others in {unlike}"
        )
    for other in others:
        if other.listener == session.listener:
            raise DataError(
                f"{where}: expected one file per listener, found {session.listener!r} in "
                f"{other.path} too"
            )


def analyse(places: Sequence[Path], out_path: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Analyse results, and write them as JSON and as a page beside it.

    Args:
        places: result files, and folders of them.
        out_path: the JSON; the page has its name with the suffix .html.
        overwrite: replace the analysis of other ratings there; the same one is left alone.

    Returns:
        what the JSON holds.

    Raises:
        ConfigError: both would have the same name.
        DataError: see `find_files`; no file can be used, no listener passes the screening, or
            there is another analysis or something else where this one would be written.
    """
    page_path = out_path.with_suffix(".html")
    if page_path.name.casefold() == out_path.name.casefold():
        raise ConfigError(
            f"{shown(out_path)}: expected the name of a JSON file, found that of the page beside it"
        )
    files, test_path = find_files(places, leave_out=out_path)
    inputs = [*files, *([test_path] if test_path else [])]
    outputs: dict[Path, Callable[[Path], bool]] = {
        out_path: is_analysis,
        page_path: partial(is_page, title=PAGE_TITLE),
    }
    for path, is_ours in outputs.items():
        check_file(path, is_ours, inputs=inputs, overwrite=True)
    sessions, refused = read_sessions(files, read_record(test_path, _Test) if test_path else None)
    if not sessions:
        raise DataError(f"expected results that can be used, found none: {refused[0]['reason']}")
    kept = [session for session in sessions if _failed_fraction(session) <= SCREEN_FRACTION]
    if not kept:
        raise DataError(
            f"expected a listener who finds the hidden reference, found none of {len(sessions)}: "
            f"all rate it below {SCREEN_SCORE:.0f} in more than {SCREEN_FRACTION:.0%} of the trials"
        )
    results = {
        "fingerprint": kept[0].fingerprint,
        "num_listeners": len(kept),
        "num_trials": len(kept[0].scores),
        "listeners": [session.listener for session in kept],
        "screened_out": [
            {"listener": s.listener, "failed_fraction": _failed_fraction(s)}
            for s in sessions
            if s not in kept
        ],
        "refused": refused,
        "interval": f"{CONFIDENCE:.0%}, Student's t over listeners",
        "conditions": condition_scores([session.scores for session in kept]),
        "trials": {
            trial: condition_scores([{trial: session.scores[trial]} for session in kept])
            for trial in sorted(kept[0].scores)
        },
    }
    if is_analysis(out_path) and page_path.is_file() and read_json(out_path) == results:
        return results
    for path, is_ours in outputs.items():
        check_file(path, is_ours, overwrite=overwrite)
    # The JSON comes last: where it is the same, the page is.
    _write_page(page_path, results)
    write_json(out_path, results)
    return results


def is_analysis(path: Path) -> bool:
    """Tell whether a file holds what `analyse` has written."""
    try:
        values = read_json(path)
    except DataError:
        return False
    keys = {"fingerprint", "num_listeners", "screened_out", "conditions", "trials"}
    return isinstance(values, dict) and keys <= values.keys()


def _failed_fraction(session: Session) -> float:
    """Return the part of the trials in which a listener missed the hidden reference."""
    scores = [rated[REFERENCE] for rated in session.scores.values() if REFERENCE in rated]
    return sum(score < SCREEN_SCORE for score in scores) / len(scores) if scores else 0.0


def condition_scores(sessions: Sequence[Scores]) -> dict[str, dict[str, float | None]]:
    """Return mean, interval and median of each condition, the best first.

    Args:
        sessions: the scores of each listener.

    Returns:
        condition -> `mean`, `low`, `high` (null for a single listener), `median` of the single
        scores, and `over_input`, `over_input_low`, `over_input_high`: the mean of the listeners'
        differences to the unchanged input (null where there is none).
    """
    conditions = sorted({c for scores in sessions for rated in scores.values() for c in rated})
    found = {}
    for condition in conditions:
        means, over = [], []
        single: list[float] = []
        for scores in sessions:
            rated = [trial for trial in scores.values() if condition in trial]
            single += [trial[condition] for trial in rated]
            means.append(float(np.mean([trial[condition] for trial in rated])))
            both = [trial[condition] - trial[UNCHANGED] for trial in rated if UNCHANGED in trial]
            if both:
                over.append(float(np.mean(both)))
        mean, low, high = t_interval(means)
        over_mean, over_low, over_high = t_interval(over) if over else (None, None, None)
        found[condition] = {
            "mean": mean,
            "low": low,
            "high": high,
            "median": float(np.median(single)),
            "over_input": over_mean,
            "over_input_low": over_low,
            "over_input_high": over_high,
        }
    return dict(sorted(found.items(), key=lambda item: -(item[1]["mean"] or 0.0)))


def t_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean and its 95 % interval; one value has none."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def results_text(results: Mapping[str, Any]) -> str:
    """Lay the means out as a table for a terminal."""
    width = max(len(name) for name in results["conditions"])
    lines = [f"{'condition':<{width}}   mean  95 % interval   over the input"]
    for name, values in results["conditions"].items():
        lines.append(
            f"{name:<{width}}  {values['mean']:5.1f}  {_interval(values, ''):<15} "
            f"{_over(values)}".rstrip()
        )
    return "\n".join(lines)


def _interval(values: Mapping[str, float | None], prefix: str) -> str:
    low, high = values[f"{prefix}low"], values[f"{prefix}high"]
    return "one listener" if low is None or high is None else f"{low:.1f} to {high:.1f}"


def _over(values: Mapping[str, float | None]) -> str:
    over = values["over_input"]
    return "" if over is None else f"{over:+.1f} ({_interval(values, 'over_input_')})"


def _write_page(path: Path, results: Mapping[str, Any]) -> None:
    """Write the figures with a picture."""
    write_page(
        path,
        "listening/results.html",
        PAGE_TITLE,
        results=results,
        scores_png=_draw(results["conditions"]),
        rows=[
            [name, f"{v['mean']:.1f}", _interval(v, ""), f"{v['median']:.1f}", _over(v)]
            for name, v in results["conditions"].items()
        ],
        screen_score=SCREEN_SCORE,
    )


def _draw(conditions: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Draw the means with their intervals, the best at the top, as a PNG."""
    figure = Figure(figsize=(6, 1.2 + 0.45 * len(conditions)), layout="constrained")
    axes = figure.add_subplot()
    for row, values in enumerate(conditions.values()):
        mean, low, high = values["mean"], values["low"], values["high"]
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color=PALETTE[0], linewidth=2)
        axes.plot([mean], [row], "o", color=PALETTE[0])
    axes.set_yticks(range(len(conditions)), list(conditions))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("score")
    axes.grid(axis="x", alpha=0.4)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
