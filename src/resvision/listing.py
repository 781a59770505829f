"""The networks by name with what each costs, read off their plans: nothing is built, and torch is not needed."""

from __future__ import annotations

import dataclasses
from typing import Any

from resvision import zoo
from resvision.cost import cost


def list_models(
    name: str | None = None, *, classes: int | None = None, size: int | None = None, channels: int = 3
) -> list[dict[str, Any]]:
    """The networks of the zoo and what each costs; nothing is built.

    Args:
        name: one of them, or any `resnet{6n+2}_cifar`; None lists all.
        classes: logits at the end; None takes the papers' own, 1000 or 10.
        size: height and width of the pictures, in pixels; None takes the papers' own, 224 or 32.
        channels: 1 for grey, 3 for colour.

    Returns:
        For each its name, depth (layers), params, macs (one picture) and activation_bytes (one picture, float32, kept
        for the backward pass), with the size and classes they hold for.

    Raises:
        SpecError: the name is unknown, or a number is out of range.
    """

    def row(name: str) -> dict[str, Any]:
        spec = dataclasses.replace(zoo.get(name), in_channels=channels)
        if classes is not None:
            spec = dataclasses.replace(spec, num_classes=classes)
        pixels = spec.natural_size if size is None else size
        return {
            "name": name,
            "depth": spec.depth,
            **dataclasses.asdict(cost(spec, pixels)),
            "size": pixels,
            "classes": spec.num_classes,
            "channels": channels,
        }

    return [row(name)] if name is not None else [row(name) for name in zoo.names()]
