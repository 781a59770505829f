"""What a network costs, read off its plan without building it: parameters, multiply-adds, activation memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from resvision.errors import SpecError
from resvision.spec import GATE_WIDTH, BlockPlan, ConvPlan, ExitPlan, Init, Norm, ResNetSpec

FLOAT_BYTES = 4
INDEX_BYTES = 8  # max pooling keeps the place of each maximum as int64


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one network at one picture size.

    Args:
        params: trainable numbers, weights and biases.
        macs: multiply-adds of the convolutions and the linear layer, one picture forward. (The "GFLOPS" that model
            tables print are these; a profiler's FLOPs are twice as many.)
        activation_bytes: what the forward pass keeps for the backward pass, one picture in float32.
    """

    params: int
    macs: int
    activation_bytes: int


def out_size(size: int, kernel_size: int, stride: int, padding: int) -> int:
    """Height or width after a convolution or a pooling."""
    return (size + 2 * padding - kernel_size) // stride + 1


def cost(spec: ResNetSpec, size: int) -> Cost:
    """Counts `spec` at pictures of `size` x `size` pixels.

    What is kept for the backward pass: the input of every convolution, which is the output of an activation before it;
    the input of every norm, and of every activation but ReLU, which overwrites it; the indices of the max pooling; what
    squeeze-and-excitation and a branch's scale weigh; the kernels that conditional convolutions mix for each picture;
    the features that enter the last layer. Additions and the norms' outputs (overwritten in place) keep nothing. A
    reversible network keeps only what its stages give.

    Raises:
        SpecError: `size` is not positive.
    """
    if size < 1:
        raise SpecError(f"size={size} must be a positive number of pixels")
    tally = _Tally()
    size = _count_stem(tally, spec, size)
    if spec.reversible:
        kept = tally.kept + _stage_outputs(spec, size)
        _count_blocks(tally, spec, size)
        tally.kept = kept
    else:
        _count_blocks(tally, spec, size)
    if spec.init == "fixup":
        tally.params += 1
    tally.linear(spec.num_features, spec.num_classes)
    return Cost(params=tally.params, macs=tally.macs, activation_bytes=tally.kept)


def exit_macs(spec: ResNetSpec, size: int, computed: Sequence[bool] | None = None) -> tuple[int, ...]:
    """Multiply-adds of one picture that leaves at each exit, the end of the network being the last.

    None are told of a network with gates, in which they depend on the picture.

    Args:
        spec: of the network.
        size: height and width of the pictures, in pixels.
        computed: whether each of these is; None is all of them.
    """
    if spec.gates:
        return ()
    parts = segment_macs(spec, size)
    return tuple(
        accumulate(
            trunk + (own if is_computed else 0)
            for (trunk, own), is_computed in zip(parts, computed or [True] * len(parts), strict=True)
        )
    )


def segment_macs(spec: ResNetSpec, size: int) -> tuple[tuple[int, int], ...]:
    """Multiply-adds of one picture between each exit and the one before: of the blocks, and of the exit itself.

    The end of the network is the last one, its linear layer the exit.

    Args:
        spec: of the network.
        size: height and width of the pictures, in pixels.
    """
    tally = _Tally()
    size = _count_stem(tally, spec, size)
    exits = {place.after: place for place in spec.exit_plan()}
    found, before = [], 0
    for count, block in enumerate(spec.plan(), start=1):
        size = _count_block(tally, block, size, size)
        if count in exits:
            trunk = tally.macs - before
            _count_exit(tally, spec, exits[count], size)
            found.append((trunk, tally.macs - before - trunk))
            before = tally.macs
    head = spec.num_features * spec.num_classes
    return (*found, (tally.macs - before, head))


def branch_macs(spec: ResNetSpec, size: int) -> tuple[int, ...]:
    """Multiply-adds of F of each block, one picture forward.

    Args:
        spec: of the network.
        size: height and width of the pictures, in pixels.
    """
    size = _count_stem(_Tally(), spec, size)
    found = []
    for block in spec.plan():
        tally = _Tally()
        size = _count_block(tally, replace(block, gated=False, downsample=None), size, size)
        found.append(tally.macs)
    return tuple(found)


def block_activations(spec: ResNetSpec, size: int) -> tuple[tuple[int, int], ...]:
    """For each block, what enters it and what it keeps for the backward pass, in bytes: one picture in float32.

    A reversible network's pairs of F and G are one block each.

    Args:
        spec: of the network.
        size: height and width of the pictures, in pixels.
    """
    return tuple(_count_blocks(_Tally(), spec, _count_stem(_Tally(), spec, size)))


def least_size(spec: ResNetSpec, size: int) -> int:
    """Height and width of the smallest features of pictures of `size` x `size`, those behind the last block."""
    size = _count_stem(_Tally(), spec, size)
    for block in spec.plan()[:: 2 if spec.reversible else 1]:
        size = -(-size // block.stride)
    return size


@dataclass
class _Tally:
    """What has been counted so far."""

    params: int = 0
    macs: int = 0
    kept: int = 0  # bytes

    def conv(self, conv: ConvPlan, size: int) -> int:
        """Adds a convolution; returns the height and width of its output."""
        size = out_size(size, conv.kernel_size, conv.stride, conv.padding)
        weights = conv.out_channels * (conv.in_channels // conv.groups) * conv.kernel_size**2
        biases = conv.out_channels if conv.bias else 0
        self.params += conv.experts * (weights + biases)
        self.macs += weights * size * size
        if conv.experts > 1:
            self.linear(conv.in_channels, conv.experts)
            self.macs += conv.experts * (weights + biases)  # the kernel is mixed for every picture
            self.kept += (weights + conv.experts) * FLOAT_BYTES
        return size

    def norm(self, channels: int, norm: Norm, init: Init) -> None:
        """Adds what stands in a norm's place."""
        if norm == "batch":
            self.params += 2 * channels
        elif init == "fixup":
            self.params += 1

    def linear(self, inputs: int, outputs: int) -> None:
        """Adds a linear layer with a bias, which keeps its input."""
        self.params += (inputs + 1) * outputs
        self.macs += inputs * outputs
        self.kept += inputs * FLOAT_BYTES

    def keep(self, channels: int, size: int, times: int = 1) -> None:
        self.kept += times * channels * size * size * FLOAT_BYTES


def _count_stem(tally: _Tally, spec: ResNetSpec, size: int) -> int:
    """Adds everything before the first block; returns the height and width of what enters that."""
    normed, smooth = spec.norm == "batch", spec.activation != "relu"
    tally.keep(spec.in_channels, size)
    for index, conv in enumerate(spec.stem_plan(), start=1):
        size = tally.conv(conv, size)
        if spec.order == "post" or index < len(spec.stem_plan()):
            tally.norm(conv.out_channels, spec.norm, spec.init)
            # Before the norm, before a smooth activation, and behind it.
            tally.keep(conv.out_channels, size, times=1 + normed + smooth)
        elif spec.stem != "cifar":
            tally.keep(conv.out_channels, size)  # the pooling's input
    if pool := spec.pool_plan():
        size = tally.conv(pool, size)
        tally.norm(pool.out_channels, spec.norm, spec.init)
        tally.keep(pool.out_channels, size, times=1 + normed + smooth)
    elif spec.stem != "cifar":
        size = out_size(size, 3, 2, 1)
        tally.kept += spec.stem_channels * size * size * (FLOAT_BYTES + INDEX_BYTES)
    return size


def _count_blocks(tally: _Tally, spec: ResNetSpec, size: int) -> list[tuple[int, int]]:
    """Adds all blocks, exits and the last norm; returns for each block what enters it and what it keeps, in bytes."""
    found: list[tuple[int, int]] = []
    exits = {place.after: place for place in spec.exit_plan()}
    blocks = iter(spec.plan())
    for block in blocks:
        before = tally.kept
        enters = block.in_channels * size * size * FLOAT_BYTES * (2 if spec.reversible else 1)
        out = _count_block(tally, block, size, size)
        if spec.reversible:
            _count_block(tally, next(blocks), out, size)
        size = out
        if (place := exits.get(len(found) + 1)) is not None:
            _count_exit(tally, spec, place, size)
        found.append((enters, tally.kept - before))
    if spec.order == "pre":
        tally.norm(spec.num_features, spec.norm, spec.init)
        tally.keep(spec.num_features, size, times=1 + (spec.activation != "relu"))
    return found


def _count_block(tally: _Tally, block: BlockPlan, size: int, shortcut_size: int) -> int:
    """Adds a block; returns the height and width of its output.

    Args:
        tally: to add to.
        block: to add.
        size: height and width of what enters F.
        shortcut_size: height and width of what enters the shortcut.
    """
    last = len(block.convs)
    normed, fixup, smooth = block.norm == "batch", block.init == "fixup", block.activation != "relu"
    for index, conv in enumerate(block.convs, start=1):
        if block.order == "pre":
            tally.norm(conv.in_channels, block.norm, block.init)
            # The sum that enters the block is kept for its first norm, what the convolutions give for the others.
            tally.keep(conv.in_channels, size, times=1 + normed + smooth)
        size = tally.conv(conv, size)
        if block.order == "post":
            tally.norm(conv.out_channels, block.norm, block.init)
            # Before the norm, and behind the activation; the last one, behind the addition, has the same shape.
            tally.keep(conv.out_channels, size, times=1 + normed + smooth)
        if fixup:
            tally.params += 1  # the shift before the convolution, whose sum is another tensor to keep
            tally.keep(conv.in_channels, size * conv.stride)
        if index == last and block.init in ("fixup", "skipinit"):
            tally.params += 1
            tally.keep(conv.out_channels, size)
        if index == last and block.se_width:
            tally.keep(conv.out_channels, size)
            tally.linear(conv.out_channels, block.se_width)
            tally.linear(block.se_width, conv.out_channels)
            tally.kept += 2 * conv.out_channels * FLOAT_BYTES  # the gates, and as they are spread over the picture
    if block.gated:
        tally.linear(block.in_channels, GATE_WIDTH)
        tally.linear(GATE_WIDTH, 1)
        tally.keep(block.out_channels, size)  # what the gate weighs
    _count_shortcut(tally, block, shortcut_size)
    return size


def _count_shortcut(tally: _Tally, block: BlockPlan, size: int) -> None:
    """Adds the shortcut of a block whose input is `size` x `size`."""
    if block.downsample is None:
        return
    if block.init == "fixup":
        tally.keep(block.downsample.in_channels, size)  # the input is shifted once more
    if block.shortcut == "avg_project" and block.shortcut_stride > 1:
        size = -(-size // block.shortcut_stride)
        tally.keep(block.downsample.in_channels, size)
    size = tally.conv(block.downsample, size)
    if block.order == "post" and block.norm == "batch":
        tally.norm(block.out_channels, block.norm, block.init)
        tally.keep(block.out_channels, size)


def _count_exit(tally: _Tally, spec: ResNetSpec, place: ExitPlan, size: int) -> None:
    """Adds an early exit that looks at features of `size` x `size`."""
    for block in place.blocks:
        size = _count_block(tally, block, size, size)
    if spec.order == "pre":
        tally.norm(place.num_features, spec.norm, spec.init)
        tally.keep(place.num_features, size, times=1 + (spec.activation != "relu"))
    tally.linear(place.num_features, spec.num_classes)


def _stage_outputs(spec: ResNetSpec, size: int) -> int:
    """Bytes that a reversible network keeps: the input of each block that changes the shape, and the last output."""
    kept = 0
    for index, block in enumerate(spec.plan()[::2]):
        counted = index == 0 and spec.stem != "cifar"  # as what the pooling gives
        if block.shortcut != "identity" and not counted:
            kept += 2 * block.in_channels * size * size * FLOAT_BYTES
        size = -(-size // block.stride)
    ends = 2  # of the last stage, and what the norm behind it gives
    return kept + ends * spec.num_features * size * size * FLOAT_BYTES
