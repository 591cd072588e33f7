"""One song in a file, separated into stem files, in memory that does not grow with the song.

The stems of a song and a report lie in one folder, which appears under its name when all of it
is written. Stems are aligned with the song to the sample and as long as it is.

Levels are as the separator gives them. An integer format cannot hold what exceeds full scale: if
any file of a song would, all files of that song are written with one gain below 1, which the
report names.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mixprint.audio.files import probe
from mixprint.audio.resampling import resampling_notes
from mixprint.audio.writing import BIT_DEPTHS, CONTAINERS, FLOAT, StereoFile, common_gain
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version, file_sha256
from mixprint.separation.diffusion.separator import INSTRUMENTAL
from mixprint.separation.nulltest import power_db
from mixprint.separation.report import (
    REPORT_NAME,
    RESIDUAL,
    SCHEMA_VERSION,
    Measures,
    SeparationReport,
    earlier_report,
)
from mixprint.separation.runner import AUTO_BATCH_SIZE
from mixprint.separation.separator import DEFAULT_OVERLAP
from mixprint.separation.source import diffusion_network
from mixprint.separation.uncertainty import start_notes, watched_uncertainty
from mixprint.stems import STEMS
from mixprint.storage.atomic import name_digest, write_errors_named, write_json
from mixprint.storage.folders import restore_folder, whole_folder
from mixprint.storage.locks import IN_USE_NAME, sole_use
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.separation.separator import Separator

log = logging.getLogger("mixprint.separation.files")

RESIDUAL_MODES = ("none", "stem", "distribute")
ACCOMPANIMENT_PREFIX = "no_"
KNOWN_STEMS = (*STEMS, INSTRUMENTAL)


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Settings of how songs are separated and written.

    Attributes:
        container: `wav` or `flac`.
        bit_depth: `16`, `24` or, in WAV only, `float32`.
        stems: which stems become files, all that the separator has when None; the report is about
            all of them.
        two_stems: a stem: write it and `no_<stem>`, the mixture without it, and nothing else.
        residual: what becomes of the difference between the mixture and the stems' sum. `none`:
            it is reported and left out. `stem`: it becomes a file of its own. `distribute`: each
            stem gets an equal share (see `distribute_residual`).
        window_s: see `Separator.separate`.
        overlap: see `Separator.separate`.
        batch_size: see `Separator.separate`.
    """

    container: str = "wav"
    bit_depth: str = FLOAT
    stems: tuple[str, ...] | None = None
    two_stems: str | None = None
    residual: str = "none"
    window_s: float | None = None
    overlap: float = DEFAULT_OVERLAP
    batch_size: int = 1

    def __post_init__(self) -> None:
        _check_choice("container", self.container, CONTAINERS)
        _check_choice("bit_depth", self.bit_depth, BIT_DEPTHS)
        _check_choice("residual", self.residual, RESIDUAL_MODES)
        for stem in self._named_stems():
            _check_choice("stems", stem, KNOWN_STEMS)
        if self.stems is not None and len(set(self.stems)) < max(len(self.stems), 1):
            raise ConfigError(f"stems: expected different names, found {self.stems}")
        if self.container == "flac" and self.bit_depth == FLOAT:
            raise ConfigError(f"bit_depth: expected 16 or 24 with flac, found {FLOAT}")
        if self.two_stems and self.stems is not None:
            raise ConfigError("expected either stems or two_stems, found both")
        if self.two_stems and self.residual == "stem":
            raise ConfigError(
                f"residual: expected none or distribute with two_stems, found stem: "
                f"{ACCOMPANIMENT_PREFIX}{self.two_stems} is all but {self.two_stems} already"
            )
        if self.window_s is not None and not (self.window_s > 0 and math.isfinite(self.window_s)):
            raise ConfigError(f"window_s: expected a length above 0, found {self.window_s}")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap: expected 0 up to but not 1, found {self.overlap}")
        if self.batch_size < AUTO_BATCH_SIZE:
            raise ConfigError(
                f"batch_size: expected at least 1, or {AUTO_BATCH_SIZE} for what fits, found "
                f"{self.batch_size}"
            )

    def _named_stems(self) -> tuple[str, ...]:
        return (*(self.stems or ()), *((self.two_stems,) if self.two_stems else ()))

    def check_stems(self, given: Sequence[str]) -> None:
        """Compare them with the stems that a separator gives.

        Raises:
            ConfigError: it does not give one that is to be written.
        """
        for stem in self._named_stems():
            _check_choice("stems", stem, given)

    def outputs(self, given: Sequence[str]) -> tuple[str, ...]:
        """Name the audio that is written, without suffix.

        Args:
            given: the separator's stems.
        """
        if self.two_stems:
            return (self.two_stems, ACCOMPANIMENT_PREFIX + self.two_stems)
        stems = tuple(given) if self.stems is None else self.stems
        return (*stems, *((RESIDUAL,) if self.residual == "stem" else ()))


def separate_file(
    separator: "Separator",
    path: Path,
    folder: Path,
    settings: FileSettings,
    *,
    overwrite: bool = False,
    on_piece: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[SeparationReport, bool]:
    """Separate a song into files.

    Args:
        separator: the separator.
        path: the song, in any form that `mixprint.audio.files` reads.
        folder: receives the stems and `separation.json`. It appears, or changes, only when all
            is written; a killed run leaves at most hidden folders beside it, which the next
            run removes or puts back.
        settings: what is separated and written.
        overwrite: replace what an earlier separation has written there.
        on_piece: is shown the pieces of `Separator.stream` as they come: mixture_CT, stems_SCT.

    Returns:
        the report, and whether anything was done: a folder that holds the same song, separated
        in the same way, is left as it is unless `overwrite`.

    Raises:
        AudioError: the song cannot be read.
        ConfigError: the separator does not give a stem that is to be written.
        DataError: the folder holds something else, cannot be written, or another run is at work
            there; or the network gives what is not finite.
    """
    settings.check_stems(separator.stems)
    num_declared = _declared_length(path, separator.sample_rate_hz)
    recipe: dict[str, Any] = {
        "sha256": file_sha256(path),
        "separator": dict(separator.fingerprint),
        "code_version": code_version(__name__),
        "settings": _recipe_settings(settings, separator),
        "schema_version": SCHEMA_VERSION,
    }
    with (
        write_errors_named(folder),
        _sole_separation(path, folder),
    ):
        restore_folder(folder)
        if (earlier := earlier_report(folder, recipe, overwrite=overwrite)) is not None:
            return earlier, False
        with whole_folder(folder) as temporary:
            report = _fill(
                temporary,
                separator,
                path,
                settings,
                recipe,
                num_declared=num_declared,
                show=on_piece,
            )
            # Another command may have written there meanwhile.
            earlier_report(folder, recipe, overwrite=overwrite)
    if report.gain != 1:
        log.info(
            "%s: written %.2f dB lower, to stay within full scale", shown(folder), -report.gain_db
        )
    return report, True


def distribute_residual(stems_SCT: Tensor, mixture_CT: Tensor) -> Tensor:
    """Share the difference between the mixture and the stems' sum equally among the stems.

    Of all stems that add up to the mixture these are the nearest ones. If the true stems add up
    to it too, the sum of all stems' squared errors cannot grow: it is a projection onto a plane
    in which the truth lies. Shares by energy would leave silent stems silent, but can add error.

    Returns:
        stems_SCT that add up to the mixture, to float32's rounding.

    Source: Wisdom et al., "Differentiable Consistency Constraints for Improved Deep Speech
    Enhancement", arXiv 1811.08521, the unweighted mixture consistency.
    """
    rest_CT = mixture_CT.double() - stems_SCT.double().sum(dim=-3)
    return (stems_SCT.double() + rest_CT.unsqueeze(-3) / stems_SCT.shape[-3]).float()


def _fill(
    folder: Path,
    separator: "Separator",
    path: Path,
    settings: FileSettings,
    recipe: Mapping[str, Any],
    *,
    num_declared: int,
    show: Callable[[Tensor, Tensor], None] | None,
) -> SeparationReport:
    """Write stems and report into an empty folder."""
    measures = Measures(separator.sample_rate_hz, separator.stems)
    with ExitStack() as stack:
        uncertainty = stack.enter_context(watched_uncertainty(separator))
        files = {
            name: stack.enter_context(
                StereoFile(
                    folder / f"{name}.{settings.container}",
                    bit_depth=settings.bit_depth,
                    sample_rate_hz=separator.sample_rate_hz,
                    num_declared=num_declared,
                )
            )
            for name in settings.outputs(separator.stems)
        }
        for mixture_CT, stems_SCT in separator.stream_file(
            path,
            window_s=settings.window_s,
            overlap=settings.overlap,
            batch_size=settings.batch_size,
        ):
            if not stems_SCT.isfinite().all():
                raise DataError(
                    f"{shown(path)}: expected finite stems, found NaN or an infinity, in the "
                    f"precision {separator.precision}"
                )
            audio = _outputs(mixture_CT, stems_SCT, settings, separator.stems)
            measures.add(mixture_CT, stems_SCT, audio)
            for name, file in files.items():
                file.add(audio[name])
            if show is not None:
                show(mixture_CT, stems_SCT)
        gain = common_gain(settings.bit_depth, (measures.levels[name].peak for name in files))
        for file in files.values():
            file.finish(gain)
    paths = [file.path for file in files.values()]
    if uncertainty is not None:
        paths += uncertainty.write(folder, title=shown(path.name))
    report = SeparationReport(
        song=shown(path.name),
        sample_rate_hz=separator.sample_rate_hz,
        duration_s=measures.num_samples / separator.sample_rate_hz,
        files=tuple(path.name for path in paths),
        files_sha256={path.name: file_sha256(path) for path in paths},
        uncertainty_db={} if uncertainty is None else uncertainty.relative_db(),
        gain=gain,
        gain_db=2 * power_db(gain),
        notes=(
            *resampling_notes(
                shown(path.name), probe(path).sample_rate_hz, separator.sample_rate_hz
            ),
            *start_notes(separator, measures.levels),
        ),
        **measures.values(),
        **recipe,
    )
    write_json(folder / REPORT_NAME, asdict(report))
    return report


def _sole_separation(path: Path, folder: Path) -> AbstractContextManager[None]:
    """Keep other runs away from a song's folder; songs beside it are theirs to separate."""
    # Two names of one folder are one. The lock lies beside it, for it is replaced as a whole.
    final = Path(os.path.realpath(folder))
    activity = f"a separation of {shown(path.name)} into {shown(final.name)}"
    return sole_use(final.parent, activity, f"{IN_USE_NAME}-{name_digest(final)}")


def _declared_length(path: Path, sample_rate_hz: int) -> int:
    """Read from a song's header how many samples it has at a rate, at most."""
    info = probe(path)
    return math.ceil(info.num_frames * sample_rate_hz / info.sample_rate_hz)


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r}")


def _recipe_settings(settings: FileSettings, separator: "Separator") -> dict[str, Any]:
    """Return the settings as a report holds them; the batch size changes no stem."""
    values = asdict(settings)
    del values["batch_size"]
    values["stems"] = list(settings.stems or separator.stems)
    values["window_s"] = settings.window_s or separator.window_s
    values["precision"] = separator.precision
    if (network := diffusion_network(separator)) is not None:
        values["sampling"] = network.sampling.to_values()
    return values


def _outputs(
    mixture_CT: Tensor, stems_SCT: Tensor, settings: FileSettings, stems: Sequence[str]
) -> dict[str, Tensor]:
    """Name the audio of a piece: all stems, and what else is to be written."""
    if settings.residual == "distribute":
        stems_SCT = distribute_residual(stems_SCT, mixture_CT)
    audio = dict(zip(stems, stems_SCT, strict=True))
    if settings.residual == "stem":
        audio[RESIDUAL] = (mixture_CT.double() - stems_SCT.double().sum(dim=0)).float()
    if settings.two_stems:
        without_CT = (mixture_CT.double() - audio[settings.two_stems].double()).float()
        audio[ACCOMPANIMENT_PREFIX + settings.two_stems] = without_CT
    return audio
