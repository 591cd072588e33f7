"""Description of how a finished song is mixed, in words.

Shape suffixes: S stem, C channel, T sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixprint.api import models
from mixprint.api.arrays import SongPath
from mixprint.api.models import controller_of, fitting, standardisation_of
from mixprint.api.references import ReferenceAudio, embedding_of, read_reference
from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.console.words import in_words
from mixprint.controller.checkpoint import Controller
from mixprint.controller.hearing import describe_embedding, describe_mix
from mixprint.machine.device import resolve_device
from mixprint.separation import Separator
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.text import shown
from mixprint.transfer.excerpts import measurable
from mixprint.transfer.style import Style
from mixprint.transfer.style_library import Match, load_library, nearest


@dataclass(frozen=True)
class Description:
    """Description of a mix by a controller.

    Attributes:
        title: of the song.
        settings: with which typical tracks would sound like this, of the four stems and a master.
        spread: how sure the controller is of them.
        words: stem, and `master` -> phrases, with spread; what is silent has none.
        nearest: saved styles that are most like it, the most first; empty without a library.
    """

    title: str
    settings: Settings
    spread: Spread
    words: Mapping[str, Sequence[str]]
    nearest: Sequence[Match] = ()


def describe(
    song: ReferenceAudio,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    library: SongPath | None = None,
    number: int = 3,
    controller: Controller | SongPath | None = None,
    encoder: str | Path = "",
    separator: Separator | str | Path = "default",
    separator_config: str | Path | None = None,
    device: str = "auto",
) -> Description:
    """Describe how a song is mixed, as `mixprint describe` does.

    What was done to a mix cannot be told without its dry tracks. These are the settings with which
    *typical* tracks, the mean of those that the controller was trained on, would sound like this.

    Args:
        song: a song, its stems or a saved style, see `mixprint.api.references.read_reference`; the
            ten seconds are heard in which it sounds the most.
        sample_rate_hz: rate of arrays; files state theirs.
        library: folder of saved styles, see `mixprint styles add`; none are looked for when None.
        number: at most so many of them are returned.
        controller: a trained one, or its folder; the shipped one when None.
        encoder: empty for the shipped one, a folder, or a name in a registry.
        separator: see `mixprint.separate`.
        separator_config: see `mixprint.separate`.
        device: where the networks run: `auto`, `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: the song cannot be read, is too short, or holds NaN or infinities.
        CheckpointError: there is no controller, or a model is broken or of another kind.
        DataError: library or style cannot be read.
    """
    where = resolve_device(device)
    styles = None if library is None else load_library(Path(library))
    used = controller_of(controller, where)
    heard = read_reference(
        song,
        where,
        sample_rate_hz=sample_rate_hz,
        separator=separator,
        separator_config=separator_config,
    )
    is_embedded = styles is not None or bool(used.encoder_fingerprint)
    loaded = models.load_encoder(encoder, where) if is_embedded else None
    if heard.style is not None:
        style = heard.style
        prediction = describe_embedding(used, *embedding_of(style))
    else:
        assert heard.stems_SCT is not None
        known = fitting(used, loaded, is_named=bool(str(encoder)))
        prediction = describe_mix(used, heard.stems_SCT, SAMPLE_RATE_HZ, known)
        long_SCT = measurable(heard.stems_SCT, shown(heard.title))
        style = Style.of(heard.title, [long_SCT.to(where)], SAMPLE_RATE_HZ, encoder=loaded)
    near: Sequence[Match] = ()
    if styles is not None:
        near = nearest(style, styles, standardisation_of(loaded), number)
    spread = Spread(prediction.settings, prediction.spread)
    words = in_words(prediction.settings, spread)
    words |= {stem: ["silent"] for stem in style.silent}
    return Description(heard.title, prediction.settings, spread, words, near)
