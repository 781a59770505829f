"""Exit: a small classifier in the middle of a network, at which a picture that is sure enough may leave."""

from __future__ import annotations

import torch
from torch import nn

from resvision.models.block import Block
from resvision.models.layers import activate, normalise
from resvision.spec import ExitPlan, ResNetSpec


class Exit(nn.Module):
    """Residual blocks, average pooling and a linear layer, as the plan says.

    In a pre-activation network there is a norm behind the last block, as at the network's end.

    Args:
        plan: of the exit.
        spec: of the network, which gives order, norm, activation and classes.
    """

    def __init__(self, plan: ExitPlan, spec: ResNetSpec) -> None:
        super().__init__()
        self.order, self.activation = spec.order, spec.activation
        self.blocks = nn.Sequential(*map(Block, plan.blocks))
        if spec.order == "pre":
            self.norm = normalise(plan.num_features, spec.norm, spec.init)
        self.fc = nn.Linear(plan.num_features, spec.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, C, H, W) to logits (N, num_classes)."""
        x = self.blocks(x)
        if self.order == "pre":
            x = activate(self.norm(x), self.activation)
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
