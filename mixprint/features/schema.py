"""The mixing features, schema version 1: names, units, order and the constants that define them.

A change of anything here that changes a value is a new `SCHEMA_VERSION`: checkpoints and tables
carry the version, and readers refuse another one.

Per stem (the *stem block*, 56 features):

| name | unit | meaning |
| --- | --- | --- |
| `rms_left_db`, `rms_right_db` | dBFS | mean square of the channel (full-scale sine: -3.01) |
| `crest_left_db`, `crest_right_db` | dB | sample peak over RMS of the channel |
| `loudness_lufs` | LUFS | BS.1770-4 integrated loudness; silence reads -70 |
| `dynamic_range_lu` | LU | inter-quartile range of the gated short-term loudness |
| `band_low_db`, `band_mid_db`, `band_high_db` | dB | mean power of the mel bands in the range |
| `spectral_tilt_db_per_octave` | dB/octave | slope of the power density over log-frequency |
| `spectral_flatness` | 1 | geometric over arithmetic mean of the spectrum, 0 to 1 |
| `ild_db` | dB | left over right level, -60 to 60 |
| `correlation` | 1 | of left and right at lag zero, -1 to 1 |
| `side_mid_ratio_db` | dB | side over mid level, -60 to 60 |

Between the stems (the *mix block*, 8 features): `relative_loudness_lu` (stem minus mix, LU) and
`masking` (0 to 1, see `mixprint.features.masking`) per stem.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from mixprint.stems import STEMS

SCHEMA_VERSION = 1

Block: TypeAlias = Literal["stem", "mix"]
BLOCKS: tuple[Block, ...] = ("stem", "mix")

STEM_FEATURES: dict[str, str] = {
    "rms_left_db": "dBFS",
    "rms_right_db": "dBFS",
    "crest_left_db": "dB",
    "crest_right_db": "dB",
    "loudness_lufs": "LUFS",
    "dynamic_range_lu": "LU",
    "band_low_db": "dB",
    "band_mid_db": "dB",
    "band_high_db": "dB",
    "spectral_tilt_db_per_octave": "dB/octave",
    "spectral_flatness": "1",
    "ild_db": "dB",
    "correlation": "1",
    "side_mid_ratio_db": "dB",
}
"""Feature of the stem block -> unit, in the order of the columns."""

MIX_FEATURES: dict[str, str] = {"relative_loudness_lu": "LU", "masking": "1"}
"""Feature of the mix block -> unit, in the order of the columns."""

# Stem block: all features of the first stem, then of the next. Mix block: one feature of all stems.
_NAMES_AND_UNITS: dict[Block, tuple[tuple[str, str], ...]] = {
    "stem": tuple(
        (f"{stem}_{name}", unit) for stem in STEMS for name, unit in STEM_FEATURES.items()
    ),
    "mix": tuple((f"{stem}_{name}", unit) for name, unit in MIX_FEATURES.items() for stem in STEMS),
}

# Segments are 3 s or longer: shorter ones have no short-term loudness (EBU Tech 3341).
MIN_DURATION_S = 3.0

# Power that is added before a logarithm, full scale 1: silence reads -80 dBFS with a smooth,
# finite gradient, and a level of -60 dBFS is read 0.04 dB too high.
SILENCE_POWER = 1e-8

# A ratio of two powers is limited to +-60 dB, by adding this part of their sum to both: a mono
# stem or a hard panned one gives a large finite value instead of an infinite one, at every gain.
RATIO_FLOOR = 1e-6

# Mel bands (HTK scale): triangles that add up to one between the first and the last centre.
# The top edge keeps clear of the low-pass of common lossy codecs.
NUM_MELS = 40
MEL_LOW_HZ = 20.0
MEL_HIGH_HZ = 16_000.0

# A mel band belongs to the range that holds its centre.
BAND_EDGES_HZ: dict[str, tuple[float, float]] = {
    "low": (20.0, 250.0),
    "mid": (250.0, 4_000.0),
    "high": (4_000.0, 16_000.0),
}

# Bins that count for flatness and for the stem's own level in tilt: from 40 Hz, where a DC offset
# no longer leaks through the window.
SPECTRUM_LOW_HZ = 40.0
SPECTRUM_HIGH_HZ = 16_000.0


def feature_names(blocks: Sequence[Block] = BLOCKS) -> tuple[str, ...]:
    """Name the columns that `extract` gives for these blocks.

    Args:
        blocks: `("stem",)`, `("mix",)` or both in this order.

    Raises:
        ValueError: the blocks are unknown, repeated, empty or in another order.
    """
    return tuple(name for block in check_blocks(blocks) for name, _ in _NAMES_AND_UNITS[block])


def feature_units(blocks: Sequence[Block] = BLOCKS) -> tuple[str, ...]:
    """Return the unit of each column of `feature_names`; `1` means dimensionless."""
    return tuple(unit for block in check_blocks(blocks) for _, unit in _NAMES_AND_UNITS[block])


def check_blocks(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return the blocks as a tuple if they are one or all of `BLOCKS`, in that order.

    Raises:
        ValueError: the blocks are unknown, repeated, empty or in another order.
    """
    known = tuple(block for block in BLOCKS if block in blocks)
    if not known or tuple(blocks) != known:
        raise ValueError(f"blocks must be one or both of {BLOCKS}, in this order, got {blocks!r}")
    return known


FEATURE_NAMES = feature_names()
FEATURE_UNITS = feature_units()
