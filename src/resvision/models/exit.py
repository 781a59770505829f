"""Exit: a small classifier in the middle of a network, at which a picture that is sure enough may leave."""

from __future__ import annotations

import torch
from torch import nn

from resvision.models.layers import activate, conv, normalise
from resvision.spec import ExitPlan, ResNetSpec


class Exit(nn.Module):
    """Two convolutions of stride 2, average pooling and a linear layer, as the plan says.

    In a pre-activation network the features arrive without a norm, which is made up for here.

    Args:
        plan: of the exit.
        spec: of the network, which gives order, norm, activation and classes.
    """

    def __init__(self, plan: ExitPlan, spec: ResNetSpec) -> None:
        super().__init__()
        self.order, self.activation = spec.order, spec.activation
        if spec.order == "pre":
            self.norm = normalise(plan.in_channels, spec.norm, spec.init)
        first, second = plan.convs
        self.conv1, self.bn1 = conv(first), normalise(first.out_channels, spec.norm, spec.init)
        self.conv2, self.bn2 = conv(second), normalise(second.out_channels, spec.norm, spec.init)
        self.fc = nn.Linear(plan.num_features, spec.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, C, H, W) to logits (N, num_classes)."""
        if self.order == "pre":
            x = activate(self.norm(x), self.activation)
        x = activate(self.bn1(self.conv1(x)), self.activation, inplace=True)
        x = activate(self.bn2(self.conv2(x)), self.activation, inplace=True)
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
