"""The page of a transfer: mix and stems to be heard in step, seen, and told in words.

`mixprint.transfer.report.overview` has the page of several.

Shape suffixes: C channel, T sample.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.features.schema import FEATURE_NAMES, FEATURE_UNITS
from mixprint.pages import page
from mixprint.pages.comparison import SCRIPT, STYLE, comparison
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
# Smaller changes of the console's controls are not worth a word.
AUDIBLE_DB = 0.5
AUDIBLE_DYNAMICS = 0.05
DISTANCE_HEADER = (
    "method",
    "optimised",
    "features",
    "",
    "embedding",
    "",
    "converged",
    "steps",
)
DISTANCES_EXPLAINED = (
    "Distances before and after, smaller is nearer: of the features the root mean square "
    "difference in standard deviations of the training songs, of the embeddings the cosine "
    "distance. Converged means that a plateau was reached before the last step."
)


def write_report(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        path: the HTML file, in the transfer's folder.
        metrics: what its metrics.json holds.
    """
    name = shown(path.absolute().parent.name)
    sections = [
        page.table(["transfer", *DISTANCE_HEADER], [[name, *distance_cells(metrics)]]),
        page.paragraph(DISTANCES_EXPLAINED),
        page.heading(pair_title(metrics)),
        *_heard(path.parent, name, metrics),
        *words(metrics),
        *_figures(metrics),
    ]
    page.write_page(path, "Mixing style transfer", sections, style=STYLE, script=SCRIPT)


def describe_settings(settings: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say in words what was done to each stem.

    Args:
        settings: see `mixprint.transfer.console.Console.settings`.

    Returns:
        a sentence per stem.
    """
    sentences = []
    # JSON has them in another order.
    for stem in (stem for stem in STEMS if stem in settings):
        values = settings[stem]
        level_db = values["gain_db"] + values["eq_mid_db"]
        changes = [
            _decibels(level_db, "louder", "quieter"),
            _decibels(
                values["eq_low_db"] - values["eq_mid_db"], "more below 250 Hz", "less below 250 Hz"
            ),
            _decibels(
                values["eq_high_db"] - values["eq_mid_db"], "more above 4 kHz", "less above 4 kHz"
            ),
            _decibels(values["width_db"], "wider", "narrower"),
            _decibels(values["balance_db"], "to the left", "to the right"),
            *(
                f"{'compressed' if amount > 0 else 'expanded'} {word} by {abs(amount):.0%}"
                for word, amount in (
                    ("on transients", values["dynamics_fast"]),
                    ("over phrases", values["dynamics_slow"]),
                )
                if abs(amount) >= AUDIBLE_DYNAMICS
            ),
        ]
        told = [change for change in changes if change]
        sentences.append(f"{stem}: {', '.join(told) if told else 'hardly changed'}")
    return sentences


def _decibels(value_db: float, more: str, less: str) -> str:
    """Name a change, or nothing if it is too small to be heard."""
    if abs(value_db) < AUDIBLE_DB:
        return ""
    return f"{abs(value_db):.1f} dB {more if value_db > 0 else less}"


def distance_cells(metrics: Mapping[str, Any]) -> list[object]:
    """Make the cells below `DISTANCE_HEADER`."""
    cells: list[object] = [metrics["method"], metrics["optimize_target"]]
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


def _heard(folder: Path, name: str, metrics: Mapping[str, Any]) -> list[str]:
    """Make the player and the picture."""
    parts = {"mix": {c: excerpt(folder / f, metrics) for c, f in clips_of(MIXES, metrics).items()}}
    for stem in STEMS:
        parts[stem] = {
            clip: excerpt(folder / stems / f"{stem}.wav", metrics)
            for clip, stems in clips_of(STEM_FOLDERS, metrics).items()
        }
    return [
        comparison(name, parts, SAMPLE_RATE_HZ, heard="output"),
        page.image(
            draw_songs(parts["mix"], SAMPLE_RATE_HZ),
            "waveforms and spectrograms of input, output, target",
        ),
    ]


def excerpt(path: Path, metrics: Mapping[str, Any]) -> Tensor:
    """Read what is heard of a file: of a whole song the part that the transfer was found on."""
    settings = metrics["hyperparameters"]
    duration_s = probe(path).duration_s
    is_song = duration_s > settings["segment_offset"] + settings["segment_duration"]
    start_s = settings["segment_offset"] if is_song else 0.0
    length_s = min(PLAYER_S, settings["segment_duration"], duration_s - start_s)
    return read_audio(path, start_s=start_s, duration_s=length_s)


def words(metrics: Mapping[str, Any]) -> list[str]:
    """Say what changed in each stem, and what was done to it."""
    changes = describe_changes(metrics["features"], left_alone=metrics["stems_left_alone"])
    sections = [
        page.heading("What changed, and what the target has", 3),
        page.bullets(sentence(stem, told) for stem, told in changes.items()),
    ]
    if metrics["settings"]:
        done = page.bullets(describe_settings(metrics["settings"]))
        sections.append(page.folded("what was done: the settings that were found", done))
    return sections + [page.paragraph(text, note=True) for text in metrics["notes"]]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    """Make the features' table, the curves and the figures of a pair."""
    rows = [
        [name, unit, *(float(metrics["features"][song][name]) for song in MIXES)]
        for name, unit in zip(FEATURE_NAMES, FEATURE_UNITS, strict=True)
    ]
    sections = [page.folded("all 64 features", page.table(["feature", "unit", *MIXES], rows))]
    for kind, label in (("feature", "feature distance"), ("embedding", "embedding distance")):
        points = [
            (i["step"], i[f"{kind}_distance"])
            for i in metrics["iterations"]
            if i[f"{kind}_distance"] is not None
        ]
        if len(points) > 1:
            sections.append(page.line_chart({label: points}, x_label="step", y_label=label))
    output = metrics["output"]
    sections.append(
        page.definitions(
            {
                "input": metrics["input_audio"],
                "target": target_of(metrics),
                "loudness": f"{output['input_loudness_lufs']:.1f} LUFS in, "
                f"{output['loudness_lufs']:.1f} LUFS out, "
                f"{output['target_loudness_lufs']:.1f} LUFS in the target",
                "true peak": f"{output['true_peak_dbtp']:.1f} dBTP "
                f"(gain {output['gain_db']:.1f} dB)",
                **_null_depth(output),
                "device": metrics["device"],
                "time": f"{metrics['timings']['total_s']:.0f} s",
            }
        )
    )
    return sections


def _null_depth(output: Mapping[str, Any]) -> dict[str, str]:
    """Say how much of the input is in none of its stems, and passes as it is, where it is known."""
    depth_db = output.get("null_depth_db", FLOOR_DB)
    if depth_db <= FLOOR_DB:
        return {}
    return {"not in any stem": f"{depth_db:.0f} dB of the input, passed as it is"}
