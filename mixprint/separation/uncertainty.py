"""Map of how far the samples of a diffusion separator differ, over time and frequency.

Where they agree, the mixture leaves no choice; where they differ, several instrumentals fit it.
The map is coarse: four minutes take a MB of memory and a quarter of one in the file.

Shape suffixes: Q quantity (see `QUANTITIES`), B window of a batch, C channel, F frequency row,
N frame, L cell along time, K band.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mixprint.separation.diffusion.model import VOCALS
from mixprint.separation.diffusion.separator import INSTRUMENTAL, DiffusionSeparator, Drawn
from mixprint.separation.nulltest import FLOOR_DB, StemLevels, power_db
from mixprint.separation.source import diffusion_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mixprint.separation.separator import Separator

NAME = "uncertainty"
DEVIATION = "deviation"
QUANTITIES = ("mixture", INSTRUMENTAL, VOCALS, DEVIATION)
CELL_S = 0.25
# Equally wide in octaves, as far as the rows of the STFT allow in the bass.
MOST_BANDS = 32
LEAST_DB = -120.0  # of what is written
# Of the figure.
RANGE_DB = 80.0
TICKS_HZ = (100, 300, 1_000, 3_000, 10_000)
DPI = 110


class UncertaintyMap:
    """Power of mixture, instrumental and vocals, and variance across samples, in cells."""

    def __init__(self, network: DiffusionSeparator) -> None:
        """Begin a song.

        Args:
            network: draws several samples.
        """
        blocks = network.denoiser.config.blocks
        self._frames_per_cell = max(round(CELL_S * network.sample_rate_hz / blocks.hop_size), 1)
        self._cell_s = self._frames_per_cell * blocks.hop_size / network.sample_rate_hz
        edges = np.unique(np.geomspace(1, blocks.num_bins, MOST_BANDS + 1).round().astype(int))
        edges[0] = 0
        self._edges_hz = edges * network.sample_rate_hz / blocks.nfft
        self._bands_KF = torch.zeros(len(edges) - 1, blocks.num_bins)
        for band, (low, high) in enumerate(pairwise(edges)):
            self._bands_KF[band, low:high] = 1 / (high - low)
        self._sum_LQK = np.zeros((0, len(QUANTITIES), len(edges) - 1))
        self._frames_L = np.zeros(0)

    def add(self, drawn: Drawn) -> None:
        """Take windows in any order; cells are means, so one that comes twice is no louder."""
        assert drawn.variance_BCFN is not None
        vocals_BCFN = drawn.mixture_BCFN - drawn.mean_BCFN
        spectra = (drawn.mixture_BCFN, drawn.mean_BCFN, vocals_BCFN)
        powers = [*(x_BCFN.abs().square() for x_BCFN in spectra), drawn.variance_BCFN]
        power_QBFN = torch.stack(powers).mean(dim=2)[..., : drawn.num_frames]
        bands_KF = self._bands_KF.to(power_QBFN)
        power_BNQK = torch.einsum("kf,qbfn->bnqk", bands_KF, power_QBFN).double().cpu().numpy()
        frame_BN = drawn.first_frame_B.cpu().numpy()[:, None] + np.arange(power_BNQK.shape[1])
        cell_BN = frame_BN // self._frames_per_cell
        missing = max(int(cell_BN.max()) + 1 - len(self._frames_L), 0)
        self._sum_LQK = np.pad(self._sum_LQK, ((0, missing), (0, 0), (0, 0)))
        self._frames_L = np.pad(self._frames_L, (0, missing))
        np.add.at(self._sum_LQK, cell_BN.ravel(), power_BNQK.reshape(-1, *self._sum_LQK.shape[1:]))
        np.add.at(self._frames_L, cell_BN.ravel(), 1)

    def relative_db(self) -> dict[str, float]:
        """Return the variance relative to the power of vocals and instrumental, over all cells."""
        widths_K = np.diff(self._edges_hz)
        power = dict(zip(QUANTITIES, (self._mean() @ widths_K).sum(axis=0), strict=True))
        return {
            stem: _level_db(power[DEVIATION], power[stem]) if power[stem] else FLOOR_DB
            for stem in (VOCALS, INSTRUMENTAL)
        }

    def arrays(self) -> dict[str, Any]:
        """Return what is written.

        Returns:
            `time_s` and `frequency_hz`, the edges of the cells; and of each of `QUANTITIES`
            `<name>_db`, an array (time, frequency), in dB below the mixture in its loudest cell.
        """
        mean_LQK = self._mean()
        loudest = mean_LQK[:, 0].max(initial=0.0) or 1.0
        levels_LQK = 10 * np.log10(np.maximum(mean_LQK / loudest, 10 ** (LEAST_DB / 10)))
        time_s = self._cell_s * np.arange(len(mean_LQK) + 1)
        return {
            "time_s": time_s,
            "frequency_hz": self._edges_hz,
            **{
                f"{name}_db": levels_LQK[:, number].astype(np.float16)
                for number, name in enumerate(QUANTITIES)
            },
        }

    def write(self, folder: Path, *, title: str) -> list[Path]:
        """Write `uncertainty.npz` and a figure of it, `uncertainty.png`.

        Args:
            folder: receives them.
            title: of the figure.

        Returns:
            both files.
        """
        arrays = self.arrays()
        data, figure = folder / f"{NAME}.npz", folder / f"{NAME}.png"
        np.savez_compressed(data, **arrays)
        _draw(figure, arrays, title)
        return [data, figure]

    def _mean(self) -> "NDArray[np.float64]":
        return self._sum_LQK / np.maximum(self._frames_L, 1)[:, None, None]


@contextmanager
def watched_uncertainty(separator: "Separator") -> Iterator[UncertaintyMap | None]:
    """Map the uncertainty of the song that is separated meanwhile.

    Yields:
        the map; None for a separator that does not draw several samples.
    """
    network = diffusion_network(separator)
    if network is None or network.sampling.samples == 1:
        yield None
        return
    found = UncertaintyMap(network)
    network.on_drawn = found.add
    try:
        yield found
    finally:
        network.on_drawn = None


def start_notes(separator: "Separator", levels: Mapping[str, StemLevels]) -> Sequence[str]:
    """Say how much of its vocals a song's samples began with; nothing unless with the mixture.

    Args:
        separator: the separator.
        levels: of its stems.
    """
    network = diffusion_network(separator)
    if network is None or network.sampling.start != "mixture":
        return ()
    power = {stem: 10 ** (levels[stem].level_dbfs / 10) for stem in separator.stems}
    # Levels are compressed, and noise is added to what is compressed.
    share_db = network.denoiser.config.power * _level_db(power[VOCALS], sum(power.values()))
    snr_db = network.start_snr_db + share_db
    where = f"{abs(snr_db):.1f} dB {'above' if snr_db > 0 else 'below'} the noise"
    return (f"the samples began with the mixture, and so with its vocals, about {where}",)


def _level_db(power: float, reference: float) -> float:
    return max(power_db(power / reference), FLOOR_DB)


def _draw(path: Path, arrays: Mapping[str, Any], title: str) -> None:
    """Draw the quantities below each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2 * len(QUANTITIES)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(QUANTITIES), 1, sharex=True, squeeze=False)
    edges_hz, end_s = arrays["frequency_hz"], arrays["time_s"][-1]
    # Bands, not Hz, are equally high: one image, where cells drawn one by one would take a
    # long song much memory.
    ticks = {hz: np.interp(hz, edges_hz, np.arange(len(edges_hz))) for hz in TICKS_HZ}
    for name, (axes,) in zip(QUANTITIES, rows, strict=True):
        image = axes.imshow(
            arrays[f"{name}_db"].T.astype(np.float32),
            extent=(0.0, end_s, 0.0, len(edges_hz) - 1),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            vmin=-RANGE_DB,
            vmax=0.0,
            cmap="magma",
        )
        axes.set_yticks(list(ticks.values()), [f"{hz:g}" for hz in ticks])
        axes.set_ylabel("Hz")
        axes.set_title("deviation across the samples" if name == DEVIATION else name)
    axes.set_xlabel("s")
    figure.suptitle(title, parse_math=False)
    figure.colorbar(image, ax=rows[:, 0].tolist(), label="dB below the loudest of the mixture")
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
