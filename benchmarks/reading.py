"""How much of the network's speed is left when pictures are read, decoded and augmented as it trains.

    python benchmarks/reading.py FOLDER [--recipe quick] [--size 128] [--epochs 5] [--steps 25] [--pairs 3]
        [--workers N]

Trains on the pictures of FOLDER as the first epoch of a run of the recipe does, with an empty cache and with pictures
as small as it begins with, and with the same engine on one batch that is in memory already, in turn. Prints one JSON
document; `ratio` is end to end over in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from resvision import recipes, zoo
from resvision.data import sources
from resvision.data.loader import TrainingBatches
from resvision.data.readable import screen
from resvision.data.reading import Batch
from resvision.data.statistics import facts
from resvision.data.workers import default_workers
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.runtime import device, versions
from resvision.training import engine, optim
from resvision.training.losses import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description="End-to-end against in-memory training speed.")
    parser.add_argument("folder")
    parser.add_argument("--recipe", choices=list(recipes.RECIPES), default="quick")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5, help="of the run, by which pictures grow and compiling pays")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=default_workers())
    arguments = parser.parse_args()

    # An empty cache: what is timed is the first epoch.
    cache = tempfile.TemporaryDirectory()
    os.environ["RESVISION_CACHE"] = cache.name
    dataset = sources.prepare(sources.load(arguments.folder))
    given = {"size": arguments.size, "epochs": arguments.epochs, "workers": arguments.workers}
    chosen = recipes.choose(arguments.recipe, facts(dataset), given).recipe
    recipe = dataclasses.replace(chosen, lr=1e-4, memory="full")
    preprocess = Preprocess(size=arguments.size, crop=recipe.crop)
    split, bad, largest = screen(dataset.splits["train"], 0.01)
    batches = TrainingBatches(split, recipe, preprocess, bad, largest, where=device())
    recipe = dataclasses.replace(recipe, steps=arguments.epochs * batches.steps)
    spec = dataclasses.replace(zoo.variant(recipe.model, recipe.spec), num_classes=len(dataset.classes))
    network = ResNet(spec).to(device())
    loss = cross_entropy(recipe.label_smoothing)
    presented = arguments.epochs * batches.steps * batches.batch_size
    recipe, measured = engine.choose(network, recipe, loss, preprocess, lambda seconds: presented)
    built = engine.build(network, recipe, loss, preprocess)
    optimizer = optim.build(network, recipe)
    network.train()

    needed = arguments.pairs * (arguments.steps + 5)
    if needed > batches.steps:
        parser.error(f"{arguments.pairs} pairs of {arguments.steps} steps are more than the epoch's {batches.steps}")
    size = optim.picture_size(recipe, 0, batches.steps)
    pictures = batches.epoch(0, size=size)
    held = next(batches.epoch(1, size=size))

    def timed(next_batch: Callable[[], Batch]) -> float:
        for _ in range(5):  # the workers fill their queues, or, where nothing is read, come to rest
            built.step(next_batch(), optimizer).loss.item()
        start = now()
        for _ in range(arguments.steps):
            built.step(next_batch(), optimizer).loss.item()
        return (now() - start) / arguments.steps

    times = [
        (timed(pictures.__next__), timed(lambda: held))  # in turn: the machine's speed drifts
        for _ in range(arguments.pairs)
    ]
    document: dict[str, Any] = {
        "benchmark": "reading",
        "recipe": arguments.recipe,
        "model": recipe.model,
        "size": size,
        "batch": batches.batch_size,
        "workers": recipe.workers,
        "engine": measured,
        "end_to_end_pictures_per_second": round(batches.batch_size / statistics.median([a for a, _ in times]), 1),
        "in_memory_pictures_per_second": round(batches.batch_size / statistics.median([b for _, b in times]), 1),
        "ratio": round(statistics.median([b / a for a, b in times]), 3),
        "versions": versions(),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
