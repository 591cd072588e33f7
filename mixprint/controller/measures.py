"""Weights of settings in the likelihood: how much each can be heard in a mix.

A bell where a track has no energy, the attack of a compressor that never acts, the time of a room
that nothing is sent to: what such settings are nobody can tell, and need not.

| settings | weight, 0 to 1 |
| --- | --- |
| bands of the equaliser | level of the track in the octave around, 1 at the loudest, 0 at -40 dB |
| their frequency and Q | the same, times the gain over 6 dB |
| compressor | mean gain reduction over 3 dB |
| drive | share of what is driven, times the drive over 12 dB |
| room | send, 0 at -45 dB and 1 at -10 dB |
| width | side beside mid, 0 at -40 dB and 1 at -10 dB; or the room |
| pan, fader, output | 1 |

What turns a processor on keeps a rest of weight when it is off: that is a decision, too. A track
that is silent weighs nothing.

What weights follow from is measured once for a track, whatever its settings (`Sounds`).

Shape suffixes: N track, C channel, T sample, F frequency bin, K field, O place in `_GRID_HZ`, Q
quantile, A number of all that is measured.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mixprint.console.mixing import Values, as_stereo, louder_channel
from mixprint.console.settings import Settings
from mixprint.controller.targets import MASTER, TRACK, Layout
from mixprint.dsp.compressor import above_threshold_db, block_levels_db
from mixprint.dsp.decibels import amplitude
from mixprint.features.spectral import power_spectrogram

_FAINT_DB, _FULL_GAIN_DB, _FULL_REDUCTION_DB, _FULL_DRIVE_DB = -40.0, 6.0, 3.0, 12.0
_FAINT_SEND_DB, _FULL_SEND_DB = -45.0, -10.0
_FAINT_SIDE_DB, _FULL_SIDE_DB = -40.0, -10.0
# Of what turns a processor on.
_LEAST = 0.2
_SILENT_POWER = 1e-8
_SOUNDING_DBFS = -60.0
# A cut that is off is heard as if it began here.
_LOWEST_HIGHPASS_HZ, _HIGHEST_LOWPASS_HZ = 60.0, 12_000.0
_OCTAVES_HZ = tuple(40.0 * 2**octave for octave in range(9))
# Where the energy of the octave around is measured; between these it is a line.
_PER_OCTAVE, _NUM_GRID = 6, 61
_GRID_HZ = tuple(20.0 * 2 ** (step / _PER_OCTAVE) for step in range(_NUM_GRID))
# Levels that sounding moments reach, in equal steps of their number.
_NUM_QUANTILES = 16
_TINY = 1e-20


class Sounds(NamedTuple):
    """Sound of tracks, as far as it decides how much settings are heard.

    Attributes:
        octave_db_NO: energy of the octave around `_GRID_HZ`, beside that of the loudest.
        level_db_NQ: quantiles of the levels of sounding moments, as a compressor meets them.
        side_db_N: side over mid.
        sounds_N: 1 where a track sounds at all, else 0.
    """

    octave_db_NO: Tensor
    level_db_NQ: Tensor
    side_db_N: Tensor
    sounds_N: Tensor

    @classmethod
    def of(cls, audio_NCT: Tensor, power_NF: Tensor, sample_rate_hz: int) -> Self:
        """Measure tracks, at the level at which they pass the strip.

        Args:
            audio_NCT: two channels each.
            power_NF: their spectra.
            sample_rate_hz: of the audio.
        """
        mid_N, side_N = (
            (audio_NCT[:, 0] + sign * audio_NCT[:, 1]).double().square().mean(dim=-1)
            for sign in (1, -1)
        )
        return cls(
            _octaves_db(power_NF, sample_rate_hz),
            _level_quantiles(block_levels_db(louder_channel(audio_NCT)).double()),
            10 * torch.log10((side_N + _TINY) / (mid_N + _TINY)),
            (audio_NCT.square().mean(dim=(1, 2)) > _SILENT_POWER).double(),
        )

    @classmethod
    def unpacked(cls, sound_NA: Tensor) -> Self:
        """Take them from one tensor."""
        octave_db_NO, level_db_NQ, side_db_N1, sounds_N1 = sound_NA.double().split(
            [_NUM_GRID, _NUM_QUANTILES, 1, 1], dim=-1
        )
        return cls(octave_db_NO, level_db_NQ, side_db_N1[:, 0], sounds_N1[:, 0])

    def packed(self) -> Tensor:
        """Put them into one tensor: sound_NA, float32."""
        columns = (self.octave_db_NO, self.level_db_NQ, self.side_db_N[:, None])
        return torch.cat([*columns, self.sounds_N[:, None]], dim=-1).float()

    def weights(self, layout: Layout, of: Mapping[str, Tensor]) -> Tensor:
        """Return how much settings are heard: weight_NK, float32.

        Args:
            layout: of the strips.
            of: field -> value of each.
        """
        known = self._bands(layout, of) | self._compressor(of) | self._others(of)
        ones_N = torch.ones_like(self.side_db_N)
        columns = [known.get(each.name, ones_N) for each in layout.fields]
        return (torch.stack(columns, dim=-1) * self.sounds_N[:, None]).float()

    def _level(self, freq_hz_N: Tensor) -> Tensor:
        """Return the weight of the octave around frequencies."""
        place_N = _PER_OCTAVE * torch.log2(freq_hz_N / _GRID_HZ[0])
        place_N = place_N.clamp(0, _NUM_GRID - 1)
        low_N = place_N.long().clamp_max(_NUM_GRID - 2)
        ends_N2 = self.octave_db_NO.gather(-1, torch.stack([low_N, low_N + 1], dim=-1))
        level_db_N = ends_N2[:, 0] + (place_N - low_N) * (ends_N2[:, 1] - ends_N2[:, 0])
        return _between(level_db_N, _FAINT_DB, 0.0)

    def _bands(self, layout: Layout, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weigh the bands of the equalisers."""
        weights = {}
        for each in layout.fields:
            name, value_N = each.name, of[each.name]
            if name == "eq.highpass_hz":
                weights[name] = self._level(value_N.clamp_min(_LOWEST_HIGHPASS_HZ))
            elif name == "eq.lowpass_hz":
                weights[name] = self._level(value_N.clamp_max(_HIGHEST_LOWPASS_HZ))
            elif each.group == "eq":
                band = name.rpartition(".")[0]
                weights[name] = self._level(of[f"{band}.freq_hz"])
                if each.weighed_by:
                    weights[name] = weights[name] * _between(
                        of[each.weighed_by].abs(), 0.0, _FULL_GAIN_DB
                    )
        return weights

    def _compressor(self, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weigh the compressors by the mean reduction of their static curves."""
        above_NQ = above_threshold_db(self.level_db_NQ, of["comp.threshold_db"], of["comp.knee_db"])
        mean_N = of["comp.slope"].abs() * above_NQ.mean(dim=-1)
        weight_N = _between(mean_N, 0.0, _FULL_REDUCTION_DB)
        names = [name for name in of if name.startswith("comp.")]
        return dict.fromkeys(names, weight_N) | {"comp.slope": weight_N.clamp_min(_LEAST)}

    def _others(self, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weigh drive, room and width; a master has none."""
        if "drive.mix" not in of:
            return {}
        driven_N = of["drive.mix"] * _between(of["drive.drive_db"], 0.0, _FULL_DRIVE_DB)
        room_N = _between(of["room.send_db"], _FAINT_SEND_DB, _FULL_SEND_DB)
        rooms = [name for name in of if name.startswith("room.")]
        side_N = _between(self.side_db_N, _FAINT_SIDE_DB, _FULL_SIDE_DB)
        return {
            **dict.fromkeys(rooms, room_N),
            "room.send_db": room_N.clamp_min(_LEAST),
            "drive.drive_db": driven_N,
            "drive.mix": driven_N.clamp_min(_LEAST),
            "width": torch.maximum(side_N, room_N),
        }


class Weights(NamedTuple):
    """Weights of the settings of a mix: how much each is heard.

    Attributes:
        track_NK: those of the tracks.
        master_K: those of the master.
        track_sound_NA: packed `Sounds` of the tracks.
        master_sound_A: those of their sum.
    """

    track_NK: Tensor
    master_K: Tensor
    track_sound_NA: Tensor
    master_sound_A: Tensor


@torch.no_grad()
def heard(tracks_NCT: Tensor, settings: Settings, sample_rate_hz: int) -> Weights:
    """Measure how much the settings of tracks and master are heard.

    Args:
        tracks_NCT: the dry tracks, one or two channels, full scale at +-1.
        settings: the true ones.
        sample_rate_hz: of the tracks.
    """
    values = Values.of(settings, sample_rate_hz).to(tracks_NCT.device)
    track_N = values.track_N
    trim_N11 = amplitude(track_N["trim_db"])[:, None, None].to(tracks_NCT.dtype)
    tracks_NCT = trim_N11 * as_stereo(tracks_NCT)
    power_NF = power_spectrogram(tracks_NCT, sample_rate_hz).mean(dim=1)
    gain_N = amplitude(track_N["fader_db"]).to(tracks_NCT.dtype)
    mix_1CT = (gain_N[:, None, None] * tracks_NCT).sum(dim=0, keepdim=True)
    mix_1F = (gain_N.square()[:, None] * power_NF).sum(dim=0, keepdim=True)
    sounds = Sounds.of(tracks_NCT, power_NF, sample_rate_hz)
    mix_sounds = Sounds.of(mix_1CT, mix_1F, sample_rate_hz)
    (master_K,) = mix_sounds.weights(MASTER, values.master_1)
    return Weights(
        sounds.weights(TRACK, track_N), master_K, sounds.packed(), mix_sounds.packed()[0]
    )


def weights_of(layout: Layout, sound_NA: Tensor, position_NK: Tensor) -> Tensor:
    """Return how much settings are heard where sounds were measured before: weight_NK.

    Args:
        layout: of the strips.
        sound_NA: packed `Sounds`.
        position_NK: positions of the settings.
    """
    return Sounds.unpacked(sound_NA).weights(layout, layout.values(position_NK))


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0.0, 1.0)


def _octaves_db(power_NF: Tensor, sample_rate_hz: int) -> Tensor:
    """Measure the energy of the octave around `_GRID_HZ` beside that of the loudest octave."""
    cumulated_NF = power_NF.double().cumsum(dim=-1)
    last = power_NF.shape[-1] - 1
    bin_hz = sample_rate_hz / 2 / last

    def octaves(freqs_hz: tuple[float, ...]) -> Tensor:
        ends = [
            [min(round(hz * 2**half / bin_hz), last) for hz in freqs_hz] for half in (-0.5, 0.5)
        ]
        low_NO, high_NO = (cumulated_NF[:, end] for end in ends)
        return (high_NO - low_NO).clamp_min(0.0) + _TINY

    return 10 * torch.log10(octaves(_GRID_HZ) / octaves(_OCTAVES_HZ).amax(dim=-1, keepdim=True))


def _level_quantiles(level_db_NB: Tensor) -> Tensor:
    """Return the levels in the middle of equal parts of the moments that sound; silence if none."""
    sorted_NB = level_db_NB.sort(dim=-1).values
    num_silent_N1 = (sorted_NB <= _SOUNDING_DBFS).sum(dim=-1, keepdim=True)
    num_blocks = sorted_NB.shape[-1]
    part_Q = (torch.arange(_NUM_QUANTILES, device=sorted_NB.device) + 0.5) / _NUM_QUANTILES
    place_NQ = num_silent_N1 + (part_Q * (num_blocks - num_silent_N1)).long()
    return sorted_NB.gather(-1, place_NQ.clamp_max(num_blocks - 1))
