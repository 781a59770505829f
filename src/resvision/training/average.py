"""The moving average of a network's weights, which is what is evaluated and kept where the recipe asks for it."""

from __future__ import annotations

import copy

import torch

from resvision.models import ResNet

WARMUP = 10  # the first updates average over fewer steps, so that the initial weights are soon forgotten


class Average:
    """A copy of a network that follows it: average <- d * average + (1 - d) * weights.

    d is `decay` in the end, and (1 + step) / (10 + step) before that. Norm statistics are averaged as weights are.

    Args:
        network: that is followed.
        decay: d, in (0, 1).
    """

    def __init__(self, network: ResNet, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self.floating = [(average, value) for average, value in pairs if average.is_floating_point()]
        self.counts = [(average, value) for average, value in pairs if not average.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights behind a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (WARMUP + step))
        averages, values = map(list, zip(*self.floating, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        if self.counts:  # of batches seen
            averages, values = map(list, zip(*self.counts, strict=True))
            torch._foreach_copy_(averages, values)
