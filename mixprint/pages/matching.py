"""Levels at which sounds are compared by ear: equally loud, and none beyond full scale.

The louder of two sounds is easily taken for the better one. Before a comparison, all are brought
to one loudness, as high as every true peak allows.

Shape suffixes: C channel, T sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mixprint.audio.levels import MAX_TRUE_PEAK_DBTP, loudness_lufs, true_peak_dbtp

# Loud enough for headphones; more would only shrink the peaks' room.
MAX_LOUDNESS_LUFS = -16.0
# What is quieter stays so: it is silence, or what a separator has left over.
QUIET_LUFS = -50.0


@dataclass(frozen=True)
class MatchedLevels:
    """Gains that bring a group of sounds to one loudness.

    Attributes:
        loudness_lufs: the common loudness.
        gain_db: what each sound needs for it; 0 for those that are too quiet to be compared.
        quiet: the sounds that are too quiet.
        original_gain_db: one gain for all, at most 0, by which none exceeds the true peak.
    """

    loudness_lufs: float
    gain_db: Mapping[str, float]
    quiet: tuple[str, ...]
    original_gain_db: float


def match_levels(sounds: Mapping[str, Tensor], sample_rate_hz: int) -> MatchedLevels:
    """Find the gains that make sounds equally loud (ITU-R BS.1770-4) within -1 dBTP.

    Args:
        sounds: name -> audio_CT, 0.4 s or longer.
        sample_rate_hz: their rate.

    Raises:
        ValueError: a sound is too short.
    """
    loudness = {name: loudness_lufs(audio_CT, sample_rate_hz) for name, audio_CT in sounds.items()}
    room_db = {
        name: MAX_TRUE_PEAK_DBTP - true_peak_dbtp(audio_CT) for name, audio_CT in sounds.items()
    }
    quiet = tuple(name for name, value in loudness.items() if value < QUIET_LUFS)
    heard = [name for name in sounds if name not in quiet]
    common_lufs = min([MAX_LOUDNESS_LUFS, *(loudness[name] + room_db[name] for name in heard)])
    return MatchedLevels(
        loudness_lufs=common_lufs,
        gain_db={name: 0.0 if name in quiet else common_lufs - loudness[name] for name in sounds},
        quiet=quiet,
        original_gain_db=min([0.0, *room_db.values()]),
    )
