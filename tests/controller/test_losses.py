import torch

from mixprint.console.settings import Settings
from mixprint.controller.heads import StripPrediction
from mixprint.controller.losses import console_mix, prior_loss, soft_targets, truth_loss
from mixprint.controller.model import Outputs
from mixprint.controller.targets import MASTER, TRACK, Targets
from tests.controller.trials import RATE_HZ, network


def test_true_settings_have_no_distance_and_others_a_gradient_towards_them() -> None:
    generator = torch.Generator().manual_seed(0)
    tracks_NCT = 0.1 * torch.randn(2, 2, 8_192, generator=generator)
    changes = {"a.eq.low.gain_db": 5.0, "b.fader_db": -6.0, "b.pan": 0.5}
    truth = Targets.of(Settings.neutral(["a", "b"]).edit(changes))
    trim_N = torch.tensor([3.0, 0.0])
    truth_NCT = console_mix(tracks_NCT, truth, trim_N, RATE_HZ)
    assert float(truth_loss(truth_NCT, truth_NCT, 2048, 0.5)) < 1e-5
    # A gate that is barely open, and positions that are neutral.
    position_NK = Targets.neutral(2).track_NK.requires_grad_()
    logit_NG = torch.tensor([[-1.0, -9.0, -9.0, -9.0], [-9.0] * 4], requires_grad=True)
    found = Outputs(
        StripPrediction(position_NK, torch.zeros_like(position_NK), logit_NG),
        StripPrediction(MASTER.neutral_K[None], MASTER.neutral_K[None], torch.full((1, 2), -9.0)),
    )
    targets = soft_targets(found)
    # Groups that no track uses are closed.
    assert targets.track_gate_NG.count_nonzero(dim=0).tolist() == [2, 0, 0, 0]
    mixed_NCT = console_mix(tracks_NCT, targets, trim_N, RATE_HZ)
    truth_loss(mixed_NCT, truth_NCT, 2048, 0.5).backward()
    assert position_NK.grad is not None
    names = [each.name for each in TRACK.fields]
    assert position_NK.grad[1, names.index("fader_db")] > 0
    assert position_NK.grad[0, names.index("eq.low.gain_db")] < 0
    assert position_NK.grad[1, names.index("pan")] < 0
    assert position_NK.grad[0, names.index("comp.slope")] == 0


def test_the_prior_is_nearest_at_its_mean() -> None:
    net, role_N = network(), torch.tensor([1])
    mean = Targets(net.prior.mean(role_N), torch.ones(1, 4), MASTER.neutral_K, torch.ones(2))
    other = Targets(mean.track_NK + 0.1, torch.ones(1, 4), mean.master_K, torch.ones(2))
    assert float(prior_loss(net, mean, role_N)) == 0.0
    assert float(prior_loss(net, other, role_N)) > 0.1
