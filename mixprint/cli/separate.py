"""The command `separate`."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixprint.cli.options import (
    CheckpointConfigOption,
    CheckpointOption,
    DeviceOption,
    MethodOptions,
)
from mixprint.errors import ConfigError
from mixprint.progress import echo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mixprint.separation.batch import Outcome
    from mixprint.separation.diffusion.separator import NumStems
    from mixprint.separation.files import FileSettings


class Container(StrEnum):
    """Format of stem files."""

    wav = "wav"
    flac = "flac"


class BitDepth(StrEnum):
    """Sample format of stem files."""

    int16 = "16"
    int24 = "24"
    float32 = "float32"


class Precision(StrEnum):
    """Arithmetic of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Residual(StrEnum):
    """Use of the difference between a song and its stems' sum."""

    none = "none"
    stem = "stem"
    distribute = "distribute"


_COUNTS: "Mapping[str | None, NumStems]" = {"2": 2, "4": 4}
# WAV keeps every level as it is; FLAC has no float.
DEFAULT_BIT_DEPTHS = {Container.wav: BitDepth.float32, Container.flac: BitDepth.int24}


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Options of what is separated and written."""

    container: Annotated[
        Container, typer.Option("--format", help="Of the files that are written.")
    ] = Container.wav
    bit_depth: Annotated[
        BitDepth | None,
        typer.Option("--bit-depth", help="Default: float32, and 24 with flac.", show_default=False),
    ] = None
    stems: Annotated[
        str | None,
        typer.Option(
            "--stems",
            help="Which to write, for example vocals,drums; or, with `--method diffusion`, how "
            "many there are: 2 (vocals and instrumental) or 4. Default: all, and 2.",
            show_default=False,
        ),
    ] = None
    two_stems: Annotated[
        str | None,
        typer.Option("--two-stems", help="Write this stem, and all the rest as one other file."),
    ] = None
    residual: Annotated[
        Residual,
        typer.Option(
            "--residual",
            help="What the stems' sum lacks of the song: leave it out, write it as a file of its "
            "own, or distribute it among the stems.",
        ),
    ] = Residual.none
    window: Annotated[
        float | None,
        typer.Option(
            "--window",
            help="What the network sees at once, in s. Default: as in its training.",
            show_default=False,
        ),
    ] = None
    overlap: Annotated[
        float, typer.Option("--overlap", help="Part of a window that it shares with the next.")
    ] = 0.25
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=0,
            help="Windows at a time. 0: what a GPU's memory holds, 1 on a CPU.",
        ),
    ] = 0

    def num_stems(self, is_diffusion: bool) -> "NumStems | None":
        """Tell how many stems a diffusion separator is to give: two, if that is all that is asked.

        Raises:
            ConfigError: an option names stems that do not exist beside each other, or a number
                without such a separator.
        """
        from mixprint.separation.diffusion.separator import INSTRUMENTAL, INSTRUMENTAL_STEMS

        count = _COUNTS.get(self.stems)
        if not is_diffusion:
            if count is not None:
                raise ConfigError(
                    f"stems: expected a number with the method diffusion only, found {count}"
                )
            return None
        if count is not None:
            return count
        named = {*(self._names() or ()), self.two_stems}
        if not named & set(INSTRUMENTAL_STEMS):
            return 2
        if INSTRUMENTAL in named:
            raise ConfigError(f"stems: expected {INSTRUMENTAL} or parts of it, found {self.stems}")
        return 4

    def settings(self) -> "FileSettings":
        """Return them as the library takes them.

        Raises:
            ConfigError: a value is not known or out of range.
        """
        from mixprint.separation.files import FileSettings

        return FileSettings(
            container=self.container.value,
            bit_depth=(self.bit_depth or DEFAULT_BIT_DEPTHS[self.container]).value,
            stems=self._names(),
            two_stems=self.two_stems,
            residual=self.residual.value,
            window_s=self.window,
            overlap=self.overlap,
            batch_size=self.batch_size,
        )

    def _names(self) -> tuple[str, ...] | None:
        if self.stems is None or self.stems in _COUNTS:
            return None
        return tuple(stem.strip() for stem in self.stems.split(","))


def separate(
    songs: Annotated[
        list[Path], typer.Argument(help="Audio files, and folders of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Receives a folder per song.")],
    checkpoint: CheckpointOption = "default",
    config: CheckpointConfigOption = None,
    *,
    method: MethodOptions,
    files: FileOptions,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of the network; half precision suits GPUs.")
    ] = Precision.float32,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network first, on a GPU to CUDA graphs; pays where much is to do.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Songs side by side, which share the CPU's cores.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier separation has written.")
    ] = False,
) -> None:
    """Separate songs into vocals, bass, drums and other, or into vocals and instrumental.

    Each song gets a folder with its stems and a report, separation.json: how far their sum is
    from the song, how much they leak into each other, their levels, and the gain that was needed
    to stay within full scale (16 and 24 bits only; float32 keeps all levels). A folder that holds
    the same song, separated in the same way, is left as it is.

    With `--method diffusion` the instrumental is drawn by a network, and the vocals are the rest of
    the song. Of several `--samples` the mean is written, and how far they differ:
    uncertainty.npz and uncertainty.png.

    Exit code: 0 if all songs are done, 1 if one failed, 2 if an option is wrong.
    """
    from mixprint.separation.batch import find_jobs, separate_files
    from mixprint.separation.source import SeparatorSource
    from mixprint.storage.outputs import check_place

    settings = files.settings()
    source = SeparatorSource(
        checkpoint,
        config,
        device,
        precision.value,
        compiled,
        method=method.method.value,
        sampling=method.sampling(),
        num_stems=files.num_stems(method.is_diffusion),
    )
    check_place(out, is_folder=True)
    found, failures = find_jobs(songs, out)
    done = separate_files(found, source, settings, num_processes=jobs, overwrite=overwrite)
    if _told(chain(failures, done))["failed"]:
        raise typer.Exit(1)


def _told(outcomes: "Iterable[Outcome]") -> Counter[str]:
    """Tell of each song as it is done, and count what became of them."""
    counts = Counter[str]()
    for outcome in outcomes:
        counts[outcome.status] += 1
        if outcome.status == "failed":
            echo(f"failed: {outcome.detail}", err=True)
        else:
            note = " (was there already)" if outcome.status == "present" else ""
            echo(f"{outcome.detail}{note}")
            for note in outcome.notes:
                echo(f"note: {note}", err=True)
    summary = f"{counts['separated']} separated, {counts['present']} there already"
    echo(f"{summary}, {counts['failed']} failed", err=True)
    return counts
