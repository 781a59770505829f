"""Reversible blocks: the backward pass computes their activations from their outputs (Gomez et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from resvision.models.block import Block
from resvision.models.layers import statistics_kept

Gradients = tuple[torch.Tensor | None, ...]


class ReversibleBlock(nn.Module):
    """y1 = x1 + F(x2), y2 = x2 + G(y1), where (x1, x2) are the two halves of the channels (section 3.1, equation 6).

    Where the shape changes, both x1 and x2 go through a shortcut, and the block is not reversible.
    """

    def __init__(self, f: Block, g: Block) -> None:
        super().__init__()
        self.f = f
        self.g = g

    @property
    def reversible(self) -> bool:
        """Whether the input can be computed from the output."""
        return self.f.plan.shortcut == "identity"

    def pair(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two streams (N, C / 2, H, W) to two (N, out_channels / 2, H / stride, W / stride)."""
        y1 = self.f.shortcut(x1) + self.f.branch(self.f.active(x2))
        y2 = self.g.shortcut(x2) + self.g.branch(self.g.active(y1))
        return y1, y2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W), the streams one behind the other, to (N, out_channels, H / stride, W / stride)."""
        return torch.cat(self.pair(*x.chunk(2, dim=1)), dim=1)


class ReversibleStage(nn.Sequential):
    """The blocks of one stage; what the backward pass needs of them is kept only at the stage's end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W), the streams one behind the other, to (N, out_channels, H / stride, W / stride)."""
        if x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()  # x2 = y2 - G(y1) is exact to rounding, and these types round too early
        blocks = list(self)
        if not torch.is_grad_enabled():
            for block in blocks:
                x = block(x)
            return x
        if not blocks[0].reversible:
            contexts = _contexts_of(blocks[0])
            x = checkpoint(blocks[0], x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
            blocks = blocks[1:]
        parameters = chain.from_iterable(block.parameters() for block in blocks)
        if blocks:
            x = _Reversible.apply(x, blocks, *parameters)  # type: ignore[no-untyped-call]
        return x


def _contexts_of(block: nn.Module) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_kept([block])

    return contexts


class _Reversible(torch.autograd.Function):
    """Reversible blocks one after the other, of which only the output is kept."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, blocks: Sequence[ReversibleBlock], *parameters: nn.Parameter
    ) -> torch.Tensor:
        device = x.device.type
        ctx.blocks = blocks
        ctx.autocast = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        streams = x.chunk(2, dim=1)
        for block in blocks:
            streams = block.pair(*streams)
        y = torch.cat(streams, dim=1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *upper: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [y] = ctx.saved_tensors
        outputs, gradients = y.chunk(2, dim=1), upper[0].chunk(2, dim=1)
        of_parameters: list[Gradients] = []
        with statistics_kept(ctx.blocks), torch.autocast(**ctx.autocast):
            for block in reversed(ctx.blocks):
                outputs, gradients, found = _reverse(block, *outputs, *gradients)
                of_parameters.append(found)
        return torch.cat(gradients, dim=1), None, *chain.from_iterable(reversed(of_parameters))


def _reverse(
    block: ReversibleBlock, y1: torch.Tensor, y2: torch.Tensor, d1: torch.Tensor, d2: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor], Gradients]:
    """From outputs and their gradients to inputs, their gradients, and those of the parameters (algorithm 1)."""
    g, of_y1, of_g = _again(block.g, y1, d2)
    x2 = y2 - g
    d1 = d1 + of_y1
    f, of_x2, of_f = _again(block.f, x2, d1)
    return (y1 - f, x2), (d1, d2 + of_x2), of_f + of_g


def _again(block: Block, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Gradients]:
    """A branch once more: its output, and the gradients of its input and of its parameters."""
    parameters = [p for p in block.parameters() if p.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = block.branch(block.active(x))
    of_x, *found = torch.autograd.grad(y, [x, *parameters], gradient.to(y.dtype))
    by_parameter = dict(zip(parameters, found, strict=True))
    return y.detach(), of_x, tuple(by_parameter.get(p) for p in block.parameters())
