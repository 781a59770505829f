"""ResNetSpec: one frozen description for the whole residual family, and plan(), the flat list of its blocks.

Everything that needs to know a network's shape (the builder, the cost table, later pruning and depth search) reads the
plan, so that no two of them can disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from resvision.errors import SpecError

BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar"]
Shortcut = Literal["project", "pad", "none"]
Init = Literal["he", "zero_gamma"]

# A bottleneck's output is four times as wide as its 3x3 convolution (He et al. 2015, section 4.1).
EXPANSION: dict[BlockKind, int] = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True, kw_only=True)
class ConvPlan:
    """One convolution, followed by a norm: its place in the state dict and its shape."""

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """Pixels of zeros on each side that keep H and W at stride 1."""
        return self.kernel_size // 2


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One residual block, y = F(x) + x: the convolutions of F, and what stands on the shortcut."""

    name: str
    convs: tuple[ConvPlan, ...]
    shortcut: Shortcut | Literal["identity"]
    downsample: ConvPlan | None = None

    @property
    def in_channels(self) -> int:
        """C of the block's input."""
        return self.convs[0].in_channels

    @property
    def out_channels(self) -> int:
        """C of the block's output."""
        return self.convs[-1].out_channels

    @property
    def stride(self) -> int:
        """By how much the block divides H and W."""
        stride = 1
        for conv in self.convs:
            stride *= conv.stride
        return stride


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """What decides a residual network's weights, their names, and the function they compute.

    Args:
        depths: blocks in each stage.
        widths: channels of each stage, before a bottleneck's expansion by four.
        block: two 3x3 convolutions ("basic") or 1x1, 3x3, 1x1 ("bottleneck").
        groups: cardinality, the number of groups of the 3x3 convolution (Xie et al. 2016, section 3).
        base_width: channels a group, per 64 of stage width; 4 with groups=32 is ResNeXt's 32x4d.
        stem: "imagenet", 7x7 stride 2 and max pooling, or "cifar", 3x3 stride 1.
        shortcut: where the shape changes: "project", a 1x1 convolution (option B); "pad", zeros in the added channels
            (option A); "none", no shortcut anywhere, which makes the plain network (He et al. 2015, section 3.3).
        init: "he", or "zero_gamma", which also starts every branch at zero (Goyal et al. 2017, section 5.1).
        num_classes: logits at the end.
        in_channels: 1 for grey pictures, 3 for colour.

    Raises:
        SpecError: an argument is out of its range, or two contradict each other.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: BlockKind = "basic"
    groups: int = 1
    base_width: int = 64
    stem: Stem = "imagenet"
    shortcut: Shortcut = "project"
    init: Init = "zero_gamma"
    num_classes: int = 1000
    in_channels: int = 3

    def __post_init__(self) -> None:
        for field, kind in (("block", BlockKind), ("stem", Stem), ("shortcut", Shortcut), ("init", Init)):
            value = getattr(self, field)
            if value not in get_args(kind):
                raise SpecError(f"{field}={value!r} is not one of {', '.join(get_args(kind))}")
        for field in ("depths", "widths"):
            values = getattr(self, field)
            if not isinstance(values, tuple) or not values or any(type(v) is not int or v < 1 for v in values):
                raise SpecError(f"{field}={values!r} must be a tuple of positive integers")
        if len(self.depths) != len(self.widths):
            raise SpecError(f"depths={self.depths} and widths={self.widths} must name the same number of stages")
        for field in ("groups", "base_width", "num_classes", "in_channels"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise SpecError(f"{field}={value!r} must be a positive integer")
        if self.block == "basic" and (self.groups != 1 or self.base_width != 64):
            raise SpecError(f"groups={self.groups}, base_width={self.base_width}: a basic block takes only 1 and 64")
        if self.shortcut == "none" and self.init == "zero_gamma":
            raise SpecError('init="zero_gamma" with shortcut="none" would start a network that is zero: use init="he"')

    @property
    def stem_width(self) -> int:
        """Channels that the stem hands to the first block: those of the first stage."""
        return self.widths[0]

    @property
    def num_features(self) -> int:
        """Channels that the classifier at the end receives."""
        return self.widths[-1] * EXPANSION[self.block]

    @property
    def natural_size(self) -> int:
        """Height and width of the pictures that the papers trained it on, in pixels."""
        return 224 if self.stem == "imagenet" else 32

    @property
    def depth(self) -> int:
        """Layers as the papers count them: stem, the convolutions of F, and the last linear layer."""
        return 2 + sum(len(block.convs) for block in self.plan())

    def stem_plan(self) -> ConvPlan:
        """The first convolution."""
        kernel_size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        return ConvPlan(
            name="conv1",
            in_channels=self.in_channels,
            out_channels=self.stem_width,
            kernel_size=kernel_size,
            stride=stride,
        )

    def plan(self) -> tuple[BlockPlan, ...]:
        """The blocks in the order they run, with the names torchvision and timm give them (layer1.0, ...)."""
        blocks = []
        channels = self.stem_width
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                block = self._block_plan(f"layer{stage + 1}.{index}", channels, width, stride)
                blocks.append(block)
                channels = block.out_channels
        return tuple(blocks)

    def _block_plan(self, name: str, in_channels: int, width: int, stride: int) -> BlockPlan:
        out_channels = width * EXPANSION[self.block]
        inner = int(width * self.base_width / 64) * self.groups
        if self.block == "basic":
            shapes = [(in_channels, width, 3, stride, 1), (width, width, 3, 1, 1)]
        else:
            # The stride sits on the 3x3 convolution, as in torchvision and timm ("v1.5"); the paper had it on the 1x1.
            shapes = [
                (in_channels, inner, 1, 1, 1),
                (inner, inner, 3, stride, self.groups),
                (inner, out_channels, 1, 1, 1),
            ]
        convs = tuple(
            ConvPlan(name=f"conv{i}", in_channels=c, out_channels=o, kernel_size=k, stride=s, groups=g)
            for i, (c, o, k, s, g) in enumerate(shapes, start=1)
        )
        if self.shortcut == "none":
            return BlockPlan(name=name, convs=convs, shortcut="none")
        if stride == 1 and in_channels == out_channels:
            return BlockPlan(name=name, convs=convs, shortcut="identity")
        downsample = None
        if self.shortcut == "project":
            downsample = ConvPlan(
                name="downsample.0",
                in_channels=in_channels,
                out_channels=out_channels,
                kernel_size=1,
                stride=stride,
            )
        return BlockPlan(name=name, convs=convs, shortcut=self.shortcut, downsample=downsample)
