"""What a DAWproject sounds like by its own numbers, with filters and a compressor of another hand.

A program that takes the numbers at their word (filters of the audio EQ cookbook, a hard knee, a
balance) gives what the console gives where it has no knees either; where it has, the note bounds
the difference.
"""

import math
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from mixprint.audio.files import read_audio, write_audio
from mixprint.console.export.dawproject import write_dawproject
from mixprint.console.export.song import Export
from mixprint.console.rendering import render
from mixprint.console.settings import Settings

RATE_HZ = 16_000
BLOCK = 64
CHANGES = {
    "a.trim_db": 4.0,
    "a.fader_db": -7.0,
    "a.pan": 0.4,
    "a.eq.highpass_hz": 90.0,
    "a.eq.lowpass_hz": 6_000.0,
    "a.eq.low.gain_db": 3.0,
    "a.eq.bell1.gain_db": -4.0,
    "a.eq.bell3.gain_db": 6.0,
    "a.eq.bell3.q": 2.5,
    "a.eq.high.gain_db": -3.0,
    "a.eq.high.freq_hz": 3_000.0,
    "a.comp.slope": 0.75,
    "a.comp.threshold_db": -24.0,
    "a.comp.knee_db": 0.0,
    "b.fader_db": 11.0,
    "b.pan": -1.0,
    "c.trim_db": -18.0,
    "c.comp.slope": 0.5,
    "c.comp.threshold_db": -9.0,
    "c.comp.attack_ms": 2.0,
    "c.comp.knee_db": 0.0,
    "c.room.send_db": -12.0,
    "c.room.time_s": 0.15,
    "master.eq.bell2.gain_db": 2.0,
    "master.comp.slope": 0.4,
    "master.comp.threshold_db": -20.0,
    "master.comp.knee_db": 0.0,
    "master.output_db": -1.5,
}
SETTINGS = Settings.neutral(["a", "b", "c"]).edit(CHANGES)


def cookbook(
    kind: str, freq_hz: float, gain_db: float, q: float
) -> tuple[list[float], list[float]]:
    """Coefficients of the audio EQ cookbook."""
    amp, w = 10 ** (gain_db / 40), 2 * math.pi * freq_hz / RATE_HZ
    cos, alpha = math.cos(w), math.sin(w) / (2 * q)
    if kind == "bell":
        return [1 + alpha * amp, -2 * cos, 1 - alpha * amp], [
            *(1 + alpha / amp, -2 * cos, 1 - alpha / amp)
        ]
    if kind in ("highPass", "lowPass"):
        s = 1 if kind == "lowPass" else -1
        b = [(1 - s * cos) / 2, s * (1 - s * cos), (1 - s * cos) / 2]
        return b, [1 + alpha, -2 * cos, 1 - alpha]
    s, root = (1 if kind == "lowShelf" else -1), 2 * math.sqrt(amp) * alpha
    b = [
        amp * ((amp + 1) - s * (amp - 1) * cos + root),
        s * 2 * amp * ((amp - 1) - s * (amp + 1) * cos),
        amp * ((amp + 1) - s * (amp - 1) * cos - root),
    ]
    a = [
        (amp + 1) + s * (amp - 1) * cos + root,
        -s * 2 * ((amp - 1) + s * (amp + 1) * cos),
        (amp + 1) + s * (amp - 1) * cos - root,
    ]
    return b, a


def number(parent: ElementTree.Element, tag: str, default: float = 0.0) -> float:
    found = parent.find(tag)
    return default if found is None else float(found.attrib["value"])


def compressed(audio_CT: np.ndarray, device: ElementTree.Element) -> np.ndarray:
    audio_CT = audio_CT * 10 ** (number(device, "InputGain") / 20)
    slope, threshold_db = number(device, "Ratio") / 100, number(device, "Threshold")
    poles = {
        tag: math.exp(-BLOCK / (RATE_HZ * number(device, tag))) for tag in ("Attack", "Release")
    }
    gains, above_db = [1.0], 0.0
    for start in range(0, audio_CT.shape[1], BLOCK):
        peak = np.abs(audio_CT[:, start : start + BLOCK]).max()
        target_db = max(20 * math.log10(max(peak, 1e-6)) - threshold_db, 0.0)
        pole = poles["Attack" if target_db > above_db else "Release"]
        above_db = target_db + pole * (above_db - target_db)
        gains.append(10 ** (-slope * above_db / 20))
    places = np.arange(audio_CT.shape[1]) / BLOCK
    curve_T = np.interp(places, np.arange(len(gains)), gains)
    return audio_CT * curve_T * 10 ** (number(device, "OutputGain") / 20)


def through(audio_CT: np.ndarray, channel: ElementTree.Element) -> np.ndarray:
    for device in channel.iterfind("Devices/*"):
        if device.tag == "Equalizer":
            for band in device.iterfind("Band"):
                b, a = cookbook(
                    band.attrib["type"],
                    number(band, "Freq"),
                    number(band, "Gain"),
                    number(band, "Q"),
                )
                audio_CT = lfilter(b, a, audio_CT)
            audio_CT = audio_CT * 10 ** (number(device, "OutputGain") / 20)
        else:
            audio_CT = compressed(audio_CT, device)
    pan = 2 * number(channel, "Pan", 0.5) - 1
    sides_C1 = np.array([[min(1.0, 1 - pan)], [min(1.0, 1 + pan)]])
    return number(channel, "Volume") * sides_C1 * audio_CT


def played(folder: Path) -> np.ndarray:
    """Play a project."""
    with zipfile.ZipFile(folder / "song.dawproject") as archive:
        archive.extractall(folder / "opened")
        project = ElementTree.fromstring(archive.read("project.xml"))
    files = {
        lane.attrib["track"]: lane.find(".//File") for lane in project.iterfind("*/Lanes/Lanes")
    }
    mix_CT, master = np.zeros((2, RATE_HZ)), None
    for track in project.iter("Track"):
        channel, file = track.find("Channel"), files.get(track.attrib["id"])
        assert channel is not None
        if file is None:
            master = channel
            continue
        path = folder / "opened" / file.attrib["path"]
        audio_CT = read_audio(path, sample_rate_hz=RATE_HZ).double().numpy()
        mix_CT = mix_CT + through(audio_CT, channel)
    assert master is not None
    return through(mix_CT, master)


def export_and_play(folder: Path, settings: Settings) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = torch.Generator().manual_seed(0)
    level_T = torch.nn.functional.interpolate(torch.rand(1, 1, 20, generator=generator), RATE_HZ)
    dry_NCT = 0.3 * level_T**2 * torch.randn(3, 2, RATE_HZ, generator=generator)
    stems = {name: folder / f"{name}.wav" for name in settings.tracks}
    for path, dry_CT in zip(stems.values(), dry_NCT, strict=True):
        write_audio(path, dry_CT, RATE_HZ, subtype="FLOAT")
    notes = write_dawproject(Export(settings=settings, stems=stems, out_dir=folder, title="x"))
    expected_CT = render(dry_NCT, settings, RATE_HZ).sum(dim=0).numpy()
    return played(folder), expected_CT, notes


def test_by_its_numbers_a_project_sounds_like_the_console(tmp_path: Path) -> None:
    found_CT, expected_CT, _ = export_and_play(tmp_path, SETTINGS)
    error_db = 10 * math.log10(((found_CT - expected_CT) ** 2).mean() / (expected_CT**2).mean())
    assert error_db < -90


def test_a_knee_is_missed_by_no_more_than_the_note_says(tmp_path: Path) -> None:
    settings = Settings.neutral(["a", "b", "c"]).edit(
        {"a.comp.slope": 0.8, "a.comp.knee_db": 12.0, "b.fader_db": -60.0, "c.fader_db": -60.0}
    )
    found_CT, expected_CT, notes = export_and_play(tmp_path, settings)
    [note] = [each for each in notes if each.startswith("a: the compressor's knee")]
    match = re.search(r"up to (\S+) dB less", note)
    assert match is not None
    told_db = float(match[1])
    assert told_db == pytest.approx(0.8 * 12 / 8)
    loud_T = np.abs(expected_CT[0]) > 0.01
    ratio_db_T = 20 * np.log10(np.abs(found_CT[0][loud_T] / expected_CT[0][loud_T]))
    # The faint other tracks add next to nothing; attack and release leave less of the difference.
    assert 0.1 * told_db < ratio_db_T.max() < told_db
    assert ratio_db_T.min() > -0.05
