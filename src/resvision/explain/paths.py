"""Paths: a residual network is many short paths, which survive the loss of a block (Veit et al. 2016)."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from resvision.data.images import to_input
from resvision.explain.bench import LEARNT, Bench, apart, diverged, diverged_said, seeds_said
from resvision.measure import spread
from resvision.models import Block, ResNet
from resvision.progress import Note
from resvision.runtime import device
from resvision.training.ledger import Ledger

ARMS = {"plain": "plain{}_cifar", "residual": "resnet{}_cifar"}
DRAWS = 10  # random choices of blocks for each number of deletions or swaps, and of paths for each length
PICTURES = 256  # on which gradients of paths are measured


def run(bench: Bench, ledger: Ledger, note: Note) -> dict[str, Any]:
    """Trains a plain and a residual network, then takes them apart; returns the numbers."""
    [depth] = bench.options.depths
    rows = []
    for seed in range(bench.options.seeds):
        for arm in ARMS:
            found = ledger.once(f"{arm} {seed}", lambda: _examine(bench, arm, depth, seed))  # noqa: B023
            rows.append({"arm": arm, "seed": seed, **found})
            note(f"{arm}-{depth}, seed {seed}: {_seen(found)}")
    return {"depth": depth, "classes": len(bench.classes), "rows": rows, "summary": _summary(rows)}


def _examine(bench: Bench, arm: str, depth: int, seed: int) -> dict[str, Any]:
    network = bench.network(bench.spec(ARMS[arm].format(depth)), seed)
    ended = bench.finish(network, seed)
    if ended["diverged"]:
        return ended
    network.eval()
    blocks = list(network.blocks())
    loose = [index for index, block in enumerate(blocks) if block.plan.stride == 1]
    draw = random.Random(seed)
    found = ended | {"error": error(bench, network, range(len(blocks)))}
    found["single"] = [
        {"block": block, "error": error(bench, network, [i for i in range(len(blocks)) if i != block])}
        for block in loose
    ]
    found["deleted"] = []
    for count in _counts(len(loose)):
        chosen = [set(draw.sample(loose, count)) for _ in range(DRAWS)]
        errors = [error(bench, network, [i for i in range(len(blocks)) if i not in gone]) for gone in chosen]
        found["deleted"].append({"blocks": count, **spread(errors)})
    found["reordered"] = []
    for count in _counts(len(loose)):
        orders = [_swapped(blocks, loose, count, draw) for _ in range(DRAWS)]
        errors = [error(bench, network, order) for order in orders]
        tau = statistics.fmean(kendall_tau(order) for order in orders)
        found["reordered"].append({"swaps": count, "kendall_tau": tau, **spread(errors)})
    if arm == "residual":
        found["paths"] = path_lengths(bench, network, draw)
    return found


def _seen(found: dict[str, Any]) -> str:
    if found["diverged"]:
        return f"diverged at step {found['steps']}"
    worst = max(row["error"] for row in found["single"])
    return f"error {found['error']:.2%}, at worst {worst:.2%} without one block"


def _counts(most: int) -> list[int]:
    return [count for count in (1, 2, 3, 4, 6, 8, 10, 12, 16, 20) if count <= most]


@torch.inference_mode()
def error(bench: Bench, network: ResNet, order: Collection[int]) -> float:
    """The test error (0..1) with only the blocks of `order`, in that order; the others let their input pass."""
    wrong = count = 0
    for batch in bench.test_part:
        inputs = to_input(batch.squares.to(device()), bench.preprocess)
        wrong += int((logits(network, inputs, order).argmax(dim=1).cpu() != batch.labels).sum())
        count += len(batch.labels)
    return wrong / count


def logits(network: ResNet, inputs: torch.Tensor, order: Collection[int]) -> torch.Tensor:
    """The logits (N, K) of inputs (N, C, S, S) with only the blocks of `order`, in that order."""
    blocks = list(network.blocks())
    x = network.stem(inputs)
    for index in order:
        x = blocks[index](x)
    return network.head(x)


def _swapped(blocks: Sequence[Block], loose: Sequence[int], swaps: int, draw: random.Random) -> list[int]:
    """An order in which random pairs of blocks of one shape have changed places."""
    order = list(range(len(blocks)))
    for _ in range(swaps):
        first = draw.choice(loose)
        width = blocks[first].plan.out_channels
        second = draw.choice([i for i in loose if blocks[i].plan.out_channels == width and i != first] or [first])
        order[first], order[second] = order[second], order[first]
    return order


def kendall_tau(order: Sequence[int]) -> float:
    """Rank correlation with the original order: 1 is the same, -1 the reverse."""
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs)


def path_lengths(bench: Bench, network: ResNet, draw: random.Random) -> list[dict[str, float]]:
    """For each length: how many paths have it, the gradient that one carries, and the share of all that they carry.

    A path of length k goes through F in k blocks and through the shortcut in the others. The forward pass is that of
    the whole network; backwards only the path is open (Veit et al. 2016, section 5).

    Empty where there is nothing to share out: the gradients are all zero, or not finite.
    """
    batch = bench.batch(PICTURES)
    inputs = to_input(batch.squares, bench.preprocess)
    blocks = len(list(network.blocks()))
    rows = []
    for length in range(blocks + 1):
        chosen = [set(draw.sample(range(blocks), length)) for _ in range(DRAWS)]
        norms = [float(path_gradient(network, inputs, batch.labels, through).norm()) for through in chosen]
        rows.append({"length": length, "paths": math.comb(blocks, length), "gradient": statistics.fmean(norms)})
    total = sum(row["paths"] * row["gradient"] for row in rows)
    if not 0 < total < math.inf:
        return []
    return [row | {"share": row["paths"] * row["gradient"] / total} for row in rows]


def path_gradient(
    network: ResNet, inputs: torch.Tensor, targets: torch.Tensor, through: Collection[int]
) -> torch.Tensor:
    """The loss gradient (N, C', H, W) at the first block's input along one path.

    Args:
        network: in evaluation mode, of post-activation blocks.
        inputs: (N, C, S, S).
        targets: (N,) int64.
        through: the blocks whose F the path takes.
    """
    with torch.no_grad():
        start = network.stem(inputs)
    x = start.requires_grad_()
    for index, block in enumerate(network.blocks()):
        f, s = block.branch(x), block.shortcut(x)
        x = F.relu(f + s.detach() if index in through else f.detach() + s)
    loss = F.cross_entropy(network.head(x), targets)
    [gradient] = torch.autograd.grad(loss, start)
    return gradient


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds that did not diverge: errors before and after one deletion, and which lengths carry the gradient.

    An arm of which all diverged has no errors, and without lengths that carry a gradient nothing is told of them.
    """
    found: dict[str, Any] = {}
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        found[arm] = {"diverged": diverged(own)}
        if whole := [row for row in own if not row["diverged"]]:
            found[arm] |= {
                "error": spread([row["error"] for row in whole]),
                "single_median": spread([statistics.median(r["error"] for r in row["single"]) for row in whole]),
                "harm": spread([statistics.median(r["error"] for r in row["single"]) - row["error"] for row in whole]),
                "single_worst": spread([max(r["error"] for r in row["single"]) for row in whole]),
            }
    lengths = [row["paths"] for row in rows if row.get("paths")]
    if not lengths:
        return found
    shares = [statistics.fmean(own[k]["share"] for own in lengths) for k in range(len(lengths[0]))]
    found["blocks"] = len(shares) - 1
    found["share"] = shares
    found["mean_length"] = spread([sum(row["length"] * row["share"] for row in own) for own in lengths])
    found["range_90"] = [_quantile(shares, 0.05), _quantile(shares, 0.95)]
    found["paths_in_range"] = (
        sum(math.comb(found["blocks"], k) for k in range(found["range_90"][0], found["range_90"][1] + 1))
        / 2 ** found["blocks"]
    )
    return found


def _quantile(shares: Sequence[float], part: float) -> int:
    total = 0.0
    for length, share in enumerate(shares):
        total += share
        if total >= part:
            return length
    return len(shares) - 1


def describe(numbers: dict[str, Any]) -> str:
    """What was seen, in words, from the numbers."""
    options, summary = numbers["settings"], numbers["summary"]
    text = (
        f"A plain and a residual network of {numbers['depth']} layers were trained on {options['data']} "
        f"({seeds_said(options['seeds'])}) and then taken apart; blocks that change the shape stay. "
    )
    failed = []
    guessing = 1 - 1 / numbers["classes"]
    for arm in ARMS:
        if steps := summary[arm]["diverged"]:
            text += f"Of the {arm} network {diverged_said(steps, options['seeds'])}. "
        if steps or max(summary[arm]["error"]["values"]) > LEARNT * guessing:
            failed.append(arm)
        if "error" not in summary[arm]:
            continue
        whole, median, worst = (summary[arm][key]["mean"] for key in ("error", "single_median", "single_worst"))
        text += (
            f"Without one block the {arm} network's test error goes from {whole:.2%} to {median:.2%} in the median "
            f"over the blocks, {worst:.2%} at worst. "
        )
    if failed:
        text += (
            f"The {' and the '.join(failed)} network diverged or hardly learnt more than guessing (an error of "
            f"{guessing:.0%}), so that the two cannot be compared: give another --lr, or more --steps. "
        )
    else:
        text += _bears(summary["plain"]["harm"], summary["residual"]["harm"])
    if "residual" in failed or "share" not in summary:
        return text
    low, high = summary["range_90"]
    text += (
        f"Of the {2 ** summary['blocks']:,} paths through its {summary['blocks']} blocks, half go through "
        f"{summary['blocks'] / 2:g} or fewer; 90% of the gradient at the first block comes along paths through {low} "
        f"to {high} blocks (mean {summary['mean_length']['mean']:.1f}), which are {summary['paths_in_range']:.2%} of "
        "all paths. "
    )
    if summary["mean_length"]["mean"] < 0.8 * summary["blocks"] / 2:
        text += (
            "So the gradient comes along paths that are shorter than most, and the network trains like shallow ones."
        )
    else:
        text += "So in this network the paths that carry the gradient are about as long as most paths."
    return text


def _bears(plain: dict[str, Any], residual: dict[str, Any]) -> str:
    """Which of the two networks bears the loss of a block better, from the errors that it adds."""
    one_seed = len(plain["values"]) == 1
    if plain["mean"] <= residual["mean"]:
        return "Here the residual network did not bear the loss of a block better than the plain one. "
    if not (one_seed or apart(plain, residual)):
        return "The seeds do not tell whether the residual network bears the loss of a block better. "
    much = "far" if plain["mean"] > 2 * residual["mean"] + 0.01 else "somewhat"
    chance = ", as far as one seed can tell: give --seeds 3 to know whether this is more than chance" * one_seed
    return f"The residual network bears the loss of a block {much} better than the plain one{chance}. "
