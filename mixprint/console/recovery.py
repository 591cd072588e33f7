"""Taking a mix apart: the settings with which a console makes it of its dry tracks.

First the levels, found from spectrograms alone: in each band and moment the power of the mix is
about the sum of those of the tracks. They give each track's fader and tone, and a start for
everything else, which a search with gradients then finds from coarse to fine: equalisers,
compressors, rooms, the master.

Shape suffixes: N track, C channel, T sample, F frequency bin, K band, M frame.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.console.alignment import Alignment
from mixprint.console.bands import CUTS
from mixprint.console.excerpts import busiest_second, frame_power
from mixprint.console.levels import begin
from mixprint.console.mixing import Console, Values, as_stereo, louder_channel
from mixprint.console.pairs import LoadedPair, Pair, load_pair
from mixprint.console.positions import IsFitted, Positions
from mixprint.console.results import check_mix_folder, write_mix
from mixprint.console.schema import MASTER, Field
from mixprint.console.settings import ROOM_SHAPE, Settings, is_meant
from mixprint.dsp.compressor import block_levels_db
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.spectral_distance import FEW_FRAMES_PER_WINDOW, multi_resolution_stft
from mixprint.errors import ConfigError
from mixprint.progress import Progress
from mixprint.text import shown

log = logging.getLogger("mixprint.console")

# Long windows hear tones and rooms, short ones attacks; one of them at each step, in turn.
RESOLUTIONS = (2048, 512, 8192)
NUM_STEPS = 240
# Of a song: what is compared, and what is only heard before it.
EXCERPT_S, PREROLL_S = 8, 2
# In the end all of the song is compared, in parts of at least this length.
_PART_S = 20
LEARNING_RATE = 0.02
# Weight of how far settings are from where they began, in parts of the distance that is left: it
# decides where nothing is heard of them, and gives way where all fits.
PRIOR = 0.03
# From which part of the steps on groups are looked for. The master comes last: what it does to all
# tracks would else stand for what was done to one.
STAGES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.0, ("fader", "pan", "width", "eq")),
    (0.15, ("comp",)),
    (0.3, ("room",)),
    (0.45, ("master.eq", "master.comp")),
)
# Where a search begins that finds a setting neutral: where it has a gradient, and does little.
_START_SLOPE = 0.2
_START_SEND_DB = -30.0
_LOUD_QUANTILE = 0.7
_HELD = 0.6


@dataclass(frozen=True)
class Recovery:
    """Settings that were found, and how near they come.

    Attributes:
        settings: the settings.
        distance: of the mix, by `multi_resolution_stft`.
    """

    settings: Settings
    distance: float


@dataclass(frozen=True)
class RecoveredPair:
    """Alignment and distances of a pair of tracks and mix whose settings were found.

    Attributes:
        alignment: how the mix lay.
        distance: of the console's mix to it, by `multi_resolution_stft`, the mean over all parts of
            the song.
        plain_distance: of the plain sum of the tracks at the loudness of the mix.
    """

    alignment: Alignment
    distance: float
    plain_distance: float


def recover_pair(
    pair: Pair,
    out_dir: Path,
    *,
    start: Settings | None = None,
    locked: Sequence[str] = (),
    num_steps: int = NUM_STEPS,
    overwrite: bool = False,
) -> RecoveredPair:
    """Take a mix apart, and write what the console makes of its tracks.

    The search hears the `EXCERPT_S` in which all tracks sound the most.

    Args:
        pair: the files.
        out_dir: receives what `write_mix` writes.
        start: see `recover`.
        locked: see `recover`.
        num_steps: see `recover`.
        overwrite: an earlier mix there may be replaced.

    Raises:
        ConfigError, AudioError, DataError: see `recover`, `load_pair` and `write_mix`.
    """
    mixed = {path.resolve() for path in (pair.mix, *pair.mixed_tracks().values())}
    for path in pair.tracks.values():
        if path.resolve() in mixed:
            raise ConfigError(
                f"{shown(pair.mix)}: expected a mix apart from its tracks, found it among them; "
                "put it into another folder"
            )
    check_mix_folder(out_dir, pair.tracks, others=[pair.mix], overwrite=overwrite)
    if start is not None:
        start = start.in_order(list(pair.tracks))
    loaded = load_pair(pair)
    rate_hz = loaded.sample_rate_hz
    found = recover_excerpt(
        loaded, list(pair.tracks), start=start, locked=locked, num_steps=num_steps
    )
    write_mix(pair.tracks, found.settings, out_dir, overwrite=overwrite)
    mixed_CT = read_audio(out_dir / "mix.wav", sample_rate_hz=rate_hz)
    plain_CT = loaded.tracks_NCT.sum(dim=0)
    plain_CT = plain_CT * (loaded.mix_CT.norm() / plain_CT.norm().clamp_min(1e-12))
    distances = [_distance(made_CT, loaded.mix_CT, rate_hz) for made_CT in (mixed_CT, plain_CT)]
    return RecoveredPair(loaded.alignment, *distances)


def _distance(made_CT: Tensor, mix_CT: Tensor, sample_rate_hz: int) -> float:
    """Return the mean distance over parts of a song: the spectra of all would fill the memory."""
    num_samples = mix_CT.shape[-1]
    num_parts = max(num_samples // (_PART_S * sample_rate_hz), 1)
    edges = [round(part * num_samples / num_parts) for part in range(num_parts + 1)]
    parts = [
        multi_resolution_stft(made_CT[:, a:b], mix_CT[:, a:b]) for a, b in itertools.pairwise(edges)
    ]
    return float(torch.stack(parts).mean())


def recover_excerpt(
    loaded: LoadedPair,
    names: Sequence[str],
    *,
    start: Settings | None = None,
    locked: Sequence[str] = (),
    num_steps: int = NUM_STEPS,
) -> Recovery:
    """Find settings from the `EXCERPT_S` in which all tracks sound the most; see `recover`."""
    excerpt, preroll_s = busiest_excerpt(loaded)
    return recover(
        excerpt.tracks_NCT,
        excerpt.mix_CT,
        excerpt.sample_rate_hz,
        names,
        mixed_NCT=excerpt.mixed_NCT,
        preroll_s=preroll_s,
        num_steps=num_steps,
        start=start,
        locked=locked,
    )


def busiest_excerpt(loaded: LoadedPair) -> tuple[LoadedPair, float]:
    """Cut the part in which all tracks sound the most; tell how many seconds of it are preroll."""
    size = loaded.sample_rate_hz  # a second
    if loaded.tracks_NCT.shape[-1] // size <= EXCERPT_S + PREROLL_S:
        return loaded, 0.0
    start = busiest_second(frame_power(loaded.tracks_NCT, size), EXCERPT_S)
    preroll = min(start, PREROLL_S)
    return loaded.cut((start - preroll) * size, (start + EXCERPT_S) * size), float(preroll)


def recover(
    tracks_NCT: Tensor,
    mix_CT: Tensor,
    sample_rate_hz: int,
    names: Sequence[str],
    *,
    mixed_NCT: Tensor | None = None,
    preroll_s: float = 0.0,
    num_steps: int = NUM_STEPS,
    start: Settings | None = None,
    locked: Sequence[str] = (),
) -> Recovery:
    """Find the settings with which a console makes a mix of its dry tracks.

    Args:
        tracks_NCT: the dry tracks, one or two channels, full scale at +-1.
        mix_CT: the mix, stereo, aligned with them and as long.
        sample_rate_hz: of both.
        names: of the tracks.
        mixed_NCT: the tracks as they sound in the mix, which then count as much as their sum; None:
            they are unknown.
        preroll_s: length of the beginning that is only heard, by rooms and compressors, and not
            compared: of an excerpt, what sounded before it is unknown.
        num_steps: of the search.
        start: where it begins; from the levels alone when None. Rooms that it shares keep their
            reverb times.
        locked: tracks, groups or settings that stay as in `start` (or neutral), see
            `Settings.lock`.

    Raises:
        ConfigError: the lengths differ, `start` is of other tracks, or a lock names nothing.
    """
    if tracks_NCT.shape[-1] != mix_CT.shape[-1] or len(names) != len(tracks_NCT):
        raise ConfigError(
            f"recover: expected {len(names)} tracks as long as the mix, {mix_CT.shape[-1]} "
            f"samples, found {len(tracks_NCT)} of {tracks_NCT.shape[-1]}"
        )
    num_unheard = round(preroll_s * sample_rate_hz)
    if (num_compared := mix_CT.shape[-1] - num_unheard) < max(RESOLUTIONS):
        raise ConfigError(
            f"recover: expected at least {max(RESOLUTIONS)} samples to compare, found "
            f"{num_compared}"
        )
    tracks_NCT, mix_CT = as_stereo(tracks_NCT).float(), as_stereo(mix_CT).float()
    neutral = Settings.neutral(names)
    start = None if start is None else start.in_order(names)
    begun = begin(tracks_NCT, mix_CT, names, sample_rate_hz) if start is None else start
    begun = begun.lock(neutral if start is None else start, locked)
    if mixed_NCT is not None:
        mixed_NCT = as_stereo(mixed_NCT).float()
    search = _Search(tracks_NCT, mix_CT, mixed_NCT, sample_rate_hz, begun, locked, num_unheard)
    return search.run(num_steps)


class _Search:
    """Search with gradients for the settings of a mix."""

    def __init__(
        self,
        tracks_NCT: Tensor,
        mix_CT: Tensor,
        mixed_NCT: Tensor | None,
        sample_rate_hz: int,
        start: Settings,
        locked: Sequence[str],
        num_unheard: int,
    ) -> None:
        self._tracks_NCT, self._rate_hz = tracks_NCT, sample_rate_hz
        self._num_unheard = num_unheard
        # The mix comes first; of a lone track it is all.
        wanted = [mix_CT[None]]
        if mixed_NCT is not None and len(mixed_NCT) > 1:
            wanted.append(mixed_NCT)
        self._wanted_JCT = torch.cat(wanted)[..., num_unheard:]
        self._locked = tuple(locked)
        self._has_shared_rooms = start.rooms == "sends"
        # Where a cut is off no gradient leads away from there: `begin` finds which are on.
        self._open_cuts = {
            f"{name}.{cut}"
            for name, strip in start.tracks.items()
            for cut in CUTS
            if strip.is_neutral(cut)
        }
        self._console = Console(tracks_NCT)
        self._start = start
        self._positions = Positions(start, self._is_fitted(0.0))

    def run(self, num_steps: int) -> Recovery:
        optimiser = torch.optim.Adam(
            self._positions.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99)
        )
        opened = 0
        with Progress(log, "recovered", total=num_steps, unit="steps") as progress:
            for step in range(num_steps):
                done = step / num_steps
                while opened < len(STAGES) and STAGES[opened][0] <= done:
                    self._open(done)
                    opened += 1
                optimiser.param_groups[0]["lr"] = LEARNING_RATE * _schedule(done)
                resolution = RESOLUTIONS[step % len(RESOLUTIONS)]
                distance = self._aim(self._positions.values(self._rate_hz), resolution)
                optimiser.zero_grad(set_to_none=True)
                prior = PRIOR * distance.detach() * self._positions.departure()
                (distance + prior).backward()
                optimiser.step()
                progress.advance()
        reached = self._distance(self._positions.values(self._rate_hz))
        begun = self._distance(Values.of(self._start, self._rate_hz))
        # Few steps may not make up for what a stage moves at its beginning.
        if begun < reached:
            return Recovery(self._start, begun)
        return Recovery(self._positions.settings(), reached)

    @torch.no_grad()
    def _distance(self, values: Values) -> float:
        mix_CT = self._mixed(values).sum(dim=0)
        return float(multi_resolution_stft(mix_CT, self._wanted_JCT[0]))

    def _aim(self, values: Values, resolution: int) -> Tensor:
        """Return the distance of the mix; of known tracks the mean of it and of theirs."""
        mixed_NCT = self._mixed(values)
        made_JCT = mixed_NCT.sum(dim=0, keepdim=True)
        if len(self._wanted_JCT) > 1:
            made_JCT = torch.cat([made_JCT, mixed_NCT])
        distance_J = multi_resolution_stft(
            made_JCT, self._wanted_JCT, (resolution,), FEW_FRAMES_PER_WINDOW
        )
        if len(distance_J) == 1:
            return distance_J[0]
        return (distance_J[0] + distance_J[1:].mean()) / 2

    def _mixed(self, values: Values) -> Tensor:
        """Return the part of the tracks in the mix that is compared."""
        mixed_NCT: Tensor = self._console(values)[..., self._num_unheard :]
        return mixed_NCT

    def _is_fitted(self, done: float) -> IsFitted:
        """Return what is looked for after a part of the steps."""
        groups = {group for begun, names in STAGES if begun <= done for group in names}

        def is_fitted(name: str, each: Field) -> bool:
            path = f"{name}.{each.name}"
            group = f"{MASTER}.{each.group}" if name == MASTER else each.group
            is_shared = each.name in ROOM_SHAPE and self._has_shared_rooms
            return (
                each.is_fitted
                and not is_shared
                and path not in self._open_cuts
                and group in groups
                and not any(is_meant(pattern, path) for pattern in self._locked)
            )

        return is_fitted

    def _open(self, done: float) -> None:
        """Begin to look for what a stage adds, from where it has a gradient."""
        with torch.no_grad():
            values = self._positions.values(self._rate_hz)
            mixed_NCT = self._console(values)
        self._positions.look_for(self._is_fitted(done))
        num_tracks = len(self._tracks_NCT)
        trim_N11 = amplitude(values.track_N["trim_db"])[:, None, None]
        self._positions.move(
            {
                "comp.threshold_db": loud_db(trim_N11 * self._tracks_NCT),
                "comp.slope": torch.full((num_tracks,), _START_SLOPE),
                "room.send_db": torch.full((num_tracks,), _START_SEND_DB),
                "master.comp.threshold_db": loud_db(mixed_NCT.sum(dim=0, keepdim=True)),
                "master.comp.slope": torch.full((1,), _START_SLOPE),
            }
        )


def loud_db(audio_NCT: Tensor) -> Tensor:
    """Return the level that blocks of a compressor exceed for some of the time, per track."""
    level_NM = block_levels_db(louder_channel(audio_NCT.double()))
    return level_NM.quantile(_LOUD_QUANTILE, dim=-1)


def _schedule(done: float) -> float:
    """Return the factor of the learning rate: held, and down to a twentieth in the last part."""
    return (
        1.0
        if done < _HELD
        else 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * (done - _HELD) / (1 - _HELD)))
    )
