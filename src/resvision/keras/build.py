"""Residual networks of Keras layers, built from the plan that `models.ResNet` is built from, under the same names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from resvision import zoo
from resvision.errors import SpecError
from resvision.keras.backend import keras
from resvision.recipe import SMALL_PICTURE
from resvision.spec import Activation, BlockPlan, ConvPlan, Init, ResNetSpec

Tensor: TypeAlias = keras.KerasTensor  # (N, H, W, C)

layers = keras.layers

# Keras weighs what was, PyTorch what comes: its usual 0.1 is 0.9 here. The epsilon is PyTorch's, not Keras's 1e-3.
MOMENTUM, EPSILON = 0.9, 1e-5


def residual_block(
    x: Tensor,
    filters: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: Literal["same", "valid"] = "same",
) -> Tensor:
    """relu(F(x) + x), where F is convolution, norm, ReLU, convolution and norm (He et al. 2015, figure 2).

    What is added is the block's input; where its shape is another than that of F(x), a 1x1 convolution and a norm bring
    it there (option B).

    Args:
        x: (N, H, W, C).
        filters: channels of the result.
        kernel_size: of both convolutions, odd.
        stride: of the first convolution, and of the shortcut.
        padding: "same" pads with zeros on all sides alike; "valid" does not pad, and of x the middle is added.

    Returns:
        (N, ceil(H / stride), ceil(W / stride), filters), or what "valid" leaves of it.

    Raises:
        SpecError: an argument is out of its range.
    """
    if len(x.shape) != 4 or x.shape[-1] is None:
        raise SpecError(f"x has shape {tuple(x.shape)}: a block takes (N, H, W, C) with a known C")
    for name, value in (("filters", filters), ("kernel_size", kernel_size), ("stride", stride)):
        if type(value) is not int or value < 1:
            raise SpecError(f"{name}={value!r} must be a positive integer")
    if kernel_size % 2 == 0:
        raise SpecError(f"kernel_size={kernel_size} must be odd, or nothing would be in the middle")
    if padding not in ("same", "valid"):
        raise SpecError(f"padding={padding!r} is not one of same, valid")
    channels = x.shape[-1]
    changes = stride > 1 or channels != filters
    plan = BlockPlan(
        name=f"residual_block_{keras.backend.get_uid('residual_block')}",
        convs=(
            ConvPlan(name="conv1", in_channels=channels, out_channels=filters, kernel_size=kernel_size, stride=stride),
            ConvPlan(name="conv2", in_channels=filters, out_channels=filters, kernel_size=kernel_size),
        ),
        order="post",
        shortcut="project" if changes else "identity",
        shortcut_stride=stride,
        pad_side="end",
        activation="relu",
        norm="batch",
        init="he",
        downsample=ConvPlan(
            name="downsample.0", in_channels=channels, out_channels=filters, kernel_size=1, stride=stride
        )
        if changes
        else None,
    )
    return _block(x, plan, padded=padding == "same")


def resnet(
    input_shape: Sequence[int],
    num_classes: int,
    depth: int = 18,
    cardinality: int = 1,
    strides: int = 1,
) -> keras.Model:
    """A residual network with softmax outputs, ready to be compiled and fitted.

    Channels double and height and width halve from stage to stage. Pictures of up to 64 pixels meet a 3x3 convolution
    first, larger ones a 7x7 of stride 2 and pooling. The model takes pictures as you scale them; `from_keras` asks how.

    Args:
        input_shape: (height, width, channels).
        num_classes: of the softmax, at least 2.
        depth: 18, 26, 34, 50, 101, 152 or 200 layers in four stages of 64, 128, 256, 512 channels (He et al. 2015,
            table 1), or the 6n+2 and 9n+2 of CIFAR in three stages of 16, 32, 64 (section 4.2).
        cardinality: groups of the 3x3 convolutions of bottlenecks, each so wide that the block costs what it costs
            with one: 32 have 4 channels (Xie et al. 2016, table 2).
        strides: 1 or 2, by how much the first stage divides height and width.

    Returns:
        A keras.Model, (N, height, width, channels) to probabilities (N, num_classes).

    Raises:
        SpecError: an argument is out of its range, or there is no such network.
    """
    spec = spec_of(input_shape, num_classes, depth, cardinality, strides)
    pictures = keras.Input(tuple(input_shape), name="pictures")
    return keras.Model(pictures, probabilities(network(pictures, spec)), name=f"resnet{depth}")


def spec_of(input_shape: Sequence[int], num_classes: int, depth: int, cardinality: int, strides: int) -> ResNetSpec:
    """The spec of the network that `resnet` builds from the same arguments; raises its errors."""
    if len(input_shape) != 3 or any(type(side) is not int or side < 1 for side in input_shape):
        raise SpecError(f"input_shape={tuple(input_shape)!r} must be (height, width, channels), such as (32, 32, 3)")
    if num_classes == 1:
        raise SpecError("num_classes=1: a softmax of one is always 1; two classes are num_classes=2")
    if strides not in (1, 2):
        raise SpecError(f"strides={strides!r} must be 1 or 2")
    small = max(input_shape[:2]) <= SMALL_PICTURE
    spec = replace(
        _of_depth(depth),
        stem="cifar" if small else "imagenet",
        first_stride=strides,
        num_classes=num_classes,
        in_channels=input_shape[2],
    )
    return spec if cardinality == 1 else _grouped(spec, cardinality)


def _of_depth(depth: int) -> ResNetSpec:
    large = [name for name in zoo.names() if re.fullmatch(r"resnet\d+", name)]
    name = f"resnet{depth}"
    try:
        return zoo.get(name if name in large else f"{name}_cifar")
    except SpecError:
        depths = ", ".join(name.removeprefix("resnet") for name in large)
        raise SpecError(
            f"depth={depth!r} is none of {depths}, and not 6n+2 or 9n+2, such as 20, 56, 110, 164"
        ) from None


def _grouped(spec: ResNetSpec, cardinality: int) -> ResNetSpec:
    """The spec with groups instead of one convolution, at the same cost."""
    if type(cardinality) is not int or cardinality < 1:
        raise SpecError(f"cardinality={cardinality!r} must be a positive integer")
    if spec.block == "basic":
        raise SpecError(
            f"cardinality={cardinality!r} needs bottlenecks, and {spec.depth} layers are basic blocks: "
            "take a depth of 26, 50, 101, 152, 200 or 164"
        )
    # 2 * 256 Cd + 9 Cd^2 multiply-adds a pixel with C groups of d channels, as many as one of 64 (section 3.3).
    cost = 2 * 256 * 64 + 9 * 64**2
    base_width = round((math.sqrt(512**2 + 36 * cost / cardinality) - 512) / 18)
    if spec.widths[0] * base_width < 64:
        raise SpecError(f"cardinality={cardinality} leaves a group of the first stage less than one channel")
    return replace(spec, groups=cardinality, base_width=base_width)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax, in float32 whatever precision the network computes in."""
    return layers.Softmax(name="probabilities", dtype="float32")(logits)


def network(x: Tensor, spec: ResNetSpec) -> Tensor:
    """(N, S, S, C) to logits (N, num_classes), layer by layer as `models.ResNet`.

    Raises:
        SpecError: it has parts that Keras has no layers for.
    """
    _check(spec)
    x = _stem(x, spec)
    for plan in spec.plan():
        x = _block(x, plan)
    if spec.order == "pre":
        x = _active(_normed(x, "norm", spec), "act", spec.activation)
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return layers.Dense(spec.num_classes, kernel_initializer=_torch_init(), name="fc")(x)


def _check(spec: ResNetSpec) -> None:
    missing = {
        "reversible=True": spec.reversible,
        f"experts={spec.experts}": spec.experts > 1,
        f"exits={spec.exits}": bool(spec.exits),
        "gates=True": spec.gates,
        f"init={spec.init!r}": spec.init in ("fixup", "skipinit"),
        "activation='gelu'": spec.activation == "gelu",  # by tanh; Keras's layer computes the exact one
    }
    if found := [name for name, is_missing in missing.items() if is_missing]:
        raise SpecError(f"{found[0]}: Keras has no layer for it, so that this network stays in PyTorch")
    if (order := keras.config.image_data_format()) != "channels_last":
        raise SpecError(f"Keras is set to {order}: resvision.keras needs channels_last (keras.config)")


def _stem(x: Tensor, spec: ResNetSpec) -> Tensor:
    *before, last = spec.stem_plan()
    for place, plan in enumerate(before):
        x = _conv(x, plan.name, plan, spec.init)
        x = _normed(x, f"conv1.{3 * place + 1}", spec)
        x = _active(x, f"conv1.{3 * place + 2}", spec.activation)
    x = _conv(x, last.name, last, spec.init)
    if spec.order == "post":
        x = _active(_normed(x, "bn1", spec), "act1", spec.activation)
    if spec.stem == "cifar":
        return x
    if pool := spec.pool_plan():
        x = _conv(x, pool.name, pool, spec.init)
        return _active(_normed(x, "maxpool.1", spec), "maxpool.2", spec.activation)
    # Windows around every second pixel. Keras's own "same" at stride 2 would begin them one pixel later; zeros around
    # the picture would do only where nothing is negative.
    x = layers.MaxPooling2D(3, strides=1, padding="same", name="maxpool")(x)
    return _every(x, 2, "maxpool.every")


def _block(x: Tensor, plan: BlockPlan, *, padded: bool = True) -> Tensor:
    """One block, as `models.Block`: F(x) + x, or without padding F(x) and the middle of x."""
    last = len(plan.convs)
    if plan.order == "post":
        y = _branch(x, plan, padded)
        if plan.shortcut != "none":
            y = _sum(y, _shortcut(x if padded else _middle(x, plan), plan), plan)
        return _active(y, f"{plan.name}.act{last}", plan.activation)
    active = _active(_normed(x, f"{plan.name}.bn1", plan), f"{plan.name}.act1", plan.activation)
    y = _branch(active, plan, padded)
    if plan.shortcut == "none":
        return y
    return _sum(y, x if plan.shortcut == "identity" else _shortcut(active, plan), plan)


def _branch(x: Tensor, plan: BlockPlan, padded: bool) -> Tensor:
    """F(x); with pre-activation x has its first norm and activation behind it."""
    last = len(plan.convs)
    for index, conv in enumerate(plan.convs, start=1):
        zero = plan.init == "zero_gamma" and index == last
        x = _conv(x, f"{plan.name}.{conv.name}", conv, plan.init, padded=padded, zero=zero and plan.order == "pre")
        norm = index if plan.order == "post" else index + 1
        if norm <= last:
            x = _normed(x, f"{plan.name}.bn{norm}", plan, zero=zero)
        if index < last:
            x = _active(x, f"{plan.name}.act{norm}", plan.activation)
    return _squeezed(x, plan) if plan.se_width else x


def _shortcut(x: Tensor, plan: BlockPlan) -> Tensor:
    """The input in the shape of F(x)."""
    name, stride = f"{plan.name}.downsample", plan.shortcut_stride
    if plan.shortcut == "identity":
        return x
    if plan.downsample is not None:
        place = int(plan.downsample.name.removeprefix("downsample."))
        if plan.shortcut == "avg_project" and stride > 1:
            # Windows that hang over the edge average only what is inside, as in timm.
            x = layers.AveragePooling2D(2, strides=stride, padding="same", name=f"{name}.0")(x)
        x = _conv(x, f"{name}.{place}", plan.downsample, plan.init)
        return _normed(x, f"{name}.{place + 1}", plan) if plan.order == "post" else x
    if plan.shortcut == "avg_pad" and stride > 1:
        x = layers.AveragePooling2D(stride, padding="same", name=f"{name}.average")(x)
    else:
        x = _every(x, stride, f"{name}.every")
    added = plan.out_channels - plan.in_channels
    before = added // 2 if plan.pad_side == "both" else 0
    # The layer takes W and C for the height and width of channels-first pictures: zeros behind the last axis.
    pads = ((0, 0), (before, added - before))
    return layers.ZeroPadding2D(pads, data_format="channels_first", name=f"{name}.zeros")(x)


def _sum(y: Tensor, x: Tensor, plan: BlockPlan) -> Tensor:
    return layers.Add(name=f"{plan.name}.add")([y, x])


def _middle(x: Tensor, plan: BlockPlan) -> Tensor:
    """The part of x that F(x) is left of, when its two convolutions do not pad."""
    edge = (plan.convs[0].kernel_size - 1) * (plan.stride + 1) // 2
    return layers.Cropping2D(edge, name=f"{plan.name}.middle")(x)


def _every(x: Tensor, stride: int, name: str) -> Tensor:
    """Every `stride`-th pixel."""
    return layers.MaxPooling2D(1, strides=stride, name=name)(x) if stride > 1 else x


def _conv(x: Tensor, name: str, plan: ConvPlan, init: Init, *, padded: bool = True, zero: bool = False) -> Tensor:
    if padded and plan.stride > 1 and plan.padding:
        # At stride 2 "same" pads an even picture at its end alone, which shifts it against the papers' networks.
        x = layers.ZeroPadding2D(plan.padding, name=f"{name}.pad")(x)
    return layers.Conv2D(
        plan.out_channels,
        plan.kernel_size,
        strides=plan.stride,
        padding="same" if padded and plan.stride == 1 else "valid",
        groups=plan.groups,
        use_bias=plan.bias,
        kernel_initializer="zeros" if zero else _kernel_init(init),
        name=name,
    )(x)


def _normed(x: Tensor, name: str, plan: BlockPlan | ResNetSpec, *, zero: bool = False) -> Tensor:
    if plan.norm == "none":
        return x
    gamma = "zeros" if zero else "ones"
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, gamma_initializer=gamma, name=name)(x)


def _active(x: Tensor, name: str, kind: Activation) -> Tensor:
    return layers.Activation(kind, name=name)(x)


def _squeezed(x: Tensor, plan: BlockPlan) -> Tensor:
    """Squeeze-and-excitation, as `models.layers.SqueezeExcite`."""
    name = f"{plan.name}.se"
    gates = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.mean")(x)
    for part, channels, activation in (("fc1", plan.se_width, "relu"), ("fc2", plan.out_channels, "sigmoid")):
        gates = layers.Conv2D(
            channels, 1, activation=activation, kernel_initializer=_torch_init(), name=f"{name}.{part}"
        )(gates)
    return layers.Multiply(name=f"{name}.multiply")([x, gates])


def _kernel_init(init: Init) -> Any:
    """How the kernels of convolutions begin, as `models.initial` says."""
    if init == "glorot":
        return keras.initializers.GlorotUniform()
    if init == "torch":
        return _torch_init()
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def _torch_init() -> Any:
    """PyTorch's own: uniform within 1 / sqrt(fan in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
