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

Shape suffixes: N track, C channel, T sample, F frequency bin, K field.
"""

from collections.abc import Mapping

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
_TINY = 1e-20


@torch.no_grad()
def heard(tracks_NCT: Tensor, settings: Settings, sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    """Return how much the settings of tracks and master are heard.

    Args:
        tracks_NCT: the dry tracks, one or two channels, full scale at +-1.
        settings: the true ones.
        sample_rate_hz: of the tracks.

    Returns:
        weight_NK of the tracks and weight_K of the master, float32.
    """
    values = Values.of(settings, sample_rate_hz).to(tracks_NCT.device)
    track_N = values.track_N
    trim_N11 = amplitude(track_N["trim_db"])[:, None, None].to(tracks_NCT.dtype)
    tracks_NCT = trim_N11 * as_stereo(tracks_NCT)
    power_NF = power_spectrogram(tracks_NCT, sample_rate_hz).mean(dim=1)
    gain_N = amplitude(track_N["fader_db"]).to(tracks_NCT.dtype)
    mix_1CT = (gain_N[:, None, None] * tracks_NCT).sum(dim=0, keepdim=True)
    mix_1F = (gain_N.square()[:, None] * power_NF).sum(dim=0, keepdim=True)
    weights = []
    for layout, of, audio_NCT, spectrum_NF in (
        (TRACK, track_N, tracks_NCT, power_NF),
        (MASTER, values.master_1, mix_1CT, mix_1F),
    ):
        known = _bands(layout, of, spectrum_NF, sample_rate_hz)
        known |= _compressor(values, of, audio_NCT)
        known |= _others(of, audio_NCT)
        sounds_N = audio_NCT.square().mean(dim=(1, 2)) > _SILENT_POWER
        columns = [
            known.get(each.name, torch.ones_like(sounds_N, dtype=torch.float64))
            for each in layout.fields
        ]
        weights.append((torch.stack(columns, dim=-1) * sounds_N[:, None]).float())
    return weights[0], weights[1][0]


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0.0, 1.0)


def _bands(
    layout: Layout, of: Mapping[str, Tensor], power_NF: Tensor, sample_rate_hz: int
) -> dict[str, Tensor]:
    """Weigh the bands of the equalisers."""
    cumulated_NF = power_NF.double().cumsum(dim=-1)
    bin_hz = sample_rate_hz / 2 / (power_NF.shape[-1] - 1)
    last = power_NF.shape[-1] - 1

    def octave(freq_hz_N: Tensor) -> Tensor:
        """Return the energy of the octave around frequencies."""
        ends = [
            (freq_hz_N * 2**half / bin_hz).round().long().clamp(0, last) for half in (-0.5, 0.5)
        ]
        low, high = (cumulated_NF.gather(-1, end[:, None])[:, 0] for end in ends)
        return (high - low).clamp_min(0.0)

    rows = len(power_NF)
    all_N = torch.stack(
        [octave(torch.full((rows,), hz, device=power_NF.device)) for hz in _OCTAVES_HZ]
    ).amax(dim=0)

    def level(freq_hz_N: Tensor) -> Tensor:
        ratio_N = (octave(freq_hz_N) + _TINY) / (all_N + _TINY)
        return _between(10 * torch.log10(ratio_N), _FAINT_DB, 0.0)

    weights = {}
    for each in layout.fields:
        name, value_N = each.name, of[each.name]
        if name == "eq.highpass_hz":
            weights[name] = level(value_N.clamp_min(_LOWEST_HIGHPASS_HZ))
        elif name == "eq.lowpass_hz":
            weights[name] = level(value_N.clamp_max(_HIGHEST_LOWPASS_HZ))
        elif each.group == "eq":
            band = name.rpartition(".")[0]
            weights[name] = level(of[f"{band}.freq_hz"])
            if each.weighed_by:
                weights[name] = weights[name] * _between(
                    of[each.weighed_by].abs(), 0.0, _FULL_GAIN_DB
                )
    return weights


def _compressor(values: Values, of: Mapping[str, Tensor], audio_NCT: Tensor) -> dict[str, Tensor]:
    """Weigh the compressors by the mean reduction of their static curves."""
    compressors = values.compressors(of)
    level_NB = block_levels_db(louder_channel(audio_NCT)).double()
    above_NB = above_threshold_db(level_NB, compressors.threshold_db_B, compressors.knee_db_B)
    sounds_NB = level_NB > _SOUNDING_DBFS
    mean_N = (above_NB * sounds_NB).sum(dim=-1) / sounds_NB.sum(dim=-1).clamp_min(1)
    weight_N = _between(compressors.slope_B.abs() * mean_N, 0.0, _FULL_REDUCTION_DB)
    names = [name for name in of if name.startswith("comp.")]
    return dict.fromkeys(names, weight_N) | {"comp.slope": weight_N.clamp_min(_LEAST)}


def _others(of: Mapping[str, Tensor], audio_NCT: Tensor) -> dict[str, Tensor]:
    """Weigh drive, room and width; a master has none."""
    if "drive.mix" not in of:
        return {}
    driven_N = of["drive.mix"] * _between(of["drive.drive_db"], 0.0, _FULL_DRIVE_DB)
    room_N = _between(of["room.send_db"], _FAINT_SEND_DB, _FULL_SEND_DB)
    mid_N, side_N = (
        (audio_NCT[:, 0] + sign * audio_NCT[:, 1]).double().square().mean(dim=-1)
        for sign in (1, -1)
    )
    side_db_N = 10 * torch.log10((side_N + _TINY) / (mid_N + _TINY))
    rooms = [name for name in of if name.startswith("room.")]
    return {
        **dict.fromkeys(rooms, room_N),
        "room.send_db": room_N.clamp_min(_LEAST),
        "drive.drive_db": driven_N,
        "drive.mix": driven_N.clamp_min(_LEAST),
        "width": torch.maximum(_between(side_db_N, _FAINT_SIDE_DB, _FULL_SIDE_DB), room_N),
    }
