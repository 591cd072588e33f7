"""Delays: once, again and again, through a filter in the loop, and of a length that moves.

Shape suffixes: N signal, C channel, T sample, F frequency bin; 1 where all channels share it.
"""

import math
from collections.abc import Callable, Iterable

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.dsp.pieces import padded, pieces

# Repeats below this are no longer heard.
_DIED_AWAY = 1e-4
# What would wrap around in a transform is weakened by this; so much more noise it has.
_WRAP_GAIN = 1e-2
# Length of the impulse response of filters in a loop.
_LOOP_TAPS = 8192


def delayed(audio_NCT: Tensor, delay_N: Tensor) -> Tensor:
    """Delay signals by whole samples each, 0 or more."""
    result_NCT = torch.empty_like(audio_NCT)
    num_samples = audio_NCT.shape[-1]
    for row, delay in _each(delay_N):
        result_NCT[row, :, :delay] = 0
        result_NCT[row, :, delay:] = audio_NCT[row, :, : max(num_samples - delay, 0)]
    return result_NCT


def repeated(audio_NCT: Tensor, delay_N: Tensor, feedback_N: Tensor) -> Tensor:
    """Add to signals their own delayed output: y(t) = x(t) + feedback y(t - delay).

    By doubling: after each pass the result holds twice as many repeats.

    Args:
        audio_NCT: the signals.
        delay_N: in whole samples, 1 or more.
        feedback_N: of an absolute value below 1.

    Returns:
        audio_NCT of the same length, so without what comes after it.
    """
    result_NCT = audio_NCT.clone()
    num_samples = audio_NCT.shape[-1]
    for (row, delay), gain in zip(_each(delay_N), feedback_N.tolist(), strict=True):
        while delay < num_samples and abs(gain) > _DIED_AWAY:
            late_CT = result_NCT[row, :, delay:]
            # From the end: what a piece is added from, this pass has not touched yet.
            for piece in reversed(list(pieces(late_CT))):
                earlier_CT = result_NCT[row, :, piece].clone()
                late_CT[:, piece].add_(earlier_CT, alpha=gain)
            delay, gain = 2 * delay, gain * gain
    return result_NCT


def reversed_pieces(audio_NCT: Tensor, length_N: Tensor) -> Tensor:
    """Play pieces of signals backwards, each when it has passed, faded in and out.

    Args:
        audio_NCT: the signals.
        length_N: of the pieces in whole samples, 1 or more.

    Returns:
        audio_NCT, silent until the first piece has passed.
    """
    num_samples = audio_NCT.shape[-1]
    result_NCT = torch.zeros_like(audio_NCT)
    for row, length in _each(length_N):
        num_pieces = num_samples // length
        pieces_CKT = audio_NCT[row, :, : num_pieces * length].unflatten(-1, (num_pieces, length))
        window_T = torch.hann_window(length, device=audio_NCT.device, dtype=audio_NCT.dtype)
        backwards_CT = (pieces_CKT.flip(-1) * window_T).flatten(1)
        result_NCT[row, :, length:] = backwards_CT[:, : num_samples - length]
    return result_NCT


def _each(delay_N: Tensor) -> Iterable[tuple[int, int]]:
    return enumerate(delay_N.round().long().tolist())


def repeated_through_filter(
    audio_NCT: Tensor,
    delay_N: Tensor,
    feedback_N: Tensor,
    low_cut_hz_N: Tensor,
    high_cut_hz_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Delay signals in a loop that goes through a high-pass and a low-pass of first order.

    Computed at once on a circle around the frequencies: what a transform of finite length wraps
    around is weaker there.

    Args:
        audio_NCT: the signals.
        delay_N: of the loop in samples, at least 1.
        feedback_N: of the loop, 0 to below 1.
        low_cut_hz_N: corner of the high-pass.
        high_cut_hz_N: corner of the low-pass.
        sample_rate_hz: of the audio.

    Returns:
        audio_NCT of the delayed sound alone: its first repeat has passed the filters once.
    """
    num_samples = audio_NCT.shape[-1]
    num_fft = next_fast_len(num_samples + sample_rate_hz // 4, real=True)
    decay = math.log(_WRAP_GAIN) / num_fft
    time_T = torch.arange(num_fft, device=audio_NCT.device, dtype=torch.float64)
    window_T = torch.exp(decay * time_T)
    # One pass of the loop: (1 - z) / ((1 - low z) (1 - high z)) in partial fractions, delayed.
    low_N1, high_N1 = (
        torch.exp(-2 * math.pi * hz_N.double() / sample_rate_hz)[:, None]
        for hz_N in (low_cut_hz_N, high_cut_hz_N)
    )
    tap_M = time_T[: min(_LOOP_TAPS, num_fft)]
    impulse_NM = (1 - low_N1) * low_N1**tap_M - (1 - high_N1) * high_N1**tap_M
    impulse_NM *= (1 + low_N1) / 2 * (1 - high_N1) / (high_N1 - low_N1)
    loop_NT = audio_NCT.new_zeros(len(audio_NCT), num_fft)
    for row, delay in _each(delay_N):
        part_M = impulse_NM[row, : max(num_fft - delay, 0)]
        loop_NT[row, delay : delay + len(part_M)] = part_M
    window_T = window_T.to(audio_NCT.dtype)
    loop_NF = torch.fft.rfft(loop_NT.mul_(window_T))
    loop_NF /= 1 - feedback_N[:, None] * loop_NF

    spectrum_NCF = torch.fft.rfft(audio_NCT * window_T[:num_samples], n=num_fft)
    result_NCT = torch.fft.irfft(spectrum_NCF.mul_(loop_NF[:, None]), n=num_fft)[..., :num_samples]
    return result_NCT.div_(window_T[:num_samples])


def read_back(
    audio_NCT: Tensor, control_NCT: Tensor, delay: Callable[[Tensor], Tensor], longest: int
) -> Tensor:
    """Read signals with a delay that moves, by straight lines between samples.

    Args:
        audio_NCT: the signals, with silence before them.
        control_NCT: what the delay follows, such as the turns of an oscillator; or for both
            channels alike, control_N1T.
        delay: returns the delay in samples, 0 to `longest`, of each sample of a piece of it; it may
            have two channels where the control has one.
        longest: delay that can occur.

    Returns:
        audio_NCT.
    """
    padded_NCT = padded(audio_NCT, longest + 1, 0)
    result_NCT = torch.empty_like(audio_NCT)
    for piece in pieces(audio_NCT):
        delay_NCT = delay(control_NCT[..., piece])
        first, last = longest + 1 + piece.start, longest + 1 + piece.stop
        index_NCT = torch.arange(first, last, device=audio_NCT.device) - delay_NCT.long()
        shape = (*audio_NCT.shape[:2], last - first)
        late_NCT = padded_NCT.gather(-1, index_NCT.expand(shape))
        earlier_NCT = padded_NCT.gather(-1, index_NCT.sub_(1).expand(shape))
        share_NCT = delay_NCT.frac().expand(shape)
        torch.lerp(late_NCT, earlier_NCT, share_NCT, out=result_NCT[..., piece])
    return result_NCT
