"""Mixes for the training of a controller, made by the console on any device.

Shape suffixes: N track, S stem (in the order of `STEMS`), C channel, T sample, F frequency bin,
M frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.console.forward import mix_once
from mixprint.console.mixing import FITTED_ROOM_S, Console, Values
from mixprint.console.settings import Settings
from mixprint.controller.roles import stem_numbers
from mixprint.stems import NUM_STEMS, SAMPLE_RATE_HZ

_N_FFT, _HOP = 4096, 2048
# By how much a separator of medium quality blurs what it hears, and errs in the level of a stem.
_MAX_BLUR_BINS, _MAX_BLUR_FRAMES = 9, 5
_LEVEL_ERROR_DB = 4.0
_SILENT_POWER = 1e-12


@dataclass(frozen=True, eq=False)
class Mixing:
    """Tracks to be mixed.

    Attributes:
        tracks_NCT: dry tracks at 44.1 kHz, two channels each.
        settings: what is done to them.
    """

    tracks_NCT: Tensor
    settings: Settings


@torch.no_grad()
def mixed(
    mixings: Sequence[Mixing], device: torch.device, room_s: float = FITTED_ROOM_S
) -> list[Tensor]:
    """Mix songs of one length, on a GPU side by side.

    Args:
        mixings: any number.
        device: where they are mixed.
        room_s: how long rooms are heard.

    Returns:
        mixed_NCT of each, there: the tracks as they sound in the mix, which is their sum.
    """
    if device.type == "cpu":
        return [
            mix_once(mixing.tracks_NCT, Values.of(mixing.settings, SAMPLE_RATE_HZ), room_s)
            for mixing in mixings
        ]
    return mixed_together(mixings, device, room_s) if mixings else []


def mixed_together(
    mixings: Sequence[Mixing], device: torch.device, room_s: float = FITTED_ROOM_S
) -> list[Tensor]:
    """Mix songs side by side; see `mixed`."""
    counts = [len(mixing.tracks_NCT) for mixing in mixings]
    mix_N = torch.repeat_interleave(torch.tensor(counts)).to(device)
    values = Values.joined([Values.of(mixing.settings, SAMPLE_RATE_HZ) for mixing in mixings])
    tracks_NCT = torch.cat([mixing.tracks_NCT.to(device) for mixing in mixings])
    return list(Console(tracks_NCT, room_s, mix_N)(values.to(device)).split(counts))


def stem_sums(mixed_NCT: Tensor, roles: Sequence[str]) -> Tensor:
    """Add up the tracks of each stem: stems_SCT, silent where there is none."""
    stems_SCT = mixed_NCT.new_zeros(NUM_STEMS, *mixed_NCT.shape[1:])
    number_N = torch.tensor(stem_numbers(roles))
    return stems_SCT.index_add(0, number_N.to(mixed_NCT.device), mixed_NCT)


def separated_by_mask(stems_SCT: Tensor, generator: torch.Generator) -> Tensor:
    """Take a mix apart as a separator might, from its true stems, at next to no cost.

    The spectrum of the mix is shared out in the proportion of the powers that the stems have
    there, as by a Wiener filter, but known less well: blurred over frequency and time, and with
    errors of level, both drawn for each stem. So stems leak into each other, lose what others
    cover, and add up to the mix.

    Args:
        stems_SCT: true stems.
        generator: draws how good the separator is; on the CPU.

    Returns:
        stems_SCT of the same length.

    Source of the mask: Liutkus and Badeau, Generalized Wiener filtering with fractional power
    spectrograms, ICASSP 2015.
    """
    num_samples = stems_SCT.shape[-1]
    window_F = torch.hann_window(_N_FFT, device=stems_SCT.device)

    def spectra(audio_RT: Tensor) -> Tensor:
        return torch.stft(audio_RT, _N_FFT, _HOP, window=window_F, return_complex=True)

    spectrum_SCFM = spectra(stems_SCT.flatten(0, 1)).unflatten(0, stems_SCT.shape[:2])
    power_SFM = spectrum_SCFM.abs().square().sum(dim=1)
    drawn_S3 = torch.rand(NUM_STEMS, 3, generator=generator).tolist()
    blurred = []
    for power_FM, (bins, frames, error) in zip(power_SFM, drawn_S3, strict=True):
        half_bins, half_frames = (
            round(bins * _MAX_BLUR_BINS / 2),
            round(frames * _MAX_BLUR_FRAMES / 2),
        )
        blurred_FM = functional.avg_pool2d(
            power_FM[None],
            (2 * half_bins + 1, 2 * half_frames + 1),
            stride=1,
            padding=(half_bins, half_frames),
        )[0]
        blurred.append(blurred_FM * 10 ** (_LEVEL_ERROR_DB * (2 * error - 1) / 10))
    known_SFM = torch.stack(blurred) + _SILENT_POWER
    share_SFM = known_SFM / known_SFM.sum(dim=0)
    parts_SCFM = share_SFM[:, None] * spectrum_SCFM.sum(dim=0)
    audio_RT = torch.istft(
        parts_SCFM.flatten(0, 1), _N_FFT, _HOP, window=window_F, length=num_samples
    )
    return audio_RT.unflatten(0, stems_SCT.shape[:2])
