"""Mixing on a processor in one pass, where no gradient is asked for.

It gives what `mixprint.console.mixing.Console` gives, several times as fast: equalisers are the
recursion itself, a track that is the same left and right is worked on once, equal rooms are
computed once, and nothing is done for what is neutral. On a GPU the console is faster.

Shape suffixes: N track, C channel, T sample, K section, R row (a channel of a track), P room,
J tap.
"""

from collections.abc import Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.console.mixing import (
    FITTED_ROOM_S,
    OFF_DB,
    Values,
    changed,
    compressed,
    controlled,
    has_equaliser,
    stereo_matrix,
)
from mixprint.console.settings import ROOM_SHAPE
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.drive import driven
from mixprint.dsp.equaliser import Sections
from mixprint.dsp.room import Rooms


@torch.no_grad()
def mix_once(tracks_NCT: Tensor, values: Values, room_s: float = FITTED_ROOM_S) -> Tensor:
    """Mix.

    Args:
        tracks_NCT: two channels each, full scale at +-1, on the processor.
        values: of one mix.
        room_s: how long rooms are heard.

    Returns:
        mixed_NCT: the tracks as they sound in the mix, which is their sum.
    """
    trim_N11 = amplitude(values.track_N["trim_db"])[:, None, None]
    audio_NCT = tracks_NCT * trim_N11.to(tracks_NCT.dtype)
    if has_equaliser(values.track_N):
        audio_NCT = _equalised(audio_NCT, values.track_sections())
    audio_NCT = changed(audio_NCT, values, "drive.mix", 0.0, _driven)
    audio_NCT = changed(audio_NCT, values, "comp.slope", 0.0, compressed)
    matrix_NCC = stereo_matrix(values).to(audio_NCT.dtype)
    if values.rooms == "sends":
        audio_NCT = matrix_NCC @ audio_NCT

    def in_rooms(audio_NCT: Tensor, chosen: Values) -> Tensor:
        return _in_rooms(audio_NCT, chosen, room_s)

    audio_NCT = changed(audio_NCT, values, "room.send_db", OFF_DB, in_rooms)
    if values.rooms != "sends":
        audio_NCT = matrix_NCC @ audio_NCT
    if has_equaliser(values.master_1):
        master = values.master_sections()
        sections = (of.expand(len(audio_NCT), -1, -1) for of in (master.b_BK3, master.a_BK3))
        audio_NCT = _equalised(audio_NCT, Sections(*sections))
    return controlled(audio_NCT, values)


def _is_mono(audio_CT: Tensor) -> bool:
    return torch.equal(audio_CT[0], audio_CT[-1])


def _equalised(audio_NCT: Tensor, sections: Sections) -> Tensor:
    """Run the sections that do something, in float64."""
    from scipy.signal import sosfilt

    sos_NK6 = torch.cat([sections.b_BK3, sections.a_BK3], dim=-1).numpy()
    is_on_NK = (sos_NK6[..., :3] != sos_NK6[..., 3:]).any(axis=-1)
    filtered_NCT = audio_NCT.clone()
    for place, audio_CT in enumerate(audio_NCT):
        if is_on_NK[place].any():
            rows_RT = audio_CT[:1] if _is_mono(audio_CT) else audio_CT
            wet_RT = sosfilt(sos_NK6[place][is_on_NK[place]], rows_RT.double().numpy(), axis=-1)
            filtered_NCT[place] = torch.from_numpy(wet_RT)
    return filtered_NCT


def _driven(audio_NCT: Tensor, values: Values) -> Tensor:
    drive_db_N, mix_N = values.track_N["drive.drive_db"], values.track_N["drive.mix"]
    parts = [
        driven(audio_CT[None, :1] if _is_mono(audio_CT) else audio_CT[None], *settings)[0]
        for audio_CT, *settings in zip(audio_NCT, drive_db_N.split(1), mix_N.split(1), strict=True)
    ]
    return torch.stack([part_CT.expand(audio_NCT.shape[1], -1) for part_CT in parts])


def _in_rooms(audio_NCT: Tensor, values: Values, room_s: float) -> Tensor:
    """Add what rooms answer; tracks whose rooms are equal share the computation of its response."""
    rate_hz, num_samples = values.sample_rate_hz, audio_NCT.shape[-1]
    shape_N3 = torch.stack([values.track_N[name] for name in ROOM_SHAPE], dim=-1)
    shape_P3, room_N = shape_N3.unique(dim=0, return_inverse=True)
    impulses = [_impulse(shape, rate_hz, round(room_s * rate_hz)) for shape in shape_P3.tolist()]
    impulse_PCJ = torch.stack(impulses).to(audio_NCT.dtype)
    num_fft = next_fast_len(num_samples + impulse_PCJ.shape[-1] - 1, real=True)
    room_PCF = torch.fft.rfft(impulse_PCJ, n=num_fft)
    send_N1 = amplitude(values.track_N["room.send_db"])[:, None].to(audio_NCT.dtype)
    sent_NF = torch.fft.rfft(audio_NCT.mean(dim=1) * send_N1, n=num_fft)
    wet_NCT = torch.fft.irfft(sent_NF[:, None] * room_PCF[room_N], n=num_fft)
    return audio_NCT + wet_NCT[..., :num_samples]


def _impulse(shape: Sequence[float], rate_hz: int, num_taps: int) -> Tensor:
    """Return what a room answers to an impulse: impulse_CJ, float64."""
    time_s, *ratios = (torch.tensor([value], dtype=torch.float64) for value in shape)
    low, high = (None if float(ratio) == 1.0 else ratio for ratio in ratios)
    unity_db = torch.zeros(1, dtype=torch.float64)
    return Rooms(unity_db, time_s, low, high).impulse_response(rate_hz, num_taps)[0]
