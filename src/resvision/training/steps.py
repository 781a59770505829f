"""Training that can be looked at after every step, for experiments."""

from __future__ import annotations

import math
from collections.abc import Iterator

from resvision.data.loader import TrainingBatches
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import engine as engines
from resvision.training import optim, phases
from resvision.training.average import Average
from resvision.training.losses import Loss


def train_steps(
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
            if engine.can_learn_from(batch):
                value = engine.step(batch, optimizer, step).loss.item()
                if average is not None:
                    average.update(step)
            yield step, followed
            if not math.isfinite(value):
                return
            if step == recipe.steps:
                break
