"""Learning rates over a training."""

import math


def warmed_up_rate(step: int, num_steps: int, *, highest: float, warmup_fraction: float) -> float:
    """Return the rate of a step: a linear rise to the highest one, then half a cosine down to zero.

    Args:
        step: from 0 on.
        num_steps: of the whole training.
        highest: rate at the end of the rise.
        warmup_fraction: of the steps, in which it rises; from 0 to below 1.
    """
    warmup = round(warmup_fraction * num_steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    part = (step - warmup) / max(num_steps - warmup, 1)
    return highest * (1 + math.cos(math.pi * part)) / 2
