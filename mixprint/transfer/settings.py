"""What a person decides about a transfer.

Shape suffixes: S stem.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mixprint.audio import SILENT_PEAK_DB
from mixprint.errors import ConfigError
from mixprint.stems import STEMS
from mixprint.transfer.effect import check_amount
from mixprint.transfer.levels import Levels
from mixprint.transfer.optimise import MIN_DURATION_S, Method, OptimizeTarget
from mixprint.transfer.style_share import load_style_share

log = logging.getLogger("mixprint.transfer")

# The encoder's and the features' statistics are those of segments of this length.
TRAINED_SEGMENT_S = 10.0

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
    """What decides about the effect that is found; the names are those of metrics.json.

    Attributes:
        optimize_target: `features` or `embeddings`.
        num_steps: most updates.
        lr: learning rate at the start.
        receptive_field: of the TCN, in seconds.
        segment_duration: in seconds; shortened where a song ends sooner.
        segment_offset: where the segment starts in both songs, in seconds; with several segments
            they are chosen instead.
        seed: of the TCN's start.
        method: see `mixprint.transfer.optimise.Method`.
        aim: see `Aim`; only features have a choice.
        segments: how many segments of each song are heard, see `choose_segments`.
    """

    optimize_target: OptimizeTarget
    num_steps: int
    lr: float
    receptive_field: float
    segment_duration: float
    segment_offset: float
    seed: int
    method: Method = "optimise"
    aim: Aim = "style"
    segments: int = 1

    def __post_init__(self) -> None:
        """Check what `fit_style` does not."""
        if not self.segment_duration >= MIN_DURATION_S:
            raise ConfigError(
                f"segment_duration: expected at least {MIN_DURATION_S} s, "
                f"got {self.segment_duration}"
            )
        if not self.segment_offset >= 0:
            raise ConfigError(f"segment_offset: expected 0 or more, got {self.segment_offset}")
        if self.segments < 1:
            raise ConfigError(f"segments: expected 1 or more, got {self.segments}")
        for name, value, known in (
            ("method", self.method, get_args(Method)),
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
    """What is made of the effect that was found.

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

    def gain_db(self, source: Levels, processed: Levels, target_lufs: float) -> float:
        """Say how much louder the output is to be made.

        Args:
            source: levels of the stems' sum before the effect, so that no effect is no gain.
            processed: levels after it.
            target_lufs: loudness of the style.
        """
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
        """Give plain values for JSON."""
        return asdict(self) | {"amount": {stem: float(self.amount[stem]) for stem in STEMS}}


def listed(texts: Sequence[str]) -> tuple[str, ...]:
    """Take what was repeated, or parted by commas, apart; each value once."""
    parts = (part.strip() for text in texts for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def parse_amounts(texts: Sequence[str], keep: Sequence[str] = ()) -> dict[str, float]:
    """Read amounts as a person writes them.

    Args:
        texts: each a number, for all stems, or `<stem>=<number>`, for one; several in one text
            are parted by commas. What names a stem goes before what does not, and later before
            earlier.
        keep: stems whose amount is 0, whatever else is said.

    Returns:
        stem -> amount.

    Raises:
        ConfigError: a text is neither, a stem is unknown, or a number is out of range.
    """
    general, named = 1.0, dict[str, float]()
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        stem, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(
                f"amount: expected a number or <stem>=<number>, got {text!r}"
            ) from None
        if equals:
            named[stem.strip()] = value
        else:
            general = value
    amounts = dict.fromkeys(STEMS, general) | named | dict.fromkeys(keep, 0.0)
    if unknown := sorted(amounts.keys() - set(STEMS)):
        raise ConfigError(f"amount, keep: expected stems of {STEMS}, got {unknown}")
    check_amount(torch.tensor([amounts[stem] for stem in STEMS]))
    return amounts
