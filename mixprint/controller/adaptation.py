"""Adaptation of a controller to one engineer: a task for `mixprint.training.engine`.

The prior over settings is moved towards the fitted pairs, and the training begins there: with a
controller that has learned from many songs, or with a network that says what the prior says: the
mean of each role. In the end the weights are taken on the way from that beginning to the best ones
where the pairs that are held out are nearest; so few pairs make nothing worse than the beginning.

Shape suffixes: R role (row 0: all tracks, or an unknown role), M observed strip, K field, G gate.

Source of the way: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (arXiv 2109.01903),
which averages the weights before and after.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from mixprint.controller.heads import StripPrediction
from mixprint.controller.measured import Strips, master_strips, track_strips
from mixprint.controller.model import ControllerNetwork
from mixprint.controller.prior import Prior
from mixprint.controller.training import PART, ControllerTask, TrainingSetup
from mixprint.fingerprint import code_version
from mixprint.training import engine
from mixprint.training.engine import Outcome
from mixprint.training.recorder import MetricsCallback, prefixed
from mixprint.training.task import Weights

log = logging.getLogger("mixprint.controller")

# How much of the way from the beginning to the best weights is tried.
STRENGTHS = (0.0, 0.5, 1.0)
# No group of settings is ever surely in use, or out of use.
_MOST_PROBABILITY = 0.99


def adapt_controller(
    setup: TrainingSetup,
    *,
    prior_strength: float,
    strengths: Sequence[float] = STRENGTHS,
    device: torch.device | str,
    on_metrics: MetricsCallback | None = None,
) -> Outcome:
    """Adapt a controller and write it; see `mixprint.controller.training.train_controller`.

    Args:
        setup: the training, with examples of the engineer; from scratch it begins with a network
            that says what the prior says.
        prior_strength: strips that the prior of that controller, or neutral settings, count as.
        strengths: parts of the way that are tried; 0 alone leaves the beginning as it is.
        device: see there.
        on_metrics: see there.

    Returns:
        the best figures: beside those of each validation `strength`, the part of the way that was
        chosen, `begun_distance` at the beginning, and `initial_distance` of the controller as it
        was before its prior was moved.

    Raises:
        ConfigError, TrainingError, CheckpointError: see there.
    """

    def build(device: torch.device) -> AdaptationTask:
        return AdaptationTask(setup, device, prior_strength, strengths)

    return engine.train(build, setup.out_dir, device=device, on_metrics=on_metrics)


class AdaptationTask(ControllerTask):
    """Task of adapting a controller: the network sets the console as one engineer does."""

    def __init__(
        self,
        setup: TrainingSetup,
        device: torch.device,
        prior_strength: float,
        strengths: Sequence[float],
    ) -> None:
        self._prior_strength, self._strengths = prior_strength, tuple(strengths)
        super().__init__(setup, device)

    @override
    def _network(self) -> ControllerNetwork:
        network = super()._network()
        if self.initial is None:
            self._settle(network)
        self._begun = copy.deepcopy(network)
        return network

    @override
    def _fit_prior(self, prior: Prior, strips: Strips) -> None:
        """Move a prior towards the pairs."""
        prior.adapt(
            strips.position_MK,
            strips.weight_MK,
            strips.role_M,
            strength=self._prior_strength,
            shrinkage=self.config.prior_shrinkage,
        )

    def _settle(self, network: ControllerNetwork) -> None:
        """Let a new network say what the priors say."""
        network.settle(
            self._said_by(network.prior, track_strips(self.measured.items)),
            self._said_by(network.master_prior, master_strips(self.measured.items)),
        )

    def _said_by(self, prior: Prior, strips: Strips) -> StripPrediction:
        """Return the predictions of all roles: mean, spread, and how often a group is in use."""
        role_M, gate_MG = strips.role_M, strips.gate_MG
        strength, num_roles = self._prior_strength, len(prior.mean_RK)
        common_G = (gate_MG.sum(dim=0) + strength / 2) / (len(gate_MG) + strength)
        rows = [common_G]
        for role in range(1, num_roles):
            own_MG = gate_MG[role_M == role]
            rows.append((own_MG.sum(dim=0) + strength * common_G) / (len(own_MG) + strength))
        gate_RG = torch.stack(rows).clamp(1 - _MOST_PROBABILITY, _MOST_PROBABILITY)
        deviation_K = torch.linalg.inv(prior.precision_KK).diagonal().sqrt()
        log_sigma_RK = deviation_K.log().expand(num_roles, -1)
        return StripPrediction(prior.mean_RK, log_sigma_RK, torch.logit(gate_RG))

    @override
    def identity(self) -> Mapping[str, Any]:
        added = {
            "prior_strength": self._prior_strength,
            "strengths": self._strengths,
            "adaptation": code_version(__name__),
        }
        return {**super().identity(), **added}

    @override
    def conclude(self, weights: Weights, entry: Mapping[str, float]) -> Mapping[str, float]:
        """Choose how much of the way to the best weights is gone."""
        tried = [
            self.validation.figures(self._between(weights, strength).to(self.device))
            for strength in self._strengths
        ]
        figures = min(tried, key=lambda found: found["distance"])
        strength = self._strengths[tried.index(figures)]
        log.info(
            "%.0f %% of the way from the beginning (distance %.3f): distance %.3f",
            100 * strength,
            tried[0]["distance"],
            figures["distance"],
        )
        added = {"strength": strength, "begun_distance": tried[0]["distance"]}
        if self.initial is not None:
            before = self.validation.figures(self.initial.to(self.device).network)
            added["initial_distance"] = before["distance"]
        return {**prefixed("valid", figures), **added}

    def _between(self, weights: Weights, strength: float) -> ControllerNetwork:
        """Return the network on the way from the beginning to some weights."""
        network = copy.deepcopy(self._begun).cpu().eval()
        begun, reached = network.state_dict(), weights[PART]
        network.load_state_dict(
            {name: torch.lerp(begun[name], reached[name].cpu(), strength) for name in begun}
        )
        return network

    @override
    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        network = self._between(weights, entry.get("strength", 1.0))
        super().export(folder, {PART: network.state_dict()}, entry)
