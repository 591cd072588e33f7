"""Distances of mixes by a controller to the truth, on songs that are held out.

Beside the controller stand what nobody has to learn much for: the prior's mean, which is the style
of all songs that were learned from, and tracks at equal level, brought to the truth's level.

Shape suffixes: N track, C channel, T sample, V figure.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mixprint.controller.checkpoint import thresholded
from mixprint.controller.data import reference_song
from mixprint.controller.inputs import batched
from mixprint.controller.losses import console_mix
from mixprint.controller.measured import MeasuredExample, MeasuredExamples
from mixprint.controller.model import ControllerNetwork
from mixprint.controller.targets import MASTER, TRACK, Targets
from mixprint.dsp.spectral_distance import FEW_FRAMES_PER_WINDOW, multi_resolution_stft
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.loading import rank_rows
from mixprint.training.ranks import rank_and_world, sum_over_ranks

_TINY = 1e-12
MEAN_STYLE, EQUAL_LEVEL, REFERENCE, NO_REFERENCE = (
    "mean_style",
    "equal_level",
    "controller",
    "no_reference",
)


class Validation:
    """Examples by which networks are compared; the ranks share the work."""

    def __init__(
        self,
        measured: MeasuredExamples,
        *,
        context_s: float,
        gate_weight: float,
        device: torch.device,
    ) -> None:
        """Measure nothing yet.

        Args:
            measured: examples of other songs, with audio.
            context_s: what the console hears of each and is not compared.
            gate_weight: of the gates in the likelihood.
            device: of the networks.
        """
        self._measured, self._gate_weight, self._device = measured, gate_weight, device
        self._num_lead = round(context_s * SAMPLE_RATE_HZ)
        self._baselines: dict[str, float] = {}

    @torch.no_grad()
    def figures(self, network: ControllerNetwork) -> dict[str, float]:
        """Return mean distances of the network and, beside it, of the baselines.

        `distance` is that of the network with a reference, `relative` what it is of the mean
        style's, and `likelihood` the negative log likelihood of the true settings.
        """
        if not self._baselines:
            self._baselines = self._means(
                lambda item: {
                    MEAN_STYLE: _mean_style(network, item).to(self._device),
                    EQUAL_LEVEL: Targets.neutral(len(item.track_ND)).to(self._device),
                }
            )
        found = self._means(lambda item: self._predicted(network, item), network)
        return {
            "distance": found[REFERENCE],
            "relative": found[REFERENCE] / max(self._baselines[MEAN_STYLE], _TINY),
            f"{NO_REFERENCE}_distance": found[NO_REFERENCE],
            "likelihood": found["likelihood"],
            **{f"{name}_distance": value for name, value in self._baselines.items()},
        }

    def _means(
        self,
        find: Callable[[MeasuredExample], Mapping[str, Targets]],
        network: ControllerNetwork | None = None,
    ) -> dict[str, float]:
        """Return the mean distance of each way to set the console, over all ranks."""
        items = self._measured.items
        own = range(len(items))[rank_rows(len(items), *rank_and_world())]
        names = [REFERENCE, NO_REFERENCE, "likelihood"]
        names = names if network is not None else [MEAN_STYLE, EQUAL_LEVEL]
        sums = dict.fromkeys(names, 0.0)
        for number in own:
            item = items[number]
            audio = self._measured.audio(number)
            tracks_NCT = audio.tracks_NCT.to(self._device)
            truth_CT = audio.truth_NCT.to(self._device).sum(dim=0)[:, self._num_lead :]
            for name, targets in find(item).items():
                mix_CT = self._mix(tracks_NCT, targets, item)
                if name == EQUAL_LEVEL:
                    power, wanted = (float(x.square().mean()) for x in (mix_CT, truth_CT))
                    mix_CT = mix_CT * (wanted / max(power, _TINY)) ** 0.5
                distance = multi_resolution_stft(
                    mix_CT, truth_CT, frames_per_window=FEW_FRAMES_PER_WINDOW
                )
                sums[name] += float(distance)
            if network is not None:
                sums["likelihood"] += self._likelihood(network, item)
        sums_V = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        found = dict(zip(names, sum_over_ranks(sums_V.to(self._device)).tolist(), strict=True))
        return {name: value / len(items) for name, value in found.items()}

    def _mix(self, tracks_NCT: Tensor, targets: Targets, item: MeasuredExample) -> Tensor:
        mixed_NCT = console_mix(tracks_NCT, targets, item.trim_N, SAMPLE_RATE_HZ)
        return mixed_NCT.sum(dim=0)[:, self._num_lead :]

    def _predicted(self, network: ControllerNetwork, item: MeasuredExample) -> dict[str, Targets]:
        song = reference_song(item, item)
        return {
            name: thresholded(
                network(batched([each], network.config.embedding_dim).to(self._device))
            )
            for name, each in ((REFERENCE, song), (NO_REFERENCE, song.without_reference()))
        }

    def _likelihood(self, network: ControllerNetwork, item: MeasuredExample) -> float:
        song = reference_song(item, item)
        inputs = batched([song], network.config.embedding_dim).to(self._device)
        loss_1 = network.likelihood(
            network.encode(inputs),
            inputs.is_track_BN,
            item.track.to(self._device),
            item.master.to(self._device),
            self._gate_weight,
        )
        return float(loss_1)


def _mean_style(network: ControllerNetwork, item: MeasuredExample) -> Targets:
    """Return the prior's mean for the roles of an example, all gates open."""
    num_tracks = len(item.role_N)
    return Targets(
        network.prior.mean(item.role_N.to(network.prior.mean_RK.device)),
        torch.ones(num_tracks, len(TRACK.gates)),
        network.master_prior.mean_RK[0],
        torch.ones(len(MASTER.gates)),
    )
