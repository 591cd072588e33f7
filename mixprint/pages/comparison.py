"""A player that switches between sounds in step, at equal loudness or at their own.

`comparison` in `parts.html` shows it, in a page that extends `comparisons.html`.

Shape suffixes: C channel, T sample.
"""

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from mixprint.machine.processes import threads_each
from mixprint.pages.clips import encode_mp3, faded
from mixprint.pages.matching import MatchedLevels, match_levels

# LAME's variable bit rate, 0 the best: about 215 and 150 kbit/s. What is judged in the end are the
# files beside the page, and a page with 15 clips of 10 s stays below 6 MB.
FIRST_PART_QUALITY = 0.0
OTHER_PARTS_QUALITY = 0.2


@dataclass(frozen=True)
class Comparison:
    """Sounds and titles of a player.

    Attributes:
        name: plain text; different for each player of a page.
        heard: the clip that is heard first.
        parts: part -> clip -> what `comparison.js` plays.
    """

    name: str
    heard: str
    parts: Mapping[str, Mapping[str, Mapping[str, object]]]


def compare(
    name: str, parts: Mapping[str, Mapping[str, Tensor]], sample_rate_hz: int, *, heard: str
) -> Comparison:
    """Encode sounds for a player.

    Clips that are as long as each other play in step; one of another length keeps its length.

    Args:
        name: see `Comparison`.
        parts: part (for example the mix, a stem) -> clip -> audio_CT of 0.4 s or longer; every
            part has the same clips, and the position in time refers to the first clip.
        sample_rate_hz: rate of all clips.
        heard: see `Comparison`.

    Raises:
        ValueError: parts do not have the same clips, or `heard` is none of them.
    """
    clips = list(next(iter(parts.values())))
    if heard not in clips or any(list(part) != clips for part in parts.values()):
        raise ValueError(f"{name}: expected the same clips in all parts, {heard!r} among them")
    tasks = [
        (part_CT, sample_rate_hz, OTHER_PARTS_QUALITY if index else FIRST_PART_QUALITY)
        for index, part in enumerate(parts.values())
        for part_CT in part.values()
    ]
    # The encoder takes as long as a tenth of the audio, and does not hold Python's lock.
    with ThreadPoolExecutor(threads_each(1)) as pool:
        encoded = pool.map(_encoded, *zip(*tasks, strict=True))
        values = {
            part: _part(sounds, match_levels(sounds, sample_rate_hz), encoded)
            for part, sounds in parts.items()
        }
    return Comparison(name, heard, values)


def _part(
    sounds: Mapping[str, Tensor], levels: MatchedLevels, encoded: Iterator[tuple[str, float]]
) -> dict[str, dict[str, object]]:
    """Return what the script needs to know of the clips of a part."""
    part = {}
    for name in sounds:
        audio, scale = next(encoded)
        matched_db = levels.gain_db[name]
        part[name] = {
            "audio": audio,
            "matched": 10 ** (matched_db / 20) / scale,
            "original": 10 ** (levels.original_gain_db / 20) / scale,
            "matched_text": "too quiet to compare" if name in levels.quiet else _gain(matched_db),
            "original_text": _gain(levels.original_gain_db),
        }
    return part


def _gain(gain_db: float) -> str:
    """Write a gain; one that rounds to zero has no sign."""
    return f"{gain_db:+.1f} dB".replace("-", "−") if abs(gain_db) >= 0.05 else "as it is"


def _encoded(audio_CT: Tensor, sample_rate_hz: int, quality: float) -> tuple[str, float]:
    """Return a clip as text, and the factor that kept it within full scale."""
    faded_CT = faded(audio_CT, sample_rate_hz)
    scale = min(1.0, 1.0 / max(float(faded_CT.abs().max()), 1e-10))
    mp3 = encode_mp3(scale * faded_CT, sample_rate_hz, quality)
    return base64.b64encode(mp3).decode("ascii"), scale
