"""Taking a mix apart: the settings with which a console makes it of its dry tracks.

First the levels, found from spectrograms alone: in each band and moment the power of the mix is
about the sum of those of the tracks. They give each track's fader and tone, and a start for
everything else, which a search with gradients then finds from coarse to fine: equalisers,
compressors, rooms, the master.

Shape suffixes: N track, C channel, T sample, F frequency bin, K band, M frame.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.console.alignment import Alignment
from mixprint.console.mixing import Console, as_stereo, louder_channel
from mixprint.console.pairs import Pair, load_pair
from mixprint.console.positions import IsFitted, Positions
from mixprint.console.results import CONSOLE_MIX, write_mix
from mixprint.console.schema import MASTER, Field
from mixprint.console.settings import Settings, is_meant
from mixprint.dsp.compressor import block_levels_db
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.errors import ConfigError
from mixprint.progress import Progress
from mixprint.storage.outputs import check_folder

log = logging.getLogger("mixprint.console")

# Long windows hear tones and rooms, short ones attacks; one of them at each step, in turn.
RESOLUTIONS = (2048, 512, 8192)
FRAMES_PER_WINDOW = 2
NUM_STEPS = 240
# Of a song: what is compared, and what is only heard before it.
EXCERPT_S, PREROLL_S = 8, 2
LEARNING_RATE = 0.02
# Weight of how far settings are from where they began: it decides where nothing is heard of them.
PRIOR = 0.01
# From which part of the steps on groups are looked for. The master comes last: what it does to all
# tracks would else stand for what was done to one.
STAGES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.0, ("fader", "pan", "width", "eq")),
    (0.15, ("comp",)),
    (0.3, ("room",)),
    (0.45, ("master.eq", "master.comp")),
)
# At the end of its range a cut is off, and no gradient leads away from there.
_NOT_SOUGHT = ("eq.highpass_hz", "eq.lowpass_hz")
# Where a search begins that finds a setting neutral: where it has a gradient, and does little.
_START_SLOPE = 0.2
_START_SEND_DB = -30.0
_LOUD_QUANTILE = 0.7
# Least squares.
_N_FFT = 4096
_RIDGE = 1e-3
_BANDS_HZ = tuple(50.0 * 2 ** (third / 3) for third in range(25))
# As the bands of the equaliser that begin there.
_TONE_HZ = (80.0, 250.0, 1_200.0, 4_000.0, 10_000.0)
_NUM_LEVEL_STEPS = 300
_HEARD_POWER = 1e-6
_TONE_WEIGHT = 0.01
_HELD = 0.6
# Levels.
WORKING_DBFS = -20.0
_LEVEL_SAMPLES = 17_640
_SILENT_DBFS, _GATE_DB = -70.0, -10.0


@dataclass(frozen=True)
class Recovery:
    """Settings that were found, and how near they come.

    Attributes:
        settings: the settings.
        distances: of the mix at each step, as the search measures it.
        distance: of the mix, by `multi_resolution_stft`.
    """

    settings: Settings
    distances: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class RecoveredPair:
    """What was found of a pair of tracks and mix.

    Attributes:
        alignment: how the mix lay.
        distance: of the console's mix to it, over the whole song, by `multi_resolution_stft`.
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
    check_folder(
        out_dir, CONSOLE_MIX, inputs=[*pair.tracks.values(), pair.mix], overwrite=overwrite
    )
    loaded = load_pair(pair)
    rate_hz = loaded.sample_rate_hz
    part, preroll_s = _busiest(loaded.tracks_NCT, rate_hz)
    found = recover(
        loaded.tracks_NCT[..., part],
        loaded.mix_CT[:, part],
        rate_hz,
        list(pair.tracks),
        preroll_s=preroll_s,
        num_steps=num_steps,
        start=start,
        locked=locked,
    )
    write_mix(pair.tracks, found.settings, out_dir, overwrite=overwrite)
    mixed_CT = read_audio(out_dir / "mix.wav", sample_rate_hz=rate_hz)
    plain_CT = loaded.tracks_NCT.sum(dim=0)
    plain_CT = plain_CT * (loaded.mix_CT.norm() / plain_CT.norm().clamp_min(1e-12))
    distances = [
        float(multi_resolution_stft(made_CT, loaded.mix_CT)) for made_CT in (mixed_CT, plain_CT)
    ]
    return RecoveredPair(loaded.alignment, *distances)


def _busiest(tracks_NCT: Tensor, sample_rate_hz: int) -> tuple[slice, float]:
    """Find the part in which all tracks sound, and how much of it is preroll."""
    size = sample_rate_hz  # a second
    num_samples = tracks_NCT.shape[-1]
    num_seconds = num_samples // size
    if num_seconds <= EXCERPT_S + PREROLL_S:
        return slice(0, num_samples), 0.0
    frames_NMS = tracks_NCT[..., : num_seconds * size].square().mean(dim=1).unfold(-1, size, size)
    power_NM = frames_NMS.mean(dim=-1)
    heard_M = torch.log10(
        power_NM / power_NM.mean(dim=1, keepdim=True).clamp_min(1e-12) + 1e-3
    ).sum(0)
    sums_M = heard_M.unfold(0, EXCERPT_S, 1).sum(dim=-1)
    start = int(sums_M.argmax())
    preroll = min(start, PREROLL_S)
    return slice((start - preroll) * size, (start + EXCERPT_S) * size), float(preroll)


def recover(
    tracks_NCT: Tensor,
    mix_CT: Tensor,
    sample_rate_hz: int,
    names: Sequence[str],
    *,
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
        preroll_s: length of the beginning that is only heard, by rooms and compressors, and not
            compared: of an excerpt, what sounded before it is unknown.
        num_steps: of the search.
        start: where it begins; from the levels alone when None.
        locked: tracks, groups or settings that stay as in `start` (or neutral), see
            `Settings.lock`.

    Raises:
        ConfigError: the lengths differ, or a lock names nothing.
    """
    if tracks_NCT.shape[-1] != mix_CT.shape[-1] or len(names) != len(tracks_NCT):
        raise ConfigError(
            f"recover: expected {len(names)} tracks as long as the mix, {mix_CT.shape[-1]} "
            f"samples, found {len(tracks_NCT)} of {tracks_NCT.shape[-1]}"
        )
    tracks_NCT, mix_CT = as_stereo(tracks_NCT).float(), as_stereo(mix_CT).float()
    neutral = Settings.neutral(names)
    begun = begin(tracks_NCT, mix_CT, names, sample_rate_hz) if start is None else start
    begun = begun.lock(neutral if start is None else start, locked)
    num_unheard = round(preroll_s * sample_rate_hz)
    search = _Search(tracks_NCT, mix_CT, sample_rate_hz, begun, locked, num_unheard)
    return search.run(num_steps)


def working_trim_db(tracks_NCT: Tensor) -> list[float]:
    """Return what brings tracks to the level at which thresholds mean the same for all.

    That is `WORKING_DBFS`, of the moments that are not much quieter than the others; a track that
    is silent throughout stays.
    """
    frames_NMS = tracks_NCT.square().mean(dim=1).unfold(-1, _LEVEL_SAMPLES, _LEVEL_SAMPLES)
    power_NM = frames_NMS.mean(dim=-1).double()
    trims = []
    for power_M in power_NM:
        heard_M = power_M[power_M > 10 ** (_SILENT_DBFS / 10)]
        if len(heard_M) == 0:
            trims.append(0.0)
            continue
        gated_M = heard_M[heard_M >= 10 ** (_GATE_DB / 10) * heard_M.mean()]
        trims.append(WORKING_DBFS - 10 * math.log10(float(gated_M.mean())))
    return trims


def begin(tracks_NCT: Tensor, mix_CT: Tensor, names: Sequence[str], rate_hz: int) -> Settings:
    """Find trims, faders, pans and tones, and leave all else neutral.

    In each band and moment the power of the mix is about the sum of those of the tracks, each with
    a gain; whatever their phases. The gains are those that bring the levels nearest, in dB.
    """
    trims = working_trim_db(tracks_NCT)
    fader_N, tone_NK = _gains_db(tracks_NCT, mix_CT, rate_hz)
    pan_N = _pans(tracks_NCT, mix_CT)
    changes: dict[str, float] = {}
    for name, trim_db, fader_db, tone_K, pan in zip(
        names, trims, fader_N.tolist(), tone_NK, pan_N.tolist(), strict=True
    ):
        changes |= {
            f"{name}.trim_db": min(max(trim_db, -60.0), 60.0),
            f"{name}.fader_db": min(max(fader_db - trim_db, -60.0), 24.0),
            f"{name}.pan": pan,
        }
        for band, gain_db in zip(("low", "bell1", "bell2", "bell3", "high"), tone_K, strict=True):
            changes[f"{name}.eq.{band}.gain_db"] = float(gain_db)
    return Settings.neutral(names).edit(changes)


def _gains_db(tracks_NCT: Tensor, mix_CT: Tensor, rate_hz: int) -> tuple[Tensor, Tensor]:
    """Find the gain of each track, and how much more or less it has around `_TONE_HZ`."""
    power_NKM = _band_powers(tracks_NCT, rate_hz)
    (wanted_KM,) = _band_powers(mix_CT[None], rate_hz)
    floor = _HEARD_POWER * float(wanted_KM.max())
    wanted_KM = 10 * torch.log10(wanted_KM + floor)
    fader_N = torch.zeros(len(tracks_NCT), requires_grad=True)
    tone_NB = torch.zeros(len(tracks_NCT), len(_TONE_HZ), requires_grad=True)
    spread_KB = _spread()
    optimiser = torch.optim.Adam([fader_N, tone_NB], lr=0.5)
    for _ in range(_NUM_LEVEL_STEPS):
        gain_NK = fader_N[:, None] + tone_NB @ spread_KB.T
        found_KM = (power_NKM * torch.pow(10.0, gain_NK / 10)[..., None]).sum(dim=0)
        error = (10 * torch.log10(found_KM + floor) - wanted_KM).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        (error + _TONE_WEIGHT * tone_NB.square().mean()).backward()
        optimiser.step()
    return fader_N.detach(), tone_NB.detach().clamp(-12.0, 12.0)


def _band_powers(audio_NCT: Tensor, rate_hz: int) -> Tensor:
    """Return power_NKM in thirds of octaves, of both channels together."""
    window_S = torch.hann_window(_N_FFT)
    spectrum_RFM = torch.stft(
        audio_NCT.flatten(0, 1), _N_FFT, _N_FFT // 4, window=window_S, return_complex=True
    )
    power_NFM = spectrum_RFM.abs().square().unflatten(0, audio_NCT.shape[:2]).sum(dim=1)
    edges = [round(hz * 2 ** (half / 6) / rate_hz * _N_FFT) for hz in _BANDS_HZ for half in (-1, 1)]
    bands = zip(edges[::2], edges[1::2], strict=True)
    return torch.stack([power_NFM[:, a : max(b, a + 1)].sum(dim=1) for a, b in bands], dim=1)


def _spread() -> Tensor:
    """Return how much a gain around each of `_TONE_HZ` does to each band: spread_KB."""
    octave_K1 = torch.tensor(_BANDS_HZ).log2()[:, None]
    return torch.softmax(-((octave_K1 - torch.tensor(_TONE_HZ).log2()) ** 2), dim=1)


def _pans(tracks_NCT: Tensor, mix_CT: Tensor) -> Tensor:
    """Find the pans: least squares of the mix's channels by those of the tracks, in each bin."""
    window_S = torch.hann_window(_N_FFT)

    def spectra(audio_RT: Tensor) -> Tensor:
        return torch.stft(audio_RT, _N_FFT, _N_FFT // 2, window=window_S, return_complex=True)

    sides = []
    energy_NF = torch.zeros(len(tracks_NCT), _N_FFT // 2 + 1)
    for channel in (0, 1):
        parts_NFM = spectra(tracks_NCT[:, channel])
        factor_FN = _least_squares(parts_NFM.permute(1, 2, 0), spectra(mix_CT[channel]))
        energy_NF = energy_NF + parts_NFM.abs().square().sum(dim=-1)
        sides.append(factor_FN.T)
    left_N, right_N = (
        ((side_NF * energy_NF).sum(dim=1) / energy_NF.sum(dim=1).clamp_min(1e-30)).clamp_min(1e-6)
        for side_NF in sides
    )
    return torch.where(left_N > right_N, right_N / left_N - 1, 1 - left_N / right_N)


def _least_squares(parts_FMN: Tensor, whole_FM: Tensor) -> Tensor:
    """Solve whole = parts @ factor in each bin: the real part of factor_FN, slightly held to 0."""
    gram_FNN = parts_FMN.mH @ parts_FMN
    diagonal_FN = gram_FNN.diagonal(dim1=-2, dim2=-1).real
    ridge_F1 = _RIDGE * diagonal_FN.mean(dim=-1, keepdim=True) + 1e-12
    gram_FNN = gram_FNN + torch.diag_embed(ridge_F1.expand_as(diagonal_FN).to(gram_FNN.dtype))
    return torch.linalg.solve(gram_FNN, parts_FMN.mH @ whole_FM[..., None])[..., 0].real


class _Search:
    """Search with gradients for the settings of a mix."""

    def __init__(
        self,
        tracks_NCT: Tensor,
        mix_CT: Tensor,
        sample_rate_hz: int,
        start: Settings,
        locked: Sequence[str],
        num_unheard: int,
    ) -> None:
        self._tracks_NCT, self._rate_hz = tracks_NCT, sample_rate_hz
        self._num_unheard = num_unheard
        self._mix_CT = mix_CT[:, num_unheard:]
        self._locked = tuple(locked)
        self._console = Console(tracks_NCT)
        self._positions = Positions(start, self._is_fitted(0.0))

    def run(self, num_steps: int) -> Recovery:
        optimiser = torch.optim.Adam(
            self._positions.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99)
        )
        distances: list[float] = []
        opened = 0
        with Progress(log, "recovered", total=num_steps, unit="steps") as progress:
            for step in range(num_steps):
                done = step / num_steps
                while opened < len(STAGES) and STAGES[opened][0] <= done:
                    self._open(done)
                    opened += 1
                optimiser.param_groups[0]["lr"] = LEARNING_RATE * _schedule(done)
                resolution = RESOLUTIONS[step % len(RESOLUTIONS)]
                distance = multi_resolution_stft(
                    self._mixed(), self._mix_CT, (resolution,), FRAMES_PER_WINDOW
                )
                optimiser.zero_grad(set_to_none=True)
                (distance + PRIOR * self._positions.departure()).backward()
                optimiser.step()
                distances.append(float(distance.detach()))
                progress.advance()
        settings = self._positions.settings()
        with torch.no_grad():
            reached = float(multi_resolution_stft(self._mixed(), self._mix_CT))
        return Recovery(settings, tuple(distances), reached)

    def _mixed(self) -> Tensor:
        """Return the part of the mix that is compared, at the present positions."""
        mixed_NCT = self._console(self._positions.values(self._rate_hz))
        return mixed_NCT.sum(dim=0)[:, self._num_unheard :]

    def _is_fitted(self, done: float) -> IsFitted:
        """Return what is looked for after a part of the steps."""
        groups = {group for begun, names in STAGES if begun <= done for group in names}

        def is_fitted(name: str, each: Field) -> bool:
            path = f"{name}.{each.name}"
            group = f"{MASTER}.{each.group}" if name == MASTER else each.group
            return (
                each.is_fitted
                and each.name not in _NOT_SOUGHT
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
        trim_N11 = torch.pow(10.0, values.track_N["trim_db"] / 20)[:, None, None]
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
