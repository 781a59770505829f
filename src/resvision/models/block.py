"""Block: y = F(x) + x, the one residual block, basic or bottleneck, post- or pre-activation, as its plan says."""

from __future__ import annotations

import torch
from torch import nn

from resvision.models.layers import Gate, Shift, SqueezeExcite, activate, conv, drop_path, pad_shortcut
from resvision.spec import BlockPlan


class Block(nn.Module):
    """A residual block, or a plain one where the plan has no shortcut.

    Post-activation is y = act(F(x) + s(x)) (He et al. 2015, figures 2 and 5). Pre-activation is y = F(x) + x, with
    norm and activation before each convolution of F; where the shape changes, the shortcut begins behind the first of
    these (He et al. 2016, figure 4e and appendix).

    The modules have torchvision's and timm's names: conv1, bn1, conv2, bn2, (conv3, bn3), downsample.0, downsample.1,
    se.fc1, se.fc2, gate.fc1, gate.fc2. With Fixup and SkipInit there is a scale behind the last convolution of F, and
    with Fixup a shift before each convolution (shift1a, ...) and each activation (shift1b, ...), as in Zhang et al.
    2019, figure 1.
    """

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.plan = plan
        self.drop_path = 0.0  # which the training sets, since it is no part of the function that is learnt
        for index, conv_plan in enumerate(plan.convs, start=1):
            self.add_module(f"conv{index}", conv(conv_plan))
            if plan.norm == "batch":
                channels = conv_plan.out_channels if plan.order == "post" else conv_plan.in_channels
                self.add_module(f"bn{index}", nn.BatchNorm2d(channels))
            elif plan.init == "fixup":
                self.add_module(f"shift{index}a", Shift())
                self.add_module(f"shift{index}b", Shift())
        if plan.init in ("fixup", "skipinit"):
            self.scale = nn.Parameter(torch.ones(1))
        if plan.downsample is not None:
            self.downsample = _downsample(plan)
        if plan.se_width:
            self.se = SqueezeExcite(plan.out_channels, plan.se_width)
        if plan.gated:
            self.gate = Gate(plan.in_channels)

    def zero_branch(self) -> None:
        """Makes F zero and the block an identity: by its scale, its last norm, or its last convolution."""
        last = len(self.plan.convs)
        if self.plan.init == "skipinit":
            weight = self.scale
        else:
            by_norm = self.plan.norm == "batch" and self.plan.order == "post"
            weight = self.get_parameter(f"bn{last}.weight" if by_norm else f"conv{last}.weight")
        nn.init.zeros_(weight)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """F(x): (N, C, H, W) to (N, out_channels, H / stride, W / stride).

        With pre-activation, x has its first norm and activation behind it already: `active` gives that.
        """
        last = len(self.plan.convs)
        for index in range(1, last + 1):
            x = self._convolved(index, x)
            if index == last and hasattr(self, "scale"):
                x = x * self.scale
            if self.plan.order == "post":
                x = self._normed(index, x)
            elif index < last:
                x = self._normed(index + 1, x)
            if index < last:
                x = activate(x, self.plan.activation, inplace=True)
        if self.plan.se_width:
            x = self._layer("se", x)
        return drop_path(x, self.drop_path) if self.drop_path and self.training else x

    def active(self, x: torch.Tensor) -> torch.Tensor:
        """What pre-activation does to the block's input before its first convolution."""
        # Without a norm x itself is needed later.
        return activate(self._normed(1, x), self.plan.activation, inplace=self.plan.norm == "batch")

    def _convolved(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return self._layer(f"conv{index}", self._layer(f"shift{index}a", x))

    def _normed(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return self._layer(f"bn{index}" if self.plan.norm == "batch" else f"shift{index}b", x)

    def _layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The layer of that name, where the block has it."""
        layer = self._modules.get(name)
        return x if layer is None else layer(x)

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The shortcut: x itself, or x brought to the shape of F(x)."""
        if self.plan.shortcut == "identity":
            return x
        x = self._layer("shift1a", x)
        if self.plan.downsample is not None:
            return self._layer("downsample", x)
        average = self.plan.shortcut == "avg_pad"
        return pad_shortcut(x, self.plan.out_channels, self.plan.shortcut_stride, self.plan.pad_side, average=average)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        if not self.plan.gated:
            return self.full(x)
        if (
            self.training or torch.compiler.is_compiling()
        ):  # a compiled graph cannot branch: it computes F and weighs it
            return self.full(x, self.gate(x))
        return self._where_open(x)

    def _where_open(self, x: torch.Tensor) -> torch.Tensor:
        """F is computed only for the pictures whose gate is open, as a smaller batch."""
        chosen = self.gate.decide(x).nonzero()[:, 0]
        if len(chosen) == len(x):
            return self.full(x)
        # An input that went through ReLU is not changed by another.
        untouched = self.plan.order == "pre" or self.plan.activation == "relu"
        y = x if untouched else activate(x, self.plan.activation)
        if not len(chosen):
            return y
        return y.index_copy(0, chosen, self.full(x[chosen]).to(y.dtype))

    def full(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """The block for all pictures, F weighed by a `gate` (N, 1, 1, 1) where there is one."""
        if self.plan.order == "post":
            y = self.branch(x)
            y = y if gate is None else y * gate
            if self.plan.shortcut != "none":
                y = y + self.shortcut(x)
            return activate(y, self.plan.activation, inplace=True)
        active = self.active(x)
        y = self.branch(active)
        y = y if gate is None else y * gate
        if self.plan.shortcut == "none":
            return y
        return y + (x if self.plan.shortcut == "identity" else self.shortcut(active))


def _downsample(plan: BlockPlan) -> nn.Sequential:
    """The projection of the shortcut, its places in the state dict those of torchvision and timm."""
    assert plan.downsample is not None
    layers: list[nn.Module] = []
    if plan.shortcut == "avg_project":
        # Windows that hang over the edge average only what is inside, as in timm.
        pool = nn.AvgPool2d(2, plan.shortcut_stride, ceil_mode=True, count_include_pad=False)
        layers.append(pool if plan.shortcut_stride > 1 else nn.Identity())
    layers.append(conv(plan.downsample))
    if plan.order == "post" and plan.norm == "batch":
        layers.append(nn.BatchNorm2d(plan.out_channels))
    return nn.Sequential(*layers)
