"""Audio of a song, rendered block by block into files.

Shape suffixes: N track, C channel, T sample.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from mixprint.audio.writing import FLOAT, StereoFile
from mixprint.console.rendering import render_blocks
from mixprint.console.settings import Settings
from mixprint.progress import Progress
from mixprint.storage.atomic import atomic_path, remove_leftovers

log = logging.getLogger("mixprint.console")

# Written last in a folder of exports. The settings beside it are no sign of a mix.
EXPORT_MARKER = "export.json"


def opened(path: Path, rate_hz: int, seconds: float, stack: ExitStack) -> StereoFile:
    """Open a float WAV file that is there when the stack is closed, whole or not at all.

    Args:
        path: in a folder that may be missing.
        rate_hz: its sample rate.
        seconds: of audio, which a file of more than 4 GB must know before; about.
        stack: closes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    num_declared = math.ceil((seconds + 1) * rate_hz)
    return stack.enter_context(
        StereoFile(
            stack.enter_context(atomic_path(path)),
            bit_depth=FLOAT,
            sample_rate_hz=rate_hz,
            num_declared=num_declared,
        )
    )


def rendered(
    blocks: Iterable[Tensor], settings: Settings, rate_hz: int, seconds: float
) -> Iterator[Tensor]:
    """Render a song and say how far it is.

    Args:
        blocks: of the dry tracks_NCT.
        settings: of these tracks.
        rate_hz: sample rate of the blocks.
        seconds: of the song.

    Yields:
        blocks of the mixed tracks_NCT.
    """
    with Progress(log, "rendered", total=math.ceil(seconds), unit="s of audio") as progress:
        num_samples = 0
        for mixed_NCT in render_blocks(blocks, settings, rate_hz):
            yield mixed_NCT
            num_samples += mixed_NCT.shape[-1]
            progress.advance(num_samples // rate_hz - progress.done)
