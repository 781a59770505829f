"""Cuts: what of a network is taken out so that it is so many times cheaper and is hurt least."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from resvision.efficiency import prune
from resvision.efficiency.ladder import Ladder, Rung
from resvision.errors import MissingExtraError
from resvision.models import ResNet

GRADIENT_BATCHES = 2
BISECTIONS = 5


def cut(ladder: Ladder, best: Rung, wanted: float) -> ResNet | None:
    """A network that is `wanted` times cheaper: without blocks, without channels, or half of each; what hurts least.

    They are compared by their loss with new norm statistics, before they learn anything.

    Args:
        ladder: whose pictures tell what hurts.
        best: the rung whose network is cut; it stays as it is. What is cheaper is measured in this rung's runtime.
        wanted: times cheaper than that network, above 1.

    Returns:
        The network, not taught yet; None where nothing that can be taken out is enough.
    """
    network, race, looked_at = best.classifier.network, ladder.race(best), ladder.looked_at

    def cheaper(made: ResNet) -> float:
        return 1.0 if made is network else race(made)  # raced with itself it might seem faster

    half = _without_blocks(network, math.sqrt(wanted), cheaper, looked_at)
    candidates = {"blocks": None if half is None else _without_blocks(half, wanted, cheaper, looked_at)}
    try:
        candidates["channels"] = _without_channels(network, wanted, cheaper, looked_at)
        candidates["both"] = None if half is None else _without_channels(half, wanted, cheaper, looked_at)
    except MissingExtraError as reason:
        ladder.note(f"no channels are taken out: {reason}")
    there = {name: _recalibrated(made, looked_at) for name, made in candidates.items() if made is not None}
    if not there:
        return None
    loss = {name: ladder.loss(made) for name, made in there.items()}
    ladder.note("cross-entropy before teaching: " + ", ".join(f"{name} {value:.3f}" for name, value in loss.items()))
    return there[min(loss, key=loss.__getitem__)]


def _without_blocks(
    network: ResNet, wanted: float, cheaper: Callable[[ResNet], float], batches: prune.Batches
) -> ResNet | None:
    """The network without as many of the least needed blocks as it takes; None where they are not enough."""
    while cheaper(network) < wanted:
        damage = prune.block_damage(network, batches)
        if not damage:
            return None
        network = prune.without_block(network, min(damage, key=damage.__getitem__))
    return network


def _without_channels(
    network: ResNet, wanted: float, cheaper: Callable[[ResNet], float], batches: prune.Batches
) -> ResNet | None:
    """The network with as few inner channels fewer as it takes; None where even the most are not enough."""
    if cheaper(network) >= wanted:
        return network
    low, high, found = 0.0, prune.MOST_PRUNED, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        made = prune.narrowed(network, middle, batches[:GRADIENT_BATCHES])
        if cheaper(made) >= wanted:
            high, found = middle, made
        else:
            low = middle
    return found


@torch.no_grad()
def _recalibrated(network: ResNet, batches: prune.Batches) -> ResNet:
    """A copy whose norms have the statistics of its own activations."""
    made = copy.deepcopy(network).eval()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    for inputs, _ in batches:
        made(inputs)
    for norm in norms:
        norm.momentum = 0.1
    return made.eval()
