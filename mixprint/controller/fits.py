"""Paired fits: the console's settings behind the mixes of one engineer.

    <folder>/<pair>/fit.json            what it was made of, and how near the console comes
    <folder>/<pair>/settings.json       the settings
    <folder>/<pair>/audio.safetensors   the part that was compared, 16-bit numbers, at 44.1 kHz

The folder of a pair is whole or absent, so a search that was stopped goes on with the next pair.

Shape suffixes: N track, C channel, T sample.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.console.pairs import LoadedPair, Pair, Unpaired, load_pair
from mixprint.console.recovery import Recovery, busiest_excerpt, recover_excerpt
from mixprint.console.settings import Settings
from mixprint.console.tracks import file_stems
from mixprint.errors import CheckpointError, DataError, MixprintError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.progress import Progress
from mixprint.schema import read_record
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import write_json
from mixprint.storage.folders import restore_folder, whole_folder
from mixprint.text import shown

log = logging.getLogger("mixprint.controller")

_ABOUT, _SETTINGS, _AUDIO = "fit.json", "settings.json", "audio.safetensors"


@dataclass(frozen=True)
class PairAudio:
    """Sound of a pair, float32 at 44.1 kHz.

    Attributes:
        tracks_NCT: dry.
        mix_CT: the mix of them.
        mixed_NCT: the tracks as they sound in it; None: unknown.
    """

    tracks_NCT: Tensor
    mix_CT: Tensor
    mixed_NCT: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """Settings that make the mix of a pair.

    Attributes:
        name: of the pair.
        settings: of its tracks.
        path: file of its sound.
        recipe: hash of all that it follows from.
        distance: of the console's mix to the true one, by `multi_resolution_stft`.
    """

    name: str
    settings: Settings
    path: Path
    recipe: str
    distance: float

    def audio(self) -> PairAudio:
        """Read the sound.

        Raises:
            DataError: it cannot be read, or is that of other tracks.
        """
        try:
            tensors = {name: x.float() for name, x in read_tensors(self.path).items()}
            found = PairAudio(**tensors)
            shapes = {x.shape[-2:] for x in tensors.values()}
        except (CheckpointError, TypeError) as error:
            raise DataError(f"{shown(self.path)}: expected the sound of a pair: {error}") from error
        if len(shapes) > 1 or len(found.tracks_NCT) != len(self.settings.tracks):
            raise DataError(
                f"{shown(self.path)}: expected {len(self.settings.tracks)} tracks as long as their "
                f"mix, found shapes {', '.join(str(tuple(x.shape)) for x in tensors.values())}"
            )
        return found


@dataclass(frozen=True)
class _About:
    """Content of a fit's description."""

    name: str
    recipe: str
    distance: float
    delay_s: float
    polarity: int
    drift_ppm: float
    likeness: float


def fit_pairs(
    pairs: Sequence[Pair], folder: Path, *, num_steps: int, least_s: float, max_distance: float
) -> tuple[list[Fit], list[Unpaired]]:
    """Take the mixes of pairs apart, or read what was found before.

    Args:
        pairs: tracks and their mixes.
        folder: receives the fits.
        num_steps: of each search, see `mixprint.console.recovery.recover`.
        least_s: shorter pairs are of no use.
        max_distance: of the console's mix to the true one; where it is larger, the mix holds what
            the console cannot make, and its settings would say little.

    Returns:
        the fits, and the pairs that cannot be used, each with its reason.

    Raises:
        DataError: the folder cannot be written.
    """
    fits: list[Fit] = []
    refused: list[Unpaired] = []
    stems = file_stems([pair.name for pair in pairs])
    with Progress(log, "taken apart", total=len(pairs), unit="pairs") as shown_progress:
        for pair in pairs:
            try:
                fit = _fitted(pair, folder / stems[pair.name], num_steps, least_s)
                if fit.distance > max_distance:
                    raise DataError(
                        f"{pair.name}: expected a mix that the console comes near, to a distance "
                        f"of at most {max_distance:g}, found {fit.distance:.2f}"
                    )
                fits.append(fit)
            except MixprintError as error:
                log.warning("left out: %s", error)
                refused.append(Unpaired(pair.mix, str(error)))
            shown_progress.advance()
    return fits, refused


def _fitted(pair: Pair, folder: Path, num_steps: int, least_s: float) -> Fit:
    recipe = _recipe(pair, num_steps)
    restore_folder(folder)
    if folder.is_dir():
        try:
            found = read_fit(folder)
        except DataError as error:
            log.warning("%s; the pair is taken apart again", error)
        else:
            if (found.name, found.recipe) == (pair.name, recipe):
                return found
    loaded = load_pair(pair, SAMPLE_RATE_HZ)
    length_s = loaded.tracks_NCT.shape[-1] / SAMPLE_RATE_HZ
    if length_s < least_s:
        raise DataError(f"{pair.name}: expected at least {least_s:.1f} s, found {length_s:.1f} s")
    recovery = recover_excerpt(loaded, list(pair.tracks), num_steps=num_steps)
    write_fit(folder, pair.name, recipe, loaded, recovery)
    return read_fit(folder)


def _recipe(pair: Pair, num_steps: int) -> str:
    """Hash what a fit follows from; files by size and time, for all of them would take long."""
    files = {}
    for kind, paths in (("tracks", pair.tracks), ("mix", pair.mixed_tracks())):
        for name, path in paths.items():
            status = path.stat()
            files[f"{kind}/{name}"] = [status.st_size, status.st_mtime_ns]
    code = code_version("mixprint.console.recovery")
    return fingerprint({"files": files, "num_steps": num_steps, "code": code})


def write_fit(folder: Path, name: str, recipe: str, loaded: LoadedPair, found: Recovery) -> None:
    """Write the fit of a pair, with the part of its sound that was compared.

    Args:
        folder: of the pair.
        name: of the pair.
        recipe: hash of all that the fit follows from.
        loaded: the pair, at 44.1 kHz.
        found: its settings.

    Raises:
        DataError: it cannot be written.
    """
    excerpt, _ = busiest_excerpt(loaded)
    audio = {"tracks_NCT": excerpt.tracks_NCT, "mix_CT": excerpt.mix_CT}
    if excerpt.mixed_NCT is not None:
        audio["mixed_NCT"] = excerpt.mixed_NCT
    about = _About(name, recipe, found.distance, **asdict(loaded.alignment))
    with whole_folder(folder) as temporary:
        halves = {key: x.to(torch.float16).contiguous() for key, x in audio.items()}
        write_tensors(temporary / _AUDIO, halves)
        found.settings.save(temporary / _SETTINGS)
        write_json(temporary / _ABOUT, asdict(about))


def read_fit(folder: Path) -> Fit:
    """Read the fit of a pair.

    Raises:
        DataError: it is missing or broken.
    """
    about = read_record(folder / _ABOUT, _About)
    settings = replace(Settings.load(folder / _SETTINGS), sample_rate_hz=SAMPLE_RATE_HZ)
    return Fit(about.name, settings, folder / _AUDIO, about.recipe, about.distance)
