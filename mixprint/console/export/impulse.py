"""Impulse responses of equalisers and rooms, for any host that convolves.

Shape suffixes: N track, C channel, K tap.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mixprint.console.mixing import Values
from mixprint.console.settings import Settings
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import impulse_response

# What comes after the last tap that is louder than this, beside the loudest, is left out.
_ENDS_BELOW_DB = -120.0


def impulses(settings: Settings, sample_rate_hz: int) -> Mapping[str, Mapping[str, Tensor]]:
    """Return what each track's linear parts answer to an impulse, without pan, width and fader.

    Returns:
        track -> `eq` (one channel), and where it has one `room` (the wet sound alone, two channels)
        and `eq and room` (the track's own sound and the wet one) -> impulse_CK, float64.
    """
    values = Values.of(settings, sample_rate_hz)
    eq_NK = impulse_response(values.track_sections(), sample_rate_hz)
    rooms = values.track_rooms()
    room_NCK = rooms.impulse_response(sample_rate_hz, rooms.longest_taps(sample_rate_hz))
    found: dict[str, dict[str, Tensor]] = {}
    for place, (name, is_sent) in enumerate(
        zip(settings.tracks, values.sends().tolist(), strict=True)
    ):
        found[name] = {"eq": _ended(eq_NK[place][None])}
        if is_sent:
            room_CK = room_NCK[place]
            both_CK = room_CK.clone()
            both_CK[:, 0] += 1.0
            found[name]["room"] = _ended(room_CK)
            found[name]["eq and room"] = _ended(_convolved(both_CK, eq_NK[place]))
    return found


def _convolved(first_CK: Tensor, second_K: Tensor) -> Tensor:
    num_taps = first_CK.shape[-1] + second_K.shape[-1] - 1
    product_CF = torch.fft.rfft(first_CK, n=num_taps) * torch.fft.rfft(second_K, n=num_taps)
    return torch.fft.irfft(product_CF, n=num_taps)


def _ended(impulse_CK: Tensor) -> Tensor:
    loud_K = impulse_CK.abs().amax(dim=0)
    floor = float(loud_K.max()) * float(amplitude(torch.tensor(_ENDS_BELOW_DB)))
    last = int((loud_K > floor).nonzero()[-1, 0])
    return impulse_CK[:, : last + 1]
