"""Project for REAPER with the plug-ins that come with it: ReaEQ, ReaComp and ReaVerbate.

It is near the console, and not the same: drive, expansion and width are left out, the room is
another one, and the compressor looks at each sample where the console's looks at blocks. How far
each track is from the console's sound is measured, with the plug-ins as they are documented.

Shape suffixes: C channel, T sample, 6 coefficients.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.console.bands import active_bands
from mixprint.console.export.reaper import Channel, write_project
from mixprint.console.export.song import Export
from mixprint.console.reaper_plugins import (
    Compression,
    ReaEqBand,
    comp_block,
    eq_block,
    octaves,
    room_block,
)
from mixprint.console.rendering import render
from mixprint.console.rpp import Line
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings, Strip
from mixprint.console.tracks import read_in_step
from mixprint.dsp.decibels import amplitude

# Where REAPER's faders end.
MAX_FADER_DB = 12.0
_FLOOR = 1e-6
# Of the published model that ReaVerbate follows: comb filters of 25 to 37 ms, whose feedback is
# 0.7 and up to 0.28 more.
_COMB_S, _LEAST_FEEDBACK, _FEEDBACK_RANGE = 0.0306, 0.7, 0.28


def write_reaper_stock(export: Export) -> list[str]:
    """Write the project; see `mixprint.console.export.reaper.write_reaper`.

    Returns:
        what is left out, and how far each track is from the console's sound.

    Raises:
        ConfigError: there is not one file for each track.
        DataError: a file lies elsewhere, or the project cannot be written.
        AudioError: a file cannot be read.
    """
    settings = export.settings
    channels = {
        name: Channel(list(_effects(strip)), amplitude(_fader_db(strip)), strip["pan"])
        for name, strip in settings.tracks.items()
    }
    output = amplitude(min(settings.master["output_db"], MAX_FADER_DB))
    master = Channel(list(_effects(settings.master)), output)
    notes = write_project(export, channels, master)
    notes.append(
        "REAPER's own plug-ins are near the console, not the same; their settings are written by "
        "what is publicly known of them and were not tried in REAPER"
    )
    for name, strip in settings.strips().items():
        notes += [f"{name}: {what}" for what in _left_out(strip, name)]
    for name in settings.tracks:
        audio_CT = _loudest(export.stems[name], settings.sample_rate_hz)
        level = deviation_db(audio_CT, settings, name)
        notes.append(
            f"{name}: is silent" if level is None else
            f"{name}: differs from the console's sound by {level:.1f} dB, measured on its loudest "
            "seconds, without the master"
        )  # fmt: skip
    return notes


def deviation_db(audio_CT: Tensor, settings: Settings, name: str) -> float | None:
    """Measure how far a track is from the console's sound.

    Args:
        audio_CT: of the dry track, two channels.
        settings: of the console.
        name: of the track.

    Returns:
        energy of the difference in dB, relative to the console's sound; None for silence.
    """
    strip = settings.tracks[name]
    alone = Settings({name: strip}, sample_rate_hz=settings.sample_rate_hz, rooms=settings.rooms)
    wanted_CT = render(audio_CT[None], alone, settings.sample_rate_hz)[0].numpy()
    found_CT = as_documented(audio_CT.double().numpy(), strip, settings.sample_rate_hz)
    energy = float(np.square(wanted_CT).sum())
    if energy == 0:
        return None
    error = float(np.square(found_CT - wanted_CT).sum())
    return 10 * math.log10(max(error / energy, 1e-30))


def as_documented(
    audio_CT: NDArray[np.float64], strip: Strip, sample_rate_hz: int
) -> NDArray[np.float64]:
    """Process a track as REAPER's plug-ins are documented to; without a room, which is another one.

    Args:
        audio_CT: two channels.
        strip: settings of the console.
        sample_rate_hz: of the audio.
    """
    from scipy.signal import sosfilt

    made_CT = amplitude(strip["trim_db"]) * audio_CT
    if rows := [_coefficients(band, sample_rate_hz) for band in _bands(strip)]:
        made_CT = sosfilt(np.array(rows), made_CT)
    if (comp := _compression(strip)) is not None:
        made_CT = made_CT * _gain(np.abs(made_CT).max(axis=0), comp, sample_rate_hz)
    pan = strip["pan"]
    sides_C1 = np.array([[min(1 - pan, 1)], [min(1 + pan, 1)]])
    return amplitude(_fader_db(strip)) * sides_C1 * made_CT


def _effects(strip: Strip) -> Iterator[Line]:
    bands, comp = _bands(strip), _compression(strip)
    has_room = _has(strip, "room.send_db")
    trim_db = strip["trim_db"] if _has(strip, "trim_db") else 0.0
    if bands or trim_db:
        yield eq_block(bands, trim_db)
    if comp is not None:
        yield comp_block(comp)
    if has_room:
        feedback = 10 ** (-3 * _COMB_S / strip["room.time_s"])
        size = (feedback - _LEAST_FEEDBACK) / _FEEDBACK_RANGE
        wet = min(amplitude(strip["room.send_db"]), 1.0)
        yield room_block(wet, min(max(size, 0.0), 1.0), 0.5)


def _left_out(strip: Strip, name: str) -> Iterator[str]:
    if _has(strip, "drive.mix"):
        yield "drive is left out"
    if strip["comp.slope"] < 0:
        yield "expansion is left out"
    if _has(strip, "room.send_db"):
        yield "the room is ReaVerbate's, and not counted in the difference"
    if _has(strip, "width"):
        yield "width is left out"
    level = "output_db" if name == MASTER else "fader_db"
    if strip[level] > MAX_FADER_DB:
        yield f"its level of {strip[level]:+.1f} dB is written as {MAX_FADER_DB:+.0f} dB"


def _has(strip: Strip, name: str) -> bool:
    return any(each.name == name for each in strip.fields) and not strip.is_neutral(name)


def _fader_db(strip: Strip) -> float:
    return min(strip["fader_db"], MAX_FADER_DB)


def _bands(strip: Strip) -> list[ReaEqBand]:
    return [ReaEqBand(b.kind, b.freq_hz, b.gain_db, octaves(b.q)) for b in active_bands(strip)]


def _compression(strip: Strip) -> Compression | None:
    slope = strip["comp.slope"]
    if slope <= 0:
        return None
    return Compression(
        threshold_db=strip["comp.threshold_db"],
        ratio=1 / (1 - slope),
        attack_ms=strip["comp.attack_ms"],
        release_ms=strip["comp.release_ms"],
        knee_db=strip["comp.knee_db"],
    )


def _coefficients(band: ReaEqBand, sample_rate_hz: int) -> list[float]:
    """Return b0 b1 b2 a0 a1 a2 by the audio EQ cookbook, of a bandwidth in octaves."""
    omega = 2 * math.pi * band.freq_hz / sample_rate_hz
    sine, cosine = math.sin(omega), math.cos(omega)
    alpha = sine * math.sinh(math.log(2) / 2 * band.octaves * omega / sine)
    a = 10 ** (band.gain_db / 40)
    if band.kind == "bell":
        rows = [1 + alpha * a, -2 * cosine, 1 - alpha * a, 1 + alpha / a, -2 * cosine]
        rows.append(1 - alpha / a)
    elif band.kind in ("lowpass", "highpass"):
        outer = (1 - cosine) / 2 if band.kind == "lowpass" else (1 + cosine) / 2
        middle = 2 * outer if band.kind == "lowpass" else -2 * outer
        rows = [outer, middle, outer, 1 + alpha, -2 * cosine, 1 - alpha]
    else:
        way = 1.0 if band.kind == "low" else -1.0
        root, high, low = 2 * math.sqrt(a) * alpha, a + 1, a - 1
        rows = [
            a * (high - way * low * cosine + root),
            way * 2 * a * (low - way * high * cosine),
            a * (high - way * low * cosine - root),
            high + way * low * cosine + root,
            way * -2 * (low + way * high * cosine),
            high + way * low * cosine - root,
        ]
    return [each / rows[3] for each in rows]


def _gain(
    side_chain_T: NDArray[np.float64], comp: Compression, sample_rate_hz: int
) -> NDArray[np.float64]:
    """Follow each sample's level, where the console follows that of blocks."""
    over_T = 20 * np.log10(np.maximum(side_chain_T, _FLOOR)) - comp.threshold_db
    knee = max(comp.knee_db, 1e-3)
    soft_T = np.square(np.clip(over_T + knee / 2, 0, knee)) / (2 * knee)
    target_T = (1 - 1 / comp.ratio) * np.where(over_T > knee / 2, over_T, soft_T)
    attack, release = (
        math.exp(-1_000 / (time_ms * sample_rate_hz))
        for time_ms in (comp.attack_ms, comp.release_ms)
    )
    reduction, reductions = 0.0, []
    for target in target_T.tolist():
        pole = attack if target > reduction else release
        reduction = pole * reduction + (1 - pole) * target
        reductions.append(reduction)
    return amplitude(-np.array(reductions))


def _loudest(path: Path, sample_rate_hz: int) -> Tensor:
    """Return the loudest seconds of a file."""
    loudest_CT, energy = torch.zeros(2, 1), -1.0
    for block_NCT in read_in_step([path], sample_rate_hz):
        if (own := float(block_NCT.double().square().sum())) > energy:
            loudest_CT, energy = block_NCT[0], own
    return loudest_CT
