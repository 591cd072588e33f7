"""Which stems of two songs a mix is made of, by least squares.

Shape suffixes: M source, T sample, F frequency row, N frame, O octave, K block.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

FRAME_SAMPLES, HOP_SAMPLES = 2048, 1024
BLOCK_FRAMES = 36  # about 1.5 s at 24 kHz
LOWEST_ROW = 8  # of the second band: 94 Hz at 24 kHz
# Of the mean power of the sources: a gain that says next to nothing of the mix stays small.
_RIDGE = 1e-4
REST = "rest"


def shares(mix_T: Tensor, sources: Mapping[str, Tensor]) -> dict[str, float]:
    """Explain a mix by sources, each with a complex gain per octave and block of 1.5 s.

    Args:
        mix_T: mono audio.
        sources: name -> source_T of the same length: stems of the songs that it may be made of.

    Returns:
        name -> power of this source in the mix as part of the powers of all of them and of what
        they do not explain, which is `REST`; all are 0 for a silent mix. Sources that cancel each
        other or play the same have no share of their own: it is what the smallest gains give.

    Raises:
        ValueError: lengths differ.
    """
    lengths = {name: len(source_T) for name, source_T in sources.items()}
    if any(length != len(mix_T) for length in lengths.values()):
        raise ValueError(f"expected sources of {len(mix_T)} samples, got {lengths}")
    sources_MT = torch.stack(list(sources.values())).double()
    mix_FN, sources_MFN = _spectrum(mix_T.double()), _spectrum(sources_MT)
    powers_M = sources_MT.new_zeros(len(sources))
    rest = 0.0
    for start in range(0, mix_FN.shape[1], BLOCK_FRAMES):
        for low, high in _octaves():
            block = (..., slice(low, high), slice(start, start + BLOCK_FRAMES))
            mix_X = mix_FN[block].flatten()
            sources_MX = sources_MFN[block].flatten(1)
            shared_MM = sources_MX.conj() @ sources_MX.T
            energy_M = shared_MM.diagonal().real
            ridge = _RIDGE * energy_M.mean() + torch.finfo(torch.float64).tiny
            identity_MM = torch.eye(len(sources), dtype=shared_MM.dtype)
            gain_M = torch.linalg.solve(shared_MM + ridge * identity_MM, sources_MX.conj() @ mix_X)
            powers_M += gain_M.abs().square() * energy_M
            rest += float((mix_X - gain_M @ sources_MX).abs().square().sum())
    total = float(powers_M.sum()) + rest
    found = {name: float(power) for name, power in zip(sources, powers_M, strict=True)}
    return {name: power / total if total else 0.0 for name, power in {**found, REST: rest}.items()}


def _octaves() -> list[tuple[int, int]]:
    edges, top = [0, LOWEST_ROW], FRAME_SAMPLES // 2 + 1
    while 2 * edges[-1] < top:
        edges.append(2 * edges[-1])
    edges[-1] = top
    return list(pairwise(edges))


def _spectrum(audio: Tensor) -> Tensor:
    window_T = torch.hann_window(FRAME_SAMPLES, dtype=audio.dtype)
    return torch.stft(audio, FRAME_SAMPLES, HOP_SAMPLES, window=window_T, return_complex=True)
