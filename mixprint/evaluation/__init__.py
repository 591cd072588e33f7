"""Measures how well an embedding follows the mix, and shows it.

The measures work on arrays of embeddings; `mixprint.evaluation.evaluate` applies them to a
collection, and writes the figures and the report.
"""

from mixprint.evaluation.measures import Retrieval, song_metrics, style_metrics
from mixprint.evaluation.probes import ClassProbe, SettingsProbe, class_probe, settings_probe
from mixprint.evaluation.retrieval import Estimate

__all__ = [
    "ClassProbe",
    "Estimate",
    "Retrieval",
    "SettingsProbe",
    "class_probe",
    "settings_probe",
    "song_metrics",
    "style_metrics",
]
