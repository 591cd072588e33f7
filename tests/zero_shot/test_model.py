from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.zero_shot.model import ZeroShotNetwork
from tests.zero_shot.tiny_model import ALL, CONFIG, embeddings, model


def test_untrained_network_is_the_identity_to_the_bit(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = make_stems(0.5)
    assert torch.equal(model(moved=False).effect(*embeddings())(stems_SCT, ALL), stems_SCT)


def test_amount_zero_is_the_input_to_the_bit_stem_by_stem(
    make_stems: Callable[..., Tensor],
) -> None:
    stems_SCT = make_stems(0.5)
    effect = model().effect(*embeddings())
    assert torch.equal(effect(stems_SCT, torch.zeros(4)), stems_SCT)
    changed_SCT = effect(stems_SCT, torch.tensor([0.0, 1.0, 0.0, 0.5]))
    assert torch.equal(changed_SCT[[0, 2]], stems_SCT[[0, 2]])
    assert not torch.allclose(changed_SCT[1], stems_SCT[1], atol=1e-3)
    # What is done to one stem does not depend on how much is done to the others.
    torch.testing.assert_close(effect(stems_SCT, ALL)[1], changed_SCT[1], rtol=0, atol=1e-6)


def test_silence_stays_silence(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = make_stems(0.5)
    stems_SCT[2] = 0
    out_SCT = model().effect(*embeddings())(stems_SCT, 1.5 * ALL)
    assert torch.equal(out_SCT[2], torch.zeros_like(out_SCT[2]))
    assert out_SCT[0].abs().max() > 0.01


def test_nothing_sounds_before_its_window_or_long_after(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = torch.zeros(4, 2, 44_100)
    stems_SCT[..., 20_000:20_100] = 0.5
    out_SCT = model().effect(*embeddings())(stems_SCT, ALL)
    assert out_SCT[..., : 20_000 - CONFIG.n_fft].abs().max() < 1e-6
    assert out_SCT[..., 20_100 + CONFIG.context_samples :].abs().max() < 1e-6
    assert out_SCT[..., 20_100 + CONFIG.n_fft : 22_000].abs().max() > 1e-4, "the room sounds on"


def test_windows_with_context_equal_the_whole(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = make_stems(1.3)
    effect = model().effect(*embeddings())
    whole_SCT = effect(stems_SCT, ALL)
    size = 150 * effect.hop_samples
    parts = []
    for start in range(0, stems_SCT.shape[-1], size):
        first = max(start - effect.context_samples, 0)
        last = start + size + effect.context_samples
        out_SCT = effect(stems_SCT[..., first:last], ALL)
        parts.append(out_SCT[..., start - first : start - first + size])
    assert len(parts) > 2
    assert effect.context_samples < size, "windows do not see all"
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole_SCT, rtol=0, atol=1e-6)


def test_gradient_reaches_all_weights(make_stems: Callable[..., Tensor]) -> None:
    network = model().network.requires_grad_(True)
    first, second = embeddings()
    conditioning = network.condition(first[None], second[None])
    network(make_stems(0.5)[None], conditioning).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_gains_of_the_middle_and_the_sides_do_what_they_say(
    make_stems: Callable[..., Tensor],
) -> None:
    network = model(moved=False).network
    gains = torch.zeros(4, 2, CONFIG.num_bands)
    gains[0, 1] = -3.0  # of the limit of 30 dB, 10 dB each: 23 dB less side in the vocals
    network.gain_head.bias.data = gains.flatten()
    network.balance_head.bias.data[1] = 1.0  # 3 dB to the left, a little less by the limit
    stems_SCT = make_stems(0.5)
    out_SCT = network(stems_SCT[None], network.condition(*(e[None] for e in embeddings())))[0]
    middle_before_T, middle_T = stems_SCT[0].mean(dim=0), out_SCT[0].mean(dim=0)
    torch.testing.assert_close(middle_T, middle_before_T, rtol=0, atol=1e-6)
    side_db = 20 * torch.log10(
        (out_SCT[0, 0] - out_SCT[0, 1]).norm() / (stems_SCT[0, 0] - stems_SCT[0, 1]).norm()
    )
    assert side_db.item() == pytest.approx(-30 * torch.tanh(torch.tensor(1.0)).item(), abs=0.1)
    gain_C = out_SCT[1].norm(dim=-1) / stems_SCT[1].norm(dim=-1)
    balance_db = 20 * torch.log10(gain_C[0] / gain_C[1])
    assert balance_db.item() == pytest.approx(12 * torch.tanh(torch.tensor(0.25)).item(), abs=0.01)


def test_weakened_network_does_a_part_in_decibels(make_stems: Callable[..., Tensor]) -> None:
    network = model(moved=False).network
    network.gain_head.bias.data.fill_(0.05)  # 0.5 dB: the limit of 30 dB bends it by 1e-4 of that
    stems_SCT = make_stems(0.5)
    first, second = embeddings()

    def gain_db(used: ZeroShotNetwork) -> float:
        out_SCT = used(stems_SCT[None], used.condition(first[None], second[None]))[0]
        return 20 * torch.log10(out_SCT.norm() / stems_SCT.norm()).item()

    assert gain_db(network) == pytest.approx(0.5, abs=1e-3)
    assert gain_db(network.weakened(0.4)) == pytest.approx(0.2, abs=1e-3)
    assert gain_db(network) == pytest.approx(0.5, abs=1e-3), "the network itself stays"
