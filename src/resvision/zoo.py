"""The networks by name: zoo.get("resnet50") is a ResNetSpec, ready to be built, counted or changed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resvision.errors import SpecError
from resvision.files import parse
from resvision.spec import ResNetSpec

# ---- ImageNet ----

IMAGENET_WIDTHS = (64, 128, 256, 512)

_RESNET18 = ResNetSpec(depths=(2, 2, 2, 2), widths=IMAGENET_WIDTHS)
_RESNET34 = replace(_RESNET18, depths=(3, 4, 6, 3))
_RESNET50 = replace(_RESNET34, block="bottleneck")
_RESNET101 = replace(_RESNET50, depths=(3, 4, 23, 3))

# He et al. 2015, table 1; 26 layers are timm's, 200 are of He et al. 2016, table 5.
_RESNETS = {
    18: _RESNET18,
    26: replace(_RESNET50, depths=(2, 2, 2, 2)),
    34: _RESNET34,
    50: _RESNET50,
    101: _RESNET101,
    152: replace(_RESNET50, depths=(3, 8, 36, 3)),
    200: replace(_RESNET50, depths=(3, 24, 36, 3)),
}

# Bello et al. 2021, table 7
_RS_DEPTHS = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}


def _d(spec: ResNetSpec) -> ResNetSpec:
    """ResNet-D: three 3x3 convolutions as the stem, and pooling before the projections (He et al. 2018, section 4)."""
    return replace(spec, stem="deep", shortcut="avg_project")


def _t(spec: ResNetSpec) -> ResNetSpec:
    """The tiny networks of timm: one block a stage, as ResNet-D with a stem that widens in steps."""
    return replace(spec, depths=(1, 1, 1, 1), stem="tiered", shortcut="avg_project")


def _se(spec: ResNetSpec) -> ResNetSpec:
    """Squeeze-and-excitation by 16 (Hu et al. 2017, section 6.4)."""
    return replace(spec, se_ratio=1 / 16)


def _rs(depths: tuple[int, ...]) -> ResNetSpec:
    """ResNet-RS: ResNet-D with squeeze-and-excitation by 4 and a convolution for the pooling (Bello et al. 2021)."""
    return replace(_d(_RESNET50), depths=depths, pool="conv", se_ratio=1 / 4)


def _x(spec: ResNetSpec, cardinality: int, base_width: int) -> ResNetSpec:
    """ResNeXt (Xie et al. 2016, table 1)."""
    return replace(spec, groups=cardinality, base_width=base_width)


def _plain(spec: ResNetSpec) -> ResNetSpec:
    """The same layers without any shortcut (He et al. 2015, section 3.3)."""
    return replace(spec, shortcut="none", init="he")


_IMAGENET: dict[str, ResNetSpec] = {
    "resnet10t": _t(_RESNET18),
    "resnet14t": _t(_RESNET50),
    **{f"resnet{depth}": spec for depth, spec in _RESNETS.items()},
    **{f"resnet{depth}d": _d(spec) for depth, spec in _RESNETS.items()},
    "resnext50_32x4d": _x(_RESNET50, 32, 4),
    "resnext101_32x4d": _x(_RESNET101, 32, 4),
    "resnext101_32x8d": _x(_RESNET101, 32, 8),
    "resnext101_64x4d": _x(_RESNET101, 64, 4),
    # Zagoruyko & Komodakis 2016, section 3.3: the inner convolutions are twice as wide
    "wide_resnet50_2": replace(_RESNET50, base_width=128),
    "wide_resnet101_2": replace(_RESNET101, base_width=128),
    **{f"seresnet{depth}": _se(_RESNETS[depth]) for depth in (18, 34, 50, 101, 152)},
    "seresnext50_32x4d": _se(_x(_RESNET50, 32, 4)),
    "seresnext101_32x4d": _se(_x(_RESNET101, 32, 4)),
    **{f"resnetrs{depth}": _rs(depths) for depth, depths in _RS_DEPTHS.items()},
    # He et al. 2016, section 4
    **{f"resnetv2_{depth}": replace(_RESNETS[depth], order="pre") for depth in (18, 34, 50, 101, 152, 200)},
    **{f"plain{depth}": _plain(_RESNETS[depth]) for depth in (18, 34, 50)},
    "revnet104": ResNetSpec(  # Gomez et al. 2017, table 2
        depths=(2, 2, 11, 2),
        widths=(128, 256, 512, 832),
        block="bottleneck",
        order="pre",
        stride_on="1x1",
        reversible=True,
    ),
}

# ---- CIFAR ----

CIFAR_WIDTHS = (16, 32, 64)  # He et al. 2015, section 4.2


def _basic_cifar(blocks: int) -> ResNetSpec:
    """6n+2 layers: three stages of n basic blocks, option A shortcuts (He et al. 2015, section 4.2)."""
    return ResNetSpec(
        depths=(blocks,) * 3,
        widths=CIFAR_WIDTHS,
        stem="cifar",
        shortcut="pad",
        init="he",  # as in the paper; blocks that begin as identities learn more slowly in short runs
        num_classes=10,
    )


def _bottleneck_cifar(blocks: int) -> ResNetSpec:
    """9n+2 layers: three stages of n bottlenecks, projections where the shape changes (He et al. 2016, section 4)."""
    return replace(_basic_cifar(blocks), block="bottleneck", stem_width=CIFAR_WIDTHS[0], shortcut="project")


def _wide(blocks: int, factor: int) -> ResNetSpec:
    """6n+4 layers, `factor` times as wide (Zagoruyko & Komodakis 2016, table 1)."""
    widths = tuple(factor * width for width in CIFAR_WIDTHS)
    spec = replace(_basic_cifar(blocks), widths=widths, stem_width=CIFAR_WIDTHS[0], shortcut="project")
    return replace(spec, order="pre")


def _resnext_cifar(cardinality: int) -> ResNetSpec:
    """29 layers, groups of 64 channels (Xie et al. 2016, section 5.3)."""
    spec = replace(_bottleneck_cifar(3), widths=(64, 128, 256), stem_width=64)
    return _x(spec, cardinality, 64)


def _basic_rev_cifar(blocks: int) -> ResNetSpec:
    """12n+2 layers in n reversible blocks a stage, with padded shortcuts (Gomez et al. 2017, table 2)."""
    return replace(
        _basic_cifar(blocks),
        widths=_REV_38_WIDTHS if blocks == 3 else _REV_WIDTHS,
        order="pre",
        shortcut="avg_pad",
        pad_side="both",
        reversible=True,
    )


def _bottleneck_rev_cifar(blocks: int) -> ResNetSpec:
    """18n+2 layers in n reversible blocks a stage, with projections (Gomez et al. 2017, table 2)."""
    spec = replace(_basic_rev_cifar(blocks), widths=_REV_WIDTHS, stem_width=_REV_WIDTHS[0])
    return replace(spec, block="bottleneck", shortcut="project", stride_on="1x1")


# Both streams together, so that each is as wide as an ordinary network's; the last stage of 38 layers is narrower, for
# as many parameters as ResNet-32.
_REV_WIDTHS, _REV_38_WIDTHS = (32, 64, 128), (32, 64, 112)


@dataclass(frozen=True)
class _Family:
    """Networks that go by their depth: `name` with {depth} in it, of `layers` layers a block and `extra` ones."""

    name: str
    layers: int
    extra: int
    build: Callable[[int], ResNetSpec]
    listed: tuple[int, ...]

    def blocks(self, depth: int) -> int | None:
        """Blocks a stage, or None where no whole number of them makes this depth."""
        blocks, rest = divmod(depth - self.extra, self.layers)
        return blocks if blocks >= 1 and rest == 0 else None

    def nearest(self, depth: int) -> tuple[int, ...]:
        """The valid depths around another."""
        below = max(1, (depth - self.extra) // self.layers) * self.layers + self.extra
        return (below, below + self.layers)


# Where two families share a name, the first whose layers add up to the depth is taken, unless the depth is listed:
# preact110 is of basic blocks, preact164 of bottlenecks, as in the papers.
_FAMILIES = (
    _Family("resnet{depth}_cifar", 6, 2, _basic_cifar, (8, 14, 20, 32, 44, 56, 110, 1202)),
    _Family("resnet{depth}_cifar", 9, 2, _bottleneck_cifar, (164,)),
    _Family("preact{depth}_cifar", 6, 2, lambda n: replace(_basic_cifar(n), order="pre"), (20, 56, 110)),
    _Family("preact{depth}_cifar", 9, 2, lambda n: replace(_bottleneck_cifar(n), order="pre"), (164, 1001)),
    _Family("seresnet{depth}_cifar", 6, 2, lambda n: _se(_basic_cifar(n)), (20, 56, 110)),
    _Family("seresnet{depth}_cifar", 9, 2, lambda n: _se(_bottleneck_cifar(n)), (164,)),
    _Family("plain{depth}_cifar", 6, 2, lambda n: _plain(_basic_cifar(n)), (8, 20, 32, 44, 56, 110)),
    _Family("revnet{depth}_cifar", 12, 2, _basic_rev_cifar, (38, 110)),
    _Family("revnet{depth}_cifar", 18, 2, _bottleneck_rev_cifar, (164,)),
)
_WIDE = ((16, 4), (16, 8), (16, 10), (22, 8), (28, 10), (28, 12), (40, 1), (40, 2), (40, 4), (40, 8))
_WIDE_LAYERS, _WIDE_EXTRA = 6, 4

_CIFAR: dict[str, ResNetSpec] = {
    **{
        family.name.format(depth=depth): family.build(blocks)
        for family in _FAMILIES
        for depth in family.listed
        if (blocks := family.blocks(depth))
    },
    **{f"wrn{d}_{k}": _wide((d - _WIDE_EXTRA) // _WIDE_LAYERS, k) for d, k in _WIDE},
    "resnext29_8x64d": _resnext_cifar(8),
    "resnext29_16x64d": _resnext_cifar(16),
}

_LISTED = {**_IMAGENET, **_CIFAR}
_DEPTH_NAME = re.compile(r"([a-z]+)(\d{1,6})(_cifar)")
_WIDE_NAME = re.compile(r"wrn(\d{1,6})_(\d{1,3})")


def names() -> tuple[str, ...]:
    """The names that `resvision models` lists. The CIFAR families have a network for every valid depth besides."""
    return tuple(_LISTED)


def get(name: str) -> ResNetSpec:
    """The network of that name.

    Raises:
        SpecError: there is none; the message suggests the nearest.
    """
    if name in _LISTED:
        return _LISTED[name]
    if match := _DEPTH_NAME.fullmatch(name):
        families = [f for f in _FAMILIES if f.name == f"{match[1]}{{depth}}{match[3]}"]
        if families:
            return _of_depth(name, families, int(match[2]))
    if match := _WIDE_NAME.fullmatch(name):
        return _of_width(name, int(match[1]), int(match[2]))
    near = difflib.get_close_matches(name, _LISTED, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else "`resvision models` lists them"
    raise SpecError(f"there is no network {name!r}; {advice}")


def _of_depth(name: str, families: list[_Family], depth: int) -> ResNetSpec:
    for family in families:
        if blocks := family.blocks(depth):
            return family.build(blocks)
    nearest = sorted({d for family in families for d in family.nearest(depth)}, key=lambda d: (abs(d - depth), d))[:2]
    rules = " or ".join(f"{family.layers}n+{family.extra}" for family in families)
    raise SpecError(
        f"there is no network {name!r}: it has {rules} layers; "
        f"the nearest are {' and '.join(families[0].name.format(depth=d) for d in sorted(nearest))}"
    )


def _of_width(name: str, depth: int, factor: int) -> ResNetSpec:
    blocks, rest = divmod(depth - _WIDE_EXTRA, _WIDE_LAYERS)
    if blocks >= 1 and rest == 0 and factor >= 1:
        return _wide(blocks, factor)
    below = max(1, blocks) * _WIDE_LAYERS + _WIDE_EXTRA
    nearest = (below, below + _WIDE_LAYERS)
    raise SpecError(
        f"there is no network {name!r}: a wide residual network has {_WIDE_LAYERS}n+{_WIDE_EXTRA} layers and a factor "
        f"of at least 1; the nearest are {' and '.join(f'wrn{d}_{max(1, factor)}' for d in nearest)}"
    )


# ---- networks that differ from their name ----

_ENDS = ("num_classes", "in_channels")  # what the data or the weights decide, whatever the network is called


def variant(name: str, pairs: Sequence[str] = ()) -> ResNetSpec:
    """The network of that name with some fields changed.

    Args:
        name: as in `get`.
        pairs: FIELD=VALUE with fields of `ResNetSpec`, such as "pad_side=both"; a value is JSON, or else text.

    Raises:
        SpecError: there is no such network, a pair is none, or the fields contradict each other.
        InputError: there is no such field, or its value is of another type.
    """
    return parse(ResNetSpec, asdict(get(name)) | dict(map(_field, pairs)), "spec")


def differences(name: str, spec: ResNetSpec) -> tuple[str, ...]:
    """The pairs that make `spec` of the network of that name, but for its classes and channels.

    Raises:
        SpecError: there is no network of that name.
    """
    named = asdict(get(name))
    return tuple(
        f"{field}={value if isinstance(value, str) else json.dumps(value)}"
        for field, value in asdict(spec).items()
        if field not in _ENDS and value != named[field]
    )


def _field(pair: str) -> tuple[str, Any]:
    """A field and its value."""
    field, equals, text = pair.partition("=")
    if not equals:
        raise SpecError(f"spec {pair!r}: give FIELD=VALUE, such as pad_side=both")
    if field in _ENDS:
        raise SpecError(f"spec {pair!r}: {field} follows from the data or the weights, so leave it out")
    try:
        return field, json.loads(text)
    except ValueError:
        return field, text
