"""What a network costs, read off its plan without building it: parameters, multiply-adds, activation memory."""

from __future__ import annotations

from dataclasses import dataclass

from resvision.errors import SpecError
from resvision.spec import ConvPlan, ResNetSpec

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
    input of every norm, which is the output of the convolution before it; the indices of the max pooling; the features
    that enter the last layer. Additions and the norms' outputs (overwritten in place) keep nothing.

    Raises:
        SpecError: `size` is not positive.
    """
    if size < 1:
        raise SpecError(f"size={size} must be a positive number of pixels")
    params = macs = kept = 0

    def count(conv: ConvPlan, size: int, *, relu: bool) -> int:
        """Adds a convolution with its norm, and the ReLU behind it; returns the size of its output."""
        nonlocal params, macs, kept
        size = out_size(size, conv.kernel_size, conv.stride, conv.padding)
        weights = conv.out_channels * (conv.in_channels // conv.groups) * conv.kernel_size**2
        outputs = conv.out_channels * size * size
        params += weights + 2 * conv.out_channels
        macs += weights * size * size
        kept += outputs * FLOAT_BYTES * (2 if relu else 1)
        return size

    kept += spec.in_channels * size * size * FLOAT_BYTES
    size = count(spec.stem_plan(), size, relu=True)
    if spec.stem == "imagenet":
        size = out_size(size, 3, 2, 1)
        kept += spec.stem_width * size * size * (FLOAT_BYTES + INDEX_BYTES)
    for block in spec.plan():
        block_size = size
        for conv in block.convs:  # the last ReLU stands behind the addition and has the same shape
            size = count(conv, size, relu=True)
        if block.downsample is not None:
            count(block.downsample, block_size, relu=False)
    params += (spec.num_features + 1) * spec.num_classes
    macs += spec.num_features * spec.num_classes
    kept += spec.num_features * FLOAT_BYTES
    return Cost(params=params, macs=macs, activation_bytes=kept)
