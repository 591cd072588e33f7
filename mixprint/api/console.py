"""The mixing console for programs: a mix taken apart, tracks mixed by settings or by a controller.

Shape suffixes: N track, C channel, T sample.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.api.arrays import Audio, SongPath, is_path, stereo
from mixprint.api.mixing import check_steps, excerpt_of, find_settings
from mixprint.api.models import controller_of
from mixprint.api.references import ReferenceAudio, read_reference
from mixprint.audio.files import probe
from mixprint.console import recovery, rendering
from mixprint.console.alignment import Alignment
from mixprint.console.pairs import align_pair
from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.console.tracks import find_tracks
from mixprint.controller.checkpoint import Controller
from mixprint.machine.device import resolve_device
from mixprint.separation import Separator
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.text import shown

Tracks: TypeAlias = Mapping[str, Audio] | Sequence[SongPath] | SongPath
# What an error calls a mix that comes from no file; tracks are called by their names.
MIX_NAME = "mix"


@dataclass(frozen=True)
class Recovered:
    """Settings that were found of a mix, and how near they come.

    Attributes:
        settings: the settings.
        distance: of the console's mix to the mix, over the excerpt that was compared, by
            `mixprint.dsp.spectral_distance.multi_resolution_stft`; 0 for the same.
        alignment: how the mix lay: `delay_s`, `polarity`, `drift_ppm` and `likeness`.
    """

    settings: Settings
    distance: float
    alignment: Alignment


@dataclass(frozen=True, eq=False)
class Mixed:
    """Tracks that were mixed by settings.

    Attributes:
        audio: the mix, float32 (2, samples), full scale at +-1.
        tracks: track -> array (2, samples) as it sounds in the mix, which is their sum.
        sample_rate_hz: of both.
        settings: the settings.
        spread: how sure a controller was of them, see `mixprint.console.words.in_words`; None for
            settings that were given.
    """

    audio: NDArray[np.float32]
    tracks: Mapping[str, NDArray[np.float32]]
    sample_rate_hz: int
    settings: Settings
    spread: Spread | None = None


def recover(
    tracks: Tracks,
    mix: Audio,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    start: Settings | None = None,
    locked: Sequence[str] = (),
    num_steps: int = recovery.NUM_STEPS,
) -> Recovered:
    """Find the settings with which a console makes a mix, as `mixprint console recover` does.

    Args:
        tracks: the dry tracks: a folder, a list of files and folders (a track is called as its
            file), or name -> file, array or tensor of shape (channels, samples) or (samples,), one
            channel or two, float, full scale at +-1. The shorter ones are silent at the end.
        mix: the mix that was made of them, a file, an array or a tensor.
        sample_rate_hz: rate of arrays; files state theirs.
        start: settings at which the search begins; those of the levels when None.
        locked: what stays as in `start`, or neutral: `drums`, `drums.eq`, `*.fader_db`, `master`.
        num_steps: of the search.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: a file cannot be read, or audio is empty or holds NaN or infinities.
        DataError: the mix is not one of these tracks.
        ConfigError: there are too many tracks, `start` is of others, or a lock names nothing.
    """
    named = _named(tracks)
    rate_hz = _common_rate_hz([*named.values(), mix], sample_rate_hz)
    mix_CT = stereo(mix, sample_rate_hz, wanted_hz=rate_hz, name=MIX_NAME)
    pair = align_pair(_stacked(named, sample_rate_hz, rate_hz), mix_CT, rate_hz, _name_of(mix))
    found = recovery.recover_excerpt(
        pair, list(named), start=start, locked=locked, num_steps=num_steps
    )
    return Recovered(found.settings, found.distance, pair.alignment)


def render(tracks: Tracks, settings: Settings, *, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Mixed:
    """Mix tracks by settings, as `mixprint console render` does; here all lies in memory.

    Args:
        tracks: see `recover`.
        settings: of tracks of these names, in any order.
        sample_rate_hz: rate of arrays; files state theirs.

    Returns:
        the mix at the highest rate of the tracks.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: a file cannot be read, or audio is empty or holds NaN or infinities.
        ConfigError: the settings are of other tracks.
    """
    named = _named(tracks)
    settings = settings.in_order(list(named))
    rate_hz = _common_rate_hz(named.values(), sample_rate_hz)
    return _mixed(_stacked(named, sample_rate_hz, rate_hz), settings, rate_hz)


def mix(
    tracks: Tracks,
    reference: ReferenceAudio | None = None,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    start: Settings | None = None,
    locked: Sequence[str] = (),
    amount: float | Mapping[str, float] = 1.0,
    num_steps: int = 0,
    controller: Controller | SongPath | None = None,
    encoder: str | Path = "",
    separator: Separator | str | Path = "default",
    separator_config: str | Path | None = None,
    device: str = "auto",
) -> Mixed:
    """Mix tracks like a reference, as `mixprint console mix` does; here all lies in memory.

    A controller, a network that was trained for it, sets the console in one pass, and a fit may go
    on from there. `settings` of the result can be changed, and `render` then makes another mix.

    Args:
        tracks: the dry tracks, see `recover`. One that is called as a role that the controller
            knows (`vocals`, `bass` ...) is heard as such.
        reference: the mix that is wanted: a song, its stems or a saved style, see
            `mixprint.api.references.read_reference`; a good mix of these tracks when None.
        sample_rate_hz: rate of arrays; files state theirs.
        start: settings of what is locked; neutral ones when None.
        locked: what stays as in `start`: `drums`, `drums.eq`, `*.fader_db`, `master`.
        amount: 0 nothing, 1 all that was found, up to 2; for all tracks, or track -> amount.
        num_steps: of a fit to the reference, from the controller's settings on; 0: none.
        controller: a trained one, or its folder; the shipped one when None.
        encoder: of the reference's embedding: empty for the shipped one, a folder, or a name in a
            registry.
        separator: of a reference that is a song: `default` for the shipped one, another checkpoint,
            or one that is loaded.
        separator_config: the configuration of a published checkpoint.
        device: where the networks run: `auto`, `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: a file cannot be read, audio is empty or holds NaN or infinities, or is too
            short for a fit.
        ConfigError: there are too many tracks, `start` is of others, a lock names nothing, an
            amount is out of range, or there is no reference to fit to.
        CheckpointError: there is no controller, or a model is broken or of another kind.
        DataError: a style or stems cannot be used.
    """
    check_steps(num_steps, has_reference=reference is not None)
    named = _named(tracks)
    where = resolve_device(device)
    used = controller_of(controller, where)
    rate_hz = _common_rate_hz(named.values(), sample_rate_hz)
    tracks_NCT = _stacked(named, sample_rate_hz, rate_hz)
    wanted = None
    if reference is not None:
        wanted = read_reference(
            reference,
            where,
            sample_rate_hz=sample_rate_hz,
            separator=separator,
            separator_config=separator_config,
        )
    heard = excerpt_of(tracks_NCT, rate_hz)
    kept = Settings.neutral(list(named)) if start is None else start.in_order(list(named))
    found = find_settings(
        used,
        heard,
        list(named),
        wanted,
        num_steps=num_steps,
        kept=kept,
        locked=locked,
        encoder=encoder,
        device=where,
    )
    settings = found.settings.scaled(amount).lock(kept, locked)
    return _mixed(tracks_NCT, replace(settings, sample_rate_hz=rate_hz), rate_hz, found.spread)


def _mixed(
    tracks_NCT: Tensor, settings: Settings, rate_hz: int, spread: Spread | None = None
) -> Mixed:
    mixed_NCT = rendering.render(tracks_NCT, settings, rate_hz)
    parts = {
        name: mixed_CT.float().numpy()
        for name, mixed_CT in zip(settings.tracks, mixed_NCT, strict=True)
    }
    return Mixed(mixed_NCT.sum(dim=0).float().numpy(), parts, rate_hz, settings, spread)


def _named(tracks: Tracks) -> dict[str, Audio]:
    if isinstance(tracks, Mapping):
        Settings.neutral(list(tracks))  # refuses names, none, and too many
        return dict(tracks)
    paths = [tracks] if isinstance(tracks, str | os.PathLike) else tracks
    return dict(find_tracks([Path(path) for path in paths]))


def _common_rate_hz(audios: Iterable[Audio], sample_rate_hz: int) -> int:
    """Return the highest rate: at it nothing is lost."""
    return max(
        probe(Path(audio)).sample_rate_hz if is_path(audio) else sample_rate_hz for audio in audios
    )


def _stacked(tracks: Mapping[str, Audio], sample_rate_hz: int, wanted_hz: int) -> Tensor:
    """Read tracks into tracks_NCT, the shorter ones silent at the end."""
    parts = [
        stereo(audio, sample_rate_hz, wanted_hz=wanted_hz, name=name)
        for name, audio in tracks.items()
    ]
    longest = max(part_CT.shape[-1] for part_CT in parts)
    return torch.stack(
        [torch.nn.functional.pad(part_CT, (0, longest - part_CT.shape[-1])) for part_CT in parts]
    )


def _name_of(audio: Audio) -> str:
    return shown(Path(audio)) if is_path(audio) else MIX_NAME
