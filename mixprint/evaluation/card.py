"""The model card: what an encoder is, what it was trained on, and how good it is, in Markdown."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixprint.config import flattened
from mixprint.encoder.checkpoint import Encoder
from mixprint.evaluation.report import MEASURES, METHODS, measure_label
from mixprint.storage.atomic import atomic_path

CARD_NAME = "README.md"
FIGURES_FOLDER = "figures"


def write_model_card(
    folder: Path,
    *,
    name: str,
    encoder: Encoder,
    metrics: Mapping[str, Any],
    figures: Sequence[Path],
) -> str:
    """Write `README.md`, and the figures that it shows under `figures/`.

    Args:
        folder: receives them; it is made if it is missing.
        name: of the registered model.
        encoder: the encoder, with its metadata.
        metrics: its evaluation, as in metrics.json.
        figures: PNG files.

    Returns:
        the part about use, evaluation and data, for places that show a short text and no files.
    """
    summary = "\n".join(_summary(name, encoder, metrics))
    details = "\n".join(_details(encoder))
    shown = []
    for figure in sorted(figures):
        with atomic_path(folder / FIGURES_FOLDER / figure.name) as temporary:
            shutil.copyfile(figure, temporary)
        shown.append(f"![{figure.stem}]({FIGURES_FOLDER}/{figure.name})\n")
    with atomic_path(folder / CARD_NAME) as temporary:
        text = "\n".join([summary, "## Figures\n", *shown, details])
        temporary.write_text(text + "\n", encoding="utf-8")
    return summary


def _summary(name: str, encoder: Encoder, metrics: Mapping[str, Any]) -> Iterator[str]:
    architecture = encoder.model.config
    standardisation = encoder.standardisation
    yield f"# {name}\n"
    yield (
        "An encoder of mixing style: four stereo stems (vocals, bass, drums, other) at "
        f"{architecture.sample_rate_hz} Hz, 3 s or longer, become {architecture.embedding_dim} "
        "numbers on the unit sphere. Near each other lie mixes that are made alike, whatever the "
        "songs are.\n"
    )
    yield "## Use\n"
    yield (
        "```python\n"
        "from pathlib import Path\n\n"
        "from mixprint.encoder.checkpoint import load_checkpoint\n\n"
        "encoder = load_checkpoint(Path(folder))\n"
        f"embedding_BE = encoder.embed(stems_BSCT, {architecture.sample_rate_hz})\n"
        "```\n"
    )
    yield "## Evaluation\n"
    yield (
        f"On {metrics['num_tracks']} mixes of {metrics['num_songs']} songs "
        f"({', '.join(metrics['sources'])}), split {metrics['split_used']}: "
        f"{metrics['split_reason']}. In brackets 95 % intervals by bootstrap over songs. The "
        "untrained encoder has the same architecture.\n"
    )
    if "pool_size" in (chains := _chains(metrics)):
        yield (
            f"Effect chains: {chains['num_chains']} of each length, "
            f"{', '.join(map(str, chains['lengths']))} effects on each stem, of those that "
            "`train.held_out_effects` leaves out by default. Each chain is looked for on another "
            f"song, in a pool of {chains['pool_size']} mixes; intervals over chains.\n"
        )
    yield from _table(("measure", *METHODS.values(), "chance"), _rows(metrics))
    for task, values in (
        ("retrieval of effect chains", _chains(metrics)),
        ("style retrieval", metrics["style_retrieval"]),
        ("song retrieval", metrics["song_retrieval"]),
        *((f"probe of the {task}", values) for task, values in metrics["probes"].items()),
    ):
        if "absent" in values:
            yield f"Not measured: {task}: {values['absent']}.\n"
    if "synthetic" in metrics["sources"]:
        yield (
            "Generated songs are among the data of this evaluation: on recorded music the figures "
            "can be others.\n"
        )
    yield "## Data\n"
    yield from _values(
        {
            "fingerprint of the training data": encoder.metadata.get("data_fingerprint", "unknown"),
            "fingerprint of the evaluation data": metrics.get("data_fingerprint", "unknown"),
            "feature schema": f"version {standardisation.schema_version}, "
            f"blocks {', '.join(standardisation.blocks)}",
            "fingerprint of the encoder": encoder.fingerprint,
        }
    )


def _details(encoder: Encoder) -> Iterator[str]:
    yield "## Architecture\n"
    yield from _values(asdict(encoder.model.config))
    yield "## Training\n"
    metadata = {k: v for k, v in encoder.metadata.items() if k != "data_fingerprint"}
    yield from _values(dict(flattened(metadata)))


def _rows(metrics: Mapping[str, Any]) -> Iterator[list[str]]:
    probes = metrics["probes"]
    for title, values, measures in (
        ("effect chains", _chains(metrics), MEASURES["chain_retrieval"]),
        ("style", metrics["style_retrieval"], MEASURES["style_retrieval"]),
        ("song", metrics["song_retrieval"], MEASURES["song_retrieval"]),
        ("probe of the settings", probes["settings"], ("mean_r2",)),
        ("probe of the style", probes["style"], ("accuracy",)),
        ("probe of the song", probes["song"], ("accuracy",)),
    ):
        for measure in measures:
            if measure in values.get("chance", {}):
                yield [
                    f"{title}: {measure_label(measure)}",
                    *(_interval(values[method].get(measure)) for method in METHODS),
                    f"{values['chance'][measure]:.3g}",
                ]


def _chains(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of the effect chains, which evaluations of older versions lack."""
    values: Mapping[str, Any] = metrics.get(
        "chain_retrieval", {"absent": "the evaluation is of an older version"}
    )
    return values


def _interval(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


def _table(header: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _values(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"- {name}: `{value}`"
    yield ""
