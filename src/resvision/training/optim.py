"""Optimisers, and learning rates as pure functions of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from resvision.recipe import Recipe

# One-cycle's ends and its momentum (Smith 2018, section 4; the divisors are those of fastai and PyTorch).
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1e-5
ONECYCLE_MOMENTUM = 0.1  # momentum is lower by this much at the peak learning rate


def build(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe; weights of convolutions and linear layers decay, norms and biases do not."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        # Decoupled decay (Loshchilov & Hutter 2017): with a decay of zero this is Adam itself.
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)


def set_step(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    """Gives the optimiser the learning rate and momentum of a step; returns the learning rate."""
    lr, momentum = schedule(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
    return lr


def schedule(recipe: Recipe, step: int) -> tuple[float, float]:
    """Learning rate and momentum of a step, counted from 0, out of `recipe.steps`."""
    assert recipe.steps is not None
    warmup = recipe.warmup * recipe.steps
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    falling = min(1.0, max(0.0, (step + 1 - warmup) / max(1.0, recipe.steps - warmup)))
    cosine = (1 + math.cos(math.pi * falling)) / 2
    if recipe.schedule == "constant":
        return recipe.lr * rising, recipe.momentum
    if recipe.schedule == "cosine":
        return recipe.lr * (rising if rising < 1 else cosine), recipe.momentum
    if rising < 1:
        part = (1 - math.cos(math.pi * rising)) / 2
        share = ONECYCLE_START + (1 - ONECYCLE_START) * part
    else:
        part = cosine
        share = ONECYCLE_END + (1 - ONECYCLE_END) * part
    return recipe.lr * share, max(0.0, recipe.momentum - ONECYCLE_MOMENTUM * part)
