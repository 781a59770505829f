"""How long to train: epochs, steps or minutes as a number of optimiser steps."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import torch

from resvision.data.loader import TrainingBatches, at_once
from resvision.errors import DataError, RecipeError
from resvision.measure import now, seconds
from resvision.recipe import Recipe
from resvision.runtime import TorchSession
from resvision.training import optim, phases
from resvision.training.average import Average
from resvision.training.engine import Engine
from resvision.training.roles import Roles

FEW = 20  # steps, which the least minutes that are named would do
PROBE_SECONDS = 6.0  # of real training steps that are timed to turn minutes into steps
RESERVE = 0.125  # of the minutes: runs of minutes were an eighth slower than their first seconds
PREFLIGHT_SECONDS = 0.3  # the same, where it is only to be said how long the run will take
AHEAD = 8  # steps that the processor may be ahead of an accelerator while it times
PROBE_WARMUP = 2  # steps before them, which start the workers and fill caches
LOOKED_AT = 16  # pictures whose evaluation is timed
FORWARD = 1 / 3  # part of a training step that its forward pass takes


def planned_pictures(recipe: Recipe, batches: TrainingBatches, seconds_a_picture: float) -> float:
    """About how many pictures the run will train on, at that speed."""
    if steps := recipe.steps or recipe.max_steps:
        return steps * batches.batch_size
    if recipe.minutes is not None:
        return recipe.minutes * 60 / seconds_a_picture
    assert recipe.epochs is not None
    return recipe.epochs * batches.steps * batches.batch_size


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run is, in seconds: measured on a few of its own steps before it starts.

    Args:
        step: an optimiser step, reading and the epochs' evaluations included.
        last_evaluation: of the reported split, at the end.
    """

    step: float
    last_evaluation: float


def pace(recipe: Recipe, batches: TrainingBatches, engine: Engine, roles: Roles) -> Pace:
    """Times a few real steps; the network is left as it was."""
    step_seconds = _probe(recipe, batches, engine, PROBE_SECONDS if recipe.minutes is not None else PREFLIGHT_SECONDS)
    picture_seconds = _seconds_to_look_at_one(engine)
    watched = len(roles.watched[1]) if roles.watched is not None else 0
    # Steps of the last layer alone are hardly more than a forward pass.
    planned = planned_pictures(recipe, batches, step_seconds / batches.batch_size) / batches.batch_size
    growth = _growth(replace(recipe, steps=max(1, round(planned))), batches.steps)
    mean_seconds = step_seconds * (1 - recipe.head_first * (1 - FORWARD)) * growth
    return Pace(
        step=mean_seconds + watched * picture_seconds / batches.steps,
        last_evaluation=2 * len(roles.report) * picture_seconds,  # in float32
    )


def steps(recipe: Recipe, batches: TrainingBatches, pace: Pace, begin: float) -> int:
    """The number of optimiser steps of a run that began at `begin` on the clock of `measure.now`.

    Raises:
        RecipeError: the minutes leave no time for a single one.
    """
    if recipe.max_steps is not None:
        return recipe.max_steps
    if recipe.minutes is None:
        assert recipe.epochs is not None
        return recipe.epochs * batches.steps
    taken = now() - begin + pace.last_evaluation
    count = int((1 - RESERVE) * (recipe.minutes * 60 - taken) / pace.step)
    if count < 1:
        least = (taken + FEW * pace.step / (1 - RESERVE)) / 60
        raise RecipeError(
            f"minutes={recipe.minutes:g}: getting ready and the last evaluation take {taken:.0f} s, which leaves no "
            f"time to train: give at least {math.ceil(100 * least) / 100:g}, or --max-steps"
        )
    return count


def _seconds_to_look_at_one(engine: Engine) -> float:
    """Seconds that a picture takes in an evaluation, in the run's own precision."""
    preprocess = engine.preprocess
    session = TorchSession(engine.network, preprocess, engine.precision)
    looked_at = LOOKED_AT if next(engine.network.parameters()).device.type == "cpu" else at_once(preprocess)
    squares = torch.zeros(looked_at, preprocess.size, preprocess.size, preprocess.channels, dtype=torch.uint8)
    [taken] = seconds(lambda: session(squares), repeats=1)
    return taken / looked_at


def _growth(recipe: Recipe, steps_an_epoch: int) -> float:
    """The mean time of a step over that of one with pictures of full size, where they grow: it goes by their area."""
    assert recipe.steps is not None
    area = sum(
        min(steps_an_epoch, recipe.steps - step) * optim.picture_size(recipe, step, steps_an_epoch) ** 2
        for step in range(0, recipe.steps, steps_an_epoch)
    )
    return area / (recipe.steps * recipe.size**2)


def _probe(recipe: Recipe, batches: TrainingBatches, engine: Engine, wanted: float) -> float:
    """Seconds of a real step, reading included, over `wanted` seconds; the network is left as it was."""
    before = {key: value.clone() for key, value in engine.network.state_dict().items()}
    optimizer = optim.build(engine.network, replace(recipe, lr=1e-6))
    average = Average(engine.network, recipe.ema) if recipe.ema else None
    phases.learn(engine.network, recipe, trunk=True)
    done, epoch, start = 0, 0, now()
    under_way: deque[torch.Tensor] = deque()  # losses; to wait for each would keep an accelerator waiting, too
    ahead = 0 if next(engine.network.parameters()).device.type == "cpu" else AHEAD
    while done <= PROBE_WARMUP or now() - start < wanted:
        for batch in batches.epoch(epoch):
            if not engine.can_learn_from(batch):
                continue
            under_way.append(engine.step(batch, optimizer).loss)
            done += 1
            while len(under_way) > (ahead if done > PROBE_WARMUP else 0):
                under_way.popleft().item()
            if average is not None:
                average.update(done)
            if done == PROBE_WARMUP:
                start = now()
            elif done > PROBE_WARMUP and now() - start >= wanted:
                break
        epoch += 1
        if not done:
            raise DataError("no batch has enough pictures that can be read to learn from: give a larger --batch-size")
    for loss in under_way:
        loss.item()
    taken = now() - start
    engine.network.load_state_dict(before)
    return taken / (done - PROBE_WARMUP)
