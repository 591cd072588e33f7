from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.console.settings import Settings
from mixprint.errors import ConfigError
from mixprint.stems import STEMS
from mixprint.transfer.effect import Effect, InWindows, Running, apply_to_blocks
from mixprint.transfer.methods.console_effect import ConsoleEffect
from mixprint.transfer.methods.tcn import TCN
from mixprint.transfer.methods.tcn_fit import FittedTCN

RATE_HZ = 44_100
Make = Callable[..., Tensor]
ONES_S, ZEROS_S = torch.ones(4), torch.zeros(4)


def network(receptive_field_s: float = 0.3) -> FittedTCN:
    """Kernels far from the identity."""
    generator = torch.Generator().manual_seed(5)
    tcn = TCN.for_receptive_field(receptive_field_s, RATE_HZ, seed=3)
    for parameter in tcn.parameters():
        with torch.no_grad():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return FittedTCN(tcn).requires_grad_(False)


def console(changes: dict[str, float | str] | None = None) -> ConsoleEffect:
    """Settings of all kinds that remember what was before."""
    wanted: dict[str, float | str] = changes or {
        "vocals.eq.low.gain_db": -6.0,
        "vocals.comp.slope": 0.6,
        "vocals.comp.release_ms": 400.0,
        "bass.fader_db": -4.0,
        "drums.room.send_db": -12.0,
        "drums.room.time_s": 0.6,
        "drums.pan": 0.3,
        "other.width": 1.5,
        "master.eq.high.gain_db": 2.0,
        "master.comp.slope": 0.4,
    }
    return ConsoleEffect(Settings.neutral(STEMS).edit(wanted), RATE_HZ)


def streamed(effect: Effect, stems_SCT: Tensor, window_s: float, block: int) -> Tensor:
    running = Running(sample_rate_hz=RATE_HZ, window_s=window_s)
    blocks = stems_SCT.split(block, dim=-1)
    return torch.cat(list(apply_to_blocks(effect, blocks, ONES_S, running)), dim=-1)


@pytest.mark.parametrize("kind", ["console", "TCN"])
@pytest.mark.parametrize("seconds", [4.1234, 0.37])
def test_windows_equal_one_pass(make_stems: Make, seconds: float, kind: str) -> None:
    song_SCT = make_stems(seconds, seed=2)
    effect: Effect = console() if kind == "console" else InWindows(network())
    whole_SCT = effect(song_SCT, ONES_S)
    assert not torch.allclose(whole_SCT, song_SCT, atol=1e-2)
    for window_s, block in ((0.5, 10_007), (1.7, 262_144), (30.0, 44_100)):
        windows_SCT = streamed(effect, song_SCT, window_s, block)
        torch.testing.assert_close(windows_SCT, whole_SCT, atol=1e-6, rtol=0)


def test_what_is_finished_comes_before_the_song_ends(make_stems: Make) -> None:
    song_SCT = make_stems(3.0)
    running = Running(sample_rate_hz=RATE_HZ, window_s=0.5)
    for effect in (console(), InWindows(network(0.01))):
        stream = effect.start(ONES_S, running)
        lengths = [stream.step(part).shape[-1] for part in song_SCT.split(RATE_HZ, dim=-1)]
        assert all(lengths)
        assert sum(lengths) + stream.finish().shape[-1] == song_SCT.shape[-1]


def test_the_context_is_needed(make_stems: Make) -> None:
    class Blind:
        """Says that it needs no context."""

        context_samples, hop_samples = 0, 1

        def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
            return found(stems_SCT, amount_S)

        def to(self, device: torch.device | str) -> "Blind":
            return self

    song_SCT = make_stems(1.5)
    found = network()
    blind_SCT = streamed(InWindows(Blind()), song_SCT, 0.5, 44_100)
    assert not torch.allclose(blind_SCT, found(song_SCT, ONES_S), atol=1e-4)


def test_no_amount_is_the_input_to_the_bit(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    only_drums_S = torch.tensor([0.0, 0.0, 1.0, 0.0])
    for effect in (console(), InWindows(network())):
        assert torch.equal(effect(song_SCT, ZEROS_S), song_SCT)
        only_drums_SCT = effect(song_SCT, only_drums_S)
        assert torch.equal(only_drums_SCT[[0, 1, 3]], song_SCT[[0, 1, 3]])
        assert not torch.allclose(only_drums_SCT[2], song_SCT[2], atol=1e-3)


def test_the_amount_scales_decibels(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    effect = console({"bass.trim_db": 5.0, "bass.fader_db": -13.0, "master.output_db": 1.0})
    for amount in (0.5, 1.0, 2.0):
        amount_S = torch.full((4,), amount)
        settings = effect.settings(amount_S)
        level_db = settings["bass.trim_db"] + settings["bass.fader_db"]
        assert level_db == pytest.approx(-8 * amount, abs=1e-4)
        out_SCT = effect(song_SCT, amount_S)
        ratio_S = out_SCT.norm(dim=(1, 2)) / song_SCT.norm(dim=(1, 2))
        expected_S = amount * torch.tensor([1.0, -7.0, 1.0, 1.0])
        torch.testing.assert_close(20 * ratio_S.log10(), expected_S, atol=1e-3, rtol=0)


def test_the_master_is_done_as_much_as_the_stem_that_is_changed_the_least() -> None:
    settings = console().settings(torch.tensor([1.0, 0.25, 2.0, 1.0]))
    assert settings["master.eq.high.gain_db"] == pytest.approx(0.5)
    assert settings["master.comp.slope"] == pytest.approx(0.1)
    assert settings["other.width"] == 1.5


def test_the_amount_scales_the_residual_of_a_tcn(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    effect = network()
    residual_SCT = effect(song_SCT, ONES_S) - song_SCT
    assert float(residual_SCT.norm()) > 0.01 * float(song_SCT.norm())
    double_SCT = effect(song_SCT, 2 * ONES_S)
    torch.testing.assert_close(double_SCT, song_SCT + 2 * residual_SCT, atol=1e-6, rtol=0)


def test_stems_left_alone(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    effect = InWindows(network(), ["vocals"])
    out_SCT = effect(song_SCT, ONES_S)
    assert torch.equal(out_SCT[0], song_SCT[0])
    assert not torch.equal(out_SCT[1], song_SCT[1])
    assert effect.settings(ONES_S) is None


@pytest.mark.parametrize("amounts", [[-0.1, 1, 1, 1], [1, 1, 1], [float("nan"), 1, 1, 1]])
def test_amounts_are_checked(make_stems: Make, amounts: list[float]) -> None:
    song_SCT = make_stems(1.0)
    for effect in (console(), network()):
        with pytest.raises(ConfigError, match="amount"):
            effect(song_SCT, torch.tensor(amounts))


def test_windows_are_checked() -> None:
    with pytest.raises(ConfigError, match="window"):
        Running(sample_rate_hz=RATE_HZ, window_s=0.0)


class Gpu:
    """Stands for an effect on a device whose memory holds `most` samples; doubles its input."""

    context_samples, hop_samples = 100, 10

    def __init__(self, most: int) -> None:
        self.most, self.on_cpu = most, False
        self.lengths: list[int] = []

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        self.lengths.append(stems_SCT.shape[-1])
        if not self.on_cpu and stems_SCT.shape[-1] > self.most:
            raise torch.OutOfMemoryError("too long")
        return torch.full_like(stems_SCT, 3.0 if self.on_cpu else 2.0)

    def to(self, device: torch.device | str) -> "Gpu":
        self.on_cpu = torch.device(device).type == "cpu"
        return self


@pytest.mark.parametrize(
    ("most", "value", "words"), [(500, 2.0, ["windows of"] * 2), (0, 3.0, ["windows of", "CPU"])]
)
def test_short_memory(
    monkeypatch: pytest.MonkeyPatch, most: int, value: float, words: list[str]
) -> None:
    # Tensors stay where they are: this machine has no such device.
    monkeypatch.setattr(Tensor, "to", lambda self, *args, **more: self)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    effect, notes = Gpu(most), list[str]()
    running = Running(sample_rate_hz=1000, window_s=1.0, device="cuda", notes=notes)
    out = apply_to_blocks(InWindows(effect), [torch.zeros(4, 2, 1700)], ONES_S, running)
    whole_SCT = torch.cat(list(out), dim=-1)
    assert whole_SCT.shape == (4, 2, 1700)
    assert (whole_SCT == value).all()
    assert all(word in " ".join(notes) for word in words)
    assert notes
    # The caller's effect is where it was.
    assert not effect.on_cpu
