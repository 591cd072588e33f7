"""Distances of whole segments from the truth, before and after the network.

Shape suffixes: S stem, C channel, T sample, E embedding, V figure.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.dsp.spectral_distance import FEW_FRAMES_PER_WINDOW, multi_resolution_stft
from mixprint.encoder.settings import AugmentRanges
from mixprint.stems import STEMS
from mixprint.training.loading import load_batches, rank_rows
from mixprint.training.ranks import rank_and_world, sum_over_ranks
from mixprint.zero_shot.model import ZeroShotNetwork
from mixprint.zero_shot.renderings import (
    Example,
    Measured,
    Rendering,
    RenderingReader,
)


class Validation:
    """Examples by which networks are compared; the ranks share the work."""

    def __init__(
        self,
        items: Sequence[Rendering],
        examples: Sequence[Example],
        measured: Measured,
        *,
        ranges: AugmentRanges,
        mix_weight: float,
        num_workers: int,
        device: torch.device,
    ) -> None:
        """Measure nothing yet.

        Args:
            items: the renderings that examples number.
            examples: what is measured.
            measured: embeddings of the renderings.
            ranges: of the chains.
            mix_weight: of the mix's distance beside the mean of the stems'.
            num_workers: readers of this rank.
            device: of the networks.
        """
        self._reader = RenderingReader(items, ranges)
        self._examples, self._measured = examples, measured
        self._mix_weight, self._num_workers, self._device = mix_weight, num_workers, device
        self._untouched: dict[str, float] = {}

    @torch.no_grad()
    def figures(self, networks: Sequence[ZeroShotNetwork]) -> list[dict[str, float]]:
        """Return mean distances of each network, and their ratio to those of the input."""
        if not self._untouched:
            (self._untouched,) = self._mean_distances([None])
        return [self._compared(reached) for reached in self._mean_distances(networks)]

    def _compared(self, reached: dict[str, float]) -> dict[str, float]:
        untouched = self._untouched
        return {
            **{f"input_{name}": value for name, value in untouched.items()},
            **{f"output_{name}": value for name, value in reached.items()},
            **{
                f"relative_{part}": reached[part] / max(untouched[part], 1e-12)
                for part in ("stems", "mix")
            },
            "distance": reached["stems"] + self._mix_weight * reached["mix"],
        }

    def _mean_distances(self, networks: Sequence[ZeroShotNetwork | None]) -> list[dict[str, float]]:
        """Return the mean distance of each stem, of all stems and of the mix, for each network."""
        own = self._examples[rank_rows(len(self._examples), *rank_and_world())]
        stems = load_batches(
            self._reader,
            [number for example in own for number in (example.input, example.truth)],
            num_workers=self._num_workers,
            pinned=self._device.type == "cuda",
        )
        sums = [dict.fromkeys((*STEMS, "stems", "mix"), 0.0) for _ in networks]
        for example in own:
            input_SCT, truth_SCT = (next(stems).to(self._device) for _ in range(2))
            for network, total in zip(networks, sums, strict=True):
                for name, value in self._distances(network, example, input_SCT, truth_SCT).items():
                    total[name] += value
        return [self._mean_over_ranks(total) for total in sums]

    def _distances(
        self,
        network: ZeroShotNetwork | None,
        example: Example,
        input_SCT: Tensor,
        truth_SCT: Tensor,
    ) -> dict[str, float]:
        output_SCT = input_SCT
        if network is not None:
            embedding_ME = self._measured.embedding_ME
            pair = (embedding_ME[[n]].to(self._device) for n in (example.input, example.reference))
            output_SCT = network(input_SCT.unsqueeze(0), network.condition(*pair))[0]
        *by_stem, mix = (
            float(multi_resolution_stft(a_CT, b_CT, frames_per_window=FEW_FRAMES_PER_WINDOW))
            for a_CT, b_CT in zip(
                [*output_SCT, output_SCT.sum(dim=0)],
                [*truth_SCT, truth_SCT.sum(dim=0)],
                strict=True,
            )
        )
        named = dict(zip(STEMS, by_stem, strict=True))
        return {**named, "stems": sum(by_stem) / len(STEMS), "mix": mix}

    def _mean_over_ranks(self, sums: dict[str, float]) -> dict[str, float]:
        sums_V = torch.tensor(list(sums.values()), dtype=torch.float64, device=self._device)
        means = (sum_over_ranks(sums_V) / len(self._examples)).tolist()
        return dict(zip(sums, means, strict=True))
