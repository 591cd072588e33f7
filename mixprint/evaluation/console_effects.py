"""Effects of a console's settings on its tracks, in an engineer's units, and their differences.

Settings that differ may sound the same: a fader stands for a threshold, a bell does nothing where
a track has no energy. So two settings are compared by what they do:

| effect | unit | difference of |
| --- | --- | --- |
| `eq_db` | dB | equaliser curves of track and master: root mean square over thirds of an octave |
| `level_db` | dB | levels of the track's direct sound in the mix |
| `pan` | 1 | pans |
| `width` | 1 | widths, where there is a side to widen |
| `reduction_db` | dB | gain reductions of track and master together, the mean over time |
| `reduction_95_db` | dB | the same, the 95th percentile over time |
| `time_percent` | % | reverb times, where the true send is above `HEARD_TIME_SEND_DB` |
| `wet_db` | dB | levels of the room to the direct sound, `LEAST_WET_DB` at least |

Thirds count by the track's energy in them, and what all of them differ by together is no matter of
the equaliser: it is part of the level.

Shape suffixes: N track, C channel, T sample, F frequency bin, K band, M block.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.console.levels import third_bins
from mixprint.console.mixing import Console, Values, as_stereo, louder_channel
from mixprint.console.schema import MASTER
from mixprint.console.settings import HEARD_TIME_SEND_DB, Settings
from mixprint.dsp.compressor import BLOCK_SAMPLES
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import convolved, impulse_response, response

EFFECTS: Mapping[str, str] = {
    "eq_db": "dB",
    "level_db": "dB",
    "pan": "1",
    "width": "1",
    "reduction_db": "dB",
    "reduction_95_db": "dB",
    "time_percent": "%",
    "wet_db": "dB",
}
"""Effect -> unit; 0 is the same."""

LEAST_WET_DB = -40.0
# A track whose side is quieter than this beside its mid, and that has no room, has no width.
LEAST_SIDE_DB = -30.0
THIRDS_HZ = tuple(1000.0 * 2.0 ** (third / 3) for third in range(-15, 13))
_NUM_FFT = 1 << 17
_QUANTILE = 0.95
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class ConsoleEffects:
    """Effects of settings on the tracks of a song; see the module's docstring.

    Attributes:
        eq_db_NK: response of track and master at `THIRDS_HZ`.
        energy_NK: of the unprocessed track in these thirds, of sum 1.
        level_db_N: of the direct sound in the mix, dBFS.
        pan_N: pan.
        width_N: width.
        side_db_N: side over mid of the unprocessed track.
        reduction_db_NM: gain reduction of track and master at each block.
        send_db_N: send.
        time_s_N: reverb time.
        wet_db_N: energy of the room's answer to an impulse, the send included.
    """

    eq_db_NK: Tensor
    energy_NK: Tensor
    level_db_N: Tensor
    pan_N: Tensor
    width_N: Tensor
    side_db_N: Tensor
    reduction_db_NM: Tensor
    send_db_N: Tensor
    time_s_N: Tensor
    wet_db_N: Tensor


@torch.no_grad()
def console_effects(
    tracks_NCT: Tensor, settings: Settings, sample_rate_hz: int, num_lead: int = 0
) -> ConsoleEffects:
    """Measure what settings do.

    Args:
        tracks_NCT: what is mixed, in the order of the settings' tracks.
        settings: of the console.
        sample_rate_hz: of the tracks.
        num_lead: samples at the start that compressors hear and that are not measured.
    """
    tracks_NCT = as_stereo(tracks_NCT).float()
    values = Values.of(settings, sample_rate_hz)
    track = values.track_N
    energy_NK = _energy(tracks_NCT[..., num_lead:], sample_rate_hz)
    direct = settings.edit({f"{name}.room.send_db": -60.0 for name in settings.tracks})
    level_NCT = Console(tracks_NCT)(Values.of(direct, sample_rate_hz))[..., num_lead:]
    num_taps = values.track_rooms().longest_taps(sample_rate_hz)
    impulse_NCT = values.track_rooms().impulse_response(sample_rate_hz, num_taps)
    impulse_NCT = impulse_NCT * values.sends()[:, None, None]
    mid_NT = tracks_NCT.mean(1)
    side_NT = (tracks_NCT[:, 0] - tracks_NCT[:, 1]) / 2
    return ConsoleEffects(
        eq_db_NK=_curves_db(values),
        energy_NK=energy_NK,
        level_db_N=_power_db(level_NCT.flatten(1)),
        pan_N=track["pan"],
        width_N=track["width"],
        side_db_N=_power_db(side_NT) - _power_db(mid_NT),
        reduction_db_NM=_reductions_db(tracks_NCT, settings, values)[
            :, num_lead // BLOCK_SAMPLES :
        ],
        send_db_N=track["room.send_db"],
        time_s_N=track["room.time_s"],
        # Half of what goes to both channels, as the direct sound is there in both.
        wet_db_N=10 * torch.log10(impulse_NCT.square().sum((1, 2)) / 2 + _TINY),
    )


def effect_differences(
    found: ConsoleEffects, truth: ConsoleEffects
) -> dict[str, list[float | None]]:
    """Compare what two settings do to the same tracks.

    Args:
        found: those that are judged.
        truth: the right ones; the tracks may have had other levels before the console.

    Returns:
        for each of `EFFECTS` the difference per track, 0 or more; None where it is not heard.
    """
    energy_NK = truth.energy_NK
    curve_NK = found.eq_db_NK - truth.eq_db_NK
    curve_NK = curve_NK - (energy_NK * curve_NK).sum(1, keepdim=True)
    has_room_N = truth.send_db_N > HEARD_TIME_SEND_DB
    has_side_N = (truth.side_db_N > LEAST_SIDE_DB) | has_room_N
    quantiles = [x.reduction_db_NM.quantile(_QUANTILE, dim=1) for x in (found, truth)]
    wet = [x.wet_db_N.clamp_min(LEAST_WET_DB) for x in (found, truth)]
    return {
        "eq_db": (energy_NK * curve_NK.square()).sum(1).sqrt().tolist(),
        "level_db": (found.level_db_N - truth.level_db_N).abs().tolist(),
        "pan": (found.pan_N - truth.pan_N).abs().tolist(),
        "width": _where(has_side_N, (found.width_N - truth.width_N).abs()),
        "reduction_db": (found.reduction_db_NM.mean(1) - truth.reduction_db_NM.mean(1))
        .abs()
        .tolist(),
        "reduction_95_db": (quantiles[0] - quantiles[1]).abs().tolist(),
        "time_percent": _where(has_room_N, 100 * (found.time_s_N / truth.time_s_N - 1).abs()),
        "wet_db": (wet[0] - wet[1]).abs().tolist(),
    }


def _where(is_heard_N: Tensor, value_N: Tensor) -> list[float | None]:
    pairs = zip(is_heard_N.tolist(), value_N.tolist(), strict=True)
    return [value if is_heard else None for is_heard, value in pairs]


def _curves_db(values: Values) -> Tensor:
    """Return the response of each track's equaliser and the master's, curve_db_NK."""
    bins = [round(hz * _NUM_FFT / values.sample_rate_hz) for hz in THIRDS_HZ]
    track_NF, master_1F = (
        response(sections, _NUM_FFT)[:, bins].abs()
        for sections in (values.track_sections(), values.master_sections())
    )
    return 20 * torch.log10((track_NF * master_1F).clamp_min(_TINY))


def _energy(audio_NCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Return the share of each third in a track's energy, energy_NK."""
    power_NF = torch.fft.rfft(audio_NCT.double()).abs().square().sum(1)
    bands = third_bins(THIRDS_HZ, sample_rate_hz, audio_NCT.shape[-1])
    energy_NK = torch.stack([power_NF[:, band].sum(1) for band in bands], 1)
    # A silent track counts evenly.
    energy_NK = energy_NK + _TINY
    return energy_NK / energy_NK.sum(1, keepdim=True)


def _reductions_db(tracks_NCT: Tensor, settings: Settings, values: Values) -> Tensor:
    """Return what the compressors of track and master take away, reduction_db_NM."""
    rate_hz = values.sample_rate_hz
    audio_NCT = convolved(tracks_NCT, impulse_response(values.track_sections(), rate_hz))
    trim_N11 = amplitude(values.track_N["trim_db"])[:, None, None]
    own_NT = values.compressors(values.track_N).gain(louder_channel(trim_N11 * audio_NCT), rate_hz)
    before = settings.edit({f"{MASTER}.comp.slope": 0.0, f"{MASTER}.output_db": 0.0})
    mix_1CT = Console(tracks_NCT)(Values.of(before, rate_hz)).sum(0, keepdim=True)
    master_1T = values.compressors(values.master_1).gain(louder_channel(mix_1CT), rate_hz)
    gain_NM = (own_NT * master_1T)[:, ::BLOCK_SAMPLES]
    return -20 * torch.log10(gain_NM.double())


def _power_db(audio_NT: Tensor) -> Tensor:
    return 10 * torch.log10(audio_NT.double().square().mean(1) + _TINY)
