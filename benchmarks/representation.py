"""Speed of the representation: the mixing features, forward and with backward.

`python benchmarks/representation.py --out representation.json` measures generated audio and writes
seconds per segment of 10 s (four stereo stems), median and best of the runs, with the machine.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mixprint.atomic import write_json
from mixprint.features import extract
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ


def time_runs(
    work: Callable[[], object], *, num_runs: int, num_segments: int, device: torch.device
) -> dict[str, float]:
    """Time the work, after one run that builds what is built once.

    Returns:
        median and best of the runs, in seconds per segment.
    """
    work()
    runs_s = []
    for _ in range(num_runs):
        _finish(device)
        start_s = time.perf_counter()
        work()
        _finish(device)
        runs_s.append((time.perf_counter() - start_s) / num_segments)
    return {"median_s": statistics.median(runs_s), "best_s": min(runs_s)}


def _finish(device: torch.device) -> None:
    """Wait for the device: CUDA returns before the work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_features(
    *, batch_size: int, segment_s: float, num_runs: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Time `extract` on noise: forward alone, and forward with backward."""
    stems_BSCT = 0.1 * torch.randn(
        batch_size, NUM_STEMS, NUM_CHANNELS, round(segment_s * SAMPLE_RATE_HZ), device=device
    )

    def forward() -> None:
        with torch.inference_mode():
            extract(stems_BSCT, SAMPLE_RATE_HZ)

    leaf_BSCT = stems_BSCT.clone().requires_grad_()

    def forward_backward() -> None:
        leaf_BSCT.grad = None
        extract(leaf_BSCT, SAMPLE_RATE_HZ).sum().backward()

    settings: dict[str, Any] = {
        "num_runs": num_runs,
        "num_segments": batch_size,
        "device": device,
    }
    return {
        "features_forward": time_runs(forward, **settings),
        "features_forward_backward": time_runs(forward_backward, **settings),
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--segment-s", type=float, default=10.0)
    parser.add_argument("--num-runs", type=int, default=7)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    results = measure_features(
        batch_size=args.batch_size,
        segment_s=args.segment_s,
        num_runs=args.num_runs,
        device=device,
    )
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "num_cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    write_json(args.out, {"machine": machine, "settings": settings, "results": results})
    for name, times in results.items():
        print(f"{name}: {1e3 * times['median_s']:.1f} ms per segment")


if __name__ == "__main__":
    main()
