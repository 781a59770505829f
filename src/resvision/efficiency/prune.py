"""Pruning: whole residual blocks, and channels inside of blocks, are taken out; what is left is a spec and weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from resvision.errors import SpecError
from resvision.models import ResNet
from resvision.models.block import Block
from resvision.runtime import extra

MOST_PRUNED = 0.85  # of the channels of one layer, so that none becomes a bottleneck of everything
ROUND_TO, ROUND_NARROW_TO = 8, 4  # channels that processors compute at once; of networks as narrow as those for CIFAR

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]  # inputs (N, C, S, S) and labels (N,)


def check(network: ResNet) -> None:
    """Refuses networks that cannot be pruned.

    Raises:
        SpecError: the network is reversible, has groups, conditional convolutions or no shortcut.
    """
    spec = network.spec
    if spec.reversible or spec.groups > 1 or spec.experts > 1 or spec.shortcut == "none":
        kind = "reversible" if spec.reversible else "plain" if spec.shortcut == "none" else "grouped or conditional"
        raise SpecError(f"a {kind} network cannot be pruned: take a residual network with ordinary convolutions")


def removable(network: ResNet) -> tuple[int, ...]:
    """The places, counted from 0, of the blocks that keep the shape: without F, y = x, they can be left out whole.

    Blocks in front of which an exit stands move the exit with them; the last block in front of one stays, and so does
    the last one of a stage.
    """
    fixed = {after - 1 for after in network.spec.exits}
    alone = [depth == 1 for depth in network.spec.depths for _ in range(depth)]
    plan = network.spec.plan()
    return tuple(i for i, block in enumerate(plan) if block.shortcut == "identity" and i not in fixed and not alone[i])


@torch.inference_mode()
def block_damage(network: ResNet, batches: Batches) -> dict[int, float]:
    """How much the mean cross-entropy rises, in nats, without each removable block (Veit et al. 2016, section 4.1)."""
    network.eval()
    blocks = list(network.blocks())
    damage = dict.fromkeys(removable(network), 0.0)
    for inputs, labels in batches:
        states = [network.stem(inputs)]  # what enters each block, which is the same for all that are left out behind it
        for block in blocks:
            states.append(block(states[-1]))

        def loss(x: torch.Tensor, labels: torch.Tensor = labels) -> float:
            return F.cross_entropy(network.head(x), labels, reduction="sum").item()

        whole = loss(states[-1])
        for place in damage:
            x = states[place]
            for block in blocks[place + 1 :]:
                x = block(x)
            damage[place] += loss(x) - whole
    pictures = sum(len(labels) for _, labels in batches)
    return {place: rise / pictures for place, rise in damage.items()}


def without_block(network: ResNet, place: int) -> ResNet:
    """A copy of a network in which one removable block is left out."""
    spec = network.spec
    assert place in removable(network)
    stage, first = 0, 0
    while place >= first + spec.depths[stage]:
        first += spec.depths[stage]
        stage += 1
    depths = tuple(depth - (index == stage) for index, depth in enumerate(spec.depths))
    inner = tuple(widths for index, widths in enumerate(spec.inner) if index != place)
    exits = tuple(after - (after > place) for after in spec.exits)
    smaller = ResNet(replace(spec, depths=depths, inner=inner, exits=exits)).to(_device(network))
    state = {}
    for key, value in network.state_dict().items():
        match = re.match(rf"layer{stage + 1}\.(\d+)\.(.*)", key)
        if match is None:
            state[key] = value
        elif (index := int(match[1])) != place - first:
            state[f"layer{stage + 1}.{index - (index > place - first)}.{match[2]}"] = value
    smaller.load_state_dict(state)
    return smaller.eval()


def narrowed(network: ResNet, ratio: float, batches: Batches) -> ResNet:
    """A copy of a network without the channels inside of its blocks that matter least.

    The shortcuts keep their width: they carry what every block adds to. Which channels belong together is found by the
    dependency graph of Fang et al. 2023; what a channel matters is by how much the loss would change without it, to
    first order (Molchanov et al. 2019), over all layers together.

    Args:
        network: to prune.
        ratio: the part of all channels that goes, in (0, 1).
        batches: a few, for the gradients.

    Raises:
        MissingExtraError: torch-pruning is not installed.
    """
    torch_pruning = extra("torch_pruning", "compress", "pruning channels")
    pruned = copy.deepcopy(network).eval()
    pruned.requires_grad_()
    inner = {layer for block in pruned.blocks() for layer in _inner_convolutions(block)}
    kept = [m for m in pruned.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in inner]
    pruner = torch_pruning.pruner.BasePruner(
        pruned,
        batches[0][0][:1],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=MOST_PRUNED,
        ignored_layers=kept,
        round_to=ROUND_TO if min(network.spec.widths) >= 64 else ROUND_NARROW_TO,
    )
    pruned.zero_grad()
    for inputs, labels in batches:
        F.cross_entropy(pruned(inputs), labels).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    widths = tuple(tuple(layer.out_channels for layer in _inner_convolutions(block)) for block in pruned.blocks())
    smaller = ResNet(replace(network.spec, inner=widths)).to(_device(network))
    smaller.load_state_dict(pruned.state_dict())
    return smaller.eval()


def _inner_convolutions(block: Block) -> list[nn.Conv2d]:
    """All convolutions of F but the last."""
    found = [block.get_submodule(conv.name) for conv in block.plan.convs[:-1]]
    assert all(isinstance(layer, nn.Conv2d) for layer in found)
    return found  # type: ignore[return-value]


def _widths_inside(block: Block) -> tuple[int, ...]:
    return tuple(conv.out_channels for conv in block.plan.convs[:-1])


def _device(network: ResNet) -> torch.device:
    return next(network.parameters()).device


def said(before: ResNet, after: ResNet) -> str:
    """What was taken out, for a person."""
    blocks = sum(before.spec.depths) - sum(after.spec.depths)
    parts = []
    if blocks:
        parts.append(f"{blocks} of {sum(before.spec.depths)} blocks fewer")
    widths, left = ([_widths_inside(block) for block in n.blocks()] for n in (before, after))
    earlier = iter(widths)
    if not all(own in earlier for own in left):  # in that order: else blocks alone are fewer
        parts.append(f"{1 - sum(map(sum, left)) / sum(map(sum, widths)):.0%} fewer inner channels in all")
    return " and ".join(parts) or "as it is"
