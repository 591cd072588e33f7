"""Load of a GPU; needs nothing but its driver."""

import shutil
import subprocess
import threading
from statistics import fmean

# The driver's figure is itself a mean over 1/6 to 1 s.
BUSY_EVERY_S = 0.5


class BusyMeter:
    """Load of a GPU, sampled by the `nvidia-smi` that comes with its driver."""

    def __init__(self, gpu_id: str) -> None:
        """Take the id by which `nvidia-smi` knows the GPU."""
        self._command = ["nvidia-smi", f"--id={gpu_id}", "--query-gpu=utilization.gpu"]
        self._command += ["--format=csv,noheader,nounits"]
        self._percents: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to sample, if the program is there."""
        if shutil.which(self._command[0]) is not None:
            self._thread.start()

    def stop(self) -> float | None:
        """End, and give the mean in percent of the time; None where nothing could be read."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        return round(fmean(self._percents), 1) if self._percents else None

    def _watch(self) -> None:
        while not self._stop.wait(BUSY_EVERY_S):
            done = subprocess.run(self._command, capture_output=True, check=False, text=True)
            # Parts of a GPU that was divided (MIG) have no such figure.
            if done.returncode == 0 and (text := done.stdout.strip()).isdecimal():
                self._percents.append(float(text))
