"""Mixing of tracks by a console, differentiable in its settings.

`mixprint.console.rendering` does the same exactly and in blocks; tests hold the two together.

Shape suffixes: N track, C channel, T sample, F frequency bin, M mix.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.console.bands import bell_names
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, TRACK_FIELDS_BY_NAME, Field
from mixprint.console.settings import Rooms as RoomsKind
from mixprint.console.settings import Settings, Strip
from mixprint.dsp.compressor import Compressors
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.drive import driven
from mixprint.dsp.equaliser import Sections, bell, cut, impulse_response, shelf
from mixprint.dsp.fourier import rfft
from mixprint.dsp.room import Rooms

# Rooms are heard for so long in a fit; what is rendered hears all of them.
FITTED_ROOM_S = 3.0
OFF_DB = -60.0


@dataclass(frozen=True)
class Values:
    """Values of all settings, as tensors.

    Attributes:
        track_N: field -> value of each track.
        master_1: field -> value of the master; of several mixes at once, one value each.
        rooms: how rooms are fed.
        sample_rate_hz: of the audio.
    """

    track_N: Mapping[str, Tensor]
    master_1: Mapping[str, Tensor]
    rooms: RoomsKind
    sample_rate_hz: int

    @classmethod
    def of(cls, settings: Settings, sample_rate_hz: int) -> "Values":
        """Take the values of settings, float64."""
        return cls(
            _columns(TRACK_FIELDS, list(settings.tracks.values())),
            _columns(MASTER_FIELDS, [settings.master]),
            settings.rooms,
            sample_rate_hz,
        )

    def to(self, device: torch.device) -> "Values":
        """Return them on a device."""
        track_N, master_1 = (
            {name: value.to(device) for name, value in of.items()}
            for of in (self.track_N, self.master_1)
        )
        return Values(track_N, master_1, self.rooms, self.sample_rate_hz)

    @classmethod
    def joined(cls, several: Sequence["Values"]) -> "Values":
        """Join those of several mixes, which feed their rooms in the same way."""
        first = several[0]
        track_N, master_M = (
            {name: torch.cat([of[name] for of in parts]) for name in parts[0]}
            for parts in ([each.track_N for each in several], [each.master_1 for each in several])
        )
        return cls(track_N, master_M, first.rooms, first.sample_rate_hz)

    def taken(self, places: Tensor) -> "Values":
        """Return them for some of the tracks."""
        track_N = {name: value_N[places] for name, value_N in self.track_N.items()}
        return Values(track_N, self.master_1, self.rooms, self.sample_rate_hz)

    def compressors(self, of: Mapping[str, Tensor]) -> Compressors:
        """Return the compressors of the tracks or of the master."""
        return Compressors(
            of["comp.threshold_db"],
            of["comp.slope"],
            of["comp.attack_ms"] / 1_000,
            of["comp.release_ms"] / 1_000,
            of["comp.knee_db"],
        )

    def track_sections(self) -> Sections:
        """Return the equalisers of the tracks."""
        high_hz_N, low_hz_N = self.track_N["eq.highpass_hz"], self.track_N["eq.lowpass_hz"]
        cuts = (
            cut(high_hz_N, self.sample_rate_hz, high=True).where(
                high_hz_N > TRACK_FIELDS_BY_NAME["eq.highpass_hz"].low
            ),
            cut(low_hz_N, self.sample_rate_hz, high=False).where(
                low_hz_N < TRACK_FIELDS_BY_NAME["eq.lowpass_hz"].high
            ),
        )
        return Sections.joined([*cuts, *self._tone(self.track_N, bell_names(TRACK_FIELDS))])

    def master_sections(self) -> Sections:
        """Return the equaliser of the master."""
        return Sections.joined(self._tone(self.master_1, bell_names(MASTER_FIELDS)))

    def _tone(self, of: Mapping[str, Tensor], bells: Sequence[str]) -> list[Sections]:
        rate_hz = self.sample_rate_hz

        def values(name: str) -> tuple[Tensor, Tensor]:
            return of[f"{name}.freq_hz"], of[f"{name}.gain_db"]

        return [
            shelf(*values("eq.low"), rate_hz, high=False),
            *(bell(*values(name), of[f"{name}.q"], rate_hz) for name in bells),
            shelf(*values("eq.high"), rate_hz, high=True),
        ]

    def track_rooms(self) -> Rooms:
        """Return the rooms of the tracks."""
        ratios = [self.track_N[f"room.{band}_ratio"] for band in ("low", "high")]
        low_N, high_N = (None if is_plain(ratio_N, 1.0) else ratio_N for ratio_N in ratios)
        return Rooms(self.track_N["room.send_db"], self.track_N["room.time_s"], low_N, high_N)

    def sends(self) -> Tensor:
        """Tell which tracks are heard in a room: is_on_N."""
        return self.track_N["room.send_db"] > OFF_DB


# What an equaliser does something by: its gains and cuts. Those of the master are called as these.
_EQ_NEUTRAL = {f.name: f.neutral for f in TRACK_FIELDS if f.group == "eq" and not f.weighed_by}


def is_plain(value: Tensor, neutral: float) -> bool:
    """Tell whether all values are neutral, and none is to be found."""
    return not value.requires_grad and bool((value == neutral).all())


def _columns(fields: Sequence[Field], strips: Sequence[Strip]) -> dict[str, Tensor]:
    rows = torch.tensor([strip.values for strip in strips], dtype=torch.float64)
    return {each.name: rows[:, place] for place, each in enumerate(fields)}


def stereo_matrix(values: Values) -> Tensor:
    """Return what width, pan and fader make of left and right: matrix_NCC.

    The width is a factor on half the difference of the channels. The pan is a balance: it turns
    down the far side and leaves the near one.
    """
    width_N, pan_N = values.track_N["width"], values.track_N["pan"]
    own_N, other_N = (1 + width_N) / 2, (1 - width_N) / 2
    width_NCC = torch.stack([own_N, other_N, other_N, own_N], dim=-1).unflatten(-1, (2, 2))
    sides_NC = torch.stack([1 - pan_N, 1 + pan_N], dim=-1).clamp_max(1.0)
    fader_N = amplitude(values.track_N["fader_db"])
    return (fader_N[:, None] * sides_NC)[..., None] * width_NCC


def louder_channel(audio_NCT: Tensor) -> Tensor:
    """Return what a compressor listens to: the louder of both channels, sample by sample."""
    return audio_NCT.abs().amax(dim=-2)


def as_stereo(audio_CT: Tensor) -> Tensor:
    """Return a track with two channels."""
    return audio_CT if audio_CT.shape[-2] == 2 else audio_CT.expand(*audio_CT.shape[:-2], 2, -1)


class Console:
    """Console for tracks that stay the same while its settings are looked for.

    What does nothing and is not looked for costs nothing. Several mixes can be made at once, each
    with a master of its own.
    """

    def __init__(
        self, tracks_NCT: Tensor, room_s: float = FITTED_ROOM_S, mix_N: Tensor | None = None
    ) -> None:
        """Take the tracks.

        Args:
            tracks_NCT: two channels each, full scale at +-1.
            room_s: how long rooms are heard.
            mix_N: number of the mix that each track belongs to; None: all belong to one.
        """
        self._tracks_NCT, self._room_s, self._mix_N = tracks_NCT, room_s, mix_N
        self._spectra: dict[int, Tensor] = {}

    def __call__(self, values: Values) -> Tensor:
        """Mix; differentiable in the values.

        Returns:
            mixed_NCT: the tracks as they sound in the mix, which is their sum.
        """
        audio_NCT = self._equalised(values)
        audio_NCT = changed(audio_NCT, values, "drive.mix", 0.0, _driven)
        audio_NCT = changed(audio_NCT, values, "comp.slope", 0.0, compressed)
        return controlled(self._placed(audio_NCT, values), values, self._mix_N)

    def _equalised(self, values: Values) -> Tensor:
        """Bring the tracks to their working level and through their equalisers."""
        if not has_equaliser(values.track_N):
            trim_N11 = amplitude(values.track_N["trim_db"])[:, None, None]
            return self._tracks_NCT * trim_N11.to(self._tracks_NCT.dtype)
        impulse_NK = impulse_response(values.track_sections(), values.sample_rate_hz)
        impulse_NK = impulse_NK * amplitude(values.track_N["trim_db"])[:, None]
        num_samples, num_taps = self._tracks_NCT.shape[-1], impulse_NK.shape[-1]
        num_fft = next_fast_len(num_samples + num_taps - 1, real=True)
        if num_fft not in self._spectra:
            self._spectra[num_fft] = rfft(self._tracks_NCT, n=num_fft)
        filter_N1F = rfft(impulse_NK.to(self._tracks_NCT.dtype), n=num_fft)[:, None]
        return torch.fft.irfft(self._spectra[num_fft] * filter_N1F, n=num_fft)[..., :num_samples]

    def _placed(self, audio_NCT: Tensor, values: Values) -> Tensor:
        """Apply what is linear from the rooms to the equaliser of the master, at one go."""
        has_rooms = values.track_N["room.send_db"].requires_grad or bool(values.sends().any())
        is_equalised = has_equaliser(values.master_1)
        if not has_rooms and not is_equalised:
            return stereo_matrix(values).to(audio_NCT.dtype) @ audio_NCT
        rate_hz, num_samples = values.sample_rate_hz, audio_NCT.shape[-1]
        num_room_taps = round(self._room_s * rate_hz) if has_rooms else 0
        num_fft = next_fast_len(num_samples + num_room_taps + _MASTER_TAPS - 1, real=True)
        spectrum_NCF = rfft(audio_NCT, n=num_fft)

        def in_rooms(spectrum_NCF: Tensor, chosen: Values) -> Tensor:
            impulse_NCK = chosen.track_rooms().impulse_response(rate_hz, num_room_taps)
            impulse_NCK = impulse_NCK * chosen.sends()[:, None, None]
            room_NCF = rfft(impulse_NCK.to(audio_NCT.dtype), n=num_fft)
            return spectrum_NCF + spectrum_NCF.mean(dim=1, keepdim=True) * room_NCF

        matrix_NCC = stereo_matrix(values).to(spectrum_NCF.dtype)
        if values.rooms == "sends":
            spectrum_NCF = matrix_NCC @ spectrum_NCF
        spectrum_NCF = changed(spectrum_NCF, values, "room.send_db", OFF_DB, in_rooms)
        if values.rooms != "sends":
            spectrum_NCF = matrix_NCC @ spectrum_NCF
        if is_equalised:
            impulse_MK = impulse_response(values.master_sections(), rate_hz)[:, :_MASTER_TAPS]
            spectrum_MF = rfft(impulse_MK.to(audio_NCT.dtype), n=num_fft)
            spectrum_NCF = spectrum_NCF * _of_tracks(spectrum_MF, self._mix_N)[:, None]
        return torch.fft.irfft(spectrum_NCF, n=num_fft)[..., :num_samples]


# The equaliser of the master has no narrow low bells: it rings for less.
_MASTER_TAPS = 32_768


def has_equaliser(of: Mapping[str, Tensor]) -> bool:
    """Tell whether a band of the tracks, or of the master, does something or is looked for."""
    return not all(
        is_plain(of[name], neutral) for name, neutral in _EQ_NEUTRAL.items() if name in of
    )


def changed(
    signal_NCT: Tensor,
    values: Values,
    name: str,
    neutral: float,
    change: Callable[[Tensor, Values], Tensor],
) -> Tensor:
    """Change the tracks, or spectra, where a setting is not neutral, or all if it is looked for."""
    setting_N = values.track_N[name]
    is_on_N = torch.ones_like(setting_N, dtype=torch.bool)
    if not setting_N.requires_grad:
        is_on_N = setting_N != neutral
    places = is_on_N.nonzero()[:, 0]
    if len(places) == 0:
        return signal_NCT
    if len(places) == len(signal_NCT):
        return change(signal_NCT, values)
    return signal_NCT.index_copy(0, places, change(signal_NCT[places], values.taken(places)))


def _driven(audio_NCT: Tensor, values: Values) -> Tensor:
    return driven(audio_NCT, values.track_N["drive.drive_db"], values.track_N["drive.mix"])


def compressed(audio_NCT: Tensor, values: Values) -> Tensor:
    """Compress tracks, each by its own compressor."""
    gain_NT = values.compressors(values.track_N).gain(
        louder_channel(audio_NCT), values.sample_rate_hz
    )
    return audio_NCT * gain_NT[:, None].to(audio_NCT.dtype)


def controlled(audio_NCT: Tensor, values: Values, mix_N: Tensor | None = None) -> Tensor:
    """Apply the compressor of the master, which follows the sum of each mix, and its output."""
    if not is_plain(values.master_1["comp.slope"], 0.0):
        gain_MT = values.compressors(values.master_1).gain(
            louder_channel(_mixtures(audio_NCT, mix_N)), values.sample_rate_hz
        )
        audio_NCT = audio_NCT * _of_tracks(gain_MT, mix_N)[:, None].to(audio_NCT.dtype)
    output_N = _of_tracks(amplitude(values.master_1["output_db"]), mix_N)
    return audio_NCT * output_N[:, None, None].to(audio_NCT.dtype)


def _mixtures(audio_NCT: Tensor, mix_N: Tensor | None) -> Tensor:
    """Add up the tracks of each mix: mixture_MCT."""
    if mix_N is None:
        return audio_NCT.sum(dim=0, keepdim=True)
    mixture_MCT = audio_NCT.new_zeros(int(mix_N.max()) + 1, *audio_NCT.shape[1:])
    return mixture_MCT.index_add(0, mix_N, audio_NCT)


def _of_tracks(each_M: Tensor, mix_N: Tensor | None) -> Tensor:
    """Return for each track what belongs to its mix; what belongs to one mix is broadcast."""
    return each_M if mix_N is None else each_M[mix_N]
