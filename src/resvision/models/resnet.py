"""ResNet: stem, blocks, average pooling and a linear layer, whatever the spec says they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

from resvision.models.block import Block
from resvision.models.exit import Exit
from resvision.models.initial import initialise
from resvision.models.layers import Activate, Gate, Shift, activate, conv, normalise
from resvision.models.reversible import ReversibleBlock, ReversibleStage
from resvision.spec import ResNetSpec

Layer = Callable[[torch.Tensor], torch.Tensor]


class ResNet(nn.Module):
    """The network of a spec, its weights initialised from torch's random state.

    The state dict has torchvision's and timm's names: conv1, bn1, layer1.0.conv1, layer2.0.downsample.0, fc. With
    pre-activation the stem has no norm, and `norm` stands behind the last block.
    Early exits are exits.0.blocks.0.conv1, exits.0.fc and so on.
    A reversible network has layer1.0.f.conv1, layer1.0.g.conv1 and so on, and computes its activations again in the
    backward pass. How the weights begin is `init` of the spec; see `models.initial`.
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        *before, last = spec.stem_plan()
        stem: list[nn.Module] = []
        for plan in before:
            stem += [conv(plan), normalise(plan.out_channels, spec.norm, spec.init), Activate(spec.activation)]
        self.conv1 = nn.Sequential(*stem, conv(last)) if stem else conv(last)
        if spec.order == "post":
            self.bn1 = normalise(spec.stem_channels, spec.norm, spec.init)
        if pool := spec.pool_plan():
            norm = normalise(pool.out_channels, spec.norm, spec.init)
            self.maxpool = nn.Sequential(conv(pool), norm, Activate(spec.activation))
        blocks = map(Block, spec.plan())
        for stage, depth in enumerate(spec.depths, start=1):
            name = f"layer{stage}"
            if spec.reversible:
                pairs = (ReversibleBlock(next(blocks), next(blocks)) for _ in range(depth))
                self.add_module(name, ReversibleStage(*pairs))
            else:
                self.add_module(name, nn.Sequential(*(next(blocks) for _ in range(depth))))
        if spec.order == "pre":
            self.norm = normalise(spec.num_features, spec.norm, spec.init)
        if spec.init == "fixup":
            self.shift = Shift()
        self.fc = nn.Linear(spec.num_features, spec.num_classes)
        self.exits = nn.ModuleList(Exit(plan, spec) for plan in spec.exit_plan())
        initialise(self)

    def stages(self) -> Iterator[nn.Sequential]:
        """layer1, layer2, ... in the order they run."""
        for stage in range(1, len(self.spec.depths) + 1):
            module = self.get_submodule(f"layer{stage}")
            assert isinstance(module, nn.Sequential)
            yield module

    def blocks(self) -> Iterator[Block]:
        """All blocks in the order they run, of a reversible network F and G apart."""
        for stage in self.stages():
            for block in stage:
                if isinstance(block, ReversibleBlock):
                    yield from (block.f, block.g)
                else:
                    assert isinstance(block, Block)
                    yield block

    def set_drop_path(self, rate: float) -> None:
        """Leaves out branches in training, as `drop_rates` of the spec says; raises its SpecError."""
        for block, dropped in zip(self.blocks(), self.spec.drop_rates(rate), strict=True):
            block.drop_path = dropped

    def gates(self) -> list[Gate]:
        """The gates of all blocks that have one, in the order they run."""
        return [block.gate for block in self.blocks() if block.plan.gated]

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, S, S) to the first block's input, (N, C, S / 4, S / 4), or (N, C, S, S) for CIFAR."""
        x = self.conv1(x)
        if self.spec.order == "post":
            x = activate(self.bn1(x), self.spec.activation, inplace=True)
        if self.spec.stem == "cifar":
            return x
        return self.maxpool(x) if self.spec.pool == "conv" else F.max_pool2d(x, 3, stride=2, padding=1)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """The last block's output (N, C, H, W) to logits (N, num_classes)."""
        if self.spec.order == "pre":
            x = activate(self.norm(x), self.spec.activation)
        x = x.mean(dim=(2, 3))
        logits: torch.Tensor = self.fc(self.shift(x) if self.spec.init == "fixup" else x)
        return logits

    def is_finite(self) -> bool:
        """Whether every weight and every running statistic is a finite number."""
        return all(bool(tensor.isfinite().all()) for tensor in self.state_dict().values())

    def segment(self, index: int, x: torch.Tensor, answers: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """The blocks up to one exit, and the exit.

        Args:
            index: of the exit, shallow to deep; the end of the network is the last.
            x: pictures (N, in_channels, S, S) for the first segment, else the features of the segment before.
            answers: whether the exit is computed.

        Returns:
            Features (N, C, H, W) for the next segment, and logits (N, num_classes), or (N, 0) without an answer.
        """
        ends = (0, *self.spec.exits, sum(self.spec.depths))
        x = x if index else self.stem(x)
        for block in islice(self.blocks(), ends[index], ends[index + 1]):
            x = block(x)
        if not answers:
            return x, x.new_empty(len(x), 0)
        return x, self.exits[index](x) if index < len(self.exits) else self.head(x)

    def walk(self, x: torch.Tensor, blocks: Iterable[Layer], exits: Iterable[Layer]) -> tuple[torch.Tensor, ...]:
        """(N, in_channels, S, S) to the logits of every exit, by `blocks` and `exits` in place of its own."""
        x, at, logits = self.stem(x), dict(zip(self.spec.exits, exits, strict=True)), []
        for count, block in enumerate(blocks, start=1):
            x = block(x)
            if count in at:
                logits.append(at[count](x))
        return (*logits, self.head(x))

    def forward(self, x: torch.Tensor, exits: bool = False) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """(N, in_channels, S, S) to logits (N, num_classes), or with `exits` to those of each exit, shallow to deep."""
        if exits:
            return self.walk(x, self.blocks(), self.exits)
        x = self.stem(x)
        for stage in self.stages():
            x = stage(x)
        return self.head(x)
