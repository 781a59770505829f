"""The layers that blocks and networks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from resvision.spec import ConvPlan, PadSide


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


def pad_shortcut(x: torch.Tensor, out_channels: int, stride: int, side: PadSide = "end") -> torch.Tensor:
    """Option A of He et al. 2015, section 3.3: every `stride`-th pixel, and zeros in the channels that are added.

    Args:
        x: (N, C, H, W).
        out_channels: channels of the result, at least C.
        stride: by how much H and W are divided.
        side: zeros at the "end", or half of them on "both" sides of the channels.

    Returns:
        (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    added = out_channels - x.shape[1]
    before = added // 2 if side == "both" else 0
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, added - before))


class SqueezeExcite(nn.Module):
    """Channels reweighted by what the whole picture shows (Hu et al. 2017, section 3): x * sigmoid(fc2(relu(fc1(m)))).

    m is the mean of each channel; the linear layers are 1x1 convolutions, as in timm.

    Args:
        channels: of x.
        width: channels between the two layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        gates: torch.Tensor = self.fc2(F.relu(self.fc1(squeezed), inplace=True)).sigmoid()
        return x * gates
