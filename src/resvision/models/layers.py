"""The layers that blocks and networks are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from resvision.spec import GATE_WIDTH, Activation, ConvPlan, Init, Norm, PadSide

GATE_BIAS = 2.0  # at first most blocks are computed, and a network learns where it can do without


def conv(plan: ConvPlan) -> nn.Module:
    """The convolution of a plan, with one kernel or with experts."""
    if plan.experts > 1:
        return ConditionalConv2d(plan)
    return nn.Conv2d(
        plan.in_channels,
        plan.out_channels,
        plan.kernel_size,
        stride=plan.stride,
        padding=plan.padding,
        groups=plan.groups,
        bias=plan.bias,
    )


def normalise(channels: int, norm: Norm, init: Init) -> nn.Module:
    """What stands behind a convolution of the stem or a projection: a norm, Fixup's shift, or nothing."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return Shift() if init == "fixup" else nn.Identity()


_ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "mish": F.mish}


def activate(x: torch.Tensor, kind: Activation, *, inplace: bool = False) -> torch.Tensor:
    """The activation of that name, element by element; `inplace` may overwrite x."""
    if kind == "gelu":  # by tanh, as Hendrycks & Gimpel 2016, section 2, for speed; it has no way to overwrite
        return F.gelu(x, approximate="tanh")
    # The backward pass of the smooth ones needs x itself, so that only ReLU overwrites it.
    return _ACTIVATIONS[kind](x, inplace=inplace and kind == "relu")


class Activate(nn.Module):
    """The activation of that name as a layer."""

    def __init__(self, kind: Activation) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape to the same."""
        return activate(x, self.kind, inplace=True)


class Shift(nn.Module):
    """One learnt number that is added everywhere, from zero on (Zhang et al. 2019, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape to the same."""
        return x + self.bias


class ConditionalConv2d(nn.Module):
    """A convolution whose kernel is mixed for each picture from those of several experts (Yang et al. 2019, section 3).

    The kernel is sum_e r_e W_e with r = sigmoid(router(mean of x over H and W)).

    Args:
        plan: its shape and the number of experts.
    """

    def __init__(self, plan: ConvPlan) -> None:
        super().__init__()
        self.plan = plan
        shape = (plan.out_channels, plan.in_channels // plan.groups, plan.kernel_size, plan.kernel_size)
        self.weight = nn.Parameter(torch.empty(plan.experts, *shape))
        self.bias = nn.Parameter(torch.zeros(plan.experts, plan.out_channels)) if plan.bias else None
        self.router = nn.Linear(plan.in_channels, plan.experts)
        for kernel in self.weight:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        plan, count = self.plan, len(x)
        routes = self.router(x.mean(dim=(2, 3))).sigmoid()  # (N, experts)
        kernels = (routes @ self.weight.flatten(1)).view(count * plan.out_channels, *self.weight.shape[2:])
        bias = None if self.bias is None else (routes @ self.bias).flatten()
        # Every picture has its own kernel: the batch becomes groups of one large convolution.
        y = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]), kernels, bias, plan.stride, plan.padding, groups=count * plan.groups
        )
        return y.view(count, plan.out_channels, *y.shape[2:])


def pad_shortcut(
    x: torch.Tensor, out_channels: int, stride: int, side: PadSide = "end", *, average: bool = False
) -> torch.Tensor:
    """Option A of He et al. 2015, section 3.3: every `stride`-th pixel, and zeros in the channels that are added.

    Args:
        x: (N, C, H, W).
        out_channels: channels of the result, at least C.
        stride: by how much H and W are divided.
        side: zeros at the "end", or half of them on "both" sides of the channels.
        average: the mean of `stride` x `stride` pixels, where they fit, instead of every `stride`-th.

    Returns:
        (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    added = out_channels - x.shape[1]
    before = added // 2 if side == "both" else 0
    if average and stride > 1:
        x = F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)
    else:
        x = x[:, :, ::stride, ::stride]
    return F.pad(x, (0, 0, 0, 0, before, added - before))


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


class Gate(nn.Module):
    """Decides for each picture whether a block computes F (Veit & Belongie 2018, section 3).

    In training the decision is a sample, and the gradient passes as if it were its probability (Jang et al. 2016); in
    evaluation it is the likelier of the two. `rate` is the mean of the last batch's decisions in training, with its
    gradient, and `open` of `seen` pictures were let through in evaluation.

    Args:
        channels: of the block's input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, GATE_WIDTH)
        self.fc2 = nn.Linear(GATE_WIDTH, 1)
        nn.init.constant_(self.fc2.bias, GATE_BIAS)
        self.rate = torch.ones(())
        self.seen = self.open = 0

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which gets no gradient from the last batch."""
        return self.__dict__ | {"rate": torch.ones(())}

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """The block's input (N, C, H, W) to the log-odds that F is computed, (N,)."""
        return self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3)))))[:, 0].float()  # type: ignore[no-any-return]

    def decide(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the decisions of an evaluation, (N,) bool, which are counted."""
        decisions = self.logit(x) > 0
        self.seen += len(x)
        self.open += int(decisions.sum())
        return decisions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to weights of F, (N, 1, 1, 1), each 0 or 1."""
        logit = self.logit(x)
        if not self.training:
            return (logit > 0).to(x.dtype)[:, None, None, None]
        uniform = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6)
        soft = (logit + torch.log(uniform) - torch.log1p(-uniform)).sigmoid()
        hard = (soft > 0.5).float() + (soft - soft.detach())
        self.rate = hard.mean()
        return hard.to(x.dtype)[:, None, None, None]


def drop_path(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Zeros for a part `rate` of the pictures, the others scaled up to keep the mean (Huang et al. 2016).

    Args:
        x: what a branch computed, (N, C, H, W).
        rate: probability in [0, 1).
    """
    kept = (torch.rand(len(x), 1, 1, 1, device=x.device) >= rate).to(x.dtype)
    return x * (kept / (1 - rate))


@contextmanager
def statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, norms leave their running statistics alone: for what is computed a second time."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
