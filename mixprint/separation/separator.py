"""Separation of audio of any length: windows, batches, overlap-add.

Shape suffixes: B window of a batch, S stem, C channel, T sample.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mixprint.separation.scnet import SCNet
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ, STEMS

log = logging.getLogger("mixprint.separation")

DEFAULT_OVERLAP = 0.25


class Separator:
    """A trained network and what is needed to run it over songs."""

    def __init__(
        self,
        model: SCNet,
        *,
        fingerprint: Mapping[str, Any],
        window_s: float,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
    ) -> None:
        """Take the network in evaluation mode, on the device it is on.

        Args:
            model: the network.
            fingerprint: what tells it from others: `model` and `checkpoint_sha256`.
            window_s: window that suits it, usually that of its training.
            sample_rate_hz: rate that it was trained at.
        """
        self.model = model.eval()
        self.fingerprint = dict(fingerprint)
        self.window_s = window_s
        self.sample_rate_hz = sample_rate_hz
        # The network's order of stems becomes ours here and nowhere else.
        self._order = [model.config.sources.index(stem) for stem in STEMS]

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.model.stft_window.device

    def separate(
        self,
        audio_CT: Tensor,
        *,
        window_s: float | None = None,
        overlap: float = DEFAULT_OVERLAP,
        batch_size: int = 1,
    ) -> Tensor:
        """Separate audio into its stems.

        Args:
            audio_CT: stereo at `sample_rate_hz`, full scale at +-1, of any length above 0.
            window_s: what the network sees at once; the one that suits it when None.
            overlap: part of a window that it shares with the next, 0 up to but not including 1.
            batch_size: windows per run of the network. It changes speed and memory, not the
                result beyond rounding.

        Returns:
            stems_SCT in the order of `STEMS`, on the CPU, as long as the audio and aligned with
            it to the sample. Levels are as the network gives them.

        Raises:
            ValueError: the audio is not stereo or empty, or a parameter is out of range.
        """
        if audio_CT.ndim != 2 or audio_CT.shape[0] != NUM_CHANNELS or audio_CT.shape[1] == 0:
            raise ValueError(
                f"audio_CT must be ({NUM_CHANNELS}, T) with T > 0, got {tuple(audio_CT.shape)}"
            )
        window_s = self.window_s if window_s is None else window_s
        if window_s <= 0 or not 0 <= overlap < 1 or batch_size < 1:
            raise ValueError(
                "expected window_s > 0, overlap in [0, 1) and batch_size >= 1, got "
                f"{window_s}, {overlap} and {batch_size}"
            )
        total = audio_CT.shape[1]
        window = max(round(window_s * self.sample_rate_hz), 1)
        starts = window_starts(total, window, overlap)
        window = min(window, total)
        stems_SCT = torch.zeros(len(STEMS), *audio_CT.shape)
        weight_T = torch.zeros(total)
        for start, estimate_SCT in self._windows(audio_CT, starts, window, batch_size):
            fade_T = window_fade(
                window,
                round(window * overlap),
                first=start == starts[0],
                last=start == starts[-1],
            )
            stems_SCT[..., start : start + window].addcmul_(estimate_SCT, fade_T)
            weight_T[start : start + window] += fade_T
        return stems_SCT.div_(weight_T)

    def _windows(
        self, audio_CT: Tensor, starts: list[int], window: int, batch_size: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Run the network and give back each window's start and stems, in our order."""
        device = self.device
        for first in range(0, len(starts), batch_size):
            members = starts[first : first + batch_size]
            audio_BCT = torch.stack([audio_CT[:, s : s + window] for s in members])
            with torch.inference_mode():
                stems_BSCT = self.model(audio_BCT.to(device, torch.float32)).cpu()
            log.debug("separated windows %d/%d", first + len(members), len(starts))
            for start, stems_SCT in zip(members, stems_BSCT, strict=True):
                yield start, stems_SCT[self._order]


def window_starts(total: int, window: int, overlap: float) -> list[int]:
    """Place windows over audio.

    Args:
        total: samples of the audio.
        window: samples of a window.
        overlap: part of a window that it shares with the next.

    Returns:
        first sample of each window. All are whole: the last one ends with the audio and so may
        share more with its predecessor. One window when the audio is no longer than that.
    """
    if total <= window:
        return [0]
    hop = max(window - round(window * overlap), 1)
    num_more = math.ceil((total - window) / hop)
    return [min(index * hop, total - window) for index in range(num_more + 1)]


def window_fade(window: int, fade: int, *, first: bool, last: bool) -> Tensor:
    """Weight a window's samples for the overlap-add.

    Args:
        window: samples of the window.
        fade: samples that the weight rises at the start, and falls at the end.
        first: the window begins the audio: it does not fade in.
        last: the window ends the audio: it does not fade out.

    Returns:
        fade_T, above 0 everywhere, so that a division by the sum of weights is safe.
    """
    ramp_T = (torch.arange(fade) + 1) / (fade + 1)
    fade_T = torch.ones(window)
    if not first:
        fade_T[:fade] *= ramp_T
    if not last:
        fade_T[window - fade :] *= ramp_T.flip(0)
    return fade_T
