"""The page of transferred pairs: to be heard in step, seen, and told in words.

A page of one pair lets mix and stems be heard. A page of several begins with a table, in the
order given, and lets the mixes of the first few pairs be heard; the rest are links.

Shape suffixes: C channel, T sample.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from mixprint.audio import probe, read_audio
from mixprint.evaluation import page
from mixprint.evaluation.comparison import SCRIPT, STYLE, comparison
from mixprint.features.schema import FEATURE_NAMES, FEATURE_UNITS
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.transfer.pictures import draw_songs
from mixprint.transfer.words import describe_changes, sentence

PLAYER_S = 10.0
# The three mixes of a pair are about 1 MB of text.
MAX_PAIRS_WITH_PLAYERS = 3
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


def write_report(path: Path, pairs: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        pairs: the folder of each pair and what its metrics.json holds.
    """
    alone = len(pairs) == 1
    sections = [
        page.table(
            [
                "pair",
                "method",
                "optimised",
                "features",
                "",
                "embedding",
                "",
                "converged",
                "steps",
            ],
            [_row(_relative(path.parent, folder), metrics) for folder, metrics in pairs],
        ),
        page.paragraph(
            "Distances before and after, smaller is nearer: of the features the root mean square "
            "difference in standard deviations of the training songs, of the embeddings the "
            "cosine distance. Converged means that a plateau was reached before the last step."
        ),
    ]
    for index, (folder, metrics) in enumerate(pairs):
        song, target = _title(metrics["input_audio"]), _title(_target(metrics))
        method = "" if alone or "method" not in metrics else f", {metrics['method']}"
        sections.append(page.heading(f"{song} in the mix of {target}{method}"))
        if alone or index < MAX_PAIRS_WITH_PLAYERS:
            sections += _heard(f"{index + 1}. {folder.name}", folder, metrics, with_stems=alone)
        if not alone:
            sections.append(_links(path.parent, folder, metrics))
        sections += _words(metrics)
        if alone:
            sections += _figures(metrics)
    page.write_page(path, "Mixing style transfer", sections, style=STYLE, script=SCRIPT)


def describe_settings(settings: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say in words what was done to each stem.

    Args:
        settings: see `mixprint.transfer.console.Console.settings`.

    Returns:
        a sentence per stem.
    """
    sentences = []
    for stem, values in settings.items():
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


def _row(name: str, metrics: Mapping[str, Any]) -> list[object]:
    cells: list[object] = [name, metrics.get("method", ""), metrics["optimize_target"]]
    for kind in ("feature", "embedding"):
        initial, final = (metrics[f"{when}_{kind}_distance"] for when in ("initial", "final"))
        if initial is None:
            cells += ["not measured", ""]
        else:
            cells += [f"{initial:.3f} → {final:.3f}", reduction_text(initial, final)]
    return [*cells, "yes" if metrics["converged"] else "no", metrics["num_steps_run"]]


def _target(metrics: Mapping[str, Any]) -> str:
    """Name the target: a song, or a style that was stored."""
    name: str = metrics["target_audio"] or metrics["target_style"]
    return name


def _clips(files: Mapping[str, str], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Leave out the target where only its style was at hand."""
    has_target = metrics["target_audio"] is not None
    return {clip: file for clip, file in files.items() if clip != "target" or has_target}


def _title(name: str) -> str:
    """Shorten a path or URI to what tells songs apart."""
    return name.rstrip("/").rsplit("/", maxsplit=1)[-1]


def reduction_text(initial: float, final: float) -> str:
    """Say by how much a distance fell."""
    if not (initial > 0 and math.isfinite(final)):
        return ""
    return f"{1 - final / initial:+.0%} nearer"


def _heard(name: str, folder: Path, metrics: Mapping[str, Any], *, with_stems: bool) -> list[str]:
    """Make the player and the picture of a pair; a page has each name once."""
    mixes = {
        clip: _excerpt(folder / file, metrics) for clip, file in _clips(MIXES, metrics).items()
    }
    parts = {"mix": mixes}
    if with_stems:
        for stem in STEMS:
            parts[stem] = {
                clip: _excerpt(folder / stems / f"{stem}.wav", metrics)
                for clip, stems in _clips(STEM_FOLDERS, metrics).items()
            }
    return [
        comparison(name, parts, SAMPLE_RATE_HZ, heard="output"),
        page.image(
            draw_songs(mixes, SAMPLE_RATE_HZ), "waveforms and spectrograms of input, output, target"
        ),
    ]


def _excerpt(path: Path, metrics: Mapping[str, Any]) -> Tensor:
    """Read what is heard of a file: of a whole song the part that the transfer was found on."""
    settings = metrics["hyperparameters"]
    duration_s = probe(path).duration_s
    is_song = duration_s > settings["segment_offset"] + settings["segment_duration"]
    start_s = settings["segment_offset"] if is_song else 0.0
    length_s = min(PLAYER_S, settings["segment_duration"], duration_s - start_s)
    return read_audio(path, start_s=start_s, duration_s=length_s)


def _links(page_dir: Path, folder: Path, metrics: Mapping[str, Any]) -> str:
    """Link to the pair's own page and files."""
    links = {"page with the stems": "report.html"} | _clips(MIXES, metrics)
    base = _relative(page_dir, folder)
    return page.links({text: quote(f"{base}/{file}") for text, file in links.items()})


def _relative(page_dir: Path, folder: Path) -> str:
    """Name a pair by its folder, from the page's, where the page is not in it."""
    return folder.name if folder == page_dir else Path(os.path.relpath(folder, page_dir)).as_posix()


def _words(metrics: Mapping[str, Any]) -> list[str]:
    """Say what was done to each stem."""
    features = metrics.get("features")
    sections = [page.heading("What changed, and what the target has", 3)]
    if features:
        changes = describe_changes(
            features, spread=features.get("spread"), left_alone=metrics["stems_left_alone"]
        )
        sections.append(page.bullets(sentence(stem, told) for stem, told in changes.items()))
    elif metrics["settings"]:
        sections.append(page.bullets(describe_settings(metrics["settings"])))
    return sections + [page.paragraph(text, note=True) for text in metrics["notes"]]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    """Make the features' table, the curves and the figures of a pair."""
    sections = []
    if features := metrics.get("features"):
        rows = [
            [name, unit, *(float(features[song][name]) for song in MIXES)]
            for name, unit in zip(FEATURE_NAMES, FEATURE_UNITS, strict=True)
        ]
        table = page.table(["feature", "unit", *MIXES], rows)
        sections.append(page.folded("all 64 features", table))
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
                "target": _target(metrics),
                "loudness": f"{output['input_loudness_lufs']:.1f} LUFS in, "
                f"{output['loudness_lufs']:.1f} LUFS out, "
                f"{output['target_loudness_lufs']:.1f} LUFS in the target",
                "true peak": f"{output['true_peak_dbtp']:.1f} dBTP "
                f"(gain {output['gain_db']:.1f} dB)",
                "device": metrics["device"],
                "time": f"{metrics['timings']['total_s']:.0f} s",
            }
        )
    )
    return sections
