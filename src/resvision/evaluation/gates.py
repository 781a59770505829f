"""Gates of blocks, counted while pictures are evaluated: how often each is open, and what that leaves to compute."""

from __future__ import annotations

from typing import Any

from resvision.cost import branch_macs, cost
from resvision.models import ResNet


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
