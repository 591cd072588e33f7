"""The report that lies beside a song's stems: what was separated, how, and what can be said of it.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixprint.errors import DataError
from mixprint.fingerprint import file_sha256
from mixprint.schema import read_record
from mixprint.separation.nulltest import Leakage, NullTest, StemLevels
from mixprint.stems import STEMS
from mixprint.text import shown

log = logging.getLogger("mixprint.separation.files")

REPORT_NAME = "separation.json"
SCHEMA_VERSION = 1
RESIDUAL = "residual"


@dataclass(frozen=True, kw_only=True)
class SeparationReport:
    """Record of a separation: the song, the settings, and its quality as far as it needs no truth.

    Attributes:
        song: name of the song's file.
        sha256: hash of the song's file.
        sample_rate_hz: of the stems; the song's own rate may be another.
        num_samples: of the song at that rate, and of each stem.
        duration_s: the same in seconds.
        separator: the separator's fingerprint.
        code_version: hash of the code that separated.
        settings: the settings that the stems depend on, the window as it was used, and the
            network's precision.
        files: names of the audio files, and of what tells how sure they are.
        files_sha256: hash of each, by which damage is noticed.
        null_depth_db: level of the mixture less the stems' sum, relative to the mixture, of the
            stems as the separator gave them.
        final_null_depth_db: the same with what `residual` asked for, before the samples are
            rounded to the file's format.
        uncertainty_db: of a diffusion separator that has drawn several samples: how far they differ
            in vocals and instrumental, relative to these; see `mixprint.separation.uncertainty`.
        leakage_db: per stem, how much of its energy a copy of each other stem explains. An
            estimate with limits, see `mixprint.separation.nulltest.Leakage`. None: silent.
        levels: per stem and file `peak_dbfs`, `level_dbfs` and `clipped_samples` (beyond full
            scale), before the gain.
        gain: factor that all files were written with; 1 unless one would exceed full scale.
        gain_db: the same in dB.
        notes: what a person should know, such as a song of another rate than the stems'.
        schema_version: of this report.
    """

    song: str
    sha256: str
    sample_rate_hz: int
    num_samples: int
    duration_s: float
    separator: Mapping[str, Any]
    code_version: str
    settings: Mapping[str, Any]
    files: tuple[str, ...]
    null_depth_db: float
    final_null_depth_db: float
    leakage_db: Mapping[str, Mapping[str, float | None]]
    levels: Mapping[str, Mapping[str, float]]
    gain: float
    gain_db: float
    notes: tuple[str, ...] = ()
    # Reports of earlier versions have none.
    files_sha256: Mapping[str, str] = field(default_factory=dict)
    uncertainty_db: Mapping[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def recipe(self) -> dict[str, Any]:
        """Return what the stems follow from: equal recipes make equal stems."""
        names = ("sha256", "separator", "code_version", "settings", "schema_version")
        return {name: getattr(self, name) for name in names}


@dataclass
class Measures:
    """Figures of a report about the audio, gathered piece by piece."""

    sample_rate_hz: int
    stems: Sequence[str] = STEMS
    num_samples: int = 0
    separated: NullTest = field(default_factory=NullTest)
    final: NullTest = field(default_factory=NullTest)
    levels: dict[str, StemLevels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.leakage = Leakage(len(self.stems), self.sample_rate_hz)

    def add(self, mixture_CT: Tensor, stems_SCT: Tensor, audio: Mapping[str, Tensor]) -> None:
        """Take the next piece.

        Args:
            mixture_CT: the song.
            stems_SCT: the stems as the separator gave them.
            audio: name -> audio_CT: all stems, with what the residual was used for, the residual
                if it is one of the files, and whatever else is written.
        """
        self.num_samples += mixture_CT.shape[-1]
        self.separated.add(stems_SCT, mixture_CT)
        parts = [audio[name] for name in (*self.stems, RESIDUAL) if name in audio]
        self.final.add(torch.stack(parts), mixture_CT)
        self.leakage.add(torch.stack([audio[stem] for stem in self.stems]))
        for name, audio_CT in audio.items():
            self.levels.setdefault(name, StemLevels()).add(audio_CT)

    def values(self) -> dict[str, Any]:
        """Return the values under the report's names."""
        shares = self.leakage.shares_db()
        return {
            "num_samples": self.num_samples,
            "null_depth_db": self.separated.depth_db,
            "final_null_depth_db": self.final.depth_db,
            "leakage_db": {
                stem: {other: shares[a][b] for b, other in enumerate(self.stems) if a != b}
                for a, stem in enumerate(self.stems)
            },
            "levels": {
                name: {
                    "peak_dbfs": levels.peak_dbfs,
                    "level_dbfs": levels.level_dbfs,
                    "clipped_samples": levels.num_clipped,
                }
                for name, levels in self.levels.items()
            },
        }


def earlier_report(
    folder: Path, recipe: Mapping[str, Any], *, overwrite: bool
) -> SeparationReport | None:
    """Look at what is in a folder already: the report of the same separation, or None.

    Args:
        folder: receives a song's stems.
        recipe: what these follow from, see `SeparationReport.recipe`.
        overwrite: an earlier separation is to be replaced, whatever its recipe.

    Raises:
        DataError: the folder holds something that must not be replaced.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return None
    where = shown(folder)
    try:
        report = read_record(folder / REPORT_NAME, SeparationReport)
    except DataError as error:
        raise DataError(
            f"{where}: expected a new folder or one that mixprint has written, found other files; "
            "choose another one"
        ) from error
    if foreign := {path.name for path in folder.iterdir()} - {*report.files, REPORT_NAME}:
        raise DataError(
            f"{where}: expected nothing but an earlier separation, found also {sorted(foreign)}; "
            "move them elsewhere or choose another folder"
        )
    if overwrite:
        return None
    made = report.recipe()
    if made["sha256"] != recipe["sha256"]:
        raise DataError(
            f"{where}: expected the stems of this song, found those of another ({report.song}); "
            "choose another folder, or overwrite it"
        )
    if different := sorted(name for name in recipe if made[name] != recipe[name]):
        raise DataError(
            f"{where}: expected stems made in the same way, found others of this song (different: "
            f"{', '.join(different)}); choose another folder, or overwrite it"
        )
    if damaged := [name for name in report.files if not _is_whole(folder / name, report)]:
        log.warning("%s: %s not as it was written, made again", where, " and ".join(damaged))
        return None
    return report


def _is_whole(path: Path, report: SeparationReport) -> bool:
    """Tell whether an audio file is what was written; a third of a second for a song's stems."""
    return path.is_file() and file_sha256(path) == report.files_sha256.get(path.name)
