"""The page of a transfer: mix and stems to be heard in step, seen, and told in words.

`mixprint.transfer.report.overview` has the page of several.

Shape suffixes: C channel, T sample.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.console.page.building import LiveConsole, live_console
from mixprint.console.settings import Settings
from mixprint.console.words import in_words
from mixprint.features.schema import FEATURE_NAMES, FEATURE_UNITS
from mixprint.pages.comparison import compare
from mixprint.pages.page import write_page
from mixprint.separation.nulltest import FLOOR_DB
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.text import shown
from mixprint.transfer.report.pictures import draw_songs
from mixprint.transfer.report.words import describe_changes, sentence

PLAYER_S = 10.0
MIXES = {
    "input": "input_original.wav",
    "output": "output_transferred.wav",
    "target": "target_original.wav",
}
STEM_FOLDERS = {
    "input": "input_stems",
    "output": "transferred_stems",
    "target": "target_stems",
}


def write_report(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        path: the HTML file, in the transfer's folder.
        metrics: what its metrics.json holds.
    """
    name = shown(path.absolute().parent.name)
    sounds = _excerpts(path.parent, metrics)
    write_page(
        path,
        "transfer/report/pair.html",
        "Mixing style transfer",
        label=label_of(metrics),
        distances=distance_cells(metrics),
        pair=pair_title(metrics),
        player=compare(name, sounds, SAMPLE_RATE_HZ, heard="output"),
        songs_png=draw_songs(sounds["mix"], SAMPLE_RATE_HZ),
        told=words(metrics),
        songs=list(MIXES),
        features=[
            [name, unit, *(float(metrics["features"][song][name]) for song in MIXES)]
            for name, unit in zip(FEATURE_NAMES, FEATURE_UNITS, strict=True)
        ],
        console=_console(metrics, sounds),
        curves=_curves(metrics),
        figures=_figures(metrics),
    )


def describe_settings(values: Any) -> list[str]:
    """Say in words what a console did to each stem and to the whole mix.

    Args:
        values: what metrics.json has under `settings`.

    Returns:
        a sentence per stem, and one for the master; none without a console.

    Raises:
        DataError: the settings are of another version.
    """
    if values is None:
        return []
    told = in_words(Settings.from_values(values, "settings of the transfer"))
    return [f"{name}: {', '.join(phrases) or 'nothing'}" for name, phrases in told.items()]


def label_of(metrics: Mapping[str, Any]) -> str:
    """Call a transfer by its method, and what it brought nearer."""
    return f"{metrics['method']}, {metrics['optimize_target']}"


def distance_cells(metrics: Mapping[str, Any]) -> list[object]:
    """Return how near a transfer came, for a row of the table of distances."""
    cells: list[object] = []
    for kind in ("feature", "embedding"):
        initial, final = (metrics[f"{when}_{kind}_distance"] for when in ("initial", "final"))
        if initial is None:
            cells += ["not measured", ""]
        else:
            cells += [f"{initial:.3f} → {final:.3f}", reduction_text(initial, final)]
    return [*cells, "yes" if metrics["converged"] else "no", metrics["num_steps_run"]]


def target_of(metrics: Mapping[str, Any]) -> str:
    """Name the target: a song, or a style that was stored."""
    name: str = metrics["target_audio"] or metrics["target_style"]
    return name


def clips_of(files: Mapping[str, str], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Leave out the target where only its style was at hand."""
    has_target = metrics["target_audio"] is not None
    return {clip: file for clip, file in files.items() if clip != "target" or has_target}


def pair_title(metrics: Mapping[str, Any]) -> str:
    """Name a transfer as a person would: by the titles of both songs."""
    targets = " + ".join(target["title"] for target in metrics["targets"])
    return f"{metrics['input_title']} in the mix of {targets}"


def reduction_text(initial: float, final: float) -> str:
    """Say by how much a distance fell."""
    if not (initial > 0 and math.isfinite(final)):
        return ""
    return f"{1 - final / initial:+.0%} nearer"


def _excerpts(folder: Path, metrics: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Read the mixes and their stems: part -> clip -> audio_CT."""
    parts = {"mix": {c: excerpt(folder / f, metrics) for c, f in clips_of(MIXES, metrics).items()}}
    for stem in STEMS:
        parts[stem] = {
            clip: excerpt(folder / stems / f"{stem}.wav", metrics)
            for clip, stems in clips_of(STEM_FOLDERS, metrics).items()
        }
    return parts


def excerpt(path: Path, metrics: Mapping[str, Any]) -> Tensor:
    """Read what is heard of a file: of a whole song the part that the transfer was found on."""
    settings = metrics["hyperparameters"]
    duration_s = probe(path).duration_s
    is_song = duration_s > settings["segment_offset"] + settings["segment_duration"]
    start_s = settings["segment_offset"] if is_song else 0.0
    length_s = min(PLAYER_S, settings["segment_duration"], duration_s - start_s)
    return read_audio(path, start_s=start_s, duration_s=length_s)


def words(metrics: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Say what changed in each stem, what was done to it, and what to know of the transfer."""
    changes = describe_changes(metrics["features"], left_alone=metrics["stems_left_alone"])
    return {
        "changes": [sentence(stem, told) for stem, told in changes.items()],
        "settings": describe_settings(metrics["settings"]),
        "notes": metrics["notes"],
    }


def _console(
    metrics: Mapping[str, Any], sounds: Mapping[str, Mapping[str, Tensor]]
) -> LiveConsole | None:
    """Return the console that was set, to be played with the stems of the input; None without."""
    if metrics["settings"] is None:
        return None
    stems_SCT = torch.stack([sounds[stem]["input"] for stem in STEMS])
    settings = Settings.from_values(metrics["settings"], "settings of the transfer")
    return live_console(settings, stems_SCT, SAMPLE_RATE_HZ, before=Settings.neutral(STEMS))


def _curves(metrics: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, distance) of each distance that was measured more than once."""
    curves = {
        f"{kind} distance": [
            (i["step"], i[f"{kind}_distance"])
            for i in metrics["iterations"]
            if i[f"{kind}_distance"] is not None
        ]
        for kind in ("feature", "embedding")
    }
    return {name: points for name, points in curves.items() if len(points) > 1}


def _figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a pair."""
    output = metrics["output"]
    return {
        "input": metrics["input_audio"],
        "target": target_of(metrics),
        "loudness": f"{output['input_loudness_lufs']:.1f} LUFS in, "
        f"{output['loudness_lufs']:.1f} LUFS out, "
        f"{output['target_loudness_lufs']:.1f} LUFS in the target",
        "true peak": f"{output['true_peak_dbtp']:.1f} dBTP",
        "gain in all": f"{output['gain_db']:.1f} dB",
        **_null_depth(output),
        "device": metrics["device"],
        "time": f"{metrics['timings']['total_s']:.0f} s",
    }


def _null_depth(output: Mapping[str, Any]) -> dict[str, str]:
    """Say how much of the input is in none of its stems, and passes as it is, where it is known."""
    depth_db = output.get("null_depth_db", FLOOR_DB)
    if depth_db <= FLOOR_DB:
        return {}
    return {"not in any stem": f"{depth_db:.0f} dB of the input, passed as it is"}
