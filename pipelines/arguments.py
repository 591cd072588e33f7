"""Arguments of the DAG, wherever it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.step import STEPS, section_json
from mixprint.config import BASE_PROFILE

DEFAULT_SOURCE = "synthetic"


def default_name(source: str, profile: str) -> str:
    """Name a run after what is special about it."""
    parts = [part for part in (source, profile) if part not in {DEFAULT_SOURCE, BASE_PROFILE}]
    return "-".join(parts) or BASE_PROFILE


def run_arguments(
    *,
    root: str,
    source: str,
    locations: Sequence[str],
    name: str,
    params: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Make the values of the pipeline's parameters.

    Args:
        root: root folder of the run.
        source: kind of the collection.
        locations: its folders.
        name: name of the run.
        params: all sections.
    """
    sections = {step: dict(params[step]) for step in STEPS}
    if source != DEFAULT_SOURCE:
        # Figures from different collections cannot be compared: each has a champion of its own.
        sections["promote"]["model_name"] += f"-{name}"
    return {
        "root": root,
        "source": source,
        "locations": list(locations),
        **{f"{step}_params": section_json(sections[step]) for step in STEPS},
    }
