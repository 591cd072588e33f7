"""Averages of weights over the steps of a training."""

import copy

import torch
from torch import Tensor, nn


class Average:
    """An exponential average of the weights of a network; its buffers are the newest ones.

    Attributes:
        network: holds the averaged weights, as it holds the trained ones otherwise.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the weights as they are.

        Args:
            network: what is trained.
            decay: part of the average that stays in a step, in the long run.
        """
        self._trained, self._decay = network, decay
        self.network = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Take in the weights after so many steps."""
        # Early on a long average would be an average with the random start.
        decay = min(self._decay, 1 - 1 / (num_steps / 10 + 1))
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(self._trained.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for buffer, newest in zip(self.network.buffers(), self._trained.buffers(), strict=True):
            buffer.copy_(newest)
