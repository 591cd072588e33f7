"""Waveforms and spectrograms of the songs of a transfer, side by side.

Shape suffixes: C channel, T sample, F frequency bin, K band, N frame.
"""

import io
import itertools
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mixprint.pages.colours import PALETTE

DPI = 100
FFT_SIZE = 4096
NUM_FRAMES = 320
NUM_BANDS = 96
LOWEST_HZ = 40.0
HIGHEST_HZ = 18_000.0
RANGE_DB = 80.0
NUM_WAVE_COLUMNS = 400
TICKS_HZ = (100, 1_000, 10_000)


def draw_songs(songs: Mapping[str, Tensor], sample_rate_hz: int) -> bytes:
    """Draw each song's waveform over its spectrogram.

    Levels are in dBFS per band and share one scale, so that colours compare.

    Args:
        songs: title -> audio_CT.
        sample_rate_hz: rate of all songs.

    Returns:
        a PNG.
    """
    figure = Figure(figsize=(3.2 * len(songs), 4.0), layout="constrained")
    # Full scale, and more only where a song exceeds it.
    peak = max(1.0, *(float(audio_CT.abs().max()) for audio_CT in songs.values()))
    axes = figure.subplots(
        2, len(songs), squeeze=False, sharex="col", sharey="row", height_ratios=(1, 2)
    )
    spectra = {title: _band_levels_db(song, sample_rate_hz) for title, song in songs.items()}
    highest_db = max(float(levels_KN.max()) for levels_KN in spectra.values())
    for column, (title, audio_CT) in enumerate(songs.items()):
        duration_s = audio_CT.shape[-1] / sample_rate_hz
        wave, picture = axes[0, column], axes[1, column]
        low_N, high_N = _envelope(audio_CT)
        time_N = np.linspace(0, duration_s, len(low_N))
        wave.fill_between(time_N, low_N, high_N, color=PALETTE[0], linewidth=0.3)
        wave.set_title(title)
        wave.set_ylim(-peak, peak)
        drawn = picture.imshow(
            spectra[title],
            origin="lower",
            aspect="auto",
            extent=(0, duration_s, 0, np.log2(HIGHEST_HZ / LOWEST_HZ)),
            vmin=highest_db - RANGE_DB,
            vmax=highest_db,
            cmap="magma",
            interpolation="nearest",
        )
        picture.set_yticks(
            [np.log2(hertz / LOWEST_HZ) for hertz in TICKS_HZ],
            [f"{hertz / 1000:g} kHz" if hertz >= 1000 else f"{hertz} Hz" for hertz in TICKS_HZ],
        )
        picture.set_xlabel("s")
    figure.colorbar(drawn, ax=axes[1, :], label="dBFS", fraction=0.03)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _envelope(audio_CT: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the lowest and the highest sample of the channels' mean, per column of the picture."""
    parts = np.array_split(audio_CT.mean(0).numpy(), min(NUM_WAVE_COLUMNS, audio_CT.shape[-1]))
    return np.array([part.min() for part in parts]), np.array([part.max() for part in parts])


def _band_levels_db(audio_CT: Tensor, sample_rate_hz: int) -> NDArray[np.float32]:
    """Measure the power in bands that are evenly spaced on a logarithmic axis.

    Returns:
        levels_KN in dBFS; a full-scale sine in both channels reads about 0.
    """
    hop_samples = max(1, audio_CT.shape[-1] // NUM_FRAMES)
    window_T = torch.hann_window(FFT_SIZE)
    spectrum_CFN = torch.stft(
        audio_CT, FFT_SIZE, hop_samples, window=window_T, pad_mode="constant", return_complex=True
    )
    power_FN = spectrum_CFN.abs().square().mean(0) * (2 / window_T.sum()) ** 2
    # A band takes the strongest of its bins, or the nearest one where bins are wider than bands.
    octaves = np.linspace(0, np.log2(HIGHEST_HZ / LOWEST_HZ), NUM_BANDS + 1)
    edges = LOWEST_HZ * 2**octaves * FFT_SIZE / sample_rate_hz
    bands = [
        power_FN[round(low) : max(round(low) + 1, round(high))].amax(0)
        for low, high in itertools.pairwise(edges)
    ]
    levels_KN = 10 * torch.log10(torch.stack(bands).clamp_min(1e-12))
    return levels_KN.numpy().astype(np.float32)
