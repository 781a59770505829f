"""Landscape: the loss around a trained network along filter-normalised directions (Li et al. 2018)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resvision.data.images import to_input
from resvision.explain.bench import LEARNT, Bench, apart, diverged, diverged_said, seeds_said
from resvision.measure import spread
from resvision.models import ResNet
from resvision.progress import Note
from resvision.training.ledger import Ledger

ARMS = {"plain": "plain{}_cifar", "residual": "resnet{}_cifar"}
GRID = 17  # points a side
REACH = 1.0  # how far the plane goes, in norms of the filters
PICTURES = 256
BASIN = 0.5  # nats above the centre that still count as the basin

Weights = dict[str, torch.Tensor]


def run(bench: Bench, ledger: Ledger, note: Note) -> dict[str, Any]:
    """Trains a plain and a residual network and scans a plane around each; returns the numbers."""
    [depth] = bench.options.depths
    rows = []
    for seed in range(bench.options.seeds):
        for arm in ARMS:
            found = ledger.once(f"{arm} {seed}", lambda: _scan(bench, arm, depth, seed))  # noqa: B023
            seen = {} if found["diverged"] else shape(np.array(found["surface"]))
            rows.append({"arm": arm, "seed": seed, **found, **seen})
            end = f"{seen['basin']:.0%} of the plane within {BASIN} nats of the centre" if seen else "diverged"
            note(f"{arm}-{depth}, seed {seed}: {end}")
    axis = np.linspace(-REACH, REACH, GRID).tolist()
    return {"depth": depth, "classes": len(bench.classes), "axis": axis, "rows": rows, "summary": _summary(rows)}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds that did not diverge: what the surfaces look like, nothing for an arm of which all diverged."""
    found: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        found[arm] = {"diverged": diverged(own)}
        if whole := [row for row in own if not row["diverged"]]:
            found[arm] |= {key: spread([row[key] for row in whole]) for key in ("centre", "basin", "negative", "rim")}
    return found


def directions(network: ResNet, generator: torch.Generator) -> Weights:
    """A random direction whose every filter has the norm of the network's own (Li et al. 2018, section 4).

    Norms' weights and all biases stay where they are.
    """
    found = {}
    for key, weight in network.named_parameters():
        if weight.ndim > 1:
            random = torch.randn(weight.shape, generator=generator)
            lengths = [tensor.flatten(1).norm(dim=1).cpu() for tensor in (weight.detach(), random)]
            scale = (lengths[0] / (lengths[1] + 1e-10)).view(-1, *[1] * (weight.ndim - 1))
            found[key] = random * scale
    return found


def _scan(bench: Bench, arm: str, depth: int, seed: int) -> dict[str, Any]:
    network = bench.network(bench.spec(ARMS[arm].format(depth)), seed)
    ended = bench.finish(network, seed)
    if ended["diverged"]:
        return ended
    network.eval()
    batch = bench.batch(PICTURES)
    inputs = to_input(batch.squares, bench.preprocess)
    generator = torch.Generator().manual_seed(seed)  # the same random numbers for both arms
    first, second = directions(network, generator), directions(network, generator)
    axis = np.linspace(-REACH, REACH, GRID)
    surface = [[loss_at(network, inputs, batch.labels, {0: (a, first), 1: (b, second)}) for a in axis] for b in axis]
    return ended | {"surface": surface}


@torch.no_grad()
def loss_at(
    network: ResNet, inputs: torch.Tensor, targets: torch.Tensor, along: dict[int, tuple[float, Weights]]
) -> float:
    """The loss (nats, at most 1e6) where the weights are moved along directions; the network is left as it was."""
    parameters = dict(network.named_parameters())
    moved = {key for _, direction in along.values() for key in direction}
    before = {key: parameters[key].clone() for key in moved}
    for distance, direction in along.values():
        for key, value in direction.items():
            parameters[key].add_(value.to(parameters[key].device), alpha=distance)
    loss = F.cross_entropy(network(inputs), targets)
    for key, value in before.items():
        parameters[key].copy_(value)
    return float(loss.nan_to_num(1e6).clamp(max=1e6))


def shape(surface: npt.NDArray[np.float64]) -> dict[str, float]:
    """What a surface (rows, columns) of losses looks like, in numbers.

    Returns:
        The loss at the centre, the part of the plane within `BASIN` of it, the median loss at the rim, and the part of
        the inner points where the surface bends downwards in some direction (its discrete Hessian has a negative
        eigenvalue), which a convex surface does nowhere.
    """
    centre = float(surface[len(surface) // 2, len(surface) // 2])
    inner = surface[1:-1, 1:-1]
    dxx = surface[1:-1, 2:] - 2 * inner + surface[1:-1, :-2]
    dyy = surface[2:, 1:-1] - 2 * inner + surface[:-2, 1:-1]
    dxy = (surface[2:, 2:] - surface[2:, :-2] - surface[:-2, 2:] + surface[:-2, :-2]) / 4
    least = (dxx + dyy) / 2 - np.sqrt(((dxx - dyy) / 2) ** 2 + dxy**2)
    rim = np.concatenate([surface[0], surface[-1], surface[1:-1, 0], surface[1:-1, -1]])
    return {
        "centre": centre,
        "basin": float((surface <= centre + BASIN).mean()),
        "rim": float(np.median(rim)),
        "negative": float((least < -1e-3).mean()),
    }


def describe(numbers: dict[str, Any]) -> str:
    """What was seen, in words, from the numbers."""
    options, summary = numbers["settings"], numbers["summary"]
    text = (
        f"Around a plain and a residual network of {numbers['depth']} layers, trained on {options['data']} from the "
        f"same initial weights ({seeds_said(options['seeds'])}), the loss on test pictures was computed on a "
        f"plane of two random directions whose filters have the norms of the networks' own. "
    )
    guessing = math.log(numbers["classes"])
    failed = []
    for arm in ARMS:
        if steps := summary[arm]["diverged"]:
            text += f"{arm.capitalize()}: {diverged_said(steps, options['seeds'])}. "
        if steps or max(summary[arm]["centre"]["values"]) > LEARNT * guessing:
            failed.append(arm)
        if "centre" not in summary[arm]:
            continue
        centre, basin, rim, negative = (summary[arm][key] for key in ("centre", "basin", "rim", "negative"))
        text += (
            f"{arm.capitalize()}: {centre['mean']:.3f} nats at the centre, {basin['mean']:.0%} of the plane within "
            f"{BASIN} nats of that (seeds {min(basin['values']):.0%} to {max(basin['values']):.0%}), {rim['mean']:.3g} "
            f"nats at the rim in the median; the surface bends downwards at {negative['mean']:.0%} of the points. "
        )
    if failed:
        return text + (
            f"The {' and the '.join(failed)} network diverged or is hardly better than guessing ({guessing:.3f} nats), "
            "so that the basins cannot be compared: give another --lr, or more --steps."
        )
    plain, residual = (summary[arm]["basin"] for arm in ("plain", "residual"))
    if apart(residual, plain):
        text += "The residual network lies in a wider basin with every seed."
    elif apart(plain, residual):
        text += "Here the plain network lies in the wider basin with every seed."
    else:
        text += "The seeds do not tell which lies in the wider basin."
    return text
