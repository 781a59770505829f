"""Gates of blocks, counted while pictures are evaluated: how often each is open, and what that saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from resvision.cost import branch_macs, cost
from resvision.evaluation.race import race
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.runtime import TorchSession

BATCHES = (1, 32)


def reset(network: ResNet) -> None:
    """Begins to count anew."""
    for gate in network.gates():
        gate.seen = gate.open = 0


def report(network: ResNet, size: int) -> dict[str, Any]:
    """What the gates did since `reset`, for JSON: the share of pictures that each let through, and mean multiply-adds.

    Args:
        network: with gates.
        size: height and width of the pictures, in pixels.
    """
    spec = network.spec
    shares = {block.plan.name: block.gate.open / block.gate.seen for block in network.blocks() if block.plan.gated}
    branches = {plan.name: macs for plan, macs in zip(spec.plan(), branch_macs(spec, size), strict=True)}
    left_out = sum((1 - share) * branches[name] for name, share in shares.items())
    full = cost(spec, size).macs
    return {"open": shares, "rate": sum(shares.values()) / len(shares), "macs": full - left_out, "macs_in_full": full}


def measured(network: ResNet, preprocess: Preprocess, sample: Sequence[torch.Tensor]) -> dict[str, dict[str, float]]:
    """What gates save in time, which multiply-adds do not tell, by the number of pictures at once; for JSON.

    Args:
        network: with gates; it races against itself with every block computed.
        preprocess: of its pictures.
        sample: squares (1, S, S, C) of some of them.
    """
    every_block = ResNet(replace(network.spec, gates=False))
    weights = {key: value for key, value in network.state_dict().items() if ".gate." not in key}
    every_block.load_state_dict(weights, assign=True)  # the same tensors, on their device and in their memory format
    gated, in_full = (TorchSession(one, preprocess) for one in (network, every_block))
    return {str(batch): race(gated, in_full, sample, batch) for batch in BATCHES}
