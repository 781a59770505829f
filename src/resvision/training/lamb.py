"""LAMB: Adam whose step is as long, layer by layer, as the weights are large (You et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

EPSILON = 1e-6


class Lamb(Optimizer):
    """LAMB (You et al. 2019, algorithm 2), with decoupled weight decay inside the step.

    Norms and biases take Adam's own step, as in the authors' code.

    Args:
        params: groups with `weight_decay`, and `by_layer`, whether their steps are as long as the weights are large.
        lr: peak learning rate.
        betas: of the averages of the gradient and of its square.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0, "by_layer": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
                state["step"] += 1
                state["mean"].lerp_(p.grad, 1 - first)
                state["square"].lerp_(p.grad.square(), 1 - second)
                count = float(state["step"])
                mean = state["mean"] / (1 - first**count)
                update = mean / ((state["square"] / (1 - second**count)).sqrt() + EPSILON)
                trust = torch.ones((), device=p.device)
                update.add_(p, alpha=group["weight_decay"])
                if group["by_layer"]:
                    weight, length = p.norm(), update.norm()
                    trust = torch.where((weight > 0) & (length > 0), weight / length, trust)
                p.sub_(update * trust * group["lr"])
