"""Gradients: what reaches the first block of a deep network, forwards and backwards, with and without the shortcut."""

from __future__ import annotations

import math
import statistics
from typing import Any, get_args

import torch
import torch.nn.functional as F

from resvision.data.images import to_input
from resvision.data.reading import Batch
from resvision.explain.bench import Bench, diverged, diverged_said, seeds_said
from resvision.models import ResNet
from resvision.progress import Note
from resvision.spec import Init, Norm
from resvision.training.ledger import Ledger

ARMS = {"plain": "plain{}_cifar", "residual": "resnet{}_cifar"}
NORMS: tuple[Norm, ...] = get_args(Norm)
INITS: tuple[Init, ...] = ("he", "glorot", "torch")
INIT_NAMES = {"he": "He", "glorot": "Glorot", "torch": "PyTorch's default"}
PICTURES = 64  # of the batch on which the norms are measured
LR_WITHOUT_NORM = 0.01  # ten times less than with norms: without them larger steps diverge everywhere
VANISHES, EXPLODES = 0.1, 10.0  # what arrives relative to what set out


def run(bench: Bench, ledger: Ledger, note: Note) -> dict[str, Any]:
    """Measures every combination of arm, norm and initialisation before and after training; returns the numbers."""
    [depth] = bench.options.depths
    batch = bench.batch(PICTURES)
    rows = []
    for norm in NORMS:
        for init in INITS:
            for arm in ARMS:
                for seed in range(bench.options.seeds):
                    key = f"{norm} {init} {arm} {seed}"
                    found = ledger.once(key, lambda: _measure(bench, batch, arm, depth, norm, init, seed))  # noqa: B023
                    rows.append({"norm": norm, "init": init, "arm": arm, "seed": seed, **found})
                note(f"{arm}-{depth}, norm {norm}, {INIT_NAMES[init]}: {_ratios(rows[-1])}")
    return {"depth": depth, "rows": rows, "summary": _summary(rows)}


def flow(network: ResNet, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, list[float | None]]:
    """For each block's input x the norm of dLoss/dx and the root mean square of x; None where they are not finite.

    Args:
        network: is put into training mode; its weights stay.
        inputs: (N, C, S, S).
        targets: (N,) int64.
    """
    network.train()
    entering = []
    x = network.stem(inputs)
    for block in network.blocks():
        entering.append(x)
        x = block(x)
    loss = F.cross_entropy(network.head(x), targets)
    # In double precision, or squares would vanish and overflow long before the values do.
    gradients = [float(gradient.double().norm()) for gradient in torch.autograd.grad(loss, entering)]
    signals = [float(x.detach().double().square().mean().sqrt()) for x in entering]
    return {"gradient": [*map(_finite, gradients)], "signal": [*map(_finite, signals)]}


def _measure(bench: Bench, batch: Batch, arm: str, depth: int, norm: Norm, init: Init, seed: int) -> dict[str, Any]:
    network = bench.network(bench.spec(ARMS[arm].format(depth), norm=norm, init=init), seed)
    inputs = to_input(batch.squares, bench.preprocess)
    begin = flow(network, inputs, batch.labels)
    done = 0
    for step in bench.train(network, seed, lr=bench.options.lr if norm == "batch" else LR_WITHOUT_NORM):
        done = step
    finite = all(bool(p.isfinite().all()) for p in network.parameters())
    trained = flow(network, inputs, batch.labels) if finite else None
    return {"initial": begin, "trained": trained, "steps": done, "diverged": not finite}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ratio(what: str, values: list[float | None]) -> float | None:
    """What arrives relative to what set out: a "gradient" goes from the last block to the first, a "signal" upwards.

    Zero where nothing arrives, None where one of the two, or the ratio, is not finite.
    """
    end, begin = (values[0], values[-1]) if what == "gradient" else (values[-1], values[0])
    if begin is None or end is None or (end and not begin):
        return None
    return end / begin if begin else 0.0


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median over the seeds, and the range, of what arrives relative to what set out, for each combination."""
    found = []
    keys = sorted({(r["norm"], r["init"], r["arm"]) for r in rows}, key=lambda k: (k[0], INITS.index(k[1]), k[2]))
    for norm, init, arm in keys:
        own = [r for r in rows if (r["norm"], r["init"], r["arm"]) == (norm, init, arm)]
        entry: dict[str, Any] = {"norm": norm, "init": init, "arm": arm, "diverged": diverged(own)}
        for when in ("initial", "trained"):
            for what in ("gradient", "signal"):
                ratios = [ratio(what, r[when][what]) for r in own if r[when] is not None]
                values = [value for value in ratios if value is not None]
                entry[f"{when}_{what}"] = {
                    "median": statistics.median(values) if values else None,
                    "least": min(values, default=None),
                    "most": max(values, default=None),
                    "not_finite": len(ratios) - len(values),
                }
        found.append(entry)
    return found


def describe(numbers: dict[str, Any]) -> str:
    """What was seen, in words, from the numbers."""
    depth, options = numbers["depth"], numbers["settings"]
    text = (
        f"Networks of {depth} layers on {options['data']}, {seeds_said(options['seeds'])}. Every figure is what "
        f"arrives over what set out, median of the seeds: of the gradient the norm at the first block's input over "
        f"that at the last block's, of the signal the last over the first. Below {VANISHES:g} it is said to vanish on "
        f"its way, above {EXPLODES:g} to explode.\n"
    )
    for norm in NORMS:
        text += f"\n**{'With batch normalisation' if norm == 'batch' else 'Without normalisation'}**\n\n"
        for init in INITS:
            parts = []
            for arm in ARMS:
                [row] = [r for r in numbers["summary"] if (r["norm"], r["init"], r["arm"]) == (norm, init, arm)]
                parts.append(f"{arm}: {_sentence(row, options)}")
            text += f"- {INIT_NAMES[init]}: " + "; ".join(parts) + ".\n"
    return text


def _sentence(row: dict[str, Any], options: dict[str, Any]) -> str:
    at_start, signal = row["initial_gradient"], row["initial_signal"]
    words = f"the gradient at initialisation {_judged(at_start)}, and the signal {_judged(signal)}"
    if row["diverged"]:
        return f"{words}; {diverged_said(row['diverged'], options['seeds'])}"
    return f"{words}; after {options['steps']} steps the gradient {_judged(row['trained_gradient'])}"


def _judged(value: dict[str, Any]) -> str:
    """How the gradient or the signal fares on its way."""
    median = value["median"]
    if median is None:
        return "is not finite"
    kind = "vanishes" if median < VANISHES else "explodes" if median > EXPLODES else "keeps its size"
    others = f"; not finite with {value['not_finite']} of the seeds" if value["not_finite"] else ""
    return f"{kind} ({_number(median)}{others})"


def _number(value: float) -> str:
    if value == 0:
        return "below the smallest number"
    return f"{value:.2g}" if 0.001 <= value < 1000 else f"{value:.0e}"


def _ratios(row: dict[str, Any]) -> str:
    parts = []
    for when in ("initial", "trained"):
        found = row[when] and ratio("gradient", row[when]["gradient"])
        parts.append(f"{when} {'-' if found is None else _number(found)}")
    return f"gradient, first over last: {', '.join(parts)}"
