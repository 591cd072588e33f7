"""Sounds that a page holds, encoded for browsers.

Shape suffixes: C channel, T sample.
"""

import io
from dataclasses import dataclass

import soundfile as sf
from torch import Tensor

from mixprint.audio.levels import peak_db
from mixprint.audio.resampling import resample

FADE_S = 0.02


@dataclass(frozen=True)
class Clip:
    """An excerpt with a player of its own; `clip` in `parts.html` shows it.

    Attributes:
        caption: plain text below the player.
        flac: the sound.
        css_class: `good` or `bad` puts a mark before the caption.
    """

    caption: str
    flac: bytes
    css_class: str = ""


def make_clip(
    caption: str,
    audio_CT: Tensor,
    sample_rate_hz: int,
    *,
    max_duration_s: float,
    player_rate_hz: int,
    css_class: str = "",
) -> Clip:
    """Cut an excerpt; one that exceeds full scale is lowered, and its caption says so.

    Args:
        caption: plain text.
        audio_CT: audio; its first `max_duration_s` are used, with short fades at both ends.
        sample_rate_hz: its rate.
        max_duration_s: longest excerpt.
        player_rate_hz: rate in the page; a lower one makes it smaller and duller.
        css_class: see `Clip`.
    """
    excerpt_CT = faded(audio_CT[:, : round(max_duration_s * sample_rate_hz)], sample_rate_hz)
    excerpt_CT = resample(excerpt_CT, sample_rate_hz, player_rate_hz)
    if (peak := float(excerpt_CT.abs().max())) > 1:
        excerpt_CT = excerpt_CT / peak
        caption += f" (played {peak_db(peak):.1f} dB lower)"
    return Clip(caption, encode_flac(excerpt_CT, player_rate_hz), css_class)


def faded(audio_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Fade a copy of an excerpt in and out over `FADE_S`, so that its ends do not click."""
    faded_CT = audio_CT.clone()
    fade_samples = min(round(FADE_S * sample_rate_hz), audio_CT.shape[-1] // 2)
    if fade_samples:
        ramp_T = (audio_CT.new_ones(fade_samples).cumsum(0) - 1) / fade_samples
        faded_CT[:, :fade_samples] *= ramp_T
        faded_CT[:, -fade_samples:] *= ramp_T.flip(0)
    return faded_CT


def encode_flac(audio_CT: Tensor, sample_rate_hz: int) -> bytes:
    """Encode in 16 bits, which are quieter than any room; every current browser plays it."""
    buffer = io.BytesIO()
    sf.write(buffer, audio_CT.T.numpy(), sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def encode_mp3(audio_CT: Tensor, sample_rate_hz: int, quality: float) -> bytes:
    """Encode by LAME's variable bit rate, which all browsers play; quality 0 is the best."""
    buffer = io.BytesIO()
    sf.write(
        buffer,
        audio_CT.T.numpy(),
        sample_rate_hz,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=quality,
        bitrate_mode="VARIABLE",
    )
    return buffer.getvalue()
