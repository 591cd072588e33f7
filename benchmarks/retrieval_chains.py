"""Chains of effects of another library, put on the stems of two songs at a time.

The effects come from outside, and some fail on some sounds: they raise, give NaN, silence or
another length, or leave the sound as it was. A step that fails on either of the two songs is drawn
anew for both, and is listed. All follows from the seed and the numbers of chain, stem, place and
attempt. A chain of 4 effects begins with that of 2.

Shape suffixes: S stem, C channel, T sample, L number of effects, N side (query, partner).
"""

import logging
import random
import resource
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixprint.errors import ConfigError, MixprintError
from mixprint.training.loading import derive_seed

Signal = NDArray[np.float32]

MAX_ATTEMPTS = 20
# Below this level (RMS) a sound counts as silence.
SILENT_DBFS = -80.0
LEAST_RMS = 1e-9
# What effects raise where they fail; other errors are ours.
FAILURES = (
    ArithmeticError,
    AssertionError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
RAISED, NOT_FINITE, SILENT, UNCHANGED, RESHAPED = (
    "raised an error",
    "gave NaN or infinity",
    "gave silence",
    "left the sound as it was",
    "gave another number of samples or channels",
)


@dataclass(frozen=True)
class Step:
    """An effect with its settings."""

    name: str
    family: str
    parameters: Mapping[str, float]


class Effects(Protocol):
    """Effects to draw from."""

    # What is drawn and applied: in the key of every result.
    identity: Mapping[str, Any]
    failures: tuple[type[Exception], ...]

    def draw(self, seed: int, after: str) -> Step:
        """Draw a step whose family is not `after`."""

    def apply(self, step: Step, audio_CT: Signal, sample_rate_hz: int, seed: int) -> Signal:
        """Apply a step; the seed is of what it draws itself, such as noise."""


class MultiAFX:
    """The effects of the package multiafx, with its own ranges and its own way to draw."""

    def __init__(self) -> None:
        """Import the package.

        Raises:
            ConfigError: it, or the program that 28 of its effects run, is not installed.
        """
        # Without it these effects return their input, without a word.
        if shutil.which("sox") is None:
            raise ConfigError("expected the program sox, found none: apt-get install sox")
        try:
            import multiafx  # type: ignore[import-not-found]
            from librosa.util.exceptions import LibrosaError  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError(
                "expected the package multiafx, found none: make benchmark-retrieval installs it "
                "in an environment of its own"
            ) from error
        # That sounds clip is part of the effects.
        logging.getLogger("sox").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", "Possible clipped samples", UserWarning)
        self._package = multiafx
        self.failures: tuple[type[Exception], ...] = (*FAILURES, LibrosaError)
        self.identity: Mapping[str, Any] = {
            "package": "multiafx",
            "version": version("multiafx"),
            "effects": sorted(effect.name for effect in multiafx.registry),
        }

    def draw(self, seed: int, after: str) -> Step:
        """Draw as the package does: any effect, but no two of a category in a row."""
        excluded = [after] if after else []
        chain = self._package.generate_random_chain(1, seed=seed, exclude_categories=excluded)
        drawn = chain[0]
        effect = self._package.registry.get(drawn["effect"])
        return Step(effect.name, effect.macro_category.value, drawn["params"])

    def apply(self, step: Step, audio_CT: Signal, sample_rate_hz: int, seed: int) -> Signal:
        """Apply one effect; what it draws follows from the seed."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        effect = self._package.registry.get(step.name)
        applied_CT: Signal = effect.callable(audio_CT, sample_rate_hz, **step.parameters)
        return applied_CT


@dataclass(frozen=True, eq=False)
class Rendered:
    """A chain on two songs.

    Attributes:
        stems: number of effects -> stems_NSCT.
        names: per stem, the effects in order.
        failures: effect and reason of each step that was drawn anew.
        cpu_s: of this process and the programs that it ran.
    """

    stems: Mapping[int, Signal]
    names: list[list[str]]
    failures: list[tuple[str, str]]
    cpu_s: float


def render(
    stems_NSCT: Signal,
    effects: Effects,
    *,
    chain: int,
    seed: int,
    lengths: Sequence[int],
    sample_rate_hz: int,
    keeps_levels: bool,
) -> Rendered:
    """Put a chain on the stems of two songs.

    What comes out is cut off at +-1, as the package does.

    Args:
        stems_NSCT: the two songs' stems.
        effects: what to draw from.
        chain: its number.
        seed: of all chains.
        lengths: after how many effects on each stem the mixes are wanted.
        sample_rate_hz: of the audio.
        keeps_levels: whether each stem is then as loud (RMS) as before its chain, as an engineer
            would set its fader. Else levels, which some effects change by 30 dB, tell the chain.

    Raises:
        MixprintError: nothing that was drawn for a place works.
    """
    began_s = _cpu_s()
    stems: dict[int, Signal] = {length: np.empty_like(stems_NSCT) for length in lengths}
    names: list[list[str]] = []
    failures: list[tuple[str, str]] = []
    for stem in range(stems_NSCT.shape[1]):
        audio_NCT, family = stems_NSCT[:, stem].astype(np.float32), ""
        names.append([])
        for place in range(max(lengths)):
            for attempt in range(MAX_ATTEMPTS):
                draw_seed = derive_seed(seed, chain, stem, place, attempt)
                step = effects.draw(draw_seed, family)
                applied_NCT, reason = _applied(effects, step, audio_NCT, sample_rate_hz, draw_seed)
                if not reason:
                    break
                failures.append((step.name, reason))
            else:
                raise MixprintError(
                    f"chain {chain}, stem {stem}: expected an effect that works among "
                    f"{MAX_ATTEMPTS}, found {failures[-MAX_ATTEMPTS:]}"
                )
            audio_NCT, family = applied_NCT, step.family
            names[-1].append(step.name)
            if place + 1 in stems:
                heard_NCT = audio_NCT.clip(-1.0, 1.0)
                if keeps_levels:
                    heard_NCT *= _rms(stems_NSCT[:, stem]) / np.maximum(_rms(heard_NCT), LEAST_RMS)
                stems[place + 1][:, stem] = heard_NCT
    return Rendered(stems, names, failures, _cpu_s() - began_s)


def _applied(
    effects: Effects, step: Step, audio_NCT: Signal, sample_rate_hz: int, seed: int
) -> tuple[Signal, str]:
    """Apply a step to both songs; the second value says why it is of no use, or is empty."""
    applied_NCT = np.empty_like(audio_NCT)
    for side, audio_CT in enumerate(audio_NCT):
        try:
            # Noise that both songs shared would tell who belongs together.
            result_CT = effects.apply(
                step, audio_CT.copy(), sample_rate_hz, derive_seed(seed, "side", side)
            )
        except effects.failures:
            return audio_NCT, RAISED
        if reason := _fault(audio_CT, result_CT):
            return audio_NCT, reason
        applied_NCT[side] = result_CT
    return applied_NCT, ""


def _fault(before_CT: Signal, after_CT: Signal) -> str:
    if after_CT.shape != before_CT.shape:
        return RESHAPED
    if not np.isfinite(after_CT).all():
        return NOT_FINITE
    # A stem that rests has nothing that an effect could change.
    if _level_dbfs(before_CT) < SILENT_DBFS:
        return ""
    if _level_dbfs(after_CT) < SILENT_DBFS:
        return SILENT
    return UNCHANGED if np.array_equal(after_CT, before_CT) else ""


def _level_dbfs(audio_CT: Signal) -> float:
    return 20 * float(np.log10(max(float(_rms(audio_CT).item()), LEAST_RMS)))


def _rms(audio_NCT: Signal) -> Signal:
    """Measure levels: (N, 1, 1), or (1, 1) of one song."""
    power = np.mean(np.square(audio_NCT, dtype=np.float64), axis=(-2, -1), keepdims=True)
    return np.sqrt(power).astype(np.float32)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
