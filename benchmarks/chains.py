"""Time chains of effects: `python -m benchmarks.chains` prints milliseconds of one thread.

Signals are noise: the speed does not depend on what is heard. For each effect the median of several
runs for one stereo stem, and for segments of four stems the mean over random chains.

Shape suffixes: B segment, S stem, C channel, T sample.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import mean, median

import torch

from mixprint.chains import EFFECTS, HELD_OUT, TRAINED, apply_chains, draw_chains
from mixprint.machine.memory import keep_freed_memory
from mixprint.stems import NUM_STEMS, SAMPLE_RATE_HZ

DURATION_S = 10.0


def cpu_ms(run: Callable[[], object], runs: int) -> float:
    """Measure the time of the processor: the median of several runs after one that warms up."""
    taken = []
    for _ in range(runs + 1):
        started_s = time.process_time()
        run()
        taken.append(1000 * (time.process_time() - started_s))
    return median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--segments", type=int, default=16, help="of which random chains are timed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    shape = (1, NUM_STEMS, 2, round(DURATION_S * SAMPLE_RATE_HZ))
    stems_BSCT = 0.1 * torch.randn(shape, generator=generator)
    per_effect = {}
    for name in EFFECTS:
        chains = draw_chains(1, generator, lengths=(1,), effects=(name,))
        run = partial(apply_chains, stems_BSCT, chains, SAMPLE_RATE_HZ)
        per_effect[name] = cpu_ms(run, args.runs) / NUM_STEMS
        print(f"{per_effect[name]:8.1f} ms  {EFFECTS[name].family}: {name}")
    for label, effects in (("trained", TRAINED), ("held out", tuple(HELD_OUT))):
        print(f"{mean(per_effect[name] for name in effects):8.1f} ms  mean of the {label} effects")
    chains = draw_chains(args.segments, generator)
    taken = [
        cpu_ms(partial(apply_chains, stems_BSCT, chains.take(segment_B), SAMPLE_RATE_HZ), 1)
        for segment_B in torch.arange(args.segments).split(1)
    ]
    print(f"{mean(taken):8.1f} ms  a segment of four stems with chains of random length 0 to 8")


if __name__ == "__main__":
    main()
