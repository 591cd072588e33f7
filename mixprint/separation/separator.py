"""Separation of audio of any length: windows, batches, overlap-add.

Shape suffixes: B window of a batch, S stem, C channel, T sample.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.audio.files import stream_audio
from mixprint.errors import ConfigError
from mixprint.separation.network import Network, Windows
from mixprint.separation.runner import PRECISIONS, Run, Runner
from mixprint.stems import NUM_CHANNELS, STEMS

log = logging.getLogger("mixprint.separation")

DEFAULT_OVERLAP = 0.25
BLOCK_SAMPLES = 1 << 18  # of audio in memory, handed to `stream` at a time


class Separator:
    """A trained network and what is needed to run it over songs."""

    def __init__(self, network: Network, *, precision: str = "float32") -> None:
        """Take a network on the device it is on.

        Args:
            network: of any kind.
            precision: see the property.

        Raises:
            ConfigError: the precision is not known.
        """
        self.network = network
        self.precision = precision
        self._compiled: Windows | None = None
        # Window, batch size that was asked for, precision -> the batch size that was run.
        self._batch_sizes: dict[tuple[int, int, str], int] = {}
        # The network's order of stems becomes ours here and nowhere else.
        self._order = [network.stems.index(stem) for stem in self.stems]

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of what it gives: `STEMS`, unless the network has others."""
        given = tuple(self.network.stems)
        return STEMS if set(STEMS) <= set(given) else given

    @property
    def device(self) -> torch.device:
        """Place of the network."""
        return self.network.device

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio that it takes."""
        return self.network.sample_rate_hz

    @property
    def window_s(self) -> float:
        """Window that suits the network."""
        return self.network.window_s

    @property
    def normalised(self) -> bool:
        """Trained on songs of level 1, which it is shown; see `song_level`."""
        return self.network.normalised

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The network's, which tells it from others."""
        return dict(self.network.fingerprint)

    @property
    def precision(self) -> str:
        """Arithmetic of the network: `float32`, or `bfloat16` or `float16` for autocast.

        Below float32 the convolutions, LSTMs and linear layers are computed in that type. The STFT
        and its inverse, the residuals and norms of the dual paths and the transform along time
        stay in float32. bfloat16 pays on a CPU with AVX-512 BF16 too; float16 is for GPUs.
        """
        return self._precision

    @precision.setter
    def precision(self, name: str) -> None:
        if name not in PRECISIONS:
            raise ConfigError(f"precision: expected one of {list(PRECISIONS)}, found {name!r}")
        self._precision = name

    @property
    def compiled(self) -> bool:
        """Use of `torch.compile`, on a GPU of a CUDA graph.

        To be set when the network is on its device; setting it raises `ConfigError` where torch
        cannot compile. The first batch then takes minutes. Batches are full, a song's last one
        filled up with silence, and the batch size stays as it was found for the first song; what
        is shorter than a window runs uncompiled. The result does not change beyond rounding.
        """
        return self._compiled is not None

    @compiled.setter
    def compiled(self, wanted: bool) -> None:
        if wanted != self.compiled:
            self._compiled = self.network.compiled() if wanted else None
            self._batch_sizes.clear()

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
                result beyond rounding. 0 lets a GPU's memory decide, and is 1 on a CPU, where
                batches gain nothing. Where a GPU's memory does not suffice it is halved, with a
                warning.

        Returns:
            stems_SCT in the order of `stems`, on the CPU, as long as the audio and aligned with
            it to the sample. Levels are as the network gives them.

        Raises:
            ValueError: the audio is not stereo or empty, or a parameter is out of range.
            torch.OutOfMemoryError: a GPU's memory does not hold a single window.
        """
        if audio_CT.ndim != 2 or audio_CT.shape[0] != NUM_CHANNELS or audio_CT.shape[1] == 0:
            raise ValueError(
                f"audio_CT must be ({NUM_CHANNELS}, T) with T > 0, got {tuple(audio_CT.shape)}"
            )
        pieces = self.stream(
            audio_CT.split(BLOCK_SAMPLES, dim=1),
            window_s=window_s,
            overlap=overlap,
            batch_size=batch_size,
            level=song_level([audio_CT]) if self.normalised else None,
        )
        stems_SCT = torch.empty(len(self.stems), *audio_CT.shape)
        position = 0
        for _, piece_SCT in pieces:
            stems_SCT[..., position : position + piece_SCT.shape[-1]] = piece_SCT
            position += piece_SCT.shape[-1]
        return stems_SCT

    def stream(
        self,
        blocks: Iterable[Tensor],
        *,
        window_s: float | None = None,
        overlap: float = DEFAULT_OVERLAP,
        batch_size: int = 1,
        level: float | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Separate audio that comes in blocks; give back what is finished as it is finished.

        Windows begin every `1 - overlap` of a window, and the last one ends with the audio. Only
        the first does not fade in and only the last does not fade out. Neither the lengths of
        the blocks nor the batch size change the result beyond rounding. What is held does not
        grow with the audio: the windows of a batch (on a GPU, of two, for one is prepared while
        the other is computed), and the block that was read last.

        Args:
            blocks: block_CT of any lengths, stereo at `sample_rate_hz`, full scale at +-1; read
                as far as the next batch needs and one sample further. How long they are together
                need not be known.
            window_s: see `separate`.
            overlap: see `separate`.
            batch_size: see `separate`.
            level: the whole song's `song_level`; a `normalised` separator needs it, another one
                does not look at it.

        Returns:
            iterator of pairs mixture_CT, stems_SCT in the order of `stems`, on the CPU, of equal
            lengths: consecutive pieces which together are the audio. A piece comes as soon as no
            further window reaches it. Nothing, when the blocks hold nothing.

        Raises:
            ValueError: a parameter is out of range, or the level is needed and missing; from the
                iterator: a block is not stereo.
            torch.OutOfMemoryError: see `separate`; from the iterator.
        """
        if self.normalised and level is None:
            raise ValueError("expected the song's level, for this separator is normalised")
        window_s = self.window_s if window_s is None else window_s
        if window_s <= 0 or not 0 <= overlap < 1 or batch_size < 0:
            raise ValueError(
                "expected window_s > 0, overlap in [0, 1) and batch_size >= 0, got "
                f"{window_s}, {overlap} and {batch_size}"
            )
        window = max(round(window_s * self.sample_rate_hz), 1)
        scale = level if self.normalised and level is not None else 1.0
        return self._stream(blocks, window, round(window * overlap), batch_size, scale)

    def stream_file(
        self,
        path: Path | str,
        *,
        window_s: float | None = None,
        overlap: float = DEFAULT_OVERLAP,
        batch_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Separate a file as `stream` does; it is read twice where its level is needed.

        Args:
            path: see `mixprint.audio.files.stream_audio`.
            window_s: see `separate`.
            overlap: see `separate`.
            batch_size: see `separate`.

        Returns:
            see `stream`.

        Raises:
            ValueError: see `stream`.
            AudioError: see `stream_audio`; also from the iterator.
        """
        level = None
        if self.normalised:
            level = song_level(stream_audio(path, sample_rate_hz=self.sample_rate_hz))
        return self.stream(
            stream_audio(path, sample_rate_hz=self.sample_rate_hz),
            window_s=window_s,
            overlap=overlap,
            batch_size=batch_size,
            level=level,
        )

    def _stream(
        self, blocks: Iterable[Tensor], window: int, fade: int, batch_size: int, scale: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Separate in windows of `window` samples that share `fade` samples with the next."""

        def ordered(network: Windows) -> Windows:
            def run(audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
                return network(audio_BCT / scale, starts_B)[:, self._order].mul_(scale)

            return run

        song = _OverlapAdd(blocks, window, max(window - fade, 1), len(self.stems))
        # Another batch size would be compiled anew: that of the first song, which memory may have
        # chosen or halved, stays.
        kind = (window, batch_size, self.precision)
        runner = Runner(
            ordered(self.network),
            self.device,
            precision=self.precision,
            batch_size=self._batch_sizes.get(kind, batch_size),
            compiled=ordered(self._compiled) if self._compiled is not None else None,
            window=window,
        )
        queue: deque[tuple[list[_Window], list[Run]]] = deque()
        while True:
            windows = song.cut(runner.batch_size)
            if windows:
                log.debug("separating windows from sample %d on", windows[0].start)
                audio_BCT = torch.stack([placed.audio_CT for placed in windows])
                starts_B = torch.tensor([placed.start for placed in windows])
                queue.append((windows, runner.start(audio_BCT, starts_B)))
                if self.compiled:
                    self._batch_sizes[kind] = runner.batch_size
            if not queue:
                return
            if windows and len(queue) <= runner.num_ahead:
                continue
            windows, runs = queue.popleft()
            for placed, stems_SCT in zip(windows, runner.finish(runs), strict=True):
                song.add(placed, stems_SCT, fade)
            yield song.take(queue[0][0][0].start if queue else None)


@dataclass(frozen=True)
class _Window:
    """A window that is cut and not yet added.

    Attributes:
        start: its first sample in the audio.
        audio_CT: its samples.
        first: it begins the audio.
        last: it ends the audio.
    """

    start: int
    audio_CT: Tensor
    first: bool
    last: bool


class _OverlapAdd:
    """The stretch of a song between what has been given back and what has been read.

    Window `index` starts at `index` times the hop; the last one ends with the audio instead, and
    is as long as the audio when that is shorter than a window. Whether a window is the last is
    known one sample behind its end.
    """

    def __init__(self, blocks: Iterable[Tensor], window: int, hop: int, num_stems: int) -> None:
        self._blocks = iter(blocks)
        self._window = window
        self._hop = hop
        self._index = 0  # of the next window to cut
        self._is_cut = False  # the last window has been cut
        self._is_read = False  # there are no more blocks
        self._start = 0  # first sample that is held
        self._mixture_CT = torch.empty(NUM_CHANNELS, 0)
        # What the windows gave so far, times their fades, and the sum of the fades.
        self._stems_SCT = torch.empty(num_stems, NUM_CHANNELS, 0)
        self._weight_T = torch.empty(0)

    @property
    def _end(self) -> int:
        """One behind the last sample that has been read."""
        return self._start + self._mixture_CT.shape[1]

    @property
    def _next_start(self) -> int:
        """Start of the next window; while more can be read, it starts there or later."""
        return max(min(self._index * self._hop, self._end - self._window), 0)

    def cut(self, num_windows: int) -> list[_Window]:
        """Cut the next windows: so many, or what is left at the end of the song."""
        self._read((self._index + num_windows - 1) * self._hop + self._window + 1)
        windows: list[_Window] = []
        while len(windows) < num_windows and not self._is_cut and self._end > 0:
            start = self._next_start
            end = min(start + self._window, self._end)
            self._is_cut = self._is_read and end == self._end
            audio_CT = self._mixture_CT[:, start - self._start : end - self._start]
            windows.append(_Window(start, audio_CT, first=self._index == 0, last=self._is_cut))
            self._index += 1
        return windows

    def _read(self, end: int) -> None:
        """Read up to a sample, or to the end of the song if that comes before."""
        parts, position = [self._mixture_CT], self._end
        while position < end and not self._is_read:
            block_CT = next(self._blocks, None)
            if block_CT is None:
                self._is_read = True
            elif block_CT.ndim != 2 or block_CT.shape[0] != NUM_CHANNELS:
                raise ValueError(
                    f"blocks must be ({NUM_CHANNELS}, T), got {tuple(block_CT.shape)} "
                    f"after {position} samples"
                )
            else:
                parts.append(block_CT.to("cpu", torch.float32))
                position += block_CT.shape[1]
        self._mixture_CT = torch.cat(parts, dim=1)

    def add(self, window: _Window, stems_SCT: Tensor, fade: int) -> None:
        """Add what the network made of a window."""
        length = window.audio_CT.shape[1]
        low, high = window.start - self._start, window.start - self._start + length
        missing = max(high - len(self._weight_T), 0)
        self._stems_SCT = functional.pad(self._stems_SCT, (0, missing))
        self._weight_T = functional.pad(self._weight_T, (0, missing))
        fade_T = window_fade(length, fade, first=window.first, last=window.last)
        self._stems_SCT[..., low:high].addcmul_(stems_SCT, fade_T)
        self._weight_T[low:high] += fade_T

    def take(self, wanted_from: int | None) -> tuple[Tensor, Tensor]:
        """Return what no further window reaches, as mixture_CT and stems_SCT, and forget it.

        Args:
            wanted_from: start of the first window that is cut and not added; None: all are.
        """
        if wanted_from is None:
            wanted_from = self._end if self._is_cut else self._next_start
        length = wanted_from - self._start
        mixture_CT, stems_SCT = self._mixture_CT[:, :length], self._stems_SCT[..., :length]
        weight_T = self._weight_T[:length]
        # Copies, so that what is held does not keep the memory of what is given away.
        self._mixture_CT = self._mixture_CT[:, length:].clone()
        self._stems_SCT = self._stems_SCT[..., length:].clone()
        self._weight_T = self._weight_T[length:].clone()
        self._start += length
        return mixture_CT, stems_SCT / weight_T


def song_level(blocks: Iterable[Tensor]) -> float:
    """Measure what a song is divided by for a network that was trained on songs of level 1.

    The published models that want this divide by the standard deviation of the mono mix. They
    also take its mean away and give it back to every stem; a song's mean is nil, or an offset
    that should not come four times, so here it stays where it is.

    Args:
        blocks: block_CT, the whole song.

    Returns:
        the standard deviation of the mean of the channels; 1 for silence.
    """
    total = squares = count = 0.0
    for block_CT in blocks:
        mono_T = block_CT.double().mean(dim=0)
        total += mono_T.sum().item()
        squares += mono_T.square().sum().item()
        count += len(mono_T)
    variance = squares / count - (total / count) ** 2 if count else 0.0
    return math.sqrt(variance) if variance > 0 else 1.0


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
