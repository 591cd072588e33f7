"""Long signals handled in few passes through memory, and in pieces that stay in the cache.

A chain of simple operations on ten seconds of sound takes most of its time to move them to and from
memory.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# So many values are handled at once on a CPU: a megabyte.
_PIECE_VALUES = 1 << 18


def pieces(audio: Tensor, axis: int = -1, num_values: int | None = None) -> Iterator[slice]:
    """Divide an axis; a GPU takes all of it at once.

    Args:
        audio: what is divided.
        axis: of it.
        num_values: of a piece, where work needs more memory or less than usual.
    """
    size = audio.shape[axis]
    length = size
    if audio.device.type == "cpu":
        length = (num_values or _PIECE_VALUES) * size // max(audio.numel(), 1)
    for start in range(0, size, max(length, 1)):
        yield slice(start, min(start + max(length, 1), size))


def in_pieces(work: Callable[..., Tensor], *signals: Tensor) -> Tensor:
    """Do work that needs no other samples than its own.

    Args:
        work: from pieces of the signals to one of the result.
        signals: of equal length; the result has the shape of the first one.
    """
    result = torch.empty_like(signals[0])
    for piece in pieces(result):
        result[..., piece] = work(*(signal[..., piece] for signal in signals))
    return result


def padded(audio: Tensor, before: int, after: int) -> Tensor:
    """Put zeros before and after the last axis.

    `torch.nn.functional.pad` first fills all of the result with zeros, which takes as long again.
    """
    num_samples = audio.shape[-1]
    result = audio.new_empty(*audio.shape[:-1], before + num_samples + after)
    result[..., :before] = 0
    result[..., before : before + num_samples] = audio
    result[..., before + num_samples :] = 0
    return result
