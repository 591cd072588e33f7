import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.transfer.console import Console
from mixprint.transfer.effect import LeavesAlone, apply_to_blocks
from mixprint.transfer.methods.chain import FittedChain
from mixprint.transfer.methods.tcn import TCN

RATE_HZ = 44_100
Make = Callable[..., Tensor]
ONES_S, ZEROS_S = torch.ones(4), torch.zeros(4)


def chain(heard_SCT: Tensor, *, console: bool = True, tcn: bool = True) -> FittedChain:
    """Controls and kernels far from the identity."""
    generator = torch.Generator().manual_seed(5)
    parts: list = [Console(RATE_HZ, [heard_SCT]) if console else None]
    parts.append(TCN.for_receptive_field(0.3, RATE_HZ, seed=3) if tcn else None)
    for part in parts:
        for parameter in part.parameters() if part is not None else ():
            with torch.no_grad():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return FittedChain(*parts).requires_grad_(False)


def streamed(effect: FittedChain, stems_SCT: Tensor, window_s: float, block: int) -> Tensor:
    blocks = apply_to_blocks(
        effect,
        stems_SCT.split(block, dim=-1),
        ONES_S,
        sample_rate_hz=RATE_HZ,
        window_s=window_s,
    )
    return torch.cat(list(blocks), dim=-1)


@pytest.mark.parametrize("seconds", [7.1234, 0.77])
def test_windows_equal_one_pass(make_stems: Make, seconds: float) -> None:
    song_SCT = make_stems(seconds, seed=2)
    effect = chain(make_stems(3.0))
    whole_SCT = effect(song_SCT, ONES_S)
    assert not torch.allclose(whole_SCT, song_SCT, atol=1e-2)
    for window_s, block in ((0.5, 10_007), (1.7, 262_144), (30.0, 44_100)):
        windows_SCT = streamed(effect, song_SCT, window_s, block)
        torch.testing.assert_close(windows_SCT, whole_SCT, atol=1e-6, rtol=0)


def test_the_context_is_needed(make_stems: Make) -> None:
    class Blind:
        """Says that it needs no context."""

        context_samples = 0

        def __init__(self, effect: FittedChain) -> None:
            self.effect, self.hop_samples = effect, effect.hop_samples

        def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
            return self.effect(stems_SCT, amount_S)

    song_SCT = make_stems(3.0)
    effect = chain(song_SCT)
    blind_SCT = streamed(Blind(effect), song_SCT, 0.5, 44_100)  # type: ignore[arg-type]
    assert not torch.allclose(blind_SCT, effect(song_SCT, ONES_S), atol=1e-4)


def test_one_part_is_treated_as_in_the_whole(make_stems: Make) -> None:
    """The dynamics refer to what was heard at the fit, not to what they are given."""
    heard_SCT = make_stems(3.0)
    console = Console(RATE_HZ, [heard_SCT])
    with torch.no_grad():
        console.dynamics_SW[:, 1] = 0.9 * math.atanh(0.5 / 0.9)
    effect = FittedChain(console, None)
    # 12 dB above what was heard comes out 6 dB above; its own mean level would give 12 dB.
    loud_SCT = effect(10 ** (12 / 20) * heard_SCT, ONES_S)
    ratio = loud_SCT.square().mean() / effect(heard_SCT, ONES_S).square().mean()
    assert 10 * math.log10(float(ratio)) == pytest.approx(6.0, abs=0.3)


def test_no_amount_is_the_input_to_the_bit(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    effect = chain(song_SCT)
    assert torch.equal(effect(song_SCT, ZEROS_S), song_SCT)
    only_drums_SCT = effect(song_SCT, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    assert torch.equal(only_drums_SCT[[0, 1, 3]], song_SCT[[0, 1, 3]])
    torch.testing.assert_close(only_drums_SCT[2], effect(song_SCT, ONES_S)[2], atol=1e-6, rtol=0)


def test_the_amount_scales_decibels(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    console = Console(RATE_HZ, [song_SCT])
    with torch.no_grad():
        console.gain_S.fill_(-24 * math.atanh(8 / 24))
        console.balance_S.fill_(12 * math.atanh(2 / 12))
    effect = FittedChain(console, None)
    for amount in (0.5, 1.0, 2.0):
        settings = effect.settings(amount * ONES_S)["bass"]
        assert settings["gain_db"] == pytest.approx(-8 * amount, abs=1e-4)
        assert settings["balance_db"] == pytest.approx(2 * amount, abs=1e-4)
        out_SCT = effect(song_SCT, amount * ONES_S)
        ratio = out_SCT[..., 5_000:-5_000].norm() / song_SCT[..., 5_000:-5_000].norm()
        # What the balance adds to the power: one side is raised, the other lowered.
        balance_db = 10 * math.log10(math.cosh(math.log(10) / 10 * amount))
        total_db = 20 * math.log10(float(ratio))
        assert total_db == pytest.approx(-8 * amount + balance_db, abs=0.05)


def test_the_amount_scales_the_residual_of_a_tcn(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    effect = chain(song_SCT, console=False)
    residual_SCT = effect(song_SCT, ONES_S) - song_SCT
    assert float(residual_SCT.norm()) > 0.01 * float(song_SCT.norm())
    double_SCT = effect(song_SCT, 2 * ONES_S)
    torch.testing.assert_close(double_SCT, song_SCT + 2 * residual_SCT, atol=1e-6, rtol=0)


def test_dynamics_stay_within_their_range(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    console = Console(RATE_HZ, [song_SCT])
    with torch.no_grad():
        console.dynamics_SW.fill_(0.6)
    settings = FittedChain(console, None).settings(5 * ONES_S)
    assert settings["drums"]["dynamics_slow"] == pytest.approx(0.9)


def test_stems_left_alone(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    found = chain(song_SCT)
    effect = FittedChain(found.console, found.tcn, ["vocals"])
    wrapped = LeavesAlone(found, ["vocals"])
    for each in (effect, wrapped):
        out_SCT = each(song_SCT, ONES_S)
        assert torch.equal(out_SCT[0], song_SCT[0])
        assert not torch.equal(out_SCT[1], song_SCT[1])
        assert list(each.settings(ONES_S)) == ["bass", "drums", "other"]
        assert each.context_samples == found.context_samples


@pytest.mark.parametrize("amounts", [[-0.1, 1, 1, 1], [1, 1, 1], [float("nan"), 1, 1, 1]])
def test_amounts_are_checked(make_stems: Make, amounts: list[float]) -> None:
    song_SCT = make_stems(1.0)
    with pytest.raises(ConfigError, match="amount"):
        chain(song_SCT)(song_SCT, torch.tensor(amounts))


def test_a_chain_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        FittedChain(None, None)


def test_windows_are_checked(make_stems: Make) -> None:
    song_SCT = make_stems(1.0)
    with pytest.raises(ConfigError, match="window"):
        streamed(chain(song_SCT), song_SCT, 0.0, 1000)


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
    out = apply_to_blocks(
        effect,  # type: ignore[arg-type]
        [torch.zeros(4, 2, 1700)],
        ONES_S,
        sample_rate_hz=1000,
        window_s=1.0,
        device="cuda",
        notes=notes,
    )
    whole_SCT = torch.cat(list(out), dim=-1)
    assert whole_SCT.shape == (4, 2, 1700)
    assert (whole_SCT == value).all()
    assert all(word in " ".join(notes) for word in words)
    assert notes
    # The caller's effect is where it was.
    assert not effect.on_cpu
