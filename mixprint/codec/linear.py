"""A codec in closed form: a lapped cosine transform, and the directions in which music varies most.

Latents are linear in the audio, so that what is done to them can be read as filters, and it needs
no training: a baseline for codecs that do.

Shape suffixes: B item, T sample, N frame, W sample of a window, K coefficient, D dimension.

Sources: the modified discrete cosine transform, Princen, Johnson and Bradley (ICASSP 1987).
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.codec.interface import HOP_SAMPLES, NUM_DIMENSIONS, check_frames, num_frames
from mixprint.fingerprint import fingerprint


class LinearCodec:
    """The coefficients of the transform, projected to the directions in which music varies most."""

    def __init__(self, basis_DK: Tensor, deviation_D: Tensor) -> None:
        """Take its directions.

        Args:
            basis_DK: orthonormal rows, D of them, of `HOP_SAMPLES` coefficients or fewer.
            deviation_D: of the latents of music, whose mean is 0.
        """
        self.basis_DK = basis_DK
        self.mean_D = torch.zeros_like(deviation_D)
        self.deviation_D = deviation_D

    @classmethod
    def fitted(cls, audio: Iterable[Tensor], num_dimensions: int = NUM_DIMENSIONS) -> "LinearCodec":
        """Find the directions of music.

        Args:
            audio: audio_BT of songs.
            num_dimensions: of the latents; with `HOP_SAMPLES` nothing is lost.

        Raises:
            ValueError: there is no audio, or only silence.
        """
        shared_KK = torch.zeros(HOP_SAMPLES, HOP_SAMPLES, dtype=torch.float64)
        count = 0
        for audio_BT in audio:
            frames_NK = mdct(audio_BT).mT.flatten(0, 1).double()
            shared_KK += frames_NK.T @ frames_NK
            count += len(frames_NK)
        if not shared_KK.any():
            raise ValueError("expected audio that is not silent")
        values_K, vectors_KK = torch.linalg.eigh(shared_KK / count)
        best_D = values_K.argsort(descending=True)[:num_dimensions]
        deviation_D = values_K[best_D].clamp_min(0).sqrt().float()
        return cls(vectors_KK[:, best_D].T.float().contiguous(), deviation_D)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """See `Codec`."""
        return {"kind": "linear", "basis": fingerprint(self.basis_DK.tolist())}

    def encode(self, audio_BT: Tensor) -> Tensor:
        """See `Codec`."""
        return self.basis_DK.to(audio_BT) @ mdct(audio_BT)

    def decode(self, z_BDN: Tensor, num_samples: int) -> Tensor:
        """See `Codec`."""
        check_frames(z_BDN, num_samples)
        return inverse_mdct(self.basis_DK.T.to(z_BDN) @ z_BDN, num_samples)


def mdct(audio_BT: Tensor) -> Tensor:
    """Transform audio: coefficients_BKN, `HOP_SAMPLES` of them in each of `num_frames` frames.

    The transform is orthogonal: what is silent stays silent, and energies stay as they are.
    """
    num_samples = audio_BT.shape[-1]
    behind = num_frames(num_samples) * HOP_SAMPLES - num_samples
    padded_BT = functional.pad(audio_BT, (HOP_SAMPLES, behind))
    frames_BNW = padded_BT.unfold(-1, 2 * HOP_SAMPLES, HOP_SAMPLES)
    return (frames_BNW @ _transform().to(audio_BT)).mT


def inverse_mdct(coefficients_BKN: Tensor, num_samples: int) -> Tensor:
    """Invert `mdct`: audio_BT of so many samples."""
    frames_BWN = _transform().to(coefficients_BKN) @ coefficients_BKN
    first_BWN, second_BWN = frames_BWN.chunk(2, dim=1)
    overlapped_BWN = first_BWN[..., 1:] + second_BWN[..., :-1]
    return overlapped_BWN.mT.flatten(1)[:, :num_samples]


@lru_cache(maxsize=1)
def _transform() -> Tensor:
    """Return the windowed cosines, matrix_WK."""
    places_W1 = torch.arange(2 * HOP_SAMPLES, dtype=torch.float64)[:, None]
    rows_K = torch.arange(HOP_SAMPLES, dtype=torch.float64)
    angle_WK = math.pi / HOP_SAMPLES * (places_W1 + 0.5 + HOP_SAMPLES / 2) * (rows_K + 0.5)
    window_W1 = torch.sin(math.pi * (places_W1 + 0.5) / (2 * HOP_SAMPLES))
    return (window_W1 * angle_WK.cos() * math.sqrt(2 / HOP_SAMPLES)).float()
