"""A player for a page that switches between sounds in step, at equal loudness or at their own.

Shape suffixes: C channel, T sample.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

import soundfile as sf
from torch import Tensor

from mixprint.machine.processes import threads_each
from mixprint.pages import page
from mixprint.pages.matching import Levels, match_levels

# LAME's variable bit rate, 0 the best: about 215 and 150 kbit/s. What is judged in the end are the
# files beside the page, and a page with 15 clips of 10 s stays below 6 MB.
FIRST_PART_QUALITY = 0.0
OTHER_PARTS_QUALITY = 0.2

_HERE = Path(__file__).parent
SYNC_SCRIPT = (_HERE / "sync.js").read_text(encoding="utf-8")
SCRIPT = SYNC_SCRIPT + (_HERE / "comparison.js").read_text(encoding="utf-8")
"""What a page with such players needs once."""
STYLE = (_HERE / "comparison.css").read_text(encoding="utf-8")
"""Their look, for the page's style."""


def comparison(
    name: str, parts: Mapping[str, Mapping[str, Tensor]], sample_rate_hz: int, *, heard: str
) -> str:
    """Make a player.

    Clips that are as long as each other play in step; one of another length keeps its length.
    Audio is MP3 of a variable bit rate, which all browsers play.

    Args:
        name: plain text; different for each player of a page.
        parts: part (for example the mix, a stem) -> clip -> audio_CT of 0.4 s or longer; every
            part has the same clips, and the position in time refers to the first clip.
        sample_rate_hz: rate of all clips.
        heard: the clip that is heard first.

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
    label = escape(name)
    choices = _choices(name, "clip", "Hear", clips, heard)
    if len(parts) > 1:
        choices += _choices(name, "part", "of the", list(parts), next(iter(parts)))
    return (
        f'<div class="comparison" role="group" aria-label="{label}">'
        '<div class="bar"><button type="button" class="play">Play</button>'
        '<input type="range" class="position" min="0" max="1000" step="1" value="0" '
        'aria-label="position"><span class="time">0.0 s</span></div>'
        f"{choices}"
        '<label class="matched"><input type="checkbox" checked> equally loud</label>'
        f'<p class="levels" aria-live="polite"></p>{page.script_json({"parts": values})}</div>'
    )


def _choices(player: str, kind: str, legend: str, names: list[str], checked: str) -> str:
    """Make a row of buttons of which one is pressed."""
    group = escape(f"{kind} {player}")
    labels = "".join(
        f'<label><input type="radio" name="{group}" value="{escape(name)}"'
        f"{' checked' if name == checked else ''}>{escape(name)}</label>"
        for name in names
    )
    return f'<fieldset class="{kind}"><legend>{escape(legend)}</legend>{labels}</fieldset>'


def _part(
    sounds: Mapping[str, Tensor], levels: Levels, encoded: Iterator[tuple[str, float]]
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
    """Encode a clip; give it as text, and the factor that kept it within full scale."""
    faded_CT = page.faded(audio_CT, sample_rate_hz)
    scale = min(1.0, 1.0 / max(float(faded_CT.abs().max()), 1e-10))
    buffer = io.BytesIO()
    sf.write(
        buffer,
        (scale * faded_CT).T.numpy(),
        sample_rate_hz,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=quality,
        bitrate_mode="VARIABLE",
    )
    return base64.b64encode(buffer.getvalue()).decode("ascii"), scale
