"""Settings of one voice by rule, for where nothing that was learned is at hand.

The rules are what engineers write down of a first pass over a voice: cut what lies below it, take
out what is too much against a voice as most of them sound, lift what is missing, even out the loud
moments, a little room, and bring it to a loudness. What a voice sounds like is the long-term
average spectrum of speech by thirds of octaves (Byrne et al. 1994, Journal of the Acoustical
Society of America 96, table II, both sexes), and a lift of presence and air, which is this
module's choice. Each rule goes half the way and not far, and says why; what needs nothing gets
nothing.

Shape suffixes: C channel, T sample, K band, M frame, N block of the compressor, W window.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.audio.levels import MAX_TRUE_PEAK_DBTP, loudness_lufs, true_peak_dbtp
from mixprint.audio.resampling import resample
from mixprint.console.levels import BANDS_HZ, BANDS_WINDOW, band_powers, working_trim_db
from mixprint.console.mixing import as_stereo, louder_channel
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.console.words import hz_text, ratio
from mixprint.dsp.compressor import BLOCK_SAMPLES, block_levels_db
from mixprint.dsp.loudness import HOP_S, SILENCE_LUFS, hop_energy, k_weight, to_lufs
from mixprint.dsp.pitch import fundamentals_hz
from mixprint.stems import SAMPLE_RATE_HZ

# Where a voice lies in a mix of its own, about 5 LU below what services play songs at.
LOUDNESS_LUFS = -19.0
_NAME = "vocals"
# Thirds of octaves from 63 Hz to 16 kHz, in dB.
_FIRST_BAND = 4
_SPEECH_DB = (
    *(38.6, 43.5, 54.4, 57.7, 56.8, 60.2, 60.3, 59.0, 62.1, 62.1, 60.5, 56.8, 53.7),
    *(53.0, 52.0, 48.7, 48.1, 46.8, 45.6, 44.5, 44.3, 43.7, 43.4, 41.3, 40.7),
)
# What a mixed voice has more of than a speaking one.
_PRESENCE_HZ, _PRESENCE_LIFT_DB = (1_900.0, 5_500.0), 2.0
_AIR_HZ, _AIR_LIFT_DB = (7_500.0, 13_500.0), 4.0
_BODY_HZ = (300.0, 2_200.0)
_MUD_HZ = (150.0, 550.0)
_HARSH_HZ = (1_900.0, 8_500.0)
# How much of a difference is taken away, from which one on, and the most, all in dB.
_SHARE, _LEAST_DB, _MOST_DB = 0.5, 2.0, 5.0
# A band this far below is not quiet but missing, and its noise is not lifted.
_MISSING_DB = -20.0
_FUNDAMENTAL_RATE_HZ = 8_000
# 0.8 dB are lost there, where the lowest notes begin.
_BELOW_LOWEST, _HIGHPASS_HZ, _DEFAULT_HIGHPASS_HZ = 0.66, (40.0, 180.0), 70.0
_GATE_DB = -25.0
_WINDOW_HOPS = 4  # 400 ms, as the momentary loudness
# Loud moments are brought this near to the middle, in LU.
_WANTED_LU, _MAX_SLOPE = 3.0, 0.75
_PEAK_QUANTILE = 0.8
_ATTACK_MS, _RELEASE_MS, _KNEE_DB = 8.0, 120.0, 6.0
_SEND_DB, _ROOM_S = -24.0, 0.8


@dataclass(frozen=True)
class ByRule:
    """Settings that were found by rule.

    Attributes:
        settings: of the one track.
        reasons: a sentence for each thing that is done, in the order of the console.
    """

    settings: Settings
    reasons: tuple[str, ...]


def vocal_by_rule(
    voice_CT: Tensor,
    sample_rate_hz: int,
    *,
    name: str = _NAME,
    target_lufs: float = LOUDNESS_LUFS,
) -> ByRule:
    """Find settings for one voice.

    Args:
        voice_CT: the dry voice, one or two channels, full scale at +-1, of any length.
        sample_rate_hz: of the voice, 8000 or more.
        name: of the track in the settings.
        target_lufs: integrated loudness of the result; less where its peaks would be above
            `MAX_TRUE_PEAK_DBTP`.

    Returns:
        neutral settings where the voice is silent throughout.
    """
    # Too short for a window of loudness or of a spectrum: silence behind it changes neither.
    least = max(BANDS_WINDOW, round((_WINDOW_HOPS + 1) * HOP_S * sample_rate_hz))
    padded_CT = functional.pad(voice_CT.float(), (0, max(least - voice_CT.shape[-1], 0)))
    rules = _Rules(as_stereo(padded_CT), sample_rate_hz, name)
    if loudness_lufs(padded_CT, sample_rate_hz) > SILENCE_LUFS:
        rules.bring_to_level()
        rules.cut_below()
        rules.shape_tone()
        rules.compress()
        rules.place()
        rules.set_loudness(target_lufs)
    else:
        rules.reasons.append("silent: nothing is done")
    return ByRule(rules.settings, tuple(rules.reasons))


class _Rules:
    """The rules, one after the other, each on what the ones before have made."""

    def __init__(self, voice_CT: Tensor, rate_hz: int, name: str) -> None:
        self._voice_1CT, self._rate_hz, self._name = voice_CT[None], rate_hz, name
        self.settings = replace(Settings.neutral([name]), sample_rate_hz=rate_hz)
        self.reasons: list[str] = []

    def _set(self, reason: str, **values: float) -> None:
        strip = self.settings.tracks[self._name]
        held = {}
        for key, value in values.items():
            path = key.replace("__", ".")
            held[f"{self._name}.{path}"] = strip.field(path).held(value)
        self.settings = self.settings.edit(held)
        self.reasons.append(reason)

    def _rendered(self) -> Tensor:
        (rendered_CT,) = render(self._voice_1CT, self.settings, self._rate_hz)
        return rendered_CT.float()

    def bring_to_level(self) -> None:
        """Bring it to the level at which thresholds mean something."""
        (trim_db,) = working_trim_db(self._voice_1CT, self._rate_hz)
        self._set(f"brought to its working level by {trim_db:+.1f} dB", trim_db=trim_db)

    def cut_below(self) -> None:
        """Cut what lies below the lowest notes."""
        mono_T = self._voice_1CT[0].mean(dim=0, keepdim=True)
        low_T = resample(mono_T, self._rate_hz, _FUNDAMENTAL_RATE_HZ)[0]
        found_M = fundamentals_hz(low_T, _FUNDAMENTAL_RATE_HZ)
        if len(found_M) == 0:
            reason = f"cut below {_DEFAULT_HIGHPASS_HZ:.0f} Hz: no fundamental was found"
            self._set(reason, eq__highpass_hz=_DEFAULT_HIGHPASS_HZ)
            return
        lowest_hz = float(found_M.quantile(0.1))
        low_hz, high_hz = _HIGHPASS_HZ
        cut_hz = min(max(_BELOW_LOWEST * lowest_hz, low_hz), high_hz)
        self._set(
            f"cut below {cut_hz:.0f} Hz: the lowest notes begin at {lowest_hz:.0f} Hz",
            eq__highpass_hz=cut_hz,
        )

    def shape_tone(self) -> None:
        """Take out what is too much against most voices, and lift what is missing."""
        over_K = self._against_most_voices()
        if over_K is None:
            return
        self._cut_mud(over_K)
        lifts = (
            ("presence", _PRESENCE_HZ, {"eq__bell2__freq_hz": 3_000.0, "eq__bell2__q": 0.7}),
            ("air", _AIR_HZ, {"eq__high__freq_hz": 9_000.0}),
        )
        for what, band_hz, shape in lifts:
            lacks_db = -float(over_K[_within(band_hz)].mean())
            if _LEAST_DB <= lacks_db < -_MISSING_DB:
                gain = "eq__bell2__gain_db" if what == "presence" else "eq__high__gain_db"
                gain_db = min(_SHARE * lacks_db, _MOST_DB)
                reason = f"{gain_db:+.1f} dB of {what}: {lacks_db:.1f} dB less than most voices"
                self._set(reason, **shape, **{gain: gain_db})
        self._cut_harshness(over_K)

    def _against_most_voices(self) -> Tensor | None:
        """Return how much more there is of each band than in most voices: over_db_K."""
        # At higher rates the windows are too short for the lowest bands.
        rate_hz = min(self._rate_hz, SAMPLE_RATE_HZ)
        audio_CT = resample(self._rendered(), self._rate_hz, rate_hz)
        power_KM = band_powers(audio_CT[None], rate_hz)[0]
        power_M = power_KM.sum(dim=0)
        heard_KM = power_KM[:, power_M > 10 ** (_GATE_DB / 10) * power_M.max()]
        level_K = 10 * torch.log10(heard_KM.mean(dim=1).clamp_min(1e-12))
        wanted_K = _most_voices()
        body = _within(_BODY_HZ)
        if level_K[body].max() <= -110.0:
            return None
        over_K = level_K - wanted_K
        return over_K - over_K[body].median()

    def _cut_mud(self, over_K: Tensor) -> None:
        smooth_K = functional.avg_pool1d(over_K[None], 3, 1, 1)[0]
        band, over_db = _largest(smooth_K, _MUD_HZ)
        if over_db >= _LEAST_DB:
            gain_db = -min(_SHARE * over_db, _MOST_DB)
            self._set(
                f"{gain_db:+.1f} dB at {hz_text(BANDS_HZ[band])}: {over_db:.1f} dB more low mids "
                "than most voices",
                eq__bell1__freq_hz=BANDS_HZ[band],
                eq__bell1__q=1.0,
                eq__bell1__gain_db=gain_db,
            )

    def _cut_harshness(self, over_K: Tensor) -> None:
        """Take out a band that stands out from those around it."""
        is_there_K = (over_K > _MISSING_DB).float()
        # Three on each side that are not missing, without the band itself.
        sum_K, count_K = (
            functional.avg_pool1d(x_K[None], 7, 1, 3)[0] * 7 - x_K
            for x_K in (is_there_K * over_K, is_there_K)
        )
        stands_out_K = over_K - sum_K / count_K.clamp_min(1.0)
        band, over_db = _largest(stands_out_K, _HARSH_HZ)
        if over_db >= 2 * _LEAST_DB:
            gain_db = -min(_SHARE * over_db, _MOST_DB)
            self._set(
                f"{gain_db:+.1f} dB at {hz_text(BANDS_HZ[band])}: harsh, {over_db:.1f} dB above "
                "the bands around it",
                eq__bell3__freq_hz=BANDS_HZ[band],
                eq__bell3__q=3.0,
                eq__bell3__gain_db=gain_db,
            )

    def compress(self) -> None:
        """Bring loud moments nearer to the middle, by as much as they are above it."""
        audio_CT = self._rendered()
        energy_K = hop_energy(k_weight(audio_CT, self._rate_hz), self._rate_hz)
        loudness_W = to_lufs(energy_K.unfold(-1, _WINDOW_HOPS, 1).mean(dim=-1))
        is_heard_W = loudness_W > max(float(loudness_W.max()) + _GATE_DB, SILENCE_LUFS)
        middle, loud = loudness_W[is_heard_W].quantile(torch.tensor([0.5, 0.95])).tolist()
        if loud - middle <= _WANTED_LU:
            return
        slope = min(1 - _WANTED_LU / (loud - middle), _MAX_SLOPE)
        # The compressor hears peaks of short blocks, which lie above a loudness.
        level_N = block_levels_db(louder_channel(audio_CT[None]))[0]
        window = round(_WINDOW_HOPS * HOP_S * self._rate_hz / BLOCK_SAMPLES)
        hop = round(HOP_S * self._rate_hz / BLOCK_SAMPLES)
        peak_W = level_N.unfold(-1, window, hop).quantile(_PEAK_QUANTILE, dim=-1)
        num_both = min(len(peak_W), len(loudness_W))
        above_W = (peak_W[:num_both] - loudness_W[:num_both])[is_heard_W[:num_both]]
        at_middle = middle + float(above_W.median())
        self._set(
            f"compressed {ratio(slope)} above {at_middle:.1f} dBFS: loud moments lie "
            f"{loud - middle:.1f} LU above the middle",
            comp__threshold_db=at_middle,
            comp__slope=slope,
            comp__attack_ms=_ATTACK_MS,
            comp__release_ms=_RELEASE_MS,
            comp__knee_db=_KNEE_DB,
        )

    def place(self) -> None:
        """Send it to a room, a little."""
        self._set(
            f"in a room of {_ROOM_S:g} s, sent at {_SEND_DB:+.1f} dB: a dry voice stands before "
            "a mix, not in it",
            room__send_db=_SEND_DB,
            room__time_s=_ROOM_S,
        )

    def set_loudness(self, target_lufs: float) -> None:
        """Set the fader, for the loudness that is wanted and no peaks above full scale."""
        audio_CT = self._rendered()
        by_loudness_db = target_lufs - loudness_lufs(audio_CT, self._rate_hz)
        by_peak_db = MAX_TRUE_PEAK_DBTP - true_peak_dbtp(audio_CT)
        if by_loudness_db <= by_peak_db:
            reason, fader_db = f"for {target_lufs:.1f} LUFS", by_loudness_db
        else:
            fader_db = by_peak_db
            reason = (
                f"for peaks of {MAX_TRUE_PEAK_DBTP:g} dBTP, {by_loudness_db - by_peak_db:.1f} LU "
                f"below the {target_lufs:.1f} LUFS that are wanted"
            )
        self._set(f"fader at {fader_db:+.1f} dB: {reason}", fader_db=fader_db)


def _most_voices() -> Tensor:
    """Return what most mixed voices have in each band: level_db_K, up to a constant."""
    wanted_K = torch.full((len(BANDS_HZ),), _SPEECH_DB[0])
    wanted_K[_FIRST_BAND:] = torch.tensor(_SPEECH_DB)
    wanted_K[_within(_PRESENCE_HZ)] += _PRESENCE_LIFT_DB
    wanted_K[_within((_AIR_HZ[0], BANDS_HZ[-1]))] += _AIR_LIFT_DB
    return wanted_K


def _within(range_hz: tuple[float, float]) -> slice:
    """Return which bands lie in a range."""
    inside = [k for k, hz in enumerate(BANDS_HZ) if range_hz[0] <= hz <= range_hz[1]]
    return slice(inside[0], inside[-1] + 1)


def _largest(value_K: Tensor, range_hz: tuple[float, float]) -> tuple[int, float]:
    """Return the band of a range with the largest value, and that."""
    inside = _within(range_hz)
    band = inside.start + int(value_K[inside].argmax())
    return band, float(value_K[band])
