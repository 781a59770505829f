"""The learning-rate finder: a range test before the run (Smith 2015, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

from resvision.data.loader import TrainingBatches
from resvision.errors import DivergedError
from resvision.recipe import Recipe
from resvision.training import optim, phases
from resvision.training.engine import Engine

STEPS = 100
LOWEST, HIGHEST = 1e-3, 30.0  # times the optimiser's usual rate
USUAL = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "lamb": 5e-3, "muon": 0.05}
SMOOTHING = 0.9  # of the loss, over about ten steps
DIVERGED = 1.5  # times the lowest loss so far: nothing is to be learnt beyond
BACK = 5.0  # the rate that is taken is so many times smaller than that of the lowest loss, behind which it breaks out


def find(recipe: Recipe, batches: TrainingBatches, engine: Engine) -> tuple[Recipe, str]:
    """The recipe with a learning rate found on its own pictures, and a line that says so.

    The network is left as it was. The rate grows exponentially over a hundred steps until the loss breaks out; a fifth
    of the rate at which the smoothed loss was lowest is taken.

    Raises:
        DivergedError: the loss breaks out from the first steps on.
    """
    before = {key: value.clone() for key, value in engine.network.state_dict().items()}
    usual = USUAL[recipe.optimizer]
    constant = replace(recipe, lr=usual, schedule="constant", warmup=0.0, steps=STEPS)
    optimizer = optim.build(engine.network, constant)
    phases.learn(engine.network, constant, trunk=True)
    rates = [usual * LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]
    smoothed, losses = 0.0, []
    filled = (batch for epoch in count() for batch in batches.epoch(epoch) if len(batch.labels))
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
    found = float(f"{rates[best] / BACK:.2g}")
    text = f"lr={found:g}: the loss was lowest at {rates[best]:.2g} in a range test of {len(losses)} steps"
    return replace(recipe, lr=found), text
