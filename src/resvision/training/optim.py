"""Optimisers, and learning rates as pure functions of the step."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from resvision.recipe import Recipe
from resvision.training.lamb import Lamb
from resvision.training.muon import Muon

# One-cycle's ends and its momentum (Smith 2018, section 4; the divisors are those of fastai and PyTorch).
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1e-5
ADAM_SECOND_BETA = 0.999
ONECYCLE_MOMENTUM = 0.1  # momentum is lower by this much at the peak learning rate

GROWN = 0.6  # the part of all steps behind which pictures have their full size
SIZE_STEP = 32  # px; a compiled network is compiled anew for every size, and each stage halves it

# Names of the modules before the first stage, and of those that tell classes.
STEM, HEADS = ("conv1", "bn1", "maxpool"), ("fc", "exits")


def build(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe; weights of convolutions and linear layers decay, norms and biases do not.

    Pretrained parameters are grouped by stage: each group has a learning rate of its own, and an optimiser's fused
    kernel wants all of a group to begin at the same step.
    """
    assert recipe.lr != "auto"  # the finder has replaced it
    groups: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    places = stages_below_head(network) if recipe.pretrained is not None else {}
    for name, parameter in network.named_parameters():
        kernel = parameter.ndim > 2
        decays = parameter.ndim > 1 and not name.endswith("bias")  # which experts have one each of
        groups.setdefault((places.get(name, 0), decays, kernel), []).append(parameter)
    muon = recipe.optimizer == "muon"
    options = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "lr_scale": recipe.lr_decay**place * (recipe.rest_lr / recipe.lr if muon and not kernel else 1.0),
            **({"matrix": kernel} if muon else {"by_layer": decays} if recipe.optimizer == "lamb" else {}),
        }
        for (place, decays, kernel), parameters in groups.items()
    ]
    if muon:
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        graph = bool(recipe.cuda_graph)
        return Muon(options, lr=recipe.lr, momentum=recipe.momentum, dtype=dtype, cuda_graph=graph)
    if recipe.optimizer == "lamb":
        return Lamb(options, lr=recipe.lr, betas=(recipe.momentum, ADAM_SECOND_BETA))
    if recipe.optimizer in ("adam", "adamw"):
        # Decoupled decay (Loshchilov & Hutter 2017): with a decay of zero this is Adam itself.
        return torch.optim.AdamW(options, lr=recipe.lr, betas=(recipe.momentum, ADAM_SECOND_BETA), fused=True)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(options, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)


def stages_below_head(network: nn.Module) -> dict[str, int]:
    """0 for what is in the last layer and in exits, 1 in the last stage and so on; the stem goes with the first."""
    names = [name for name, _ in network.named_parameters()]
    stages = {name: int(match[1]) for name in names if (match := re.match(r"layer(\d+)\.", name))}
    last = max(stages.values(), default=1)
    rooms = dict.fromkeys(STEM, 1) | dict.fromkeys(HEADS, last + 1)
    # What is left stands between the last block and the last layer.
    return {name: last + 1 - stages.get(name, rooms.get(name.split(".")[0], last)) for name in names}


def set_step(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    """Gives the optimiser the learning rates and momentum of a step; returns the recipe's learning rate."""
    lr, momentum = schedule(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
    return lr


def schedule(recipe: Recipe, step: int) -> tuple[float, float]:
    """Learning rate and momentum of a step, counted from 0, out of `recipe.steps`."""
    assert recipe.steps is not None
    assert recipe.lr != "auto"
    warmup = recipe.warmup * recipe.steps
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    # By the steps before this one, so that the last one still learns; onecycle's does in any case.
    done = step + (recipe.schedule == "onecycle")
    falling = min(1.0, max(0.0, (done - warmup) / max(1.0, recipe.steps - warmup)))
    cosine = (1 + math.cos(math.pi * falling)) / 2
    if recipe.schedule != "onecycle":
        passed = sum(step >= milestone * recipe.steps for milestone in recipe.milestones)
        later = {"constant": 1.0, "cosine": cosine, "linear": 1 - falling, "steps": 0.1**passed}[recipe.schedule]
        return recipe.lr * (rising if rising < 1 else later), recipe.momentum
    if rising < 1:
        part = (1 - math.cos(math.pi * rising)) / 2
        share = ONECYCLE_START + (1 - ONECYCLE_START) * part
    else:
        part = cosine
        share = ONECYCLE_END + (1 - ONECYCLE_END) * part
    return recipe.lr * share, max(0.0, recipe.momentum - ONECYCLE_MOMENTUM * part)


def picture_size(recipe: Recipe, step: int, steps_an_epoch: int) -> int:
    """Height and width of the pictures in the epoch that begins at a step: growing from `first_size` to `size`.

    They grow from one multiple of SIZE_STEP to the next, or at once where none lies between. The last epoch has the
    full size, since that is what is evaluated.
    """
    assert recipe.steps is not None
    grown = step / (GROWN * recipe.steps)
    if recipe.first_size is None or grown >= 1 or step + steps_an_epoch >= recipe.steps:
        return recipe.size
    if round(recipe.first_size / SIZE_STEP) * SIZE_STEP >= recipe.size:
        return recipe.first_size
    size = recipe.first_size + grown * (recipe.size - recipe.first_size)
    return min(recipe.size, max(recipe.first_size, round(size / SIZE_STEP) * SIZE_STEP))
