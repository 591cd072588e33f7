"""Names of what transfers write, and how an earlier result is recognised by them."""

from mixprint.stems import STEMS
from mixprint.storage.outputs import Kind

METRICS_NAME = "metrics.json"
METRICS_VERSION = 5
# Of the console, where the method has one.
SETTINGS_NAME = "settings.json"
REPORT_NAME = "report.html"
INPUT_NAME = "input_original.wav"
OUTPUT_NAME = "output_transferred.wav"
INPUT_STEMS = "input_stems"
TRANSFERRED_STEMS = "transferred_stems"
# Beside the stems of a song that has no file of its own.
MIXTURE_NAME = "mixture.wav"
SUMMARY_NAME = "summary.json"
TABLE_NAME = "summary.csv"
PAGE_NAME = "report.html"
SUMMARY_NAMES = (SUMMARY_NAME, TABLE_NAME, PAGE_NAME)

TRANSFER = Kind(
    noun="a transfer",
    marker=METRICS_NAME,
    keys=frozenset({"schema_version", "fingerprint", "input_audio", "output"}),
    names=(
        REPORT_NAME,
        SETTINGS_NAME,
        INPUT_NAME,
        OUTPUT_NAME,
        "target_original.wav",
        "target_*_original.wav",
        *(
            f"{folder}/{stem}.wav"
            for folder in (INPUT_STEMS, "target_stems", "target_*_stems", TRANSFERRED_STEMS)
            for stem in STEMS
        ),
    ),
)
SUMMARY = Kind(
    noun="a summary of transfers",
    marker=SUMMARY_NAME,
    keys=frozenset({"num_transfers", "num_failed", "transfers"}),
    names=SUMMARY_NAMES,
)
