"""The page that compares transferred pairs: what was heard, how far it came, what changed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixprint.audio import read_audio
from mixprint.evaluation import page
from mixprint.stems import SAMPLE_RATE_HZ

PLAYER_S = 6.0
PLAYER_RATE_HZ = 44_100
# Three players of 6 s in CD quality are about 2.4 MB of text; more pairs get links.
MAX_PAIRS_WITH_PLAYERS = 3
# Smaller changes than these are not worth a word.
AUDIBLE_DB = 0.5
AUDIBLE_DYNAMICS = 0.05


def write_report(path: Path, pairs: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        pairs: the folder of each pair and what its metrics.json holds.
    """
    sections = [
        page.table(
            ["pair", "optimised", "features", "", "embedding", "", "converged", "steps"],
            [_row(folder, metrics) for folder, metrics in pairs],
        ),
        page.paragraph(
            "Distances before and after, smaller is nearer: of the features the root mean square "
            "difference in standard deviations of the training songs, of the embeddings the "
            "cosine distance. Converged means that a plateau was reached before the last step."
        ),
    ]
    for index, (folder, metrics) in enumerate(pairs):
        sections += _pair(path.parent, folder, metrics, index < MAX_PAIRS_WITH_PLAYERS)
    page.write_page(path, "Mixing style transfer", sections)


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


def _row(folder: Path, metrics: Mapping[str, Any]) -> list[object]:
    cells: list[object] = [folder.name, metrics["optimize_target"]]
    for kind in ("feature", "embedding"):
        initial, final = (metrics[f"{when}_{kind}_distance"] for when in ("initial", "final"))
        if initial is None:
            cells += ["not measured", ""]
        else:
            cells += [f"{initial:.3f} → {final:.3f}", reduction_text(initial, final)]
    return [*cells, "yes" if metrics["converged"] else "no", metrics["num_steps_run"]]


def reduction_text(initial: float, final: float) -> str:
    """Say by how much a distance fell."""
    if not (initial > 0 and math.isfinite(final)):
        return ""
    return f"{1 - final / initial:+.0%} nearer"


def _pair(
    page_dir: Path, folder: Path, metrics: Mapping[str, Any], with_players: bool
) -> list[str]:
    """Make the section of one pair."""
    target = metrics["target_audio"] or metrics["target_style"]
    sections = [page.heading(f"{metrics['input_audio']} in the mix of {target}")]
    files = {
        "input": "input_original.wav",
        "target": "target_original.wav",
        "output": "output_transferred.wav",
    }
    if metrics["target_audio"] is None:  # a style from a file
        del files["target"]
    if with_players:
        sections.append(
            page.players(
                page.player(
                    name,
                    read_audio(folder / file),
                    SAMPLE_RATE_HZ,
                    max_duration_s=PLAYER_S,
                    player_rate_hz=PLAYER_RATE_HZ,
                )
                for name, file in files.items()
            )
        )
    else:
        relative = folder.relative_to(page_dir) if folder.is_relative_to(page_dir) else folder
        sections.append(
            page.paragraph(f"Listen to the files in {relative}: {', '.join(files.values())}")
        )
    for kind, label in (("feature", "feature distance"), ("embedding", "embedding distance")):
        points = [
            (i["step"], i[f"{kind}_distance"])
            for i in metrics["iterations"]
            if i[f"{kind}_distance"] is not None
        ]
        if len(points) > 1:
            sections.append(page.line_chart({label: points}, x_label="step", y_label=label))
    sections += [page.paragraph(text) for text in describe_settings(metrics["settings"])]
    sections += [page.paragraph(text, note=True) for text in metrics["notes"]]
    output = metrics["output"]
    sections.append(
        page.definitions(
            {
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
