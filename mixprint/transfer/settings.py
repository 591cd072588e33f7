"""Settings and controls of a transfer.

Shape suffixes: S stem.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mixprint.audio.levels import SILENT_PEAK_DB
from mixprint.audio.streamed_levels import MixLevels, peak_safe_gain_db
from mixprint.errors import ConfigError
from mixprint.stems import STEMS
from mixprint.transfer.effect import check_amount
from mixprint.transfer.methods.registry import METHODS
from mixprint.transfer.methods.result import MIN_DURATION_S, OptimizeTarget
from mixprint.transfer.style_share import load_style_share

log = logging.getLogger("mixprint.transfer")

# The encoder's and the features' statistics are those of segments of this length.
TRAINED_SEGMENT_S = 10.0

# Longer than any song that is read at once, and wider than any room; more is a slip of the finger.
MAX_SEGMENT_S = 3600.0
MAX_RECEPTIVE_FIELD_S = 60.0
MAX_STEPS = 1_000_000
# A step of this rate moves a gain by 1000 dB.
MAX_LR = 1.0
MAX_SEGMENTS = 1000
# What torch's generators take.
MAX_SEED = 2**63 - 1

Loudness = Literal["free", "style", "keep", "match"]
# So much is to be expected of what a mix gains or loses in loudness while its peak stays: the slope
# over 37 pairs of generated training songs, whose mixes all have one peak; see docs/transfer.md.
LOUDNESS_AT_PEAK_SHARE = 0.7
ApplyTo = Literal["segment", "song"]
# `style`: the features that the input is expected to have in the target's mix; `target`: the
# target's own, which follow from its music as well.
Aim = Literal["style", "target"]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Settings that decide about the effect that is found, with the names of metrics.json.

    Attributes:
        optimize_target: `features` or `embeddings`.
        num_steps: most updates.
        lr: learning rate of a TCN at the start; of a console how far one step may go.
        receptive_field: of the TCN, in seconds.
        segment_duration: in seconds; shortened where a song ends sooner.
        segment_offset: where the segment starts in both songs, in seconds; with several segments
            they are chosen instead.
        seed: of the TCN's start.
        method: one of `mixprint.transfer.methods.registry.METHODS`.
        aim: see `Aim`; only features have a choice.
        segments: how many segments of each song are heard, see `choose_segments`.
    """

    optimize_target: OptimizeTarget
    num_steps: int = 500
    lr: float = 0.001
    receptive_field: float = 2.0
    segment_duration: float = TRAINED_SEGMENT_S
    segment_offset: float = 0.0
    seed: int = 1
    method: str = "console"
    aim: Aim = "style"
    segments: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked before any work is done."""
        check_segment(self.segment_duration, self.segment_offset)
        for rate, highest in (("lr", MAX_LR), ("receptive_field", MAX_RECEPTIVE_FIELD_S)):
            if not 0 < getattr(self, rate) <= highest:
                raise ConfigError(
                    f"{rate}: expected a number above 0 and up to {highest:g} (with a decimal "
                    f"point), got {getattr(self, rate)}"
                )
        for count, least, most in (
            ("num_steps", 0, MAX_STEPS),
            ("segments", 1, MAX_SEGMENTS),
            ("seed", 0, MAX_SEED),
        ):
            if not least <= getattr(self, count) <= most:
                raise ConfigError(
                    f"{count}: expected {least} to {most}, got {getattr(self, count)}"
                )
        for name, value, known in (
            ("method", self.method, tuple(METHODS)),
            ("optimize_target", self.optimize_target, get_args(OptimizeTarget)),
            ("aim", self.aim, get_args(Aim)),
        ):
            if value not in known:
                raise ConfigError(f"{name}: expected one of {known}, got {value!r}")

    @property
    def share(self) -> Tensor | None:
        """The style shares of the features, share_D; None: all the way to the target."""
        by_share = self.optimize_target == "features" and self.aim == "style"
        return load_style_share() if by_share else None

    @property
    def embeds(self) -> bool:
        """Tell whether input and style must be embedded."""
        return self.optimize_target == "embeddings" or METHODS[self.method].needs_embedding

    def warn_of_length(self) -> None:
        """Warn where the segments are not as long as those that were trained on."""
        if self.segment_duration != TRAINED_SEGMENT_S:
            log.warning(
                "segment_duration is %g s; encoder and standardisation are trained on %g s",
                self.segment_duration,
                TRAINED_SEGMENT_S,
            )


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Controls of what is made of the effect that was found.

    Attributes:
        amount: per stem, see `mixprint.transfer.effect`. A stem with amount 0 is kept as it is
            from the start: the others are fitted around it.
        loudness: `free` leaves the output as loud as it comes. The others bring it, by one gain,
            to what is expected in the style (`style`): most of the way from the input's loudness
            to that which it has with the input's true peak, for mixes are mastered to a peak; to
            the input's loudness (`keep`) or to the style's (`match`).
        apply_to: `segment` writes what was heard by the fit, `song` the whole input.
    """

    amount: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STEMS, 1.0))
    loudness: Loudness = "free"
    apply_to: ApplyTo = "segment"

    def __post_init__(self) -> None:
        """Check the values."""
        if set(self.amount) != set(STEMS):
            raise ConfigError(f"amount: expected one for each of {STEMS}, got {dict(self.amount)}")
        check_amount(self.amounts)
        for name, value, known in (
            ("loudness", self.loudness, get_args(Loudness)),
            ("apply_to", self.apply_to, get_args(ApplyTo)),
        ):
            if value not in known:
                raise ConfigError(f"{name}: expected one of {known}, got {value!r}")

    @property
    def amounts(self) -> Tensor:
        """The amounts in the order of `STEMS`, as amount_S."""
        return torch.tensor([float(self.amount[stem]) for stem in STEMS])

    def gains_db(
        self, source: MixLevels, processed: MixLevels, target_lufs: float
    ) -> tuple[float, float]:
        """Return with which gains the output is written: that of its loudness, and of its peak.

        The second lowers a true peak that would be too high, but for an input that is left as it
        is.

        Args:
            source: levels of the stems' sum before the effect, so that no effect is no gain.
            processed: levels after it.
            target_lufs: loudness of the style.
        """
        loudness_db = self._loudness_gain_db(source, processed, target_lufs)
        if loudness_db == 0 and len(self.kept) == len(STEMS):
            return 0.0, 0.0
        return loudness_db, peak_safe_gain_db(processed.true_peak_dbtp + loudness_db)

    def _loudness_gain_db(
        self, source: MixLevels, processed: MixLevels, target_lufs: float
    ) -> float:
        if processed.true_peak_dbtp <= SILENT_PEAK_DB:
            return 0.0
        keep_db = source.loudness_lufs - processed.loudness_lufs
        peak_db = source.true_peak_dbtp - processed.true_peak_dbtp
        return {
            "free": 0.0,
            "style": keep_db + LOUDNESS_AT_PEAK_SHARE * (peak_db - keep_db),
            "keep": keep_db,
            "match": target_lufs - processed.loudness_lufs,
        }[self.loudness]

    @property
    def kept(self) -> tuple[str, ...]:
        """The stems that stay as they are."""
        return tuple(stem for stem in STEMS if self.amount[stem] == 0)

    def to_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"amount": {stem: float(self.amount[stem]) for stem in STEMS}}


def check_segment(duration_s: float, offset_s: float) -> None:
    """Refuse a part of a song that cannot be measured.

    Raises:
        ConfigError: it is too short, or a number is out of range.
    """
    if not MIN_DURATION_S <= duration_s <= MAX_SEGMENT_S:
        raise ConfigError(
            f"segment_duration: expected at least {MIN_DURATION_S} s and at most "
            f"{MAX_SEGMENT_S:g} s, got {duration_s}"
        )
    if not (offset_s >= 0 and math.isfinite(offset_s)):
        raise ConfigError(f"segment_offset: expected 0 s or more, got {offset_s}")


def listed(texts: Sequence[str], option: str) -> tuple[str, ...]:
    """Take what was repeated, or parted by commas, apart; each value once.

    Args:
        texts: as a person has written them; there may be none.
        option: what they belong to, for the message.

    Raises:
        ConfigError: a text names nothing.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{option}: expected names, got {','.join(texts)!r}")
    return tuple(dict.fromkeys(parts))


def parse_numbers(texts: Sequence[str], option: str) -> tuple[float, ...]:
    """Read numbers that were repeated or parted by commas; each once where `texts` repeats them.

    Args:
        texts: as a person has written them; there may be none.
        option: what they belong to, for the message.

    Raises:
        ConfigError: one is no finite number, or a comma looks like a decimal one.
    """
    found = []
    for text in texts:
        _check_decimal_comma(text, option)
        for part in text.split(","):
            try:
                found.append(float(part))
            except ValueError:
                raise ConfigError(f"{option}: expected numbers, got {text!r}") from None
            if not math.isfinite(found[-1]):
                raise ConfigError(f"{option}: expected finite numbers, got {text!r}")
    return tuple(found)


def _check_decimal_comma(text: str, option: str) -> None:
    """Refuse what can only be a number with a decimal comma: 0,001 or 1,05."""
    if re.search(r"\d\s*,0\d", text):
        raise ConfigError(
            f"{option}: expected a decimal point, for commas part several numbers, got {text!r}"
        )


def parse_amounts(texts: Sequence[str], keep: Sequence[str] = ()) -> dict[str, float]:
    """Read amounts as a person writes them.

    Args:
        texts: each a number, for all stems, or `<stem>=<number>`, for one; several in one text
            are parted by commas. What names a stem goes before what does not.
        keep: stems whose amount is 0, whatever else is said.

    Returns:
        stem -> amount.

    Raises:
        ConfigError: a text is neither, a stem is unknown, a number is out of range, or there are
            two amounts for one thing, as a decimal comma makes them.
    """
    general: float | None = None
    named: dict[str, float] = {}
    written = ",".join(texts)
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        stem, equals, number = (part.strip() for part in text.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(
                f"amount: expected a number or <stem>=<number>, got {text!r}"
            ) from None
        if not equals and general is not None:
            raise ConfigError(
                f"amount: expected one number for all stems, with a decimal point, got {written!r}"
            )
        if equals and stem in named:
            raise ConfigError(f"amount: expected one number for {stem}, got {written!r}")
        if equals:
            named[stem] = value
        else:
            general = value
    for whole in texts:
        if re.search(r"=\s*\d+,\d+\s*(,|$)", whole):
            raise ConfigError(
                "amount: expected a decimal point, or the number for all stems first, "
                f"got {whole!r}"
            )
    amounts = dict.fromkeys(STEMS, 1.0 if general is None else general)
    amounts |= named | dict.fromkeys(keep, 0.0)
    if unknown := sorted(amounts.keys() - set(STEMS)):
        raise ConfigError(f"amount, keep: expected stems of {STEMS}, got {unknown}")
    check_amount(torch.tensor([amounts[stem] for stem in STEMS]))
    return amounts
