"""Mixing of two songs: what is struck in one with what is held in the other.

Shape suffixes: C channel, T sample, K mel band, N frame, F frequency row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs, true_peak_dbtp
from mixprint.audio.resampling import resample
from mixprint.audio.streamed_levels import peak_safe_gain_db
from mixprint.cascade.attribution import REST, shares
from mixprint.cascade.likeness import Character, Likeness
from mixprint.cascade.maskings import MASKINGS, Masked, masked_mix, stems_mix
from mixprint.codec.interface import SAMPLE_RATE_HZ as MEASURED_RATE_HZ
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.loudness import SILENCE_LUFS
from mixprint.dsp.mel import mel_filterbank
from mixprint.errors import ConfigError
from mixprint.schema import Range
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

STEMS_MASKING = "stems"
NAMES = (STEMS_MASKING, *MASKINGS)
# Fixed masks are made of windows that fade into each other, so that memory does not grow.
WINDOW_S, FADE_S = 20.0, 1.0
SHORTEST_S = 1.0
MEASURED_S = 60.0  # from the middle
NUM_BANDS, CELL_S = 64, 0.1  # of masks as they are shown
_DRUMS = STEMS.index("drums")

# Separates audio_CT into stems_SCT, in the order of `STEMS`.
Separate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class BlendSettings:
    """Parameters of a mix of two songs.

    Attributes:
        masking: one of `NAMES`: by stems, or by a fixed mask.
        balance_db: of the input beside the target, which are made equally loud before.
    """

    masking: str = STEMS_MASKING
    balance_db: Annotated[float, Range(-40.0, 40.0)] = 0.0

    def __post_init__(self) -> None:
        """Check what is not said by the types.

        Raises:
            ConfigError: there is no such masking.
        """
        if self.masking not in NAMES:
            raise ConfigError(f"masking: expected one of {NAMES}, found {self.masking!r}")


class Blended(NamedTuple):
    """A mix of two songs.

    Attributes:
        audio_CT: the mix, with a true peak of -1 dBTP at most.
        gain_db: that was needed for it.
        mask_KN: how much is the input's, in mel bands, each frame 0.1 s or so.
        likeness: to both songs.
        shares: stem -> part of the power of the mix that it explains, such as `input drums`, and
            `rest`; None where nothing was separated.
    """

    audio_CT: Tensor
    gain_db: float
    mask_KN: Tensor
    likeness: Likeness
    shares: dict[str, float] | None


def blend(
    input_CT: Tensor, target_CT: Tensor, settings: BlendSettings, separate: Separate | None = None
) -> Blended:
    """Mix the rhythm of one song with the harmony of another.

    Args:
        input_CT: stereo audio at 44.1 kHz; gives the rhythm.
        target_CT: likewise; gives the harmony. What the longer one has more is left out.
        settings: see there.
        separate: for the masking `stems`, which needs it.

    Raises:
        ConfigError: there is too little of a song, or nothing to separate with.
    """
    length = min(input_CT.shape[-1], target_CT.shape[-1])
    if length < SHORTEST_S * SAMPLE_RATE_HZ:
        found_s = length / SAMPLE_RATE_HZ
        raise ConfigError(f"expected {SHORTEST_S:g} s or more of both songs, found {found_s:.2f} s")
    target_CT = target_CT[:, :length]
    input_CT = _as_loud(input_CT[:, :length], target_CT) * amplitude(settings.balance_db)
    stems: tuple[Tensor, Tensor] | None = None
    if settings.masking == STEMS_MASKING:
        if separate is None:
            raise ConfigError("masking stems: expected a separator, found none")
        stems = separate(input_CT), separate(target_CT)
    windows = _windows(input_CT, target_CT, settings.masking, stems)
    mix_CT, mask_KN = _joined(windows, length)
    gain_db = peak_safe_gain_db(true_peak_dbtp(mix_CT))
    mix_CT = mix_CT * amplitude(gain_db)
    measured = _Measured.of(input_CT, target_CT, mix_CT, stems)
    return Blended(mix_CT, gain_db, mask_KN, measured.likeness, measured.shares)


class _Measured(NamedTuple):
    """Measures of a mix."""

    likeness: Likeness
    shares: dict[str, float] | None

    @classmethod
    def of(
        cls,
        input_CT: Tensor,
        target_CT: Tensor,
        mix_CT: Tensor,
        stems: tuple[Tensor, Tensor] | None,
    ) -> "_Measured":
        """Measure the middle of it, as mono."""
        input_T, target_T, mix_T = (_middle(each_CT) for each_CT in (input_CT, target_CT, mix_CT))
        songs = (Character.of(song_T, MEASURED_RATE_HZ) for song_T in (input_T, target_T))
        likeness = Likeness.of(Character.of(mix_T, MEASURED_RATE_HZ), *songs)
        if stems is None:
            return cls(likeness, None)
        sources = {
            f"{song} {stem}": _middle(stem_CT)
            for song, stems_SCT in zip(("input", "target"), stems, strict=True)
            for stem, stem_CT in zip(STEMS, stems_SCT, strict=True)
        }
        return cls(likeness, shares(mix_T, sources))


class _Window(NamedTuple):
    """A window of a mix, with what the next one has of it, too.

    Attributes:
        start: its first sample.
        masked: the mix of it.
    """

    start: int
    masked: Masked


def _windows(
    input_CT: Tensor, target_CT: Tensor, masking: str, stems: tuple[Tensor, Tensor] | None
) -> Iterator[_Window]:
    window, fade = round(WINDOW_S * SAMPLE_RATE_HZ), round(FADE_S * SAMPLE_RATE_HZ)
    length = input_CT.shape[-1]
    for start in range(0, max(length - fade, 1), window - fade):
        part = slice(start, start + window)
        if stems is not None:
            drums_CT, without_CT = stems[0][_DRUMS], target_CT - stems[1][_DRUMS]
            masked = stems_mix(drums_CT[:, part], without_CT[:, part], SAMPLE_RATE_HZ)
        else:
            masked = masked_mix(input_CT[:, part], target_CT[:, part], masking, SAMPLE_RATE_HZ)
        yield _Window(start, masked)


def _joined(windows: Iterator[_Window], length: int) -> tuple[Tensor, Tensor]:
    """Fade windows into each other: audio_CT, and the mask as it is shown."""
    fade = round(FADE_S * SAMPLE_RATE_HZ)
    mix_CT = torch.zeros(0)
    cells: list[Tensor] = []
    for start, (audio_CT, mask_FN) in windows:
        if start == 0:
            mix_CT = audio_CT.new_zeros(len(audio_CT), length)
            cells.append(_shown(mask_FN))
            mix_CT[:, : audio_CT.shape[-1]] = audio_CT
            continue
        rise_T = torch.linspace(0, 1, fade)
        part_CT = mix_CT[:, start : start + fade]
        mix_CT[:, start : start + fade] = part_CT * (1 - rise_T) + audio_CT[:, :fade] * rise_T
        mix_CT[:, start + fade : start + audio_CT.shape[-1]] = audio_CT[:, fade:]
        cells.append(_shown(mask_FN)[:, round(FADE_S / CELL_S) :])
    return mix_CT, torch.cat(cells, dim=1)


def _shown(mask_FN: Tensor) -> Tensor:
    """Return means of a mask in mel bands and cells of time: mask_KN."""
    window_samples = 2 * (mask_FN.shape[0] - 1)
    hop_s = window_samples / 4 / SAMPLE_RATE_HZ
    bands_KN = mel_filterbank(NUM_BANDS, window_samples, SAMPLE_RATE_HZ) @ mask_FN
    frames = max(round(CELL_S / hop_s), 1)
    return torch.nn.functional.avg_pool1d(bands_KN, frames, ceil_mode=True)


def _as_loud(audio_CT: Tensor, other_CT: Tensor) -> Tensor:
    """Bring audio to the loudness of another one; silence stays as it is."""
    own, wanted = (loudness_lufs(each_CT, SAMPLE_RATE_HZ) for each_CT in (audio_CT, other_CT))
    if min(own, wanted) <= SILENCE_LUFS:
        return audio_CT
    return audio_CT * amplitude(wanted - own)


def _middle(audio_CT: Tensor) -> Tensor:
    """Return the middle as mono at the rate of the measures."""
    length = min(round(MEASURED_S * SAMPLE_RATE_HZ), audio_CT.shape[-1])
    start = (audio_CT.shape[-1] - length) // 2
    mono_1T = audio_CT[:, start : start + length].mean(dim=0, keepdim=True)
    return resample(mono_1T, SAMPLE_RATE_HZ, MEASURED_RATE_HZ)[0]


def in_words(blended: Blended) -> list[str]:
    """Say what came of a mix, a sentence for each measure."""
    likeness = blended.likeness
    found = [
        f"Rhythm: {likeness.rhythm_input:.2f} like the input's, {likeness.rhythm_target:.2f} like "
        "the target's (1 is the same, 0 is none).",
        f"Harmony: {likeness.harmony_target:.2f} like the target's, {likeness.harmony_input:.2f} "
        "like the input's.",
        f"Score: {likeness.score:.2f}, of -2 to 2. Half of each song would have 0; the input's "
        "true drums with all else of the target about 1.1.",
    ]
    if blended.shares is not None:
        drums, leaked = (blended.shares[f"{song} drums"] for song in ("input", "target"))
        others = sum(
            part
            for name, part in blended.shares.items()
            if name.startswith("target") and name != "target drums"
        )
        found.append(
            f"Of its power {drums:.0%} is the input's drums, {others:.0%} the target's other "
            f"stems, {leaked:.0%} the target's drums, {blended.shares[REST]:.0%} none of these."
        )
    return found
