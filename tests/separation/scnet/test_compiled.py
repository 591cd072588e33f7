"""The compiled network: what is compiled, when, and that nothing changes by it."""

import logging

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from mixprint.errors import ConfigError
from mixprint.separation import SCNet, Separator, build_scnet
from mixprint.separation.runner import Runner
from mixprint.separation.scnet import compiled
from mixprint.separation.scnet import model as scnet
from mixprint.separation.scnet.compiled import CompiledSCNet, check_compiler
from mixprint.separation.scnet.network import TrainedSCNet

CPU = torch.device("cpu")
STARTS = torch.arange(0, 40, 10)
WINDOW = 2205
# As few kernels as an SCNet can have.
TINY = {
    "dims": [4, 8],
    "nfft": 256,
    "hop_size": 128,
    "win_size": 256,
    "num_dplayer": 2,
    "conv_depths": [1, 1, 1],
}


def _network(variant: str = "plain") -> SCNet:
    torch.manual_seed(0)
    return build_scnet(TINY, variant).eval()


def _separator() -> Separator:
    return Separator(TrainedSCNet(_network(), window_s=WINDOW / 44_100))


def _noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Leave out the compiler itself; list the shapes that it would be given."""
    shapes = []

    def compile_(function, *, fullgraph: bool, dynamic: bool, mode: str):
        assert (fullgraph, dynamic, mode) == (True, False, "default")

        def run(mixture_BCFNP: Tensor) -> Tensor:
            shapes.append(tuple(mixture_BCFNP.shape))
            return function(mixture_BCFNP)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(compiled, "check_compiler", lambda _: None)
    return shapes


def test_a_compiled_separator_gives_the_same_stems() -> None:
    try:
        check_compiler(CPU)
    except ConfigError as error:
        pytest.skip(str(error))
    separator = _separator()
    # Five windows: two batches of two, and one that is filled up.
    audio_CT, short_CT = _noise(2, WINDOW + 4 * 1654), _noise(2, 1000)
    expected_SCT = separator.separate(audio_CT)
    expected_short_SCT = separator.separate(short_CT)
    separator.compiled = True
    stems_SCT = separator.separate(audio_CT, batch_size=2)
    assert expected_SCT.abs().max() > 0.01
    torch.testing.assert_close(stems_SCT, expected_SCT, rtol=0, atol=1e-6)
    assert torch.equal(separator.separate(short_CT, batch_size=2), expected_short_SCT)


@pytest.mark.parametrize("variant", ["plain", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_is_the_network(
    uncompiled: list[tuple[int, ...]], variant: str, dtype: torch.dtype
) -> None:
    model = _network(variant)
    audio_BCT = _noise(2, 2, WINDOW)
    network = CompiledSCNet(model)
    assert set(map(id, model.parameters())) == set(map(id, network._model.parameters()))
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        torch.testing.assert_close(network(audio_BCT), model(audio_BCT), rtol=0, atol=1e-7)
        # Both have one set of weights.
        for parameter in model.parameters():
            parameter.mul_(0.5)
        torch.testing.assert_close(network(audio_BCT), model(audio_BCT), rtol=0, atol=1e-7)
    assert len(uncompiled) == 2


def _layout(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    return tensor.shape, tensor.stride(), tensor.dtype


def test_the_compiler_is_told_what_the_operations_return() -> None:
    lstm = nn.LSTM(4, 3, bidirectional=True)
    weights = [weight.detach() for weight in lstm.parameters()]
    far = [weight.to("meta") for weight in weights]
    x_NRD = _noise(5, 2, 4)
    for dtype in (torch.float32, torch.bfloat16):
        hidden = compiled._bidirectional_lstm(x_NRD, weights, 3, dtype)
        told = compiled._bidirectional_lstm(x_NRD.to("meta"), far, 3, dtype)
        assert _layout(told) == _layout(hidden)
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            expected = scnet._hidden_states(lstm, x_NRD)
        # Processors differ in the last bits of the two ways that torch has to an LSTM.
        torch.testing.assert_close(hidden, expected, rtol=0, atol=4 * torch.finfo(dtype).eps)
    # As in the network: a view whose frames do not lie last.
    x_BFND = _noise(2, 4, 3, 6).permute(0, 2, 3, 1)
    spectrum_BFND = compiled._rfft_along_time(x_BFND)
    assert _layout(compiled._rfft_along_time(x_BFND.to("meta"))) == _layout(spectrum_BFND)
    again_BFND = compiled._irfft_along_time(spectrum_BFND)
    assert _layout(compiled._irfft_along_time(spectrum_BFND.to("meta"))) == _layout(again_BFND)
    torch.testing.assert_close(again_BFND, x_BFND)


def test_a_song_of_any_length_is_one_shape(uncompiled: list[tuple[int, ...]]) -> None:
    separator = _separator()
    separator.compiled = True
    for length in (WINDOW, 2 * WINDOW, 20_000, 100):
        audio_CT = _noise(2, length)
        stems_SCT = separator.separate(audio_CT, batch_size=3)
        separator.compiled = False
        expected_SCT = separator.separate(audio_CT, batch_size=3)
        torch.testing.assert_close(stems_SCT, expected_SCT, rtol=0, atol=1e-6)
        separator.compiled = True
    assert {shape[0] for shape in uncompiled} == {3}
    assert len(set(uncompiled)) == 1


def test_a_new_shape_or_precision_frees_the_last(
    uncompiled: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(len(uncompiled)))
    network = CompiledSCNet(_network())
    with torch.inference_mode():
        network(_noise(2, 2, WINDOW))
        network(_noise(2, 2, WINDOW))
        assert resets == []
        network(_noise(1, 2, WINDOW))
        network(_noise(1, 2, WINDOW))
        with torch.autocast("cpu", torch.bfloat16):
            network(_noise(1, 2, WINDOW))
    assert resets == [2, 4]


class _Networks:
    """The same function, uncompiled and compiled; the latter holds so many windows at most."""

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.plain: list[tuple[int, ...]] = []
        self.compiled: list[tuple[int, ...]] = []
        self.starts: list[list[int]] = []  # of what was compiled

    def run(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        self.plain.append((len(audio_BCT), audio_BCT.shape[-1]))
        return audio_BCT.unsqueeze(1).repeat(1, 4, 1, 1)

    def run_compiled(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        self.compiled.append((len(audio_BCT), audio_BCT.shape[-1]))
        self.starts.append(starts_B.tolist())
        if len(audio_BCT) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return audio_BCT.unsqueeze(1).repeat(1, 4, 1, 1)

    def runner(self, batch_size: int) -> Runner:
        return Runner(
            self.run,
            CPU,
            precision="float32",
            batch_size=batch_size,
            compiled=self.run_compiled,
            window=10,
        )


def test_short_windows_are_not_compiled_and_small_batches_are_filled_up() -> None:
    networks = _Networks()
    runner = networks.runner(batch_size=4)
    for num_windows, length in ((4, 10), (1, 10), (1, 7)):
        audio_BCT = _noise(num_windows, 2, length)
        stems_BSCT = runner.finish(runner.start(audio_BCT, STARTS[:num_windows]))
        assert torch.equal(stems_BSCT, audio_BCT.unsqueeze(1).expand(-1, 4, -1, -1))
    assert networks.starts == [[0, 10, 20, 30], [0, 0, 0, 0]]
    assert networks.compiled == [(4, 10), (4, 10)]
    assert networks.plain == [(1, 7)]


def test_memory_that_runs_out_halves_what_was_run(caplog: pytest.LogCaptureFixture) -> None:
    networks = _Networks(capacity=2)
    runner = networks.runner(batch_size=8)
    audio_BCT = _noise(3, 2, 10)
    with caplog.at_level(logging.WARNING):
        stems_BSCT = runner.finish(runner.start(audio_BCT, STARTS[:3]))
    assert torch.equal(stems_BSCT, audio_BCT.unsqueeze(1).expand(-1, 4, -1, -1))
    # Three windows were filled up to eight; in the end the third is filled up to two.
    assert networks.compiled == [(8, 10), (4, 10), (2, 10), (2, 10)]
    assert "8 windows of 10 samples" in caplog.messages[0]
    assert networks.plain == []
    with pytest.raises(torch.OutOfMemoryError):
        _Networks(capacity=0).runner(batch_size=1).start(audio_BCT, STARTS[:3])


def test_the_batch_size_of_the_first_song_stays(
    uncompiled: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    separator = _separator()
    separator.compiled = True
    assert separator._compiled is not None
    estimate = separator._compiled._estimate

    def limited(mixture_BCFNP: Tensor) -> Tensor:
        stems_BSCFNP = estimate(mixture_BCFNP)
        if len(mixture_BCFNP) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stems_BSCFNP

    monkeypatch.setattr(separator._compiled, "_estimate", limited)
    for _ in range(2):
        separator.separate(_noise(2, 20_000), batch_size=4)
    sizes = [shape[0] for shape in uncompiled]
    assert sizes == [4] + [2] * (len(sizes) - 1)


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_missing_compiler_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, device: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(ConfigError, match=rf"torch.compile needs for {device}.*no-such-compiler"):
        check_compiler(torch.device(device))


def test_what_the_compiler_stumbles_over_is_told(
    uncompiled: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = CompiledSCNet(_network())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")

    def fail_with(inner: Exception) -> None:
        def fail(_: Tensor) -> Tensor:
            raise BackendCompilerFailed(lambda: None, inner, None)

        monkeypatch.setattr(network, "_estimate", fail)

    with torch.inference_mode():
        fail_with(ImportError("a.so: file too short"))
        with pytest.raises(ConfigError, match=r"a\.so: file too short.*killed, delete /cache"):
            network(_noise(1, 2, WINDOW))
        # The runner halves the batch.
        fail_with(torch.OutOfMemoryError("CUDA out of memory"))
        with pytest.raises(torch.OutOfMemoryError):
            network(_noise(2, 2, WINDOW))
    assert uncompiled == []


def test_missing_headers_are_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda _: "/nowhere")
    with pytest.raises(ConfigError, match=r"no /nowhere/Python.h \(Debian: python3-dev\)"):
        _separator().compiled = True
