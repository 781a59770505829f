"""ResNetSpec: one frozen description for the whole residual family, and plan(), the flat list of its blocks.

Everything that needs to know a network's shape (the builder, the cost table, later pruning and depth search) reads the
plan, so that no two of them can disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from resvision.errors import SpecError

BlockKind = Literal["basic", "bottleneck"]
Order = Literal["post", "pre"]
Stem = Literal["imagenet", "deep", "tiered", "cifar"]
Pool = Literal["max", "conv"]
StrideOn = Literal["3x3", "1x1"]
Shortcut = Literal["project", "avg_project", "pad", "avg_pad", "none"]
PadSide = Literal["end", "both"]
Activation = Literal["relu", "silu", "mish", "gelu"]
Norm = Literal["batch", "none"]
Init = Literal["he", "zero_gamma", "fixup", "skipinit", "glorot", "torch"]

_CHOICES = {
    "block": BlockKind,
    "order": Order,
    "stem": Stem,
    "pool": Pool,
    "stride_on": StrideOn,
    "shortcut": Shortcut,
    "pad_side": PadSide,
    "activation": Activation,
    "norm": Norm,
    "init": Init,
}

# A bottleneck's output is four times as wide as its 3x3 convolution (He et al. 2015, section 4.1).
EXPANSION: dict[BlockKind, int] = {"basic": 1, "bottleneck": 4}

MOST_BLOCKS = 100_000
MOST_EXIT_WIDTH = 8  # times the width of a stage
GATE_WIDTH = 16  # channels between the two layers of a gate (Veit & Belongie 2018, section 3.2)


@dataclass(frozen=True, kw_only=True)
class ConvPlan:
    """One convolution: its place in the state dict and its shape."""

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    bias: bool = False
    experts: int = 1

    @property
    def padding(self) -> int:
        """Pixels of zeros on each side that keep H and W at stride 1."""
        return self.kernel_size // 2


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One residual block, y = F(x) + x: the convolutions of F, and what stands on the shortcut.

    Args:
        name: in the state dict.
        convs: of F, in the order they run.
        order: "post", each convolution followed by its norm and activation, or "pre", preceded by them.
        shortcut: "identity", or how x is brought to another shape.
        shortcut_stride: by how much the shortcut divides H and W; in a reversible block's second half, whose input has
            been divided already, it differs from that of F.
        pad_side: where option A puts the zeros.
        activation: behind each norm, and behind the addition of a post-activation block.
        norm: "batch", or "none".
        init: how the weights begin; with "fixup" and "skipinit" F has a scale, with "fixup" also shifts.
        downsample: the projection of the shortcut.
        se_width: channels between the two layers of squeeze-and-excitation; 0 where there is none.
        gated: whether a gate decides for each picture if F is computed; it is not where the shape changes.
    """

    name: str
    convs: tuple[ConvPlan, ...]
    order: Order
    shortcut: Shortcut | Literal["identity"]
    shortcut_stride: int
    pad_side: PadSide
    activation: Activation
    norm: Norm
    init: Init
    downsample: ConvPlan | None = None
    se_width: int = 0
    gated: bool = False

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
class ExitPlan:
    """An early exit, which finishes the network in short: a few residual blocks, average pooling and a linear layer.

    Features in the middle of a network are fine-grained. A classifier that only pools them, or hardly more, does badly,
    and trained with the network it bends the first blocks to its own end (Huang et al. 2017, section 3).

    Args:
        name: in the state dict.
        after: blocks that run before it.
        blocks: its own, in the order they run.
    """

    name: str
    after: int
    blocks: tuple[BlockPlan, ...]

    @property
    def num_features(self) -> int:
        """Channels that its linear layer receives."""
        return self.blocks[-1].out_channels


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """What decides a residual network's weights, their names, and the function they compute.

    Args:
        depths: blocks in each stage.
        widths: channels of each stage, before a bottleneck's expansion by four.
        block: two 3x3 convolutions ("basic") or 1x1, 3x3, 1x1 ("bottleneck").
        groups: cardinality, the number of groups of the 3x3 convolution (Xie et al. 2016, section 3).
        base_width: channels a group, per 64 of stage width; 4 with groups=32 is ResNeXt's 32x4d.
        order: "post", y = relu(F(x) + x) with norms behind the convolutions (He et al. 2015), or "pre", y = F(x) + x
            with norms and activations before them and once more at the end (He et al. 2016, figure 4e).
        stem: "imagenet", 7x7 stride 2 and pooling; "deep", three 3x3 in its place (He et al. 2018, figure 2b);
            "tiered", the same with growing widths; "cifar", 3x3 stride 1 and no pooling.
        inner: for each block the channels between its convolutions, one number in a basic block and two in a
            bottleneck, as pruning leaves them; () is what widths, groups and base_width say.
        stem_width: channels that the stem hands to the first block; None is the width of the first stage.
        pool: behind the stem, "max", or "conv", a 3x3 convolution of stride 2 (Bello et al. 2021, section 5).
        first_stride: 1 or 2, by how much the first stage divides H and W; the others divide by two.
        stride_on: the convolution of a bottleneck that has the stride: "3x3" as in torchvision and timm ("v1.5"), or
            "1x1" as in the paper.
        shortcut: where the shape changes: "project", a 1x1 convolution (option B); "avg_project", the same behind
            average pooling (He et al. 2018, figure 2c); "pad", zeros in the added channels (option A); "avg_pad", the
            same behind average pooling; "none", no shortcut anywhere, which makes the plain network (He et al. 2015,
            section 3.3).
        pad_side: where option A puts the zeros: at the "end", or half of them on "both" sides, as some published
            networks do.
        se_ratio: squeeze-and-excitation in every block (Hu et al. 2017), its inner width as a part of the block's
            channels; 0 is none.
        se_divisor: the inner width is rounded to a multiple of this, at least one; 8 in timm, 1 in the paper.
        experts: kernels of each 3x3 convolution of F, mixed anew for every picture (Yang et al. 2019, section 3); 1 is
            an ordinary convolution.
        reversible: the channels are divided into two streams, y1 = x1 + F(x2) and y2 = x2 + G(y1), so that the backward
            pass computes the activations from the outputs instead of storing them (Gomez et al. 2017, section 3).
            `depths` count pairs of F and G, `widths` both streams.
        activation: "relu"; "silu", x sigmoid(x), "mish", x tanh(softplus(x)) (Misra 2019), or "gelu" (Hendrycks &
            Gimpel 2016), which are smooth and keep more activations for the backward pass.
        norm: "batch" normalisation, or "none", with biases in the convolutions.
        init: "he" (He et al. 2015 b); "zero_gamma", which also starts every branch at zero (Goyal et al. 2017, section
            5.1; with order="pre" it is the last convolution that starts at zero); "glorot" (Glorot & Bengio 2010);
            "torch", PyTorch's own; and for networks without normalisation "fixup", scaled down with the depth, with
            scalar shifts and scales (Zhang et al. 2019, section 3), or "skipinit", a learnt scale of every branch
            that starts at zero (De & Smith 2020, section 3; also known as ReZero).
        exits: numbers of blocks behind which an early exit stands, at which a picture that is sure enough may leave
            (Teerapittayanon et al. 2016).
        exit_width: how wide an exit is, which does in short what the stages to come do, or in the last one that stage:
            times their widths.
        exit_depth: its basic blocks in place of each of these stages.
        gates: whether each block that keeps the shape has a gate, which leaves out F for pictures that do not need it
            (Veit & Belongie 2018).
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
    inner: tuple[tuple[int, ...], ...] = ()
    order: Order = "post"
    stem: Stem = "imagenet"
    stem_width: int | None = None
    pool: Pool = "max"
    first_stride: int = 1
    stride_on: StrideOn = "3x3"
    shortcut: Shortcut = "project"
    pad_side: PadSide = "end"
    se_ratio: float = 0.0
    se_divisor: int = 8
    experts: int = 1
    reversible: bool = False
    activation: Activation = "relu"
    norm: Norm = "batch"
    init: Init = "zero_gamma"
    exits: tuple[int, ...] = ()
    exit_width: float = 1.0
    exit_depth: int = 1
    gates: bool = False
    num_classes: int = 1000
    in_channels: int = 3

    def __post_init__(self) -> None:
        for field, kind in _CHOICES.items():
            value = getattr(self, field)
            if value not in get_args(kind):
                raise SpecError(f"{field}={value!r} is not one of {', '.join(get_args(kind))}")
        for field in ("depths", "widths"):
            values = getattr(self, field)
            if not isinstance(values, tuple) or not values or any(type(v) is not int or v < 1 for v in values):
                raise SpecError(f"{field}={values!r} must be a tuple of positive integers")
        if len(self.depths) != len(self.widths):
            raise SpecError(f"depths={self.depths} and widths={self.widths} must name the same number of stages")
        for field in ("groups", "base_width", "se_divisor", "experts", "exit_depth", "num_classes", "in_channels"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise SpecError(f"{field}={value!r} must be a positive integer")
        if self.stem_width is not None and (type(self.stem_width) is not int or self.stem_width < 8):
            raise SpecError(f"stem_width={self.stem_width!r} must be an integer of at least 8, or None")
        if self.first_stride not in (1, 2):
            raise SpecError(f"first_stride={self.first_stride!r} must be 1 or 2")
        if not 0 < self.exit_width <= MOST_EXIT_WIDTH:
            raise SpecError(f"exit_width={self.exit_width!r} must lie in (0, {MOST_EXIT_WIDTH}]")
        if not 0 <= self.se_ratio <= 1:
            raise SpecError(f"se_ratio={self.se_ratio!r} must lie in [0, 1]")
        if self.block == "basic" and (self.groups != 1 or self.base_width != 64 or self.stride_on != "3x3"):
            raise SpecError(
                f"groups={self.groups}, base_width={self.base_width}, stride_on={self.stride_on!r}: "
                "a basic block takes only 1, 64 and '3x3'"
            )
        if self.stem == "cifar" and self.pool != "max":
            raise SpecError(f"pool={self.pool!r}: the cifar stem has no pooling")
        if self.shortcut == "none" and self.init in ("zero_gamma", "fixup", "skipinit"):
            raise SpecError(
                f'init="{self.init}" with shortcut="none" would start a network that is zero: use init="he"'
            )
        if sum(self.depths) > MOST_BLOCKS:
            raise SpecError(f"depths={self.depths}: more than {MOST_BLOCKS:,} blocks")
        self._check_norm()
        if self.reversible:
            self._check_reversible()
        self._check_channels()
        if self.inner:
            self._check_inner()
        if self.exits:
            self._check_exits()
        if self.gates and not self.can_drop_branches:
            what = "reversible" if self.reversible else "plain"
            raise SpecError(f"gates=True: a {what} network cannot leave out its branches")

    def _check_norm(self) -> None:
        if self.norm == "none" and self.init == "zero_gamma":
            raise SpecError('norm="none" leaves init="zero_gamma" nothing to zero: use init="skipinit" or init="fixup"')
        if self.norm == "batch" and self.init in ("fixup", "skipinit"):
            raise SpecError(f'init="{self.init}" is for networks without normalisation: use norm="none"')
        if self.init == "fixup" and self.order != "post":
            raise SpecError('init="fixup" needs order="post": use init="skipinit" with pre-activation')

    def _check_channels(self) -> None:
        # A deep stem begins with a half of its channels, a tiered one with three eighths.
        least = {"deep": 2, "tiered": 3}.get(self.stem, 1)
        if self.stem_channels < least:
            raise SpecError(
                f"widths={self.widths}: the first convolution of stem={self.stem!r} would have no channels; "
                f"give the first stage at least {least}, or a stem_width"
            )
        narrowest = min(self.widths) // (2 if self.reversible else 1)
        if self.block == "bottleneck" and not self.inner and self._group_width(narrowest) < 1:
            raise SpecError(
                f"base_width={self.base_width}: the 3x3 convolutions of widths={self.widths} would have no channels; "
                f"give at least base_width={math.ceil(64 / narrowest)}, or wider stages"
            )

    def _check_reversible(self) -> None:
        if self.order != "pre" or self.shortcut == "none":
            raise SpecError(
                f"order={self.order!r}, shortcut={self.shortcut!r}: "
                "a reversible network needs order='pre' and a shortcut"
            )
        if odd := [width for width in (self.stem_channels, *self.widths) if width % 2]:
            raise SpecError(f"widths={odd[0]}: a reversible network divides its channels by two")

    def _check_inner(self) -> None:
        numbers = 1 if self.block == "basic" else 2
        if len(self.inner) != sum(self.depths) or any(len(widths) != numbers for widths in self.inner):
            raise SpecError(
                f"inner must hold {numbers} numbers of channels for each of {sum(self.depths)} {self.block} blocks"
            )
        if any(type(width) is not int or width < 1 for widths in self.inner for width in widths):
            raise SpecError("inner: numbers of channels must be positive integers")
        if self.groups != 1 or self.reversible:
            raise SpecError("inner: only blocks without groups, of networks that are not reversible, have other widths")

    def _check_exits(self) -> None:
        blocks = sum(self.depths)
        ordered = all(type(e) is int for e in self.exits) and list(self.exits) == sorted(set(self.exits))
        if not ordered or not 1 <= self.exits[0] <= self.exits[-1] < blocks:
            raise SpecError(f"exits={self.exits} must be growing numbers of blocks between 1 and {blocks - 1}")
        if self.reversible:
            raise SpecError(f"exits={self.exits}: a reversible network has none; leave out reversible")

    @property
    def stem_channels(self) -> int:
        """Channels that the stem hands to the first block."""
        return self.widths[0] if self.stem_width is None else self.stem_width

    @property
    def num_features(self) -> int:
        """Channels that the classifier at the end receives."""
        return self.widths[-1] * EXPANSION[self.block]

    @property
    def natural_size(self) -> int:
        """Height and width of the pictures that the papers trained it on, in pixels."""
        return 32 if self.stem == "cifar" else 224

    @property
    def can_drop_branches(self) -> bool:
        """Whether a block can do without F for a while: a shortcut is left, and F is not computed twice."""
        return self.shortcut != "none" and not self.reversible

    def drop_rates(self, rate: float) -> tuple[float, ...]:
        """How probably each block's F is left out in training, up to `rate` of the last (Huang et al. 2016, section 3).

        Raises:
            SpecError: there is no shortcut that would be left, or F is computed twice.
        """
        if rate and not self.can_drop_branches:
            kind = "reversible" if self.reversible else "plain"
            raise SpecError(f"drop_path={rate}: a {kind} network cannot leave out its branches")
        blocks = len(self.plan())
        return tuple(rate * index / blocks for index in range(1, blocks + 1))

    @property
    def depth(self) -> int:
        """Layers as He et al. count them: stem, the convolutions of F, and the last linear layer.

        Wide residual networks count their three projections in place of the last layer, which is 2 more.
        """
        return 2 + sum(len(block.convs) for block in self.plan())

    def stem_plan(self) -> tuple[ConvPlan, ...]:
        """The convolutions before the first block, each but the last followed by a norm and an activation."""
        out = self.stem_channels
        if self.stem == "cifar":
            shapes = {"conv1": (self.in_channels, out, 3, 1)}
        elif self.stem == "imagenet":
            shapes = {"conv1": (self.in_channels, out, 7, 2)}
        else:
            first, second = (out * 3 // 8 if self.stem == "tiered" else out // 2), out // 2
            shapes = {
                "conv1.0": (self.in_channels, first, 3, 2),
                "conv1.3": (first, second, 3, 1),
                "conv1.6": (second, out, 3, 1),
            }
        return tuple(
            ConvPlan(name=name, in_channels=c, out_channels=o, kernel_size=k, stride=s, bias=self._bias)
            for name, (c, o, k, s) in shapes.items()
        )

    def pool_plan(self) -> ConvPlan | None:
        """The convolution that pools behind the stem, if one does."""
        if self.stem == "cifar" or self.pool == "max":
            return None
        channels = self.stem_channels
        return ConvPlan(
            name="maxpool.0", in_channels=channels, out_channels=channels, kernel_size=3, stride=2, bias=self._bias
        )

    @property
    def _bias(self) -> bool:
        """Whether convolutions have biases: a norm makes them idle, and Fixup has its own."""
        return self.norm == "none" and self.init != "fixup"

    def plan(self) -> tuple[BlockPlan, ...]:
        """The blocks in the order they run, with the names torchvision and timm give them (layer1.0, ...).

        Of a reversible network F and G are blocks of their own (layer1.0.f, layer1.0.g), on half of the channels.
        """
        blocks: list[BlockPlan] = []
        streams = 2 if self.reversible else 1
        channels = self.stem_channels // streams
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for index in range(depth):
                name, stride = f"layer{stage + 1}.{index}", 1
                if index == 0:
                    stride = 2 if stage > 0 else self.first_stride
                if self.reversible:
                    first = self._block_plan(f"{name}.f", channels, width // 2, stride)
                    second = self._block_plan(f"{name}.g", first.out_channels, width // 2, 1)
                    # The second stream's shortcut begins where the first one's does.
                    across = {field: getattr(first, field) for field in ("shortcut", "shortcut_stride", "downsample")}
                    blocks += [first, replace(second, **across)]
                else:
                    inner = self.inner[len(blocks)] if self.inner else None
                    blocks.append(self._block_plan(name, channels, width, stride, inner))
                channels = blocks[-1].out_channels
        return tuple(blocks)

    def exit_plan(self) -> tuple[ExitPlan, ...]:
        """The early exits, shallow to deep, named exits.0, exits.1, ..."""
        if not self.exits:
            return ()
        blocks, plans = self.plan(), []
        stages = [stage for stage, depth in enumerate(self.depths) for _ in range(depth)]
        # Basic blocks, whatever the network is made of: on few channels they cost the least.
        short = replace(
            self, block="basic", groups=1, base_width=64, stride_on="3x3", experts=1, inner=(), exits=(), gates=False
        )
        for index, after in enumerate(self.exits):
            channels = blocks[after - 1].out_channels
            own: list[BlockPlan] = []
            to_come = self.widths[stages[after - 1] + 1 :]
            for stage_width in to_come or self.widths[-1:]:
                width = max(1, round(self.exit_width * stage_width))
                # What option A adds to x are channels of zeros; fewer than x has can only be a projection.
                kind = replace(short, shortcut="project") if width < channels and "pad" in self.shortcut else short
                for stride in (2 if to_come else 1, *(1,) * (self.exit_depth - 1)):
                    own.append(kind._block_plan(f"exits.{index}.blocks.{len(own)}", channels, width, stride))
                    channels = width
            plans.append(ExitPlan(name=f"exits.{index}", after=after, blocks=tuple(own)))
        return tuple(plans)

    def _group_width(self, width: int) -> int:
        """Channels of each group of a bottleneck's 3x3 convolution."""
        return int(width * self.base_width / 64)

    def _block_plan(
        self, name: str, in_channels: int, width: int, stride: int, inner: tuple[int, ...] | None = None
    ) -> BlockPlan:
        out_channels = width * EXPANSION[self.block]
        if self.block == "basic":
            (middle,) = inner or (width,)
            shapes = [(in_channels, middle, 3, stride, 1), (middle, width, 3, 1, 1)]
        else:
            left, right = inner or (self._group_width(width) * self.groups,) * 2
            first, second = (1, stride) if self.stride_on == "3x3" else (stride, 1)
            shapes = [
                (in_channels, left, 1, first, 1),
                (left, right, 3, second, self.groups),
                (right, out_channels, 1, 1, 1),
            ]
        convs = tuple(
            ConvPlan(
                name=f"conv{i}",
                in_channels=c,
                out_channels=o,
                kernel_size=k,
                stride=s,
                groups=g,
                bias=self._bias,
                experts=self.experts if k == 3 else 1,
            )
            for i, (c, o, k, s, g) in enumerate(shapes, start=1)
        )
        changes = stride > 1 or in_channels != out_channels
        return BlockPlan(
            name=name,
            convs=convs,
            order=self.order,
            shortcut=self.shortcut if changes or self.shortcut == "none" else "identity",
            shortcut_stride=stride,
            pad_side=self.pad_side,
            activation=self.activation,
            norm=self.norm,
            init=self.init,
            downsample=self._downsample_plan(in_channels, out_channels, stride) if changes else None,
            se_width=self._se_width(out_channels),
            gated=self.gates and not changes,
        )

    def _downsample_plan(self, in_channels: int, out_channels: int, stride: int) -> ConvPlan | None:
        if self.shortcut not in ("project", "avg_project"):
            return None
        pooled = self.shortcut == "avg_project"  # the pooling, which comes first, has the stride
        return ConvPlan(
            name="downsample.1" if pooled else "downsample.0",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=1,
            stride=1 if pooled else stride,
            bias=self._bias,
        )

    def _se_width(self, channels: int) -> int:
        if not self.se_ratio:
            return 0
        divisor = self.se_divisor
        return max(divisor, int(channels * self.se_ratio + divisor / 2) // divisor * divisor)
