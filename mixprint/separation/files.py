"""One song in a file, separated into stem files, in memory that does not grow with the song.

The stems of a song and a report lie in one folder, which appears under its name when all of it
is written. Stems are aligned with the song to the sample and as long as it is.

Levels are as the separator gives them. An integer format cannot hold what exceeds full scale: if
any file of a song would, all files of that song are written with one gain below 1, which the
report names.

Shape suffixes: S stem, C channel, T sample.
"""

import fcntl
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

from mixprint.atomic import TEMPORARY_PREFIX, disk_full_named, read_json, write_json
from mixprint.audio import error_text, probe, shown
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version, file_sha256
from mixprint.separation.nulltest import Leakage, Levels, NullTest, power_db
from mixprint.separation.runner import AUTO_BATCH_SIZE
from mixprint.separation.separator import DEFAULT_OVERLAP
from mixprint.stems import NUM_CHANNELS, STEMS, unpack

if TYPE_CHECKING:
    from mixprint.separation.separator import Separator

log = logging.getLogger("mixprint.separation.files")

REPORT_NAME = "separation.json"
SCHEMA_VERSION = 1
CONTAINERS = ("wav", "flac")
BIT_DEPTHS = ("16", "24", "float32")
RESIDUAL = "residual"
RESIDUAL_MODES = ("none", "stem", "distribute")
ACCOMPANIMENT_PREFIX = "no_"

# What the stems follow from, beside weights and settings.
CODE = (
    "mixprint.audio",
    "mixprint.separation.files",
    "mixprint.separation.runner",
    "mixprint.separation.scnet",
    "mixprint.separation.separator",
)
# RIFF counts bytes in 32 bits; what is left of them is room for the headers.
MAX_WAV_BYTES = (1 << 32) - (1 << 20)
SPOOL_SAMPLES = 1 << 18
# A folder is locked within microseconds of its creation; one this old and unlocked is abandoned.
ABANDONED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """How songs are separated and written.

    Attributes:
        container: `wav` or `flac`.
        bit_depth: `16`, `24` or, in WAV only, `float32`.
        stems: which stems become files; the report is about all of them.
        two_stems: a stem: write it and `no_<stem>`, the mixture without it, and nothing else.
        residual: what becomes of the difference between the mixture and the stems' sum. `none`:
            it is reported and left out. `stem`: it becomes a file of its own. `distribute`: each
            stem gets an equal share (see `distribute_residual`).
        window_s: see `Separator.separate`.
        overlap: see `Separator.separate`.
        batch_size: see `Separator.separate`.
    """

    container: str = "wav"
    bit_depth: str = "float32"
    stems: tuple[str, ...] = STEMS
    two_stems: str | None = None
    residual: str = "none"
    window_s: float | None = None
    overlap: float = DEFAULT_OVERLAP
    batch_size: int = 1

    def __post_init__(self) -> None:
        _check_choice("container", self.container, CONTAINERS)
        _check_choice("bit_depth", self.bit_depth, BIT_DEPTHS)
        _check_choice("residual", self.residual, RESIDUAL_MODES)
        for stem in (*self.stems, *([self.two_stems] if self.two_stems else [])):
            _check_choice("stems", stem, STEMS)
        if not self.stems or len(set(self.stems)) < len(self.stems):
            raise ConfigError(f"stems: expected different names, found {self.stems}")
        if self.container == "flac" and self.bit_depth == "float32":
            raise ConfigError("bit_depth: expected 16 or 24 with flac, found float32")
        if self.two_stems and set(self.stems) != set(STEMS):
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

    def outputs(self) -> tuple[str, ...]:
        """Name the audio that is written, without suffix."""
        if self.two_stems:
            return (self.two_stems, ACCOMPANIMENT_PREFIX + self.two_stems)
        return (*self.stems, *((RESIDUAL,) if self.residual == "stem" else ()))


@dataclass(frozen=True, kw_only=True)
class SeparationReport:
    """What was separated, how, and how well it can be told without the truth.

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
        files: names of the audio files.
        null_depth_db: level of the mixture less the stems' sum, relative to the mixture, of the
            stems as the separator gave them.
        final_null_depth_db: the same with what `residual` asked for, before the samples are
            rounded to the file's format.
        leakage_db: per stem, how much of its energy a copy of each other stem explains. An
            estimate with limits, see `mixprint.separation.nulltest.Leakage`. None: silent.
        levels: per stem and file `peak_dbfs`, `level_dbfs` and `clipped_samples` (beyond full
            scale), before the gain.
        gain: factor that all files were written with; 1 unless one would exceed full scale.
        gain_db: the same in dB.
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
    files: Sequence[str]
    null_depth_db: float
    final_null_depth_db: float
    leakage_db: Mapping[str, Mapping[str, float | None]]
    levels: Mapping[str, Mapping[str, float]]
    gain: float
    gain_db: float
    schema_version: int = SCHEMA_VERSION

    def recipe(self) -> dict[str, Any]:
        """Give what the stems follow from: equal recipes make equal stems."""
        names = ("sha256", "separator", "code_version", "settings", "schema_version")
        return {name: getattr(self, name) for name in names}


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
        path: the song, in any form that `mixprint.audio` reads.
        folder: receives the stems and `separation.json`. It appears, or changes, only when all
            is written; a killed run leaves at most a hidden folder beside it, which the next
            run removes.
        settings: what is separated and written.
        overwrite: replace what an earlier separation has written there.
        on_piece: is shown the pieces of `Separator.stream` as they come: mixture_CT, stems_SCT.

    Returns:
        the report, and whether anything was done: a folder that holds the same song, separated
        in the same way, is left as it is unless `overwrite`.

    Raises:
        AudioError: the song cannot be read.
        DataError: the folder holds something else, or cannot be written.
    """
    num_declared = _declared_length(path, separator.sample_rate_hz)
    recipe: dict[str, Any] = {
        "sha256": file_sha256(path),
        "separator": dict(separator.fingerprint),
        "code_version": code_version(*CODE),
        "settings": _recipe_settings(settings, separator),
        "schema_version": SCHEMA_VERSION,
    }
    with _write_errors_named(folder):
        if (earlier := _earlier(folder, recipe, overwrite=overwrite)) is not None:
            return earlier, False
        with _whole_folder(folder) as temporary:
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
            _earlier(folder, recipe, overwrite=overwrite)
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
    measures = _Measures(separator.sample_rate_hz)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                _StemFile(folder, name, settings, num_declared, separator.sample_rate_hz)
            )
            for name in settings.outputs()
        }
        for mixture_CT, stems_SCT in separator.stream_file(
            path,
            window_s=settings.window_s,
            overlap=settings.overlap,
            batch_size=settings.batch_size,
        ):
            audio = _outputs(mixture_CT, stems_SCT, settings)
            measures.add(mixture_CT, stems_SCT, audio, settings)
            for name, file in files.items():
                file.add(audio[name])
            if show is not None:
                show(mixture_CT, stems_SCT)
        gain = _common_gain(settings, (measures.levels[name].peak for name in files))
        for file in files.values():
            file.finish(gain)
    report = SeparationReport(
        song=shown(path.name),
        sample_rate_hz=separator.sample_rate_hz,
        duration_s=measures.num_samples / separator.sample_rate_hz,
        files=[file.path.name for file in files.values()],
        gain=gain,
        gain_db=2 * power_db(gain),
        **measures.values(),
        **recipe,
    )
    write_json(folder / REPORT_NAME, asdict(report))
    return report


def _declared_length(path: Path, sample_rate_hz: int) -> int:
    """Read from a song's header how many samples it has at a rate, at most."""
    info = probe(path)
    return math.ceil(info.num_frames * sample_rate_hz / info.sample_rate_hz)


@contextmanager
def _write_errors_named(folder: Path) -> Iterator[None]:
    """Turn what the system says against writing into an error that names the folder."""
    try:
        with disk_full_named(folder):
            yield
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be written: {error_text(error)}") from error


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r}")


def _recipe_settings(settings: FileSettings, separator: "Separator") -> dict[str, Any]:
    """Give the settings as a report holds them; the batch size changes no stem."""
    values = asdict(settings)
    del values["batch_size"]
    values["stems"] = list(settings.stems)
    values["window_s"] = settings.window_s or separator.window_s
    values["precision"] = separator.precision
    return values


def _outputs(mixture_CT: Tensor, stems_SCT: Tensor, settings: FileSettings) -> dict[str, Tensor]:
    """Name the audio of a piece: all stems, and what else is to be written."""
    if settings.residual == "distribute":
        stems_SCT = distribute_residual(stems_SCT, mixture_CT)
    audio = unpack(stems_SCT)
    if settings.residual == "stem":
        audio[RESIDUAL] = (mixture_CT.double() - stems_SCT.double().sum(dim=0)).float()
    if settings.two_stems:
        without_CT = (mixture_CT.double() - audio[settings.two_stems].double()).float()
        audio[ACCOMPANIMENT_PREFIX + settings.two_stems] = without_CT
    return audio


def _common_gain(settings: FileSettings, peaks: Iterator[float]) -> float:
    """Choose the gain of a song's files: 1, or what brings the highest peak to full scale."""
    if settings.bit_depth == "float32":
        return 1.0
    highest = 1 - 2.0 ** (1 - int(settings.bit_depth))
    peak = max(peaks)
    return highest / peak if peak > highest else 1.0


@dataclass
class _Measures:
    """What the report says about the audio, gathered piece by piece."""

    sample_rate_hz: int
    num_samples: int = 0
    separated: NullTest = field(default_factory=NullTest)
    final: NullTest = field(default_factory=NullTest)
    levels: dict[str, Levels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.leakage = Leakage(len(STEMS), self.sample_rate_hz)

    def add(
        self,
        mixture_CT: Tensor,
        stems_SCT: Tensor,
        audio: Mapping[str, Tensor],
        settings: FileSettings,
    ) -> None:
        self.num_samples += mixture_CT.shape[-1]
        self.separated.add(stems_SCT, mixture_CT)
        parts = [*STEMS, *((RESIDUAL,) if settings.residual == "stem" else ())]
        self.final.add(torch.stack([audio[name] for name in parts]), mixture_CT)
        self.leakage.add(torch.stack([audio[stem] for stem in STEMS]))
        for name, audio_CT in audio.items():
            self.levels.setdefault(name, Levels()).add(audio_CT)

    def values(self) -> dict[str, Any]:
        """Give the values under the report's names."""
        shares = self.leakage.shares_db()
        return {
            "num_samples": self.num_samples,
            "null_depth_db": self.separated.depth_db,
            "final_null_depth_db": self.final.depth_db,
            "leakage_db": {
                stem: {other: shares[a][b] for b, other in enumerate(STEMS) if a != b}
                for a, stem in enumerate(STEMS)
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


class _StemFile:
    """One output file, written piece by piece.

    Integer formats need the song's gain before the first sample can be rounded, so their samples
    wait as float32 in a file without a name, which the kernel frees even if we are killed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: FileSettings,
        num_declared: int,
        sample_rate_hz: int,
    ) -> None:
        self.path = folder / f"{name}.{settings.container}"
        self._bits = None if settings.bit_depth == "float32" else int(settings.bit_depth)
        num_bytes = num_declared * NUM_CHANNELS * (self._bits or 32) // 8
        container = settings.container.upper()
        if container == "WAV" and num_bytes > MAX_WAV_BYTES:
            container = "RF64"
        self._spool: BinaryIO | None = None
        self._stack = ExitStack()
        if self._bits is not None:
            spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (the stack closes it)
            self._spool = self._stack.enter_context(spool)
        with self._clear_errors():
            self._file = self._stack.enter_context(
                sf.SoundFile(
                    self.path,
                    "w",
                    samplerate=sample_rate_hz,
                    channels=NUM_CHANNELS,
                    format=container,
                    subtype="FLOAT" if self._bits is None else f"PCM_{self._bits}",
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._clear_errors():
            self._stack.close()

    def add(self, audio_CT: Tensor) -> None:
        """Take the next samples."""
        audio_TC = np.ascontiguousarray(audio_CT.numpy().T, np.float32)
        if self._spool is not None:
            self._spool.write(audio_TC.data)
            return
        with self._clear_errors():
            self._file.write(audio_TC)

    def finish(self, gain: float) -> None:
        """Write what waits, with a gain."""
        if self._spool is None or self._bits is None:
            return
        self._spool.seek(0)
        scale = 2.0 ** (self._bits - 1)
        # libsndfile takes the upper bits of an int32.
        kind, shift = ("int16", 0) if self._bits == 16 else ("int32", 32 - self._bits)
        while part := self._spool.read(SPOOL_SAMPLES * NUM_CHANNELS * 4):
            audio_TC = np.frombuffer(part, np.float32).reshape(-1, NUM_CHANNELS).astype(np.float64)
            # Rounded here: libsndfile cuts off, and its WAV and FLAC do not do so alike.
            pcm_TC = np.rint(audio_TC * (gain * scale)).clip(-scale, scale - 1) * 2.0**shift
            with self._clear_errors():
                self._file.write(pcm_TC.astype(kind))

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sf.SoundFileError as error:
            raise DataError(
                f"{shown(self.path.parent.parent)}: cannot write {self.path.name}: "
                f"{error_text(error)} (is the disk full?)"
            ) from error


def _earlier(
    folder: Path, recipe: Mapping[str, Any], *, overwrite: bool
) -> SeparationReport | None:
    """Look at what is in the folder already: the report of the same separation, or None.

    Raises:
        DataError: the folder holds something that must not be replaced.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return None
    where = shown(folder)
    try:
        report = SeparationReport(**read_json(folder / REPORT_NAME))
    except (DataError, TypeError) as error:
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
    missing = [name for name in report.files if not (folder / name).is_file()]
    return None if missing else report


@contextmanager
def _whole_folder(final: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name and rename it on success; an older one is replaced."""
    final = Path(os.path.realpath(final))  # a link stays, and what it leads to is replaced
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final.parent)
    temporary = final.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    temporary.mkdir()
    lock = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if final.exists():
            older = temporary.with_name(f"{temporary.name}-older")
            final.rename(older)
            temporary.rename(final)
            shutil.rmtree(older)
        else:
            temporary.rename(final)
    finally:
        os.close(lock)
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of killed runs: the kernel has unlocked theirs."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            if not path.is_dir() or time.time() - path.stat().st_mtime < ABANDONED_S:
                continue
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use, or a file system that cannot tell
        else:
            shutil.rmtree(path, ignore_errors=True)
            log.info("removed %s, which a killed run has left", shown(path))
        finally:
            os.close(handle)
