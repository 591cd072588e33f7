"""A Python script that mixes the tracks with the package pedalboard.

The script is text: mixprint does not import pedalboard, which is licensed under the GPL. Its
filters are those of the console. Its compressor has no knee, does not expand, and means another
time by the same number: one in which 2 pi time constants pass. Its saturation and rooms are others
than the console's, so these are left out, and the script says so.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from mixprint.console.bands import Kind, active_bands
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings, Strip
from mixprint.console.words import ratio

_TIMES = 2 * math.pi
_FILTERS: dict[Kind, str] = {
    "highpass": "HighpassFilter",
    "lowpass": "LowpassFilter",
    "low": "LowShelfFilter",
    "high": "HighShelfFilter",
    "bell": "PeakFilter",
}

_HEAD = '''"""{title}: needs `pip install pedalboard`; written by mixprint.

Reads the tracks and writes the mix beside itself, from whatever folder it is started.
"""

from pathlib import Path

import numpy as np
from pedalboard import (
    Compressor,
    Gain,
    HighpassFilter,
    HighShelfFilter,
    LowpassFilter,
    LowShelfFilter,
    PeakFilter,
    Pedalboard,
)
from pedalboard.io import AudioFile

'''
_TAIL = '''HERE = Path(__file__).resolve().parent


def beside(path, *options, **more):
    return AudioFile(str(HERE / path), *options, **more)


def read(path, rate):
    with beside(path).resampled_to(rate) as file:
        audio = file.read(file.frames)
    return np.repeat(audio, 2, axis=0) if len(audio) == 1 else audio


def placed(audio, width, pan, fader_db):
    """Width is a factor on the sides; the pan turns the far side down."""
    middle, side = audio.mean(axis=0), width * (audio[0] - audio[1]) / 2
    left, right = min(1.0, 1.0 - pan), min(1.0, 1.0 + pan)
    return 10 ** (fader_db / 20) * np.stack([left * (middle + side), right * (middle - side)])


mix = np.zeros((2, 0), dtype=np.float32)
for path, effects, width, pan, fader_db in TRACKS:
    made = placed(Pedalboard(effects)(read(path, RATE), RATE), width, pan, fader_db)
    longest = max(mix.shape[1], made.shape[1])
    mix, made = (np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in (mix, made))
    mix = mix + made
mix = Pedalboard(MASTER)(mix.astype(np.float32), RATE)
with beside("mix_pedalboard.wav", "w", RATE, 2, bit_depth=32) as file:
    file.write(mix)
'''


def to_pedalboard(settings: Settings, files: Mapping[str, str], title: str) -> str:
    """Return the script.

    Args:
        settings: what is done.
        files: track -> its audio file, relative to the script.
        title: of the song.
    """
    lines = [f"RATE = {settings.sample_rate_hz}", "TRACKS = ["]
    for name, strip in settings.tracks.items():
        path = ascii(PurePosixPath(files[name]).as_posix())
        lines += [f"    (  # {_one_line(name)}", f"        {path},", "        ["]
        lines += [f"            {each}" for each in _effects(strip, name)]
        lines += ["        ],"]
        lines += [f"        {strip[field]:.6g}," for field in ("width", "pan", "fader_db")]
        lines += ["    ),"]
    lines += ["]", "MASTER = [", *(f"    {e}" for e in _effects(settings.master, MASTER)), "]"]
    head = _HEAD.format(title=_one_line(title).replace('"', "'").replace("\\", "/"))
    return head + "\n".join(lines) + "\n" + _TAIL


def _effects(strip: Strip, name: str) -> Iterator[str]:
    if name != MASTER and not strip.is_neutral("trim_db"):
        yield f"Gain(gain_db={strip['trim_db']:.6g}),"
    for band in active_bands(strip):
        kind = _FILTERS[band.kind]
        if band.kind in ("highpass", "lowpass"):
            yield f"# the console's {band.kind} falls by 12 dB an octave, this one by 6"
            yield f"{kind}(cutoff_frequency_hz={band.freq_hz:.6g}),"
        else:
            yield (
                f"{kind}(cutoff_frequency_hz={band.freq_hz:.6g}, gain_db={band.gain_db:.6g}, "
                f"q={band.q:.6g}),"
            )
    if name != MASTER and not strip.is_neutral("drive.mix"):
        yield "# saturation is left out"
    yield from _compressor(strip)
    if name == MASTER:
        if not strip.is_neutral("output_db"):
            yield f"Gain(gain_db={strip['output_db']:.6g}),"
    elif not strip.is_neutral("room.send_db"):
        yield f"# a room of {strip['room.time_s']:.2g} s is left out"


def _compressor(strip: Strip) -> Iterator[str]:
    slope = strip["comp.slope"]
    if slope < 0:
        yield f"# expansion by {ratio(slope)} is left out"
    elif slope > 0:
        yield f"# the console's has a knee of {strip['comp.knee_db']:.3g} dB"
        attack_ms, release_ms = (_TIMES * strip[f"comp.{n}_ms"] for n in ("attack", "release"))
        yield (
            f"Compressor(threshold_db={strip['comp.threshold_db']:.6g}, "
            f"ratio={1 / (1 - slope):.6g}, attack_ms={attack_ms:.6g}, "
            f"release_ms={release_ms:.6g}),"
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())
