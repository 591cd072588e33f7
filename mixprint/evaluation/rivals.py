"""Rivals on clips of real music whose truth is known: those of StemFX's demo page.

    <folder>/<clip>/{original,target,stemfx_free,stemfx_forced,ito_afxrep,ito_bsfilm}.mp3

`original` is the input, `target` the same music in another mix: the aim, and the truth. The others
are what rivals made of the input: StemFX (Chang and others 2026), which predicts effects in one
pass, freely or in a fixed chain, and ST-ITO (Steinmetz and others 2024) with two encoders, which
searches for each clip. All are at -23 LUFS, in 192 kb/s, and so is what is compared with them.

The distance is that of StemFX's paper.

Shape suffixes: C channel, T sample, F frequency bin, M frame.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.levels import loudness_lufs
from mixprint.dsp.decibels import amplitude
from mixprint.errors import DataError
from mixprint.stems import SAMPLE_RATE_HZ

ORIGINAL, TARGET = "original", "target"
RIVALS: Mapping[str, str] = {
    ORIGINAL: "doing nothing",
    "stemfx_free": "StemFX",
    "stemfx_forced": "StemFX, fixed chain",
    "ito_afxrep": "ST-ITO, AFx-Rep",
    "ito_bsfilm": "ST-ITO, BSFiLM",
}
"""File -> name of what made it."""

REFERENCE_LUFS = -23.0
# Window and hop.
_RESOLUTIONS = ((1024, 256), (2048, 512), (512, 128))
_FLOOR = 1e-5
_MP3_KBPS = 192
# libsndfile's scale: 0 is the highest rate of MP3, 1 the lowest.
_HIGHEST_KBPS, _LOWEST_KBPS = 320, 32

# Makes one song sound like another: (original's file, target's file) -> output_CT.
SongMethod = Callable[[Path, Path], Tensor]


def rival_clips(folder: Path) -> list[Path]:
    """List the folders of the clips.

    Raises:
        DataError: there is none, or a file of one is missing.
    """
    clips = sorted(path.parent for path in folder.glob(f"*/{TARGET}.mp3"))
    if not clips:
        raise DataError(f"{folder}: expected clips as <clip>/{TARGET}.mp3, found none")
    for clip in clips:
        for name in RIVALS:
            if not (clip / f"{name}.mp3").is_file():
                raise DataError(f"{clip}: expected {name}.mp3, found none")
    return clips


def measure_clip(clip: Path, methods: Mapping[str, SongMethod]) -> list[dict[str, Any]]:
    """Measure what rivals and methods make of a clip.

    Returns:
        rows with `clip`, `method` and `distance`.
    """
    audio = {name: read_audio(clip / f"{name}.mp3") for name in (TARGET, *RIVALS)}
    files = (clip / f"{ORIGINAL}.mp3", clip / f"{TARGET}.mp3")
    outputs = {shown: audio[name] for name, shown in RIVALS.items()}
    outputs |= {
        name: through_mp3(at_reference_loudness(method(*files))) for name, method in methods.items()
    }
    return [
        {"clip": clip.name, "method": name, "distance": paper_distance(output_CT, audio[TARGET])}
        for name, output_CT in outputs.items()
    ]


@torch.no_grad()
def paper_distance(output_CT: Tensor, target_CT: Tensor) -> float:
    """Measure the distance of StemFX's paper.

    Both are brought to -23 LUFS; at three resolutions the spectral convergence plus the mean
    absolute difference of the logarithms of the magnitudes, of all channels together; the mean.

    Args:
        output_CT: stereo audio at `SAMPLE_RATE_HZ`; what it is longer than the target is left out.
        target_CT: the truth.
    """
    length = min(output_CT.shape[-1], target_CT.shape[-1])
    a_CT, b_CT = (at_reference_loudness(x_CT[:, :length]) for x_CT in (output_CT, target_CT))
    parts = []
    for size, hop in _RESOLUTIONS:
        window_F = torch.hann_window(size)
        a_CFM, b_CFM = (
            torch.stft(x_CT, size, hop, window=window_F, return_complex=True).abs()
            for x_CT in (a_CT, b_CT)
        )
        convergence = torch.linalg.vector_norm(b_CFM - a_CFM) / torch.linalg.vector_norm(b_CFM)
        logarithmic = (torch.log(a_CFM + _FLOOR) - torch.log(b_CFM + _FLOOR)).abs().mean()
        parts.append(float(convergence + logarithmic))
    return sum(parts) / len(parts)


def at_reference_loudness(audio_CT: Tensor) -> Tensor:
    """Bring audio to -23 LUFS."""
    gain_db = REFERENCE_LUFS - loudness_lufs(audio_CT, SAMPLE_RATE_HZ)
    return audio_CT * amplitude(gain_db)


def through_mp3(audio_CT: Tensor) -> Tensor:
    """Return audio as it comes out of an MP3 file of 192 kb/s."""
    level = (_HIGHEST_KBPS - _MP3_KBPS) / (_HIGHEST_KBPS - _LOWEST_KBPS)
    with io.BytesIO() as file:
        sf.write(
            file,
            audio_CT.T.numpy(),
            SAMPLE_RATE_HZ,
            format="MP3",
            bitrate_mode="CONSTANT",
            compression_level=level,
        )
        file.seek(0)
        decoded_TC, _ = sf.read(file, dtype="float32", always_2d=True)
    return torch.from_numpy(decoded_TC.T[:, : audio_CT.shape[-1]].copy())


def summarise_clips(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Gather the rows of `measure_clip`: per method the distance of each clip, and the mean."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        clips = {row["clip"]: row["distance"] for row in rows if row["method"] == method}
        found.append({"method": method, "clips": clips, "mean": sum(clips.values()) / len(clips)})
    return found
