"""Block: y = F(x) + x, the one residual block, basic or bottleneck, post- or pre-activation, as its plan says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from resvision.models.layers import SqueezeExcite, conv, pad_shortcut
from resvision.spec import BlockPlan


class Block(nn.Module):
    """A residual block, or a plain one where the plan has no shortcut.

    Post-activation is y = relu(F(x) + s(x)) (He et al. 2015, figures 2 and 5). Pre-activation is y = F(x) + x, with
    norm and ReLU before each convolution of F; where the shape changes, the shortcut begins behind the first of these
    (He et al. 2016, figure 4e and appendix).

    The modules have torchvision's and timm's names: conv1, bn1, conv2, bn2, (conv3, bn3), downsample.0, downsample.1,
    se.fc1, se.fc2.
    """

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.plan = plan
        for index, conv_plan in enumerate(plan.convs, start=1):
            self.add_module(f"conv{index}", conv(conv_plan))
            channels = conv_plan.out_channels if plan.order == "post" else conv_plan.in_channels
            self.add_module(f"bn{index}", nn.BatchNorm2d(channels))
        if plan.downsample is not None:
            self.downsample = _downsample(plan)
        if plan.se_width:
            self.se = SqueezeExcite(plan.out_channels, plan.se_width)

    def zero_branch(self) -> None:
        """Makes F zero and the block an identity: by its last norm, or by its last convolution where none follows."""
        last = len(self.plan.convs)
        module = self.get_submodule(f"bn{last}" if self.plan.order == "post" else f"conv{last}")
        nn.init.zeros_(module.weight)  # type: ignore[arg-type]

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """F(x): (N, C, H, W) to (N, out_channels, H / stride, W / stride).

        With pre-activation, x has its first norm and ReLU behind it already.
        """
        last = len(self.plan.convs)
        for index in range(1, last + 1):
            x = self._layer(f"conv{index}", x)
            if self.plan.order == "post":
                x = self._layer(f"bn{index}", x)
                if index < last:
                    x = F.relu(x, inplace=True)
            elif index < last:
                x = F.relu(self._layer(f"bn{index + 1}", x), inplace=True)
        return self._layer("se", x) if self.plan.se_width else x

    def _layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._modules[name](x)  # type: ignore[misc]
        return y

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The shortcut: x itself, or x brought to the shape of F(x)."""
        if self.plan.downsample is not None:
            return self._layer("downsample", x)
        if self.plan.shortcut == "pad":
            return pad_shortcut(x, self.plan.out_channels, self.plan.stride, self.plan.pad_side)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        if self.plan.order == "post":
            y = self.branch(x)
            if self.plan.shortcut != "none":
                y = y + self.shortcut(x)
            return F.relu(y, inplace=True)
        active = F.relu(self._layer("bn1", x), inplace=True)
        y = self.branch(active)
        if self.plan.shortcut == "none":
            return y
        return y + (x if self.plan.shortcut == "identity" else self.shortcut(active))


def _downsample(plan: BlockPlan) -> nn.Sequential:
    """The projection of the shortcut, its places in the state dict those of torchvision and timm."""
    assert plan.downsample is not None
    layers: list[nn.Module] = []
    if plan.shortcut == "avg_project":
        # Windows that hang over the edge average only what is inside, as in timm.
        pool = nn.AvgPool2d(2, plan.stride, ceil_mode=True, count_include_pad=False)
        layers.append(pool if plan.stride > 1 else nn.Identity())
    layers.append(conv(plan.downsample))
    if plan.order == "post":
        layers.append(nn.BatchNorm2d(plan.out_channels))
    return nn.Sequential(*layers)
