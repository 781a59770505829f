"""The layers that blocks and networks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from resvision.spec import ConvPlan


def conv(plan: ConvPlan) -> nn.Conv2d:
    """The convolution of a plan; it has no bias, since the norm behind it has one."""
    return nn.Conv2d(
        plan.in_channels,
        plan.out_channels,
        plan.kernel_size,
        stride=plan.stride,
        padding=plan.padding,
        groups=plan.groups,
        bias=False,
    )


def pad_shortcut(x: torch.Tensor, out_channels: int, stride: int) -> torch.Tensor:
    """Option A of He et al. 2015, section 3.3: every `stride`-th pixel, and zeros in the channels that are added.

    Args:
        x: (N, C, H, W).
        out_channels: channels of the result, at least C.
        stride: by how much H and W are divided.

    Returns:
        (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, out_channels - x.shape[1]))
