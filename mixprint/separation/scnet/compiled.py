"""An SCNet through `torch.compile`; on a GPU its kernels become one CUDA graph.

What lies between the STFT and its inverse is compiled, as one graph without breaks. The two
transforms stay as they are: the inverse checks its window on the host, which no CUDA graph can
hold.

Shape suffixes: B window of a batch, S stem, C channel, T sample, F frequency row, N frame, D
feature channel, R frequency row of a batch entry, P real and imaginary part.
"""

import copy
import logging
import os
import shutil
import sysconfig
import time
import warnings
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixprint.errors import ConfigError
from mixprint.machine.device import cpu_has_lstm
from mixprint.separation.scnet.model import SCNet, irfft_along_time, rfft_along_time

log = logging.getLogger("mixprint.separation")

# `reduce-overhead` is torch's name for CUDA graphs.
MODES = {"cuda": "reduce-overhead", "cpu": "default"}


class CompiledSCNet:
    """A network's forward in evaluation, compiled for one shape at a time.

    The weights are the network's own, and follow when they change in place.
    """

    def __init__(self, model: SCNet) -> None:
        """Take a network on the device that it stays on.

        Raises:
            ConfigError: see `check_compiler`.
        """
        device = model.stft_window.device
        check_compiler(device)
        self._model = model
        self._is_gpu = device.type == "cuda"
        self._compiled_for: tuple[object, ...] | None = None
        network = _compilable(model)

        # Complex tensors are kept out of what goes in and comes out: a CUDA graph copies its
        # inputs to fixed places, and torch does not generate code for them.
        def estimate(mixture_BCFNP: Tensor) -> Tensor:
            return torch.view_as_real(network.estimate(torch.view_as_complex(mixture_BCFNP)))

        self._estimate: Any = torch.compile(
            estimate, fullgraph=True, dynamic=False, mode=MODES[device.type]
        )

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor | None = None) -> Tensor:
        """Separate as `SCNet.forward` does; a new shape or precision is compiled first.

        Args:
            audio_BCT: see `SCNet.forward`.
            starts_B: see `mixprint.separation.network.Network`; it changes nothing here.

        Returns:
            stems_BSCT in memory of its own. On a GPU it may be read until it is freed, as any
            tensor: the fixed memory of a CUDA graph's outputs, which the next run overwrites, is
            read by the inverse STFT alone, on the stream of the graph and thus before that run.

        Raises:
            ConfigError: torch cannot compile the network.
        """
        del starts_B
        kind = audio_BCT.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        wanted = (tuple(audio_BCT.shape), dtype)
        if wanted == self._compiled_for:
            return self._run(audio_BCT)
        if self._compiled_for is not None:
            # The graphs of the last shape hold memory for as long as torch knows them, and torch
            # refuses to compile one function for many shapes.
            if self._is_gpu:
                torch.cuda.synchronize(audio_BCT.device)
            torch.compiler.reset()
        self._compiled_for = wanted
        log.info("compiling the network for %d windows of %d samples", *audio_BCT.shape[::2])
        started_s = time.perf_counter()
        stems_BSCT = self._run_first(audio_BCT)
        log.info("compiled in %.0f s", time.perf_counter() - started_s)
        return stems_BSCT

    def _run_first(self, audio_BCT: Tensor) -> Tensor:
        """Run with what torch has to say when it compiles."""
        # Takes seconds to import, and is imported by any compiling.
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            with warnings.catch_warnings():
                # It is not asked to: the few operations on complex numbers stay as they are.
                warnings.filterwarnings("ignore", message="Torchinductor does not support code gen")
                return self._run(audio_BCT)
        except BackendCompilerFailed as error:
            if isinstance(error.inner_exception, torch.OutOfMemoryError):
                raise error.inner_exception from error
            # Its files are not written atomically.
            cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "torch's cache of compiled code")
            raise ConfigError(
                f"compile: expected torch to compile the network, found: {error.inner_exception}; "
                f"if an earlier compiling was killed, delete {cache}"
            ) from error

    def _run(self, audio_BCT: Tensor) -> Tensor:
        mixture_BCFNP = torch.view_as_real(self._model.analyse(audio_BCT))
        if self._is_gpu:
            # All outputs of earlier runs have been read.
            torch.compiler.cudagraph_mark_step_begin()
        stems_BSCFN = torch.view_as_complex(self._estimate(mixture_BCFNP))
        return self._model.synthesise(stems_BSCFN, audio_BCT.shape[-1])


def check_compiler(device: torch.device) -> None:
    """See that what torch needs to compile for a device is there, before work begins.

    Raises:
        ConfigError: something is missing.
    """
    if device.type == "cuda":
        # Triton builds a small C library for each kernel that it makes.
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        missing = [] if find_spec("triton") else ["the Python package triton"]
    else:
        compilers, missing = [os.environ.get("CXX", "g++")], []
    if not any(map(shutil.which, compilers)):
        missing.append(" or ".join(compilers))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        missing.append(f"{headers} (Debian: python3-dev)")
    if missing:
        raise ConfigError(
            f"compile: expected what torch.compile needs for {device.type}, found no "
            + ", no ".join(missing)
        )


class _OpaqueLSTM(nn.Module):
    """An LSTM that the compiler takes as one operation.

    torch breaks a graph at an `nn.LSTM`, and where it is told not to, it writes a GPU's LSTM out
    step by step, hundreds of them. This calls oneDNN or cuDNN, as the LSTM itself does.
    """

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        assert isinstance(lstm, nn.LSTM)
        # torch looks into no module that has an LSTM.
        self.weights = nn.ParameterList(lstm.parameters())
        self.hidden = lstm.hidden_size

    def forward(self, x_NRD: Tensor) -> tuple[Tensor, None]:
        """Run along the first dimension; the last state is not needed."""
        kind = x_NRD.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_NRD.dtype
        return _bidirectional_lstm(x_NRD, list(self.weights), self.hidden, dtype), None


@torch.library.custom_op("mixprint::bidirectional_lstm", mutates_args=())
def _bidirectional_lstm(
    x_NRD: Tensor, weights: list[Tensor], hidden: int, dtype: torch.dtype
) -> Tensor:
    """Run one layer in both directions, in a type that need not be that of input and weights."""
    wanted = dtype
    if x_NRD.device.type == "cpu" and not cpu_has_lstm(dtype):
        x_NRD, dtype = x_NRD.float(), torch.float32
    state = x_NRD.new_zeros(2, x_NRD.shape[1], hidden)
    # In compiled code autocast is off, for the compiler has written out what it does; it could
    # not do so in here.
    with torch.autocast(
        x_NRD.device.type, dtype, enabled=dtype != x_NRD.dtype, cache_enabled=False
    ):
        result: Tensor = torch.lstm(
            x_NRD, (state, state), weights, True, 1, 0.0, False, True, False
        )[0]
    return result.to(wanted).contiguous()


@_bidirectional_lstm.register_fake
def _(
    x_NRD: Tensor,
    weights: list[Tensor],  # noqa: ARG001 (as the operation has it)
    hidden: int,
    dtype: torch.dtype,
) -> Tensor:
    return x_NRD.new_empty(*x_NRD.shape[:2], 2 * hidden, dtype=dtype)


# The compiler takes a transform's result to lie in memory as it does not, and stops at that.
@torch.library.custom_op("mixprint::rfft_along_time", mutates_args=())
def _rfft_along_time(x_BFND: Tensor) -> Tensor:
    return rfft_along_time(x_BFND)


@_rfft_along_time.register_fake
def _(x_BFND: Tensor) -> Tensor:
    batch, rows, frames, channels = x_BFND.shape
    return x_BFND.new_empty(batch, rows, frames // 2 + 1, 2 * channels)


@torch.library.custom_op("mixprint::irfft_along_time", mutates_args=())
def _irfft_along_time(x_BFND: Tensor) -> Tensor:
    return irfft_along_time(x_BFND)


@_irfft_along_time.register_fake
def _(x_BFND: Tensor) -> Tensor:
    batch, rows, frames, channels = x_BFND.shape
    return x_BFND.new_empty(batch, rows, 2 * (frames - 1), channels // 2)


def _compilable(model: SCNet) -> SCNet:
    """Copy a network in a form that compiles as one graph; its weights are shared.

    The LSTMs and transforms of its dual paths become one operation each.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    network = copy.deepcopy(model, shared)
    net = network.separation_net
    net.transforms = (_rfft_along_time, _irfft_along_time)
    for layer in net.dp_modules:
        assert isinstance(layer.lstm_layers, nn.ModuleList)
        layer.lstm_layers = nn.ModuleList(_OpaqueLSTM(lstm) for lstm in layer.lstm_layers)
    return network
