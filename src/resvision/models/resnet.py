"""ResNet: stem, blocks, average pooling and a linear layer, whatever the spec says they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from resvision.models.block import Block
from resvision.models.layers import conv
from resvision.spec import ResNetSpec


class ResNet(nn.Module):
    """The network of a spec, its weights initialised from torch's random state.

    The state dict has torchvision's and timm's names: conv1, bn1, layer1.0.conv1, layer2.0.downsample.0, fc. With
    pre-activation the stem has no norm, and `norm` stands behind the last block.
    Convolutions start as in He et al. 2015 (b), section 2.2, in the mode that keeps the size of the gradients
    ("fan out"); with `init="zero_gamma"` the last norm of every block starts at zero, which makes the block an identity
    (Goyal et al. 2017, section 5.1). The layers of squeeze-and-excitation and the last one begin as torch's.
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        *before, last = spec.stem_plan()
        stem: list[nn.Module] = []
        for plan in before:
            stem += [conv(plan), nn.BatchNorm2d(plan.out_channels), nn.ReLU(inplace=True)]
        self.conv1 = nn.Sequential(*stem, conv(last)) if stem else conv(last)
        if spec.order == "post":
            self.bn1 = nn.BatchNorm2d(spec.stem_channels)
        if pool := spec.pool_plan():
            self.maxpool = nn.Sequential(conv(pool), nn.BatchNorm2d(pool.out_channels), nn.ReLU(inplace=True))
        blocks = iter(spec.plan())
        for stage, depth in enumerate(spec.depths, start=1):
            self.add_module(f"layer{stage}", nn.Sequential(*(Block(next(blocks)) for _ in range(depth))))
        if spec.order == "pre":
            self.norm = nn.BatchNorm2d(spec.num_features)
        self.fc = nn.Linear(spec.num_features, spec.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.spec.init == "zero_gamma":
            for block in self.blocks():
                block.zero_branch()

    def stages(self) -> Iterator[nn.Sequential]:
        """layer1, layer2, ... in the order they run."""
        for stage in range(1, len(self.spec.depths) + 1):
            module = self.get_submodule(f"layer{stage}")
            assert isinstance(module, nn.Sequential)
            yield module

    def blocks(self) -> Iterator[Block]:
        """All blocks in the order they run."""
        for stage in self.stages():
            for block in stage:
                assert isinstance(block, Block)
                yield block

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, S, S) to the first block's input, (N, C, S / 4, S / 4), or (N, C, S, S) for CIFAR."""
        x = self.conv1(x)
        if self.spec.order == "post":
            x = F.relu(self.bn1(x), inplace=True)
        if self.spec.stem == "cifar":
            return x
        return self.maxpool(x) if self.spec.pool == "conv" else F.max_pool2d(x, 3, stride=2, padding=1)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """The last block's output (N, C, H, W) to logits (N, num_classes)."""
        if self.spec.order == "pre":
            x = F.relu(self.norm(x), inplace=True)
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, S, S) to logits (N, num_classes)."""
        x = self.stem(x)
        for stage in self.stages():
            x = stage(x)
        return self.head(x)
