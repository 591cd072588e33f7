"""A mix of two songs as files: audio, a page to listen and look at, and its figures.

    NAME.wav or NAME.flac    the mix
    NAME.html                input, target and mix in step, what came of it in words, the mask
    NAME.json                the same as figures; written last

Shape suffixes: C channel, T sample, K mel band, N frame.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mixprint.audio.files import write_audio
from mixprint.cascade.blend import CELL_S, NUM_BANDS, Blended, in_words
from mixprint.dsp.mel import mel
from mixprint.errors import DataError
from mixprint.pages.comparison import compare
from mixprint.pages.page import write_page
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import read_json, write_json
from mixprint.storage.outputs import check_file

TEMPLATE = "cascade/blend.html"
SUFFIXES = (".wav", ".flac")
_KEYS = frozenset({"masking", "likeness", "mask_mean"})
_CLIP_S = 30.0  # of the middle, on the page
_DPI = 100
_TICKS_HZ = (200, 1_000, 4_000, 16_000)


def check_outputs(path: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse places that cannot be written to, or that hold something else.

    Raises:
        DataError: see `mixprint.storage.outputs.check_file`; or the suffix is another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: expected a name that ends with one of {SUFFIXES}")
    for file in (path, _page(path), _figures(path)):
        check_file(file, lambda _: _is_ours(path), inputs=inputs, overwrite=overwrite)


def write_blend(
    path: Path, blended: Blended, songs: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write a mix.

    Args:
        path: of the audio; the page and the figures lie beside it.
        blended: the mix.
        songs: title -> audio_CT of input and target, as long as the mix.
        about: what else the figures shall tell, in JSON: files and settings.
    """
    write_audio(path, blended.audio_CT, SAMPLE_RATE_HZ, subtype="PCM_24")
    write_page(
        _page(path),
        TEMPLATE,
        path.stem,
        player=_player({**songs, "mix": blended.audio_CT}),
        words=in_words(blended),
        mask_png=_picture(blended.mask_KN),
        figures={name: str(value) for name, value in about.items()},
    )
    values = {
        **about,
        "likeness": blended.likeness._asdict(),
        "score": blended.likeness.score,
        "shares": blended.shares,
        "mask_mean": float(blended.mask_KN.mean()),
        "gain_db": blended.gain_db,
    }
    write_json(_figures(path), values)


def _player(clips: Mapping[str, Tensor]) -> Any:
    length = round(_CLIP_S * SAMPLE_RATE_HZ)
    shortest = min(clip_CT.shape[-1] for clip_CT in clips.values())
    start = max(shortest - length, 0) // 2
    parts = {"mix": {name: clip_CT[:, start : start + length] for name, clip_CT in clips.items()}}
    return compare("blend", parts, SAMPLE_RATE_HZ, heard="mix")


def _picture(mask_KN: Tensor) -> bytes:
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(
        mask_KN.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, mask_KN.shape[1] * CELL_S, 0, NUM_BANDS),
        vmin=0.0,
        vmax=1.0,
        cmap="viridis",
        interpolation="nearest",
    )
    places = [NUM_BANDS * mel(hz) / mel(SAMPLE_RATE_HZ / 2) for hz in _TICKS_HZ]
    axes.set_yticks(places, [f"{hz / 1000:g} kHz" for hz in _TICKS_HZ])
    axes.set_xlabel("s")
    figure.colorbar(drawn, ax=axes, label="input's part", fraction=0.03)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _page(path: Path) -> Path:
    return path.with_suffix(".html")


def _figures(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_ours(path: Path) -> bool:
    """Tell whether a mix of ours is there: its figures say so."""
    try:
        values = read_json(_figures(path))
    except DataError:
        return False
    return isinstance(values, dict) and values.keys() >= _KEYS
