"""The architecture of an SCNet: what a configuration says, before there is a network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mixprint.errors import ConfigError
from mixprint.schema import checked_fields

Variant = Literal["plain", "masked"]
VARIANTS: tuple[str, ...] = get_args(Variant)
SCNET_STEMS = ("drums", "bass", "other", "vocals")
NUM_BANDS = 3  # low, mid and high
# Many times what is published. Beyond it a configuration is a slip of the pen, or made to exhaust
# the memory: no tensor's shape tells an STFT's size, and layers take memory even without tensors.
MAX_SIZE = 1 << 16
MAX_COUNT = 32
SIZES = (
    "dims",
    "nfft",
    "hop_size",
    "win_size",
    "band_stride",
    "band_kernel",
    "compress",
    "conv_kernel",
)
BAND_TOLERANCE = 0.01
MAX_FRAME_OVERLAP = 64  # 4 is published; the memory of a spectrogram grows with it
COUNTS = ("audio_channels", "conv_depths", "num_dplayer", "expand")


@dataclass(frozen=True, kw_only=True)
class SCNetConfig:
    """The architecture, under the key names of the published configuration files.

    Attributes:
        sources: names of the stems in the order of the output.
        audio_channels: channels of the audio; 2 in all published models.
        dims: widths before the first and after each encoder block; the first is 2 x channels.
        nfft: FFT size in samples.
        hop_size: STFT hop in samples.
        win_size: STFT window in samples.
        normalized: whether the STFT is divided by the square root of its size.
        band_SR: share of the frequency rows in the low, mid and high band; adds up to 1.
        band_stride: compression of each band.
        band_kernel: kernel along frequency of each band.
        conv_depths: convolution modules per band.
        compress: channels divided by hidden channels in a convolution module.
        conv_kernel: kernel along time in a convolution module; odd.
        num_dplayer: dual-path layers; even, as every second one works on the transform of time.
        expand: hidden size of the LSTMs divided by their input size.
    """

    sources: tuple[str, ...] = SCNET_STEMS
    audio_channels: int = 2
    dims: tuple[int, ...] = (4, 32, 64, 128)
    nfft: int = 4096
    hop_size: int = 1024
    win_size: int = 4096
    normalized: bool = True
    band_SR: tuple[float, ...] = (0.175, 0.392, 0.433)
    band_stride: tuple[int, ...] = (1, 4, 16)
    band_kernel: tuple[int, ...] = (3, 4, 16)
    conv_depths: tuple[int, ...] = (3, 2, 1)
    compress: int = 4
    conv_kernel: int = 3
    num_dplayer: int = 6
    expand: int = 1

    def __post_init__(self) -> None:
        for name in ("band_SR", "band_stride", "band_kernel", "conv_depths"):
            if len(getattr(self, name)) != NUM_BANDS:
                raise ConfigError(
                    f"scnet.{name}: expected {NUM_BANDS} values, found {getattr(self, name)}"
                )
        if self.num_dplayer < 2 or self.num_dplayer % 2:
            raise ConfigError(
                f"scnet.num_dplayer: expected an even number above 0, found {self.num_dplayer}"
            )
        if len(self.dims) < 2 or self.dims[0] != 2 * self.audio_channels:
            raise ConfigError(
                f"scnet.dims: expected at least 2 widths, the first {2 * self.audio_channels} "
                f"(2 x audio_channels), found {self.dims}"
            )
        if min(self.dims) < self.compress:
            # The first width is no convolution module's, but equals compress where it matters.
            raise ConfigError(f"scnet.dims: expected widths >= {self.compress}, found {self.dims}")
        if sorted(self.sources) != sorted(SCNET_STEMS):
            raise ConfigError(f"scnet.sources: expected {SCNET_STEMS}, found {self.sources}")
        if self.conv_kernel % 2 == 0:
            raise ConfigError(
                f"scnet.conv_kernel: expected an odd number, found {self.conv_kernel}"
            )
        for names, highest in ((SIZES, MAX_SIZE), (COUNTS, MAX_COUNT)):
            for name in names:
                _check_range(name, getattr(self, name), highest)
        if min(self.band_SR) <= 0 or abs(sum(self.band_SR) - 1) > BAND_TOLERANCE:
            raise ConfigError(
                f"scnet.band_SR: expected shares above 0 that add up to 1, found {self.band_SR}"
            )
        if min(band_rows(self.num_bins, self.band_SR)) < 1:
            raise ConfigError(
                f"scnet.band_SR: expected rows in each band, found {self.band_SR} of "
                f"{self.num_bins}"
            )
        if not self.win_size / MAX_FRAME_OVERLAP <= self.hop_size <= self.win_size / 2:
            raise ConfigError(
                f"scnet.hop_size: expected a half to a {MAX_FRAME_OVERLAP}th of win_size "
                f"({self.win_size}), found {self.hop_size}"
            )
        if len(self.dims) > MAX_COUNT:
            raise ConfigError(
                f"scnet.dims: expected at most {MAX_COUNT} widths, found {len(self.dims)}"
            )
        if self.win_size > self.nfft:
            raise ConfigError(
                f"scnet.win_size: expected at most nfft ({self.nfft}), found {self.win_size}"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "SCNetConfig":
        """Read a configuration as published: lists become tuples, missing keys the defaults.

        Args:
            values: keys of the `model` section of a published configuration file.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or does not fit.
        """
        return cls(**checked_fields("scnet", values, cls))

    def to_values(self) -> dict[str, Any]:
        """Return the configuration back as plain values, with lists in place of tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def num_bins(self) -> int:
        """Frequency rows of the STFT."""
        return self.nfft // 2 + 1


def _check_range(name: str, value: int | tuple[int, ...], highest: int) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(1 <= number <= highest for number in numbers):
        raise ConfigError(f"scnet.{name}: expected 1 to {highest}, found {value}")


def band_rows(num_rows: int, shares: Sequence[float]) -> list[int]:
    """Return how many rows the low, mid and high band have."""
    low = math.ceil(num_rows * shares[0])
    mid = math.ceil(num_rows * (shares[0] + shares[1]))
    return [low, mid - low, num_rows - mid]
