"""Phases: what learns at a step, first the last layer alone and then all of the network, batch norms perhaps never."""

from __future__ import annotations

import torch
from torch import nn

from resvision.models import ResNet
from resvision.recipe import Recipe


def head_steps(recipe: Recipe) -> int:
    """How many steps at the beginning train the last layer alone."""
    assert recipe.steps is not None
    return round(recipe.head_first * recipe.steps)


def begin(network: ResNet, recipe: Recipe, step: int) -> None:
    """Makes the network ready to train from a step on, until `head_steps` or an evaluation."""
    learn(network, recipe, trunk=step >= head_steps(recipe))


def learn(network: ResNet, recipe: Recipe, *, trunk: bool) -> None:
    """Puts the network into training mode, or all but the last layer and the exits into evaluation mode.

    What does not learn gets no gradient, so that the optimiser passes it over: no decay and no momentum moves it, its
    norms keep their statistics, and the backward pass ends where it begins.

    Args:
        network: whose modes and `requires_grad` are set.
        recipe: whether batch norms, or all but the exits, are frozen.
        trunk: whether what stands before the last layer learns.
    """
    trunk = trunk and not recipe.freeze_trunk
    network.train(trunk).requires_grad_(trunk)
    network.fc.train().requires_grad_(not recipe.freeze_trunk)
    network.exits.train().requires_grad_()
    for gate in network.gates():
        gate.rate = torch.ones(())  # of an earlier step, whose graph is gone, where the gates do not decide in training
    if recipe.freeze_norms:
        new = set(network.exits.modules())  # which were not pretrained
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module not in new:
                module.eval().requires_grad_(False)
    # One that an earlier measurement left behind would let the optimiser move what does not learn.
    for parameter in network.parameters():
        if not parameter.requires_grad:
            parameter.grad = None
