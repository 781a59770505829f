"""Memory and time of a training step by memory mode, each in a process of its own.

    python benchmarks/memory.py [--cases resnet1202 revnet ...] [--pairs 3]

For a pair of ways: the bytes that autograd keeps between the passes (each storage once), the peak memory of the process
above what it held before the first step, and the time of a step. Further cases train or step where that is the claim
itself. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import torch

from resvision import zoo
from resvision.data.reading import Batch
from resvision.measure import now, peak_memory_bytes
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.runtime import versions
from resvision.training import engine, memory, optim
from resvision.training.losses import cross_entropy

# name: (network, batch, ways, steps timed); the batches are about the largest whose full activations fit into 24 GB
CASES: dict[str, tuple[str, int, tuple[str, ...], int]] = {
    "resnet1202": ("resnet1202_cifar", 160, ("full", "checkpoint"), 2),
    "revnet": ("revnet218_cifar", 384, ("full", "checkpoint"), 2),
    "preact1001": ("preact1001_cifar", 64, ("checkpoint",), 200),
    "resnet10004": ("resnet10004_cifar", 8, ("checkpoint",), 1),
}
SIZE = 32


def built(name: str, batch: int, way: str) -> tuple[engine.Engine, torch.optim.Optimizer, Recipe]:
    torch.manual_seed(0)
    recipe = Recipe(
        model=name,
        size=SIZE,
        channels=3,
        batch_size=batch,
        lr=0.1,
        steps=200,
        precision="fp32",
        channels_last=True,
        compile=False,
        memory=way,
    )
    network = ResNet(zoo.get(name)).train()
    made = engine.build(network, recipe, cross_entropy(), Preprocess(size=SIZE))
    return made, optim.build(network, recipe), recipe


def pictures(count: int) -> Batch:
    """Noise whose brightness tells the class, so that there is something to learn."""
    labels = torch.arange(count) % 10
    noise = torch.randint(0, 100, (count, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0))
    return Batch((noise + 15 * labels[:, None, None, None]).to(torch.uint8), labels)


def kept_bytes(made: engine.Engine, batch: Batch) -> int:
    own = {p.untyped_storage().data_ptr() for p in made.network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made.forward(batch.squares.permute(0, 3, 1, 2).float())
    return sum(held for place, held in kept.items() if place not in own)


def measure(case: str, way: str, what: str) -> dict[str, Any]:
    """In a fresh process: "kept" bytes, or the peak and the time of "steps"."""
    memory.keep_freed()
    name, count, _, steps = CASES[case]
    made, optimizer, recipe = built(name, count, way)
    if what == "kept":
        few = pictures(2)
        return {"kept_bytes": kept_bytes(made, few) * count // 2}
    batch = pictures(count)
    made.step(Batch(batch.squares[:2], batch.labels[:2]), optimizer)  # what is loaded and compiled only once
    before = peak_memory_bytes() or 0
    losses, times = [], []
    for step in range(steps):
        optim.set_step(optimizer, recipe, step)
        begin = now()
        losses.append(made.step(batch, optimizer).loss.item())
        times.append(now() - begin)
    after = peak_memory_bytes() or 0
    return {
        "seconds_a_step": min(times),
        "peak_bytes_above_start": after - before,
        "peak_bytes": after,
        "predicted_bytes": memory.step_bytes(zoo.get(name), SIZE, count, way),
        "first_loss": losses[0],
        "last_loss": sum(losses[-10:]) / len(losses[-10:]),
        "steps": len(losses),
    }


def in_a_process(case: str, way: str, what: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", case, way, what]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{case} {way} {what}: {json.dumps(found)}", file=sys.stderr)
    return found


def compare(case: str, pairs: int) -> dict[str, Any]:
    """All ways of a case, `pairs` times one after the other, and their ratios."""
    name, count, ways, _ = CASES[case]
    rounds = [{way: in_a_process(case, way, "steps") for way in ways} for _ in range(pairs if len(ways) > 1 else 1)]
    document: dict[str, Any] = {"case": case, "network": name, "batch": count, "size": SIZE, "rounds": rounds}
    if len(ways) > 1:
        full, other = ways
        kept = {way: in_a_process(case, way, "kept")["kept_bytes"] for way in ways}
        times = sorted(row[other]["seconds_a_step"] / row[full]["seconds_a_step"] for row in rounds)
        peaks = [row[full]["peak_bytes_above_start"] / row[other]["peak_bytes_above_start"] for row in rounds]
        document |= {
            "kept_bytes": kept,
            "kept_full_over_other": kept[full] / kept[other],
            "peak_full_over_other": statistics.median(peaks),
            "time_other_over_full": {"median": statistics.median(times), "least": times[0], "most": times[-1]},
        }
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of training steps.")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "WAY", "WHAT"), help="one measurement, for a fresh process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    results = [compare(case, arguments.pairs) for case in arguments.cases]
    threads = torch.get_num_threads()
    document = {"benchmark": "memory", "threads": threads, "versions": versions(), "results": results}
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
