import pytest
import torch
from torch import Tensor

from mixprint.config import load_params
from mixprint.controller.heads import StripTarget
from mixprint.controller.inputs import SongInputs, batched
from mixprint.controller.model import ControllerNetwork, Inputs
from mixprint.controller.roles import ROLES
from mixprint.controller.settings import ControllerTrainConfig
from mixprint.controller.targets import MASTER, TRACK
from mixprint.features.descriptors import NUM_DESCRIPTORS
from tests.controller.trials import network
from tests.encoder.conftest import REPOSITORY


def song(num_tracks: int, seed: int, embedding_dim: int = 4) -> SongInputs:
    generator = torch.Generator().manual_seed(seed)
    return SongInputs(
        torch.randn(num_tracks, NUM_DESCRIPTORS, generator=generator),
        torch.arange(num_tracks) % 3,
        torch.randn(4, NUM_DESCRIPTORS, generator=generator),
        torch.arange(4),
        torch.randn(embedding_dim, generator=generator),
    )


@pytest.mark.parametrize("head", ["settings", "chain"])
@torch.no_grad()
def test_permuted_tracks_give_permuted_settings_and_padding_changes_nothing(head: str) -> None:
    net = network(head=head)
    alone = net(batched([song(3, 1)], 4))
    order = [2, 0, 1]
    one = song(3, 1)
    permuted = SongInputs(
        one.track_ND[order], one.role_N[order], one.reference_RD, one.kind_R, one.embedding_E
    )
    turned = net(batched([permuted], 4))
    beside = net(batched([song(3, 1), song(5, 2)], 4))
    for place in range(3):
        torch.testing.assert_close(
            turned.track[place], alone.track[place][order], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(beside.track[place][:3], alone.track[place], atol=1e-5, rtol=0)
        torch.testing.assert_close(beside.master[place][:1], alone.master[place], atol=1e-5, rtol=0)
    # Which tracks there are is heard.
    fewer = net(batched([SongInputs(*vars(song(2, 1)).values())], 4))
    assert (fewer.master.position_NK - alone.master.position_NK).abs().max() > 1e-4


@torch.no_grad()
def test_what_stands_for_no_reference_is_heard_only_without_one() -> None:
    net = network()
    given, none = song(2, 3), song(2, 3).without_reference()

    def master(inputs: Inputs) -> torch.Tensor:
        position_NK: torch.Tensor = net(inputs).master.position_NK
        return position_NK

    before = [master(batched([each], 4)) for each in (given, none)]
    net.special.row_Rd[0].add_(torch.linspace(-3.0, 3.0, 16))
    after = [master(batched([each], 4)) for each in (given, none)]
    torch.testing.assert_close(after[0], before[0], atol=1e-6, rtol=0)
    assert (after[1] - before[1]).abs().max() > 1e-4


def test_what_is_shipped_has_five_million_weights_at_most() -> None:
    for profile in ("tiny", "representation"):
        config = ControllerTrainConfig.of_params(
            load_params(REPOSITORY / "params.yaml", profile), REPOSITORY / "params.yaml"
        )
        with torch.device("meta"):
            net = ControllerNetwork(config.architecture(768, ROLES))
        assert sum(p.numel() for p in net.parameters()) < 5e6


def test_what_a_reference_tells_is_learned() -> None:
    """The level of a reference tells the fader, which no mean of all songs does."""
    net = network().train()
    fader = [each.name for each in TRACK.fields].index("fader_db")
    generator = torch.Generator().manual_seed(0)

    def batch(size: int) -> tuple[Inputs, Tensor]:
        fader_B = torch.rand(size, generator=generator)
        songs = [song(1, seed) for seed in range(size)]
        told = [
            SongInputs(s.track_ND, s.role_N, 4 * x + 0.1 * s.reference_RD[:1], s.kind_R[:1])
            for s, x in zip(songs, fader_B - 0.5, strict=True)
        ]
        return batched(told, 4), fader_B

    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    weight_NK = torch.zeros(32, len(TRACK.fields))
    weight_NK[:, fader] = 1.0
    master = StripTarget(
        MASTER.neutral_K.repeat(32, 1), torch.zeros(32, 2), torch.zeros(32, len(MASTER.fields))
    )
    for _ in range(120):
        inputs, fader_B = batch(32)
        position_NK = TRACK.neutral_K.repeat(32, 1)
        position_NK[:, fader] = fader_B
        track = StripTarget(position_NK, torch.zeros(32, 4), weight_NK)
        optimizer.zero_grad()
        tokens = net.encode(inputs)
        net.likelihood(tokens, inputs.is_track_BN, track, master, 0.3).mean().backward()
        optimizer.step()
    inputs, fader_B = batch(32)
    with torch.no_grad():
        found = net.eval()(inputs).track
    error_B = (found.position_NK[:, fader] - fader_B).abs()
    # Evenly spread faders are 1/4 away from their mean, on average.
    assert error_B.mean() < 0.15
    assert found.log_sigma_NK[:, fader].exp().mean() < 0.2
