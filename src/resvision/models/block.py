"""Block: y = relu(F(x) + x), the one residual block, basic or bottleneck as its plan says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from resvision.models.layers import conv, pad_shortcut
from resvision.spec import BlockPlan


class Block(nn.Module):
    """A residual block (He et al. 2015, figures 2 and 5), or a plain one where the plan has no shortcut.

    The modules have torchvision's and timm's names: conv1, bn1, conv2, bn2, (conv3, bn3), downsample.0, downsample.1.
    """

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.plan = plan
        for index, conv_plan in enumerate(plan.convs, start=1):
            self.add_module(f"conv{index}", conv(conv_plan))
            self.add_module(f"bn{index}", nn.BatchNorm2d(conv_plan.out_channels))
        if plan.downsample is not None:
            self.downsample = nn.Sequential(conv(plan.downsample), nn.BatchNorm2d(plan.out_channels))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm at the end of F, whose weight of zero makes the block an identity."""
        norm = self.get_submodule(f"bn{len(self.plan.convs)}")
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """F(x): (N, C, H, W) to (N, out_channels, H / stride, W / stride), without the last ReLU."""
        last = len(self.plan.convs)
        for index in range(1, last + 1):
            x = self._modules[f"bn{index}"](self._modules[f"conv{index}"](x))  # type: ignore[misc]
            if index < last:
                x = F.relu(x, inplace=True)
        return x

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The shortcut: x itself, or x brought to the shape of F(x)."""
        if self.plan.shortcut == "project":
            return self.downsample(x)  # type: ignore[no-any-return]
        if self.plan.shortcut == "pad":
            return pad_shortcut(x, self.plan.out_channels, self.plan.stride)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = self.branch(x)
        if self.plan.shortcut != "none":
            y = y + self.shortcut(x)
        return F.relu(y, inplace=True)
