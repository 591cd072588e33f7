"""The commands `styles add`, `styles list` and `styles find`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixprint.cli.options import (
    DeviceOption,
    EncoderOption,
    OverwriteOption,
    SeparatorConfigOption,
    SeparatorOption,
)
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.progress import echo, progress
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.features import Standardisation
    from mixprint.transfer.jobs import Models
    from mixprint.transfer.settings import Hyperparameters
    from mixprint.transfer.style import Style

log = logging.getLogger("mixprint")

DEFAULT_LIBRARY = Path("styles")
LibraryOption = Annotated[Path, typer.Option("--library", help="Folder of the saved styles.")]


@dataclass(frozen=True, kw_only=True)
class HearingOptions:
    """Options of how a song is heard."""

    segment_duration: Annotated[
        float, typer.Option("--segment_duration", help="Length of the segment that is heard, in s.")
    ] = 10.0
    segment_offset: Annotated[float, typer.Option("--segment_offset", help="Its start in s.")] = 0.0
    mixing_checkpoint: EncoderOption = ""
    scnet_model: SeparatorOption = "default"
    scnet_config: SeparatorConfigOption = None
    device: DeviceOption = "auto"

    def load(self) -> "Models":
        """Load the models that measure styles."""
        from mixprint.api.models import load_models
        from mixprint.machine.device import resolve_device

        return load_models(
            resolve_device(self.device),
            [self._settings()],
            encoder=self.mixing_checkpoint,
            separator=self.scnet_model,
            separator_config=self.scnet_config,
        )

    def hear(self, song: Path, models: "Models") -> "Style":
        """Measure the style of a song."""
        from mixprint.transfer.excerpts import load_segment
        from mixprint.transfer.pair import Target

        separator = models.separator
        assert separator is not None, "`load` loads one"
        segment = load_segment(song, self._settings(), separator.separate, separator.fingerprint)
        return Target.of_song(segment, encoder=models.encoder, device=models.device).style

    def standardisation(self) -> "Standardisation":
        """Return the standardisation of the features, without the other models."""
        from mixprint.api.models import load_encoder, standardisation_of
        from mixprint.machine.device import resolve_device

        return standardisation_of(load_encoder(self.mixing_checkpoint, resolve_device(self.device)))

    def _settings(self) -> "Hyperparameters":
        from mixprint.transfer.settings import Hyperparameters

        return Hyperparameters(
            optimize_target="features",
            segment_duration=self.segment_duration,
            segment_offset=self.segment_offset,
        )


def add(
    songs: Annotated[
        list[Path], typer.Argument(help="Audio files, and folders of them.", show_default=False)
    ],
    library: LibraryOption = DEFAULT_LIBRARY,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of one song's style. Default: the song's own."),
    ] = None,
    *,
    hearing: HearingOptions,
    overwrite: OverwriteOption = False,
) -> None:
    """Save how songs are mixed, each as a style that `transfer --style` and `styles find` take.

    A song that cannot be used is named, and the others are saved.

    Exit code: 0 if all styles are saved, 1 if one failed, 2 if an option is wrong.
    """
    from mixprint.console.tracks import file_stems
    from mixprint.separation.batch import name_songs
    from mixprint.storage.outputs import check_file
    from mixprint.transfer.style import is_style
    from mixprint.transfer.style_library import SUFFIX

    found, unusable = name_songs(songs)
    if name is not None and len(found) + len(unusable) != 1:
        raise ConfigError(f"--name: expected one song, found {len(found) + len(unusable)}")
    models = hearing.load()
    failures = [outcome.detail for outcome in unusable]
    files: dict[Path, Path] = {}
    for path, own_name in progress(found.items(), len(found), "heard", "songs", log):
        # Folders between are part of the name: in a folder of albums many songs are called alike.
        called = name if name is not None else " - ".join(own_name.parts)
        file = library / f"{file_stems([called])[called]}{SUFFIX}"
        try:
            if file in files:
                raise DataError(
                    f"{shown(path)}: expected another name than that of {shown(files[file])}, "
                    "found the same; add it by itself with --name"
                )
            check_file(file, is_style, overwrite=overwrite)
            files[file] = path
            replace(hearing.hear(path, models), title=called).save(file)
        except (AudioError, DataError) as error:
            failures.append(str(error))
            continue
        echo(f"saved: {shown(called)}")
    _end(failures)


def list_(library: LibraryOption = DEFAULT_LIBRARY) -> None:
    """List the saved styles: loudness, stems that do not sound, and their files.

    Exit code: 0 if all could be read, 1 if one could not.
    """
    from mixprint.transfer.style_library import load_library

    found = load_library(library)
    for path, style in found.styles.items():
        silent = f", without {' and '.join(style.silent)}" if style.silent else ""
        echo(f"{style.title}: {style.loudness_lufs:.1f} LUFS{silent} ({shown(path)})")
    _end(found.refused)


def find(
    song: Annotated[Path, typer.Argument(help="A song, or a saved style.", show_default=False)],
    library: LibraryOption = DEFAULT_LIBRARY,
    number: Annotated[int, typer.Option("--number", min=1, help="How many are shown.")] = 5,
    *,
    hearing: HearingOptions,
) -> None:
    """Find the saved styles that are most like a song's mix, and say how they differ from it.

    The likeness is the cosine of the encoder's embeddings, 1 for the same; the distance is that of
    the 64 features in standard deviations.

    Exit code: 0 if all saved styles could be read, 1 if one could not.
    """
    from mixprint.transfer.style import Style, is_style
    from mixprint.transfer.style_library import load_library, nearest

    found = load_library(library)
    if song.suffix == ".json" and is_style(song):
        style, standardisation = Style.load(song), hearing.standardisation()
    else:
        models = hearing.load()
        style, standardisation = hearing.hear(song, models), models.standardisation
    for match in nearest(style, found, standardisation, number):
        likeness = "" if match.likeness is None else f"likeness {match.likeness:.2f}, "
        echo(f"{match.style.title}: {likeness}distance {match.distance:.2f} ({shown(match.path)})")
        for stem, words in match.differences.items():
            echo(f"  {stem}: {', '.join(words)}")
    _end(found.refused)


def _end(failures: Sequence[str]) -> None:
    for failure in failures:
        echo(f"failed: {failure}", err=True)
    if failures:
        raise typer.Exit(1)
