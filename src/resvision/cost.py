"""What a network costs, read off its plan without building it: parameters, multiply-adds, activation memory."""

from __future__ import annotations

from dataclasses import dataclass

from resvision.errors import SpecError
from resvision.spec import BlockPlan, ConvPlan, ResNetSpec

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

    What is kept for the backward pass: the input of every convolution, which is the output of a ReLU before it; the
    input of every norm; the indices of the max pooling; what squeeze-and-excitation weighs, and its vectors; the
    features that enter the last layer. Additions and the norms' outputs (overwritten in place) keep nothing.

    Raises:
        SpecError: `size` is not positive.
    """
    if size < 1:
        raise SpecError(f"size={size} must be a positive number of pixels")
    tally = _Tally()
    tally.keep(spec.in_channels, size)
    for index, conv in enumerate(spec.stem_plan(), start=1):
        size = tally.conv(conv, size)
        if spec.order == "post" or index < len(spec.stem_plan()):
            tally.norm(conv.out_channels)
            tally.keep(conv.out_channels, size, times=2)  # before the norm, and behind the ReLU
        elif spec.stem != "cifar":
            tally.keep(conv.out_channels, size)  # the pooling's input
    if pool := spec.pool_plan():
        size = tally.conv(pool, size)
        tally.norm(pool.out_channels)
        tally.keep(pool.out_channels, size, times=2)
    elif spec.stem != "cifar":
        size = out_size(size, 3, 2, 1)
        tally.kept += spec.stem_channels * size * size * (FLOAT_BYTES + INDEX_BYTES)
    for block in spec.plan():
        size = _count_block(tally, block, size)
    if spec.order == "pre":
        tally.norm(spec.num_features)
        tally.keep(spec.num_features, size)
    tally.linear(spec.num_features, spec.num_classes)
    return Cost(params=tally.params, macs=tally.macs, activation_bytes=tally.kept)


def block_activations(spec: ResNetSpec, size: int) -> tuple[tuple[int, int], ...]:
    """For each block, what enters it and what it keeps for the backward pass, in bytes: one picture in float32.

    Args:
        spec: of the network.
        size: height and width of the pictures, in pixels.
    """
    for conv in (*spec.stem_plan(), *filter(None, [spec.pool_plan()])):
        size = out_size(size, conv.kernel_size, conv.stride, conv.padding)
    if spec.stem != "cifar" and spec.pool == "max":
        size = out_size(size, 3, 2, 1)
    found = []
    for block in spec.plan():
        tally = _Tally()
        enters = block.in_channels * size * size * FLOAT_BYTES
        size = _count_block(tally, block, size)
        found.append((enters, tally.kept))
    return tuple(found)


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
        self.params += weights
        self.macs += weights * size * size
        return size

    def norm(self, channels: int) -> None:
        self.params += 2 * channels

    def linear(self, inputs: int, outputs: int) -> None:
        """Adds a linear layer with a bias, which keeps its input."""
        self.params += (inputs + 1) * outputs
        self.macs += inputs * outputs
        self.kept += inputs * FLOAT_BYTES

    def keep(self, channels: int, size: int, times: int = 1) -> None:
        self.kept += times * channels * size * size * FLOAT_BYTES


def _count_block(tally: _Tally, block: BlockPlan, size: int) -> int:
    """Adds a block whose input is `size` x `size`; returns the height and width of its output."""
    first_size = size
    last = len(block.convs)
    for index, conv in enumerate(block.convs, start=1):
        if block.order == "pre":
            tally.norm(conv.in_channels)
            # The sum that enters the block is kept for its first norm, what the convolutions give for the others.
            tally.keep(conv.in_channels, size, times=2)
        size = tally.conv(conv, size)
        if block.order == "post":
            tally.norm(conv.out_channels)
            # Before the norm, and behind the ReLU; the last one stands behind the addition and has the same shape.
            tally.keep(conv.out_channels, size, times=2)
        if index == last and block.se_width:
            tally.keep(conv.out_channels, size)
            tally.linear(conv.out_channels, block.se_width)
            tally.linear(block.se_width, conv.out_channels)
            tally.kept += 2 * conv.out_channels * FLOAT_BYTES  # the gates, and as they are spread over the picture
    if block.downsample is not None:
        pooled = block.shortcut == "avg_project" and block.stride > 1
        if pooled:
            tally.keep(block.in_channels, size)
        tally.conv(block.downsample, size if pooled else first_size)
        if block.order == "post":
            tally.norm(block.out_channels)
            tally.keep(block.out_channels, size)
    return size
