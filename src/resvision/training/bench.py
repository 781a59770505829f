"""What all experiments share: training that can be looked at, a ledger to go on after a stop, spreads, even parts."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resvision.data.loader import TrainingBatches
from resvision.data.pictures import Split
from resvision.errors import RunError
from resvision.files import storage, write_text
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import engine as engines
from resvision.training import optim, phases
from resvision.training.average import Average
from resvision.training.losses import Loss

LEDGER_FILE = "finished.jsonl"  # in the folder of an experiment
Note = Callable[[str], None]


class Ledger:
    """What an experiment has finished, line by line in a file, so that it goes on where it was stopped.

    Args:
        path: of the file.
        settings: of the experiment; a file with others is refused.
        kind: what messages call the experiment.
    """

    def __init__(self, path: Path, settings: dict[str, Any], kind: str = "a study") -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        settings = json.loads(json.dumps(settings))
        if path.exists():
            with storage(path):
                recorded, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
            if recorded != settings:
                keys = [*settings, *(key for key in recorded if key not in settings)]
                changed = [key for key in keys if recorded.get(key) != settings.get(key)]
                raise RunError(f"{path.parent}: holds {kind} with another {', '.join(changed)}: give another --out")
            self.done = {row["key"]: row["value"] for row in rows}
        self.settings = settings

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """The value of `work`, computed now or found in the file."""
        if key not in self.done:
            self.done[key] = work()
            rows = [{"key": key, "value": value} for key, value in self.done.items()]
            lines = [json.dumps(line, allow_nan=False) for line in [self.settings, *rows]]
            write_text(self.path, "\n".join(lines) + "\n")
        return self.done[key]


def train(
    network: ResNet, batches: TrainingBatches, recipe: Recipe, loss: Loss, preprocess: Preprocess
) -> Iterator[tuple[int, ResNet]]:
    """Trains; yields after each step how many are done and the network to look at, its moving average if it has one.

    It ends early where the loss is no longer finite.

    Args:
        network: begins with the weights that it has.
        batches: of the training pictures.
        recipe: with everything decided, `steps` too.
        loss: as `losses.build` makes it.
        preprocess: of the batches.
    """
    assert recipe.steps is not None
    engine = engines.build(network, recipe, loss, preprocess)
    optimizer = optim.build(network, recipe)
    average = Average(network, recipe.ema) if recipe.ema else None
    followed = network if average is None else average.network
    step = 0
    while step < recipe.steps:
        size = optim.picture_size(recipe, step, batches.steps)
        for batch in batches.epoch(step // batches.steps, size=size):
            phases.begin(network, recipe, step)
            optim.set_step(optimizer, recipe, step)
            step += 1
            value = 0.0
            if len(batch.labels):  # else no picture of it can be read
                value = engine.step(batch, optimizer, step).loss.item()
                if average is not None:
                    average.update(step)
            yield step, followed
            if not math.isfinite(value):
                return
            if step == recipe.steps:
                break


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (of the sample; 0 for one value) and the values themselves."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        "values": values,
    }


def balanced(split: Split, most: int) -> Split:
    """At most `most` pictures, in turn one of each class."""
    if len(split) <= most:
        return split
    turn = np.zeros(len(split), dtype=np.int64)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        turn[members] = np.arange(len(members))
    return split.take(np.sort(np.argsort(turn, kind="stable")[:most]))
