"""Batches of windows through a network: precision, copies, and what to do when memory is short.

Shape suffixes: B window of a batch, S stem, C channel, T sample.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.machine.memory import keep_freed_memory
from mixprint.separation.network import Windows

log = logging.getLogger("mixprint.separation")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO_BATCH_SIZE = 0
# Beyond this a GPU is busy anyway, and the windows that wait on the host only grow.
MAX_AUTO_BATCH_SIZE = 32
# A compiled network is given full batches only: with more windows in one, the silence that fills
# up a song's last would cost more than large batches gain where launching kernels costs nothing.
MAX_AUTO_COMPILED_BATCH_SIZE = 8
# Left free are what fragmentation loses, cuDNN's workspaces, and the batch that is copied
# meanwhile.
USABLE_MEMORY = 0.7


@dataclass(frozen=True)
class Run:
    """Windows that the network has been given.

    Attributes:
        stems_BSCT: on the host; whole only when `done` has happened.
        done: None where nothing runs aside.
    """

    stems_BSCT: Tensor
    done: torch.cuda.Event | None = None


class Runner:
    """Runs a network over one song's batches, in order.

    On a GPU the work is only queued: the upload of a batch, the network and the download of the
    batch before have a stream each, so that they and the host, which reads and adds up, work at
    the same time. `num_ahead` says how many batches should be queued before one is waited for.

    On the CPU the process keeps freed memory from the first runner on, see
    `mixprint.machine.memory.keep_freed_memory`.
    """

    def __init__(
        self,
        network: Windows,
        device: torch.device,
        *,
        precision: str,
        batch_size: int,
        compiled: Windows | None = None,
        window: int = 0,
    ) -> None:
        """Prepare.

        Args:
            network: see `Network`; its result is on the device.
            device: where it runs.
            precision: a key of `PRECISIONS`; below float32 the network runs under autocast.
            batch_size: windows per run. `AUTO_BATCH_SIZE`: on a GPU as many as its memory holds
                by the measure of the first window, on the CPU one, for more gain nothing there.
            compiled: the same network, which takes a minute over each shape that is new to it. It
                is given nothing but full batches of full windows: a smaller batch is filled up
                with silence. The measured window and shorter ones go to `network`.
            window: samples of a full window.
        """
        self._network = network
        self._compiled = compiled
        self._window = window
        self._device = device
        self._dtype = PRECISIONS[precision]
        self._is_gpu = device.type == "cuda"
        self._is_to_choose = self._is_gpu and batch_size == AUTO_BATCH_SIZE
        # Shrinks when memory runs out.
        self.batch_size = max(batch_size, 1)
        self.num_ahead = 1 if self._is_gpu else 0
        if self._is_gpu:
            self._upload, self._download = torch.cuda.Stream(device), torch.cuda.Stream(device)
        else:
            keep_freed_memory()

    def start(self, audio_BCT: Tensor, starts_B: Tensor) -> list[Run]:
        """Run the network on windows, in smaller batches where memory does not suffice.

        Args:
            audio_BCT: float32, on the CPU.
            starts_B: the first sample of each in its song.

        Returns:
            runs that are together the windows, for `finish`.

        Raises:
            torch.OutOfMemoryError: not even a single window fits.
        """
        runs: list[Run] = []
        num_started = 0
        while num_started < len(audio_BCT):
            part = slice(num_started, num_started + self.batch_size)
            part_BCT, first_B = audio_BCT[part], starts_B[part]
            size = self.batch_size if self._is_to_compile(part_BCT) else len(part_BCT)
            try:
                run = self._measured if self._is_to_choose else self._run
                runs.append(run(part_BCT, first_B))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.batch_size = size // 2
            else:
                num_started += len(part_BCT)
                continue
            # Only here, behind the handler, does no traceback hold the failed run's tensors.
            log.warning(
                "%s: %d windows of %d samples do not fit into memory; going on with %d",
                self._device,
                size,
                part_BCT.shape[-1],
                self.batch_size,
            )
            if self._is_gpu:
                torch.cuda.empty_cache()
        return runs

    def finish(self, runs: list[Run]) -> Tensor:
        """Wait for runs; return stems_BSCT on the CPU."""
        for run in runs:
            if run.done is not None:
                run.done.synchronize()
        return torch.cat([run.stems_BSCT for run in runs])

    def _run(self, audio_BCT: Tensor, starts_B: Tensor) -> Run:
        if not self._is_gpu:
            return Run(self._forward(audio_BCT, starts_B))
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._upload):
            audio_BCT = audio_BCT.pin_memory().to(self._device, non_blocking=True)
        compute.wait_stream(self._upload)
        audio_BCT.record_stream(compute)
        # Whatever the network, the result has memory of its own: a CUDA graph's outputs would be
        # overwritten by its next run while they are downloaded, and record_stream, which keeps
        # memory from being given out again, does not help against that.
        result_BSCT = self._forward(audio_BCT, starts_B)
        self._download.wait_stream(compute)
        with torch.cuda.stream(self._download):
            stems_BSCT = torch.empty(result_BSCT.shape, pin_memory=True)
            stems_BSCT.copy_(result_BSCT, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        result_BSCT.record_stream(self._download)
        return Run(stems_BSCT, done)

    def _is_to_compile(self, audio_BCT: Tensor) -> bool:
        """Decide between the compiled network and the plain one."""
        is_full = audio_BCT.shape[-1] == self._window
        return self._compiled is not None and is_full and not self._is_to_choose

    def _forward(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        num_windows = len(audio_BCT)
        network = self._network
        if self._compiled is not None and self._is_to_compile(audio_BCT):
            network = self._compiled
            missing = self.batch_size - num_windows
            audio_BCT = functional.pad(audio_BCT, (0, 0, 0, 0, 0, missing))
            starts_B = functional.pad(starts_B, (0, missing))
        is_reduced = self._dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, self._dtype, enabled=is_reduced),
        ):
            return network(audio_BCT, starts_B)[:num_windows]

    def _measured(self, audio_BCT: Tensor, starts_B: Tensor) -> Run:
        """Run the first window, and choose the size of the next batches by what it took."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before_bytes = torch.cuda.memory_allocated(self._device)
        run = self._run(audio_BCT, starts_B)
        window_bytes = torch.cuda.max_memory_allocated(self._device) - before_bytes
        held_bytes = torch.cuda.memory_reserved(self._device)
        free_bytes = torch.cuda.mem_get_info(self._device)[0] + held_bytes - before_bytes
        most = MAX_AUTO_BATCH_SIZE if self._compiled is None else MAX_AUTO_COMPILED_BATCH_SIZE
        self.batch_size = fitting_batch_size(free_bytes, window_bytes, most)
        self._is_to_choose = False
        log.info("%s: %d windows a batch", self._device, self.batch_size)
        return run


def fitting_batch_size(free_bytes: int, window_bytes: int, most: int = MAX_AUTO_BATCH_SIZE) -> int:
    """Count the windows that fit into memory at once.

    Args:
        free_bytes: what there is.
        window_bytes: what a run with one window took at its highest.
        most: windows that are of use.

    Returns:
        at least 1, at most `most`.
    """
    num_fitting = int(USABLE_MEMORY * free_bytes) // max(window_bytes, 1)
    return max(1, min(num_fitting, most))
