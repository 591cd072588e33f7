import math

import pytest
import torch

from mixprint.console.settings import Settings
from mixprint.controller.heads import ChainHead, SettingsHead, StripTarget, gaussian_nll
from mixprint.controller.targets import TRACK, Targets


def target() -> StripTarget:
    """One strip with a bell and a room, one with nothing but its fader."""
    changes = {
        "a.eq.bell2.gain_db": 6.0,
        "a.eq.bell2.freq_hz": 2_000.0,
        "a.room.send_db": -12.0,
        "a.room.time_s": 0.8,
        "b.fader_db": -9.0,
    }
    targets = Targets.of(Settings.neutral(["a", "b"]).edit(changes))
    return StripTarget(targets.track_NK, targets.track_gate_NG, torch.ones_like(targets.track_NK))


def trained(head: ChainHead | SettingsHead, num_steps: int) -> torch.Tensor:
    token_Nd = torch.eye(2, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.04)
    for _ in range(num_steps):
        optimizer.zero_grad()
        head.loss(token_Nd, TRACK.neutral_K, target(), 1.0).sum().backward()
        optimizer.step()
    return token_Nd


def test_the_likelihood_is_that_of_a_gaussian() -> None:
    found = gaussian_nll(torch.tensor(0.5), torch.tensor(0.3), torch.tensor(math.log(0.1)))
    assert float(found) == pytest.approx(2.0 + math.log(0.1))


def test_settings_and_gates_are_learned_and_what_is_not_heard_is_not() -> None:
    torch.manual_seed(0)
    head = SettingsHead(TRACK, 16)
    token_Nd = trained(head, 120)
    found = head(token_Nd, TRACK.neutral_K)
    assert (found.position_NK - target().position_NK).abs().mean() < 0.04
    assert torch.equal((found.gate_logit_NG > 0).float(), target().gate_NG)
    unheard = target()._replace(weight_NK=torch.zeros_like(target().weight_NK))
    head.zero_grad()
    head.loss(token_Nd, TRACK.neutral_K, unheard, 0.0).sum().backward()
    assert head.out.weight.grad is not None
    assert not head.out.weight.grad.any()


def test_a_chain_of_variable_length_is_learned_in_order() -> None:
    torch.manual_seed(0)
    head = ChainHead(TRACK, 16)
    token_Nd = torch.eye(2, 16)
    for chain in head.chains(token_Nd, TRACK.neutral_K):
        assert len(set(chain)) == len(chain), "a processor is written once"
    trained(head, 60)
    assert head.chains(token_Nd, TRACK.neutral_K) == [
        ["eq.bell2.gain_db", "room.send_db"],
        ["fader_db"],
    ]
    found = head(token_Nd, TRACK.neutral_K)
    heard = [place for each in ("eq.bell2.gain_db", "room.send_db") for place in _places(each)]
    assert (found.position_NK - target().position_NK)[0, heard].abs().mean() < 0.05
    # What is not written is neutral.
    bell1 = _places("eq.bell1.gain_db")
    assert torch.equal(found.position_NK[0, bell1], TRACK.neutral_K[bell1])
    assert torch.equal((found.gate_logit_NG > 0).float(), target().gate_NG)


def _places(name: str) -> list[int]:
    return next(list(each.places) for each in TRACK.processors if each.name == name)
