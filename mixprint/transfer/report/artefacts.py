"""Artefacts of a transfer: what no engineer's faders and equalisers would have done.

Shape suffixes: S stem, C channel, T sample, N tap or frame.
"""

import math
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from torch import Tensor

from mixprint.stems import STEMS
from mixprint.transfer.style import SILENT_STEM_DBFS

Array = NDArray[np.float64]

# As long as the console's equaliser, so that this can be re-created.
NULL_TAPS = 4095
# The filter and the channels' matrix are solved for in turn.
NULL_ROUNDS = 2
# Keeps the equations solvable where a stem has no energy at all (above a codec's low-pass).
RIDGE = 1e-9
# Frames of 93 ms, of which the input's below this level are silence: noise floors lie below it,
# the quietest notes above.
SILENCE_FRAME_SAMPLES = 4096
SILENCE_DBFS = -70.0
FLOOR_POWER = 1e-12


def count_clipped(audio_CT: Tensor) -> int:
    """Count the samples at or beyond full scale."""
    return int((audio_CT.abs() >= 1).sum())


class Silence:
    """Level of the output where the input is silent, both handed over block by block."""

    def __init__(self) -> None:
        self._num_frames = self._num_silent = 0
        self._input_power = self._output_power = 0.0

    def add(self, input_CT: Tensor, output_CT: Tensor) -> None:
        """Take the next block, of whole frames; what is left of the last one does not count."""
        input_N, output_N = (_frame_powers(audio_CT) for audio_CT in (input_CT, output_CT))
        is_silent_N = input_N < 10 ** (SILENCE_DBFS / 10)
        self._num_frames += len(is_silent_N)
        self._num_silent += int(is_silent_N.sum())
        self._input_power += float(input_N[is_silent_N].sum())
        self._output_power += float(output_N[is_silent_N].sum())

    def values(self) -> dict[str, float | None]:
        """Return what metrics.json says of it.

        Returns:
            `share` of the input's frames that are silent (see `SILENCE_DBFS`), `input_dbfs` and
            `output_dbfs`, the mean levels there (floor: -120), and `rise_db`, their difference;
            None where the input has no silence.
        """
        share = self._num_silent / max(self._num_frames, 1)
        if self._num_silent == 0:
            return {"share": share, "input_dbfs": None, "output_dbfs": None, "rise_db": None}
        input_dbfs, output_dbfs = (
            10 * math.log10(max(power / self._num_silent, FLOOR_POWER))
            for power in (self._input_power, self._output_power)
        )
        return {
            "share": share,
            "input_dbfs": input_dbfs,
            "output_dbfs": output_dbfs,
            "rise_db": output_dbfs - input_dbfs,
        }


def _frame_powers(audio_CT: Tensor) -> Tensor:
    """Return the mean power of each whole frame."""
    num_frames = audio_CT.shape[-1] // SILENCE_FRAME_SAMPLES
    framed = audio_CT[:, : num_frames * SILENCE_FRAME_SAMPLES].double()
    return framed.unflatten(-1, (num_frames, SILENCE_FRAME_SAMPLES)).square().mean((0, 2))


def linear_null(input_SCT: Tensor, output_SCT: Tensor) -> dict[str, float | None]:
    """Tell how far each stem is from a linear-phase filter and fixed faders.

    Per stem the best symmetric filter and the best 2x2 matrix of the channels are sought, by least
    squares. What they leave is what dynamics, distortion, phase and time smearing made.

    Args:
        input_SCT: the stems of a segment, longer than the filter.
        output_SCT: what the transfer made of them.

    Returns:
        stem -> power of the rest relative to the output in dB, at least -120; None where the stem
        is silent.
    """
    found: dict[str, float | None] = {}
    for stem, input_CT, output_CT in zip(STEMS, input_SCT, output_SCT, strict=True):
        x_CT: Array = input_CT.double().cpu().numpy()
        y_CT: Array = output_CT.double().cpu().numpy()
        quiet = 10 ** (SILENT_STEM_DBFS / 10)
        is_silent = min(float(np.mean(x_CT**2)), float(np.mean(y_CT**2))) <= quiet
        found[stem] = None if is_silent else _null_db(x_CT, y_CT)
    return found


def _null_db(x_CT: Array, y_CT: Array) -> float:
    """Fit filter and matrix in turn; give the rest in dB."""
    half = NULL_TAPS // 2
    # The first and last half filter see what lies outside, which is not known.
    inner = slice(half, -half)
    filtered_CT = x_CT
    for _ in range(NULL_ROUNDS):
        matrix_CC = _matrix(filtered_CT[:, inner], y_CT[:, inner])
        taps_N = _symmetric_filter(matrix_CC @ x_CT, y_CT)
        filtered_CT = _filtered(x_CT, taps_N)
    matrix_CC = _matrix(filtered_CT[:, inner], y_CT[:, inner])
    rest_CT = (y_CT - matrix_CC @ filtered_CT)[:, inner]
    output_power = float(np.mean(y_CT[:, inner] ** 2))
    ratio = float(np.mean(rest_CT**2)) / max(output_power, FLOOR_POWER)
    return 10 * math.log10(max(ratio, FLOOR_POWER))


def _matrix(x_CT: Array, y_CT: Array) -> Array:
    """Solve y = matrix x; a mono stem leaves it undetermined, and the smallest one is taken."""
    solution_CC = np.linalg.lstsq(x_CT @ x_CT.T, x_CT @ y_CT.T, rcond=1e-9)[0]
    return solution_CC.T.astype(np.float64)


def _symmetric_filter(x_CT: Array, y_CT: Array) -> Array:
    """Solve for the symmetric filter h with h * x = y in all channels, by the normal equations.

    Their matrix, the autocorrelation of x, reads the same backwards. So the best symmetric filter
    is the best of all filters for the symmetric part of the cross-correlation.
    """
    half = NULL_TAPS // 2
    length = scipy.fft.next_fast_len(x_CT.shape[1] + NULL_TAPS, real=True)
    x_CF, y_CF = np.fft.rfft(x_CT, n=length), np.fft.rfft(y_CT, n=length)
    auto_T = np.fft.irfft((np.abs(x_CF) ** 2).sum(0), n=length)
    cross_T = np.fft.irfft((np.conj(x_CF) * y_CF).sum(0), n=length)
    column_N = auto_T[:NULL_TAPS].copy()
    column_N[0] *= 1 + RIDGE
    wanted_N = np.roll(cross_T, half)[:NULL_TAPS]
    taps_N: Array = scipy.linalg.solve_toeplitz(column_N, (wanted_N + wanted_N[::-1]) / 2)
    return taps_N


def _filtered(x_CT: Array, taps_N: Array) -> Array:
    """Convolve without delay and without change of length."""
    half = len(taps_N) // 2
    length = scipy.fft.next_fast_len(x_CT.shape[1] + len(taps_N), real=True)
    spectrum_CF = np.fft.rfft(x_CT, n=length) * np.fft.rfft(taps_N, n=length)
    out_CT: Array = np.fft.irfft(spectrum_CF, n=length)[:, half : half + x_CT.shape[1]]
    return out_CT


def artefacts(
    input_SCT: Tensor,
    output_SCT: Tensor,
    *,
    num_clipped: int,
    in_silence: dict[str, float | None],
    tcn_residual_db: float | None,
) -> dict[str, Any]:
    """Gather what metrics.json holds under `artefacts`.

    Args:
        input_SCT: the stems of a segment that the fit heard.
        output_SCT: what the effect made of them.
        num_clipped: see `count_clipped`, of the whole output.
        in_silence: see `Silence`, of the whole output.
        tcn_residual_db: see `TransferResult`.
    """
    return {
        "clipped_samples": num_clipped,
        "silence": in_silence,
        "linear_null_db": linear_null(input_SCT, output_SCT),
        "tcn_residual_db": tcn_residual_db,
    }
