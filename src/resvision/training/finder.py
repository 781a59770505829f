"""The learning-rate finder: a range test before the run (Smith 2015, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

from resvision.data.loader import TrainingBatches
from resvision.errors import DivergedError
from resvision.recipe import Recipe
from resvision.recipes import OPTIMIZERS
from resvision.training import optim, phases
from resvision.training.engine import Engine

STEPS = 100
LEARNT = 5  # steps in which the loss must fall, or there is nothing to see
LOWEST, HIGHEST = 1e-3, 30.0  # times the optimiser's usual rate
SMOOTHING = 0.9  # of the loss, over about ten steps
DIVERGED = 1.5  # times the lowest loss so far: nothing is to be learnt beyond
BACK = 5.0  # the rate that is taken is so many times smaller than that of the lowest loss, behind which it breaks out


def find(recipe: Recipe, batches: TrainingBatches, engine: Engine) -> tuple[Recipe, str]:
    """The recipe with a learning rate found on its own pictures, and a line that says so.

    The network is left as it was. The rate grows exponentially over a hundred steps until the loss breaks out; a fifth
    of the rate at which the smoothed loss was lowest is taken.

    Raises:
        DivergedError: the loss does not fall, or is no number.
    """
    before = {key: value.clone() for key, value in engine.network.state_dict().items()}
    usual = OPTIMIZERS[recipe.optimizer]["lr"]
    constant = replace(recipe, lr=usual, schedule="constant", warmup=0.0, steps=STEPS)
    optimizer = optim.build(engine.network, constant)
    phases.learn(engine.network, constant, trunk=constant.head_first < 1)
    rates = [usual * LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]
    smoothed, losses = 0.0, []
    filled = (batch for epoch in count() for batch in batches.epoch(epoch) if engine.can_learn_from(batch))
    for step, batch in zip(range(STEPS), filled, strict=False):
        for group in optimizer.param_groups:
            # Beside Muon's own rate that of all else stays as it is, as it will in the run.
            group["lr"] = (rates[step] if group.get("matrix", True) else usual) * group["lr_scale"]
        loss = float(engine.step(batch, optimizer, step).loss)
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss if math.isfinite(loss) else math.inf
        losses.append(smoothed / (1 - SMOOTHING ** (step + 1)))
        if not losses[-1] <= DIVERGED * min(losses):
            break
    engine.network.load_state_dict(before)
    best = min(range(len(losses)), key=losses.__getitem__)
    if not math.isfinite(losses[best]):
        raise DivergedError("the learning-rate finder met no finite loss: give --lr, or use --precision fp32")
    if best < LEARNT:
        raise DivergedError(
            f"the learning-rate finder met no rate at which the loss falls, from {rates[0]:.2g} to "
            f"{rates[len(losses) - 1]:.2g}: give --lr"
        )
    found = float(f"{rates[best] / BACK:.2g}")
    text = f"lr={found:g}: the loss was lowest at {rates[best]:.2g} in a range test of {len(losses)} steps"
    if best == STEPS - 1:
        text += ", the highest that is tried"
    return replace(recipe, lr=found), text
