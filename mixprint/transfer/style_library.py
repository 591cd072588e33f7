"""A library of saved styles: a folder of the files that `Style.save` writes.

Shape suffixes: D features, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mixprint.errors import CheckpointError, DataError
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.features.standardisation import feature_distance
from mixprint.stems import STEMS
from mixprint.text import shown
from mixprint.transfer.report.words import describe_changes
from mixprint.transfer.style import STEM_OF_FEATURE_D, Style

SUFFIX = ".json"
# Of a difference, so much is said of each stem.
_MAX_WORDS = 2


@dataclass(frozen=True)
class Library:
    """Saved styles.

    Attributes:
        styles: file -> style, in the order of the names.
        refused: why a file is not read, each with its name.
    """

    styles: Mapping[Path, Style]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A saved style beside another one.

    Attributes:
        path: its file.
        style: the saved style.
        distance: of the features of the stems that sound in both, in standard deviations.
        likeness: cosine of the embeddings, 1 for the same; None where one has none, or they are of
            different encoders.
        differences: stem -> what is different in the saved style, in words; the most first.
    """

    path: Path
    style: Style
    distance: float
    likeness: float | None
    differences: Mapping[str, Sequence[str]]


def load_library(folder: Path) -> Library:
    """Read all styles of a folder; what cannot be read is listed.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"{shown(folder)}: expected a folder of saved styles, found none; "
            "`mixprint styles add SONG` makes it"
        )
    styles, refused = {}, []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            styles[path] = Style.load(path)
        except (CheckpointError, DataError) as error:
            refused.append(str(error))
    return Library(styles, tuple(refused))


def nearest(
    style: Style, library: Library, standardisation: Standardisation, number: int
) -> list[Match]:
    """Find the saved styles that are most like another one.

    They are ordered by their embeddings where all of them can be compared so, else by features.

    Args:
        style: the other one.
        library: saved styles.
        standardisation: of the features.
        number: at most so many are returned.
    """
    matches = [
        Match(
            path,
            saved,
            _distance(style, saved, standardisation),
            _likeness(style, saved),
            _differences(style, saved),
        )
        for path, saved in library.styles.items()
    ]
    if all(match.likeness is not None for match in matches):
        return sorted(matches, key=lambda match: -(match.likeness or 0.0))[:number]
    return sorted(matches, key=lambda match: match.distance)[:number]


def _distance(style: Style, saved: Style, standardisation: Standardisation) -> float:
    sounds_S = torch.tensor([stem not in {*style.silent, *saved.silent} for stem in STEMS])
    sounds_D = sounds_S[STEM_OF_FEATURE_D]
    if not sounds_D.any():
        return 0.0
    # What is silent in one of them is taken to be the same.
    saved_D = torch.where(sounds_D, saved.features_D, style.features_D)
    distance = feature_distance(style.features_D[None], saved_D[None], standardisation)
    return float(distance) / float(sounds_D.float().mean().sqrt())


def _likeness(style: Style, saved: Style) -> float | None:
    if style.embedding_E is None or saved.embedding_E is None or style.encoder != saved.encoder:
        return None
    return float(style.embedding_E @ saved.embedding_E)


def _differences(style: Style, saved: Style) -> dict[str, list[str]]:
    before, after = (
        dict(zip(FEATURE_NAMES, each.features_D.tolist(), strict=True)) for each in (style, saved)
    )
    changes = describe_changes({"input": before, "target": after, "output": after}, most=_MAX_WORDS)
    return {
        stem: [change.text for change in found]
        for stem, found in changes.items()
        if not isinstance(found, str)
    }
