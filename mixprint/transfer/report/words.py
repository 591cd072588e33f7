"""Changes of a transfer in words and units, with what the target would have asked for.

The words come from the 64 features of input, target and output. A feature by itself often says
what another one says too: a stem that is 3 dB quieter is so in every band. Here they become the
few things that a mixing engineer names: level, place in the mix, tone (bands relative to the
stem's own level), dynamics, balance, width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mixprint.dsp.decibels import amplitude
from mixprint.dsp.loudness import SILENCE_LUFS
from mixprint.features.schema import BAND_EDGES_HZ, FEATURE_NAMES
from mixprint.stems import STEMS

MAX_CHANGES_PER_STEM = 4
# A stem this near to the floor of the loudness measure has no mix to speak of.
SILENT_LUFS = SILENCE_LUFS + 1.0
# Below this side over mid a stem is called mono: a ratio to next to nothing means nothing.
MONO_DB = -40.0
# A width is a percentage up to this, and a multiple beyond.
MAX_WIDTH_PERCENT = 100.0

Values = Mapping[str, float]
# How much, and of what: `2.1 dB`, `quieter`.
Words = tuple[str, str]


@dataclass(frozen=True)
class Change:
    """One thing that a transfer did to a stem.

    Attributes:
        text: what was done, for example `2.1 dB quieter`.
        target_text: what would have made it as in the target; only how much, for example `3.0 dB`,
            where it is more or less of the same.
        size: the change in just noticeable steps; signed.
    """

    text: str
    target_text: str
    size: float


@dataclass(frozen=True)
class _Aspect:
    """Something that is heard of a stem, and how it is read from the features.

    Attributes:
        read: value from the features of one stem, by their names without the stem.
        noticed: smallest change that is worth a word, in the unit of the value.
        say: words for a change; it gets the value before and after.
    """

    read: Callable[[Values], float]
    noticed: float
    say: Callable[[float, float], Words]


def _amount(unit: str, more: str, less: str, digits: int = 1) -> Callable[[float, float], Words]:
    def say(before: float, after: float) -> Words:
        step = after - before
        return f"{abs(step):.{digits}f}{unit}", more if step > 0 else less

    return say


def _width(before_db: float, after_db: float) -> Words:
    """Say how much more or less side there is beside the middle, as a ratio of amplitudes."""
    if before_db <= MONO_DB or after_db <= MONO_DB:
        return "made", "stereo from mono" if after_db > before_db else "mono"
    percent = 100 * (amplitude(after_db - before_db) - 1)
    if percent > MAX_WIDTH_PERCENT:
        return f"{1 + percent / 100:.1f} times", "as wide"
    return f"{abs(percent):.0f} %", "wider" if percent > 0 else "narrower"


def _hertz(value_hz: float) -> str:
    return f"{value_hz / 1000:g} kHz" if value_hz >= 1000 else f"{value_hz:g} Hz"


def _bands() -> dict[str, str]:
    """Name the ranges of the band features; the outer ones by their inner edge."""
    (_, low_hz), (mid_low_hz, mid_high_hz), (high_hz, _) = (
        BAND_EDGES_HZ[name] for name in ("low", "mid", "high")
    )
    return {
        "low": f"below {_hertz(low_hz)}",
        "mid": f"from {_hertz(mid_low_hz)} to {_hertz(mid_high_hz)}",
        "high": f"above {_hertz(high_hz)}",
    }


def _tone(band: str, where: str) -> _Aspect:
    name = f"band_{band}_db"

    def say(before: float, after: float) -> Words:
        return f"{after - before:+.1f} dB".replace("-", "−"), where

    return _Aspect(lambda v: v[name] - v["loudness_lufs"], 1.0, say)


# A decibel of a part of a mix is about what a trained listener notices; the others stand in
# proportion to it on music.
_ASPECTS: tuple[_Aspect, ...] = (
    _Aspect(lambda v: v["loudness_lufs"], 1.0, _amount(" dB", "louder", "quieter")),
    _Aspect(
        lambda v: v["relative_loudness_lu"],
        1.0,
        _amount(" LU", "further in front of the mix", "further back in the mix"),
    ),
    *(_tone(band, where) for band, where in _bands().items()),
    _Aspect(
        lambda v: (v["crest_left_db"] + v["crest_right_db"]) / 2,
        1.0,
        _amount(" dB", "peakier", "less peaky"),
    ),
    _Aspect(
        lambda v: v["dynamic_range_lu"],
        1.0,
        _amount(" LU", "more between loud and soft", "less between loud and soft"),
    ),
    _Aspect(lambda v: v["ild_db"], 1.0, _amount(" dB", "to the left", "to the right")),
    _Aspect(lambda v: max(v["side_mid_ratio_db"], MONO_DB), 1.0, _width),
    _Aspect(
        lambda v: v["correlation"],
        0.05,
        _amount("", "more alike left and right", "less alike left and right", digits=2),
    ),
    _Aspect(
        lambda v: v["spectral_flatness"],
        0.05,
        _amount("", "noisier", "more tonal", digits=2),
    ),
    _Aspect(
        lambda v: v["masking"],
        0.05,
        _amount("", "more covered by the others", "less covered by the others", digits=2),
    ),
)


def describe_changes(
    features: Mapping[str, Values],
    *,
    left_alone: Sequence[str] = (),
    most: int = MAX_CHANGES_PER_STEM,
) -> dict[str, list[Change] | str]:
    """Find what moved most in each stem.

    Args:
        features: `input`, `target` and `output`, each with the 64 features by name in raw units.
        left_alone: stems that the transfer did not touch.
        most: how many changes to name per stem.

    Returns:
        stem -> its changes, that of the most just noticeable steps first; or why there are none,
        as text.

    Raises:
        ValueError: a feature is missing.
    """
    for song in ("input", "target", "output"):
        if missing := [name for name in FEATURE_NAMES if name not in features[song]]:
            raise ValueError(f"features of the {song}: expected all 64, missing {missing}")
    found: dict[str, list[Change] | str] = {}
    for stem in STEMS:
        values = {song: _of_stem(features[song], stem) for song in ("input", "target", "output")}
        silent = [
            song for song in ("input", "target") if values[song]["loudness_lufs"] <= SILENT_LUFS
        ]
        if silent:
            found[stem] = f"left as it is: silent in the {' and the '.join(silent)}"
            continue
        if stem in left_alone:
            found[stem] = "left as it is"
            continue
        changes = (_change(aspect, values) for aspect in _ASPECTS)
        audible = [change for change in changes if change is not None]
        audible.sort(key=lambda change: -abs(change.size))
        found[stem] = audible[:most] or "hardly changed"
    return found


def sentence(stem: str, changes: Sequence[Change] | str) -> str:
    """Make a sentence of what `describe_changes` found for a stem."""
    if isinstance(changes, str):
        return f"{stem}: {changes}"
    told = [f"{change.text} (target {change.target_text})" for change in changes]
    return f"{stem}: {', '.join(told)}"


def _of_stem(values: Values, stem: str) -> dict[str, float]:
    prefix = f"{stem}_"
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _change(aspect: _Aspect, values: Mapping[str, Values]) -> Change | None:
    """Describe an aspect's change, if it can be noticed."""
    before, wanted, after = (aspect.read(values[song]) for song in ("input", "target", "output"))
    if abs(after - before) < aspect.noticed:
        return None
    how_much, words = aspect.say(before, after)
    if abs(wanted - before) < aspect.noticed:
        target_text = "as the input"
    else:
        target_how_much, target_words = aspect.say(before, wanted)
        same = target_words == words and target_how_much != how_much
        target_text = target_how_much if same else f"{target_how_much} {target_words}"
    return Change(f"{how_much} {words}", target_text, (after - before) / aspect.noticed)
