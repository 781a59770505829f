"""The networks by name: zoo.get("resnet50") is a ResNetSpec, ready to be built, counted or changed."""

from __future__ import annotations

import dataclasses
import difflib
import re

from resvision.errors import SpecError
from resvision.spec import ResNetSpec

IMAGENET_WIDTHS = (64, 128, 256, 512)
CIFAR_WIDTHS = (16, 32, 64)  # He et al. 2015, section 4.2


def _cifar(depth: int, *, plain: bool = False) -> ResNetSpec:
    """The 6n+2 layers of He et al. 2015, section 4.2: three stages of n basic blocks, option A shortcuts."""
    blocks = (depth - 2) // 6
    return ResNetSpec(
        depths=(blocks,) * 3,
        widths=CIFAR_WIDTHS,
        stem="cifar",
        shortcut="none" if plain else "pad",
        init="he",  # as in the paper; blocks that begin as identities learn more slowly in short runs
        num_classes=10,
    )


_RESNET18 = ResNetSpec(depths=(2, 2, 2, 2), widths=IMAGENET_WIDTHS)
_RESNET34 = ResNetSpec(depths=(3, 4, 6, 3), widths=IMAGENET_WIDTHS)
_RESNET50 = ResNetSpec(depths=(3, 4, 6, 3), widths=IMAGENET_WIDTHS, block="bottleneck")
_RESNET101 = dataclasses.replace(_RESNET50, depths=(3, 4, 23, 3))

_LISTED: dict[str, ResNetSpec] = {
    # He et al. 2015, table 1
    "resnet18": _RESNET18,
    "resnet34": _RESNET34,
    "resnet50": _RESNET50,
    "resnet101": _RESNET101,
    "resnet152": dataclasses.replace(_RESNET50, depths=(3, 8, 36, 3)),
    # Xie et al. 2016, table 1
    "resnext50_32x4d": dataclasses.replace(_RESNET50, groups=32, base_width=4),
    "resnext101_32x8d": dataclasses.replace(_RESNET101, groups=32, base_width=8),
    # The plain networks they replaced, He et al. 2015, figure 3
    "plain18": dataclasses.replace(_RESNET18, shortcut="none", init="he"),
    "plain34": dataclasses.replace(_RESNET34, shortcut="none", init="he"),
    # He et al. 2015, table 6
    **{f"resnet{depth}_cifar": _cifar(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"plain{depth}_cifar": _cifar(depth, plain=True) for depth in (8, 20, 32, 44, 56)},
}

_CIFAR_NAME = re.compile(r"(resnet|plain)(\d{1,6})_cifar")


def names() -> tuple[str, ...]:
    """The names that `resvision models` lists. `resnet{6n+2}_cifar` and `plain{6n+2}_cifar` work for every n >= 1."""
    return tuple(_LISTED)


def get(name: str) -> ResNetSpec:
    """The network of that name.

    Raises:
        SpecError: there is none; the message suggests the nearest.
    """
    if name in _LISTED:
        return _LISTED[name]
    if match := _CIFAR_NAME.fullmatch(name):
        family, depth = match[1], int(match[2])
        if depth >= 8 and (depth - 2) % 6 == 0:
            return _cifar(depth, plain=family == "plain")
        below = max(8, depth - (depth - 2) % 6)
        nearest = sorted({below, below + 6})
        raise SpecError(
            f"there is no network {name!r}: a CIFAR network has 6n+2 layers; "
            f"the nearest are {' and '.join(f'{family}{d}_cifar' for d in nearest)}"
        )
    near = difflib.get_close_matches(name, _LISTED, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else "`resvision models` lists them"
    raise SpecError(f"there is no network {name!r}; {advice}")
