"""Levels of tracks in a mix, found from spectrograms alone: where taking it apart begins.

In each band and moment the power of the mix is about the sum of those of the tracks, each with a
gain, whatever their phases, which equalisers, rooms and compressors turn. The gains are those that
bring the levels nearest, in dB. They give faders, tones and cuts; the pans follow from least
squares of the spectra.

Shape suffixes: N track, C channel, T sample, F frequency bin, K band, M frame, B band of the tone,
Q candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mixprint.console.bands import tone_names
from mixprint.console.excerpts import FramePower
from mixprint.console.schema import TRACK_FIELDS
from mixprint.console.settings import Settings

# To this level tracks are brought, so that thresholds mean the same for all.
WORKING_DBFS = -20.0
_LEVEL_S = 0.4
_SILENT_DBFS, _GATE_DB = -70.0, -10.0
# Of spectrograms by thirds of octaves: samples of a window, and the middles of the bands.
BANDS_WINDOW = 4096
BANDS_HZ = tuple(25.0 * 2 ** (third / 3) for third in range(29))
# As the bands of the equaliser that begin there.
_TONE_HZ = (80.0, 250.0, 1_200.0, 4_000.0, 10_000.0)
_TONE_WEIGHT = 0.01
_NUM_STEPS, _NUM_CUT_STEPS = 300, 100
_LEARNING_RATE_DB = 0.5
_HEARD_POWER = 1e-6
_RIDGE = 1e-3
# Cuts that are tried. One is on where it brings the levels nearer by this part.
_HIGHPASS_HZ = (35.0, 50.0, 70.0, 100.0, 140.0, 200.0, 280.0)
_LOWPASS_HZ = (15_000.0, 11_000.0, 8_000.0, 5_500.0, 4_000.0)
_CUT_GAIN = 0.01


def working_trim_db(tracks_NCT: Tensor, sample_rate_hz: int) -> list[float]:
    """Return what brings tracks to the level at which thresholds mean the same for all.

    That is `WORKING_DBFS`, of the moments that are not much quieter than the others; a track that
    is silent throughout stays.
    """
    levels = WorkingLevels(sample_rate_hz)
    levels.add(tracks_NCT)
    return levels.trims_db()


class WorkingLevels:
    """Levels of tracks that come in blocks; see `working_trim_db`."""

    def __init__(self, sample_rate_hz: int) -> None:
        """Start at the beginning of the song."""
        self._power = FramePower(round(_LEVEL_S * sample_rate_hz))

    def add(self, block_NCT: Tensor) -> None:
        """Take the next block, of any length."""
        self._power.add(block_NCT)

    def trims_db(self) -> list[float]:
        """Return the trims of what was added; a rest counts where there is nothing else."""
        power_NM, rest_NCT = self._power.power(), self._power.rest_NCT
        if power_NM.shape[-1] == 0:
            assert rest_NCT is not None, "a block was added"
            power_NM = rest_NCT.square().mean(dim=(1, 2))[:, None]
        trims = []
        for power_M in power_NM.double():
            heard_M = power_M[power_M > 10 ** (_SILENT_DBFS / 10)]
            if len(heard_M) == 0:
                trims.append(0.0)
                continue
            gated_M = heard_M[heard_M >= 10 ** (_GATE_DB / 10) * heard_M.mean()]
            trims.append(WORKING_DBFS - 10 * math.log10(float(gated_M.mean())))
        return trims


def begin(tracks_NCT: Tensor, mix_CT: Tensor, names: Sequence[str], rate_hz: int) -> Settings:
    """Find trims, faders, pans, tones and cuts, and leave all else neutral.

    Args:
        tracks_NCT: the dry tracks, two channels, full scale at +-1.
        mix_CT: the mix, aligned with them.
        names: of the tracks.
        rate_hz: of both.
    """
    trims = working_trim_db(tracks_NCT, rate_hz)
    levels = _Levels(tracks_NCT, mix_CT, rate_hz)
    pan_N = _pans(tracks_NCT, mix_CT)
    # The pan turns one side down: what both together have lost is made up for.
    fader_N = levels.fader_N - 10 * torch.log10((1 + (1 - pan_N.abs()).square()) / 2)
    neutral = Settings.neutral(names)
    changes: dict[str, float] = {}
    for place, (name, trim_db) in enumerate(zip(names, trims, strict=True)):
        strip, fader_db = neutral.tracks[name], float(fader_N[place]) - trim_db
        changes |= {
            f"{name}.trim_db": strip.field("trim_db").held(trim_db),
            f"{name}.fader_db": strip.field("fader_db").held(fader_db),
            f"{name}.pan": float(pan_N[place]),
        }
        tone_B = levels.tone_NB[place].clamp(-12.0, 12.0).tolist()
        for band, gain_db in zip(tone_names(TRACK_FIELDS), tone_B, strict=True):
            changes[f"{name}.{band}.gain_db"] = gain_db
        changes |= {f"{name}.{cut}": freq_hz for cut, freq_hz in levels.cuts[place].items()}
    return replace(neutral, sample_rate_hz=rate_hz).edit(changes)


class _Levels:
    """Gain of each track in each band.

    Attributes:
        fader_N: of all bands, in dB.
        tone_NB: how much more or less there is around `_TONE_HZ`, in dB.
        cuts: setting -> frequency, of each track.
    """

    def __init__(self, tracks_NCT: Tensor, mix_CT: Tensor, rate_hz: int) -> None:
        self._power_NKM = band_powers(tracks_NCT, rate_hz)
        (wanted_KM,) = band_powers(mix_CT[None], rate_hz)
        self._floor = _HEARD_POWER * float(wanted_KM.max())
        self._wanted_KM = 10 * torch.log10(wanted_KM + self._floor)
        octave_K1 = torch.tensor(BANDS_HZ).log2()[:, None]
        self._spread_KB = torch.softmax(-((octave_K1 - torch.tensor(_TONE_HZ).log2()) ** 2), dim=1)
        num_tracks = len(tracks_NCT)
        self._cut_NK = torch.zeros(num_tracks, len(BANDS_HZ))
        self.cuts: list[dict[str, float]] = [{} for _ in range(num_tracks)]
        self.fader_N = torch.zeros(num_tracks)
        self.tone_NB = torch.zeros(num_tracks, len(_TONE_HZ))
        self._fit()
        if self._find_cuts():
            self._fit()

    def _gain_db(self, fader: Tensor, tone_B: Tensor, cut_K: Tensor) -> Tensor:
        return fader[..., None] + tone_B @ self._spread_KB.T + cut_K

    def _fit(self) -> None:
        """Find the gains of all tracks, from where they are."""
        fader_N, tone_NB = self.fader_N.requires_grad_(), self.tone_NB.requires_grad_()
        optimiser = torch.optim.Adam([fader_N, tone_NB], lr=_LEARNING_RATE_DB)
        for _ in range(_NUM_STEPS):
            gain_NK = self._gain_db(fader_N, tone_NB, self._cut_NK)
            found_KM = (self._power_NKM * _power(gain_NK)[..., None]).sum(dim=0)
            error = self._error(found_KM) + _TONE_WEIGHT * tone_NB.square().mean()
            optimiser.zero_grad(set_to_none=True)
            error.backward()
            optimiser.step()
        self.fader_N, self.tone_NB = fader_N.detach(), tone_NB.detach()

    def _error(self, found_KM: Tensor) -> Tensor:
        """Return the mean distance of levels in dB, of each candidate."""
        found_KM = 10 * torch.log10(found_KM + self._floor)
        return (found_KM - self._wanted_KM).abs().mean(dim=(-2, -1))

    def _find_cuts(self) -> bool:
        """Try a high-pass and a low-pass for each track, and tell whether one is on."""
        for place in range(len(self._power_NKM)):
            for name, freqs_hz in (
                ("eq.highpass_hz", _HIGHPASS_HZ),
                ("eq.lowpass_hz", _LOWPASS_HZ),
            ):
                self._try_cut(place, name, freqs_hz)
        return any(self.cuts)

    def _try_cut(self, place: int, name: str, freqs_hz: Sequence[float]) -> None:
        """Take the frequency that brings the levels nearest, if it does by enough."""
        gain_NK = self._gain_db(self.fader_N, self.tone_NB, self._cut_NK)
        all_NKM = self._power_NKM * _power(gain_NK)[..., None]
        rest_KM = all_NKM.sum(dim=0) - all_NKM[place]
        ratio_QK = torch.tensor(freqs_hz)[:, None] / torch.tensor(BANDS_HZ)
        # Butterworth, second order; the first candidate is none.
        order = 4 if name == "eq.highpass_hz" else -4
        cut_QK = self._cut_NK[place] - 10 * torch.log10(1 + ratio_QK**order)
        cut_QK = torch.cat([self._cut_NK[place][None], cut_QK])
        fader_Q = self.fader_N[place].repeat(len(cut_QK)).requires_grad_()
        tone_QB = self.tone_NB[place].repeat(len(cut_QK), 1).requires_grad_()
        optimiser = torch.optim.Adam([fader_Q, tone_QB], lr=_LEARNING_RATE_DB / 2)
        for _ in range(_NUM_CUT_STEPS):
            gain_QK = self._gain_db(fader_Q, tone_QB, cut_QK)
            found_QKM = rest_KM + self._power_NKM[place] * _power(gain_QK)[..., None]
            error_Q = self._error(found_QKM)
            penalty_Q = _TONE_WEIGHT * tone_QB.square().mean(dim=-1)
            optimiser.zero_grad(set_to_none=True)
            (error_Q + penalty_Q).sum().backward()
            optimiser.step()
        error_Q = error_Q.detach()
        best = int(error_Q.argmin())
        if float(error_Q[best]) < (1 - _CUT_GAIN) * float(error_Q[0]):
            self.cuts[place][name] = freqs_hz[best - 1]
            self._cut_NK[place] = cut_QK[best]
            self.fader_N[place] = fader_Q[best].detach()
            self.tone_NB[place] = tone_QB[best].detach()


def _power(level_db: Tensor) -> Tensor:
    return torch.pow(10.0, level_db / 10)


def band_powers(audio_NCT: Tensor, rate_hz: int) -> Tensor:
    """Return power_NKM in thirds of octaves around `BANDS_HZ`, of both channels together.

    Args:
        audio_NCT: `BANDS_WINDOW` samples or longer.
        rate_hz: its sample rate; bands above half of it hold nothing.
    """
    window_S = torch.hann_window(BANDS_WINDOW)
    spectrum_RFM = torch.stft(
        audio_NCT.flatten(0, 1),
        BANDS_WINDOW,
        BANDS_WINDOW // 4,
        window=window_S,
        return_complex=True,
    )
    power_NFM = spectrum_RFM.abs().square().unflatten(0, audio_NCT.shape[:2]).sum(dim=1)
    bands = third_bins(BANDS_HZ, rate_hz, BANDS_WINDOW)
    return torch.stack([power_NFM[:, band].sum(dim=1) for band in bands], dim=1)


def third_bins(middles_hz: Sequence[float], rate_hz: int, num_fft: int) -> list[slice]:
    """Return the bins of thirds of octaves, at least one for each.

    Args:
        middles_hz: of the thirds.
        rate_hz: sample rate of the audio.
        num_fft: length of the transform.
    """
    edges = [
        [round(hz * 2 ** (half / 6) / rate_hz * num_fft) for half in (-1, 1)] for hz in middles_hz
    ]
    return [slice(low, max(high, low + 1)) for low, high in edges]


def _pans(tracks_NCT: Tensor, mix_CT: Tensor) -> Tensor:
    """Find the pans: least squares of the mix's channels by those of the tracks, in each bin."""
    window_S = torch.hann_window(BANDS_WINDOW)

    def spectra(audio_RT: Tensor) -> Tensor:
        return torch.stft(
            audio_RT, BANDS_WINDOW, BANDS_WINDOW // 2, window=window_S, return_complex=True
        )

    sides = []
    energy_NF = torch.zeros(len(tracks_NCT), BANDS_WINDOW // 2 + 1)
    for channel in (0, 1):
        parts_NFM = spectra(tracks_NCT[:, channel])
        factor_FN = _least_squares(parts_NFM.permute(1, 2, 0), spectra(mix_CT[channel]))
        energy_NF = energy_NF + parts_NFM.abs().square().sum(dim=-1)
        sides.append(factor_FN.T)
    left_N, right_N = (
        ((side_NF * energy_NF).sum(dim=1) / energy_NF.sum(dim=1).clamp_min(1e-30)).clamp_min(1e-6)
        for side_NF in sides
    )
    return torch.where(left_N > right_N, right_N / left_N - 1, 1 - left_N / right_N)


def _least_squares(parts_FMN: Tensor, whole_FM: Tensor) -> Tensor:
    """Solve whole = parts @ factor in each bin: the real part of factor_FN, slightly held to 0."""
    gram_FNN = parts_FMN.mH @ parts_FMN
    diagonal_FN = gram_FNN.diagonal(dim1=-2, dim2=-1).real
    ridge_F1 = _RIDGE * diagonal_FN.mean(dim=-1, keepdim=True) + 1e-12
    gram_FNN = gram_FNN + torch.diag_embed(ridge_F1.expand_as(diagonal_FN).to(gram_FNN.dtype))
    return torch.linalg.solve(gram_FNN, parts_FMN.mH @ whole_FM[..., None])[..., 0].real
