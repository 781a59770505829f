"""The candidates of a search: depths, widths and picture sizes, each of them something that `train` can be told."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from resvision import zoo
from resvision.errors import InputError
from resvision.recipe import SMALL_PICTURE
from resvision.spec import ResNetSpec

SMALL_MODELS = ("resnet8_cifar", "resnet14_cifar", "resnet20_cifar", "resnet32_cifar", "resnet56_cifar")
SMALL_WIDTHS = (1.0, 2.0, 4.0)  # 16, 32 and 64 channels in the first stage ...
HALVED = "first_stride=2"
HALVED_WIDTHS = (2.0, 4.0, 8.0)  # ... or twice as many, where that stage has a quarter of the pixels
PHOTO_MODELS = ("resnet10t", "resnet18d", "resnet34d", "resnet50d")
PHOTO_WIDTHS = (0.5, 1.0)
PHOTO_SIZES = (96, 128, 160)  # px
WIDEST = 64.0  # a factor beyond which no machine of today trains anything
ROUNDED_TO = 8  # channels, which vector units like to have in eights


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network at a picture size.

    Args:
        model: a name from the zoo.
        spec: FIELD=VALUE in which the network differs from that name, its widths among them.
        width: how many times as wide it is.
        size: of the pictures, in pixels.
    """

    model: str
    spec: tuple[str, ...]
    width: float
    size: int

    @property
    def name(self) -> str:
        """What tables call it."""
        wide = "" if self.width == 1 else f" x{self.width:g}"
        return f"{self.model}{wide} at {self.size} px"

    @property
    def features(self) -> tuple[float, float, float]:
        """Doublings of depth, width and size, by which candidates are more or less alike."""
        return math.log2(zoo.variant(self.model, self.spec).depth), math.log2(self.width), math.log2(self.size)

    def network(self, classes: int, channels: int) -> ResNetSpec:
        """Its spec, for so many classes and channels."""
        return replace(zoo.variant(self.model, self.spec), num_classes=classes, in_channels=channels)


def enumerate_all(
    size: int,
    side: int,
    spec: tuple[str, ...],
    models: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    widths: Sequence[float] | None = None,
    *,
    explicit: bool = False,
) -> list[Candidate]:
    """Every model at every width and size; what is None is usual for pictures like these.

    Args:
        size: at which the recipe trains, in pixels.
        side: the pictures' usual shorter side, in pixels; sizes beyond it show nothing more.
        spec: in which every candidate differs from its name.
        models: names from the zoo.
        sizes: in pixels.
        widths: factors.
        explicit: name the widths also where they are the model's own, since a recorded recipe has others.

    Raises:
        SpecError: there is no such network.
        InputError: a list is empty, or a factor is not above 0.
    """
    small = size <= SMALL_PICTURE
    for option, values in (("models", models), ("sizes", sizes), ("widths", widths)):
        if values is not None and not values:
            raise InputError(f"{option}: the list is empty; leave it out for the usual ones")
    if models is None:
        models = SMALL_MODELS if small else PHOTO_MODELS
    if sizes is None:
        sizes = (size,) if small else tuple(s for s in PHOTO_SIZES if s <= side) or (size,)
    if widths is None:
        widths = PHOTO_WIDTHS if not small else HALVED_WIDTHS if HALVED in spec else SMALL_WIDTHS
    for value in widths:
        if not 0 < value <= WIDEST:
            raise InputError(f"widths: {value:g} must be a factor above 0 and at most {WIDEST:g}, such as 0.5")
    found = {
        (model, width, size): Candidate(
            model=model, spec=_widened(model, spec, width, explicit), width=width, size=size
        )
        for model, width, size in product(models, widths, sizes)
    }
    return list(found.values())


def _widened(model: str, spec: tuple[str, ...], width: float, explicit: bool) -> tuple[str, ...]:
    widths = zoo.variant(model, spec).widths  # refuses what is no network, at any width
    if width == 1 and not explicit:
        return spec
    if width != 1:
        widths = tuple(max(ROUNDED_TO, round(width * channels / ROUNDED_TO) * ROUNDED_TO) for channels in widths)
    pairs = (
        *(pair for pair in spec if not pair.startswith("widths=")),
        f"widths={json.dumps(widths)}".replace(" ", ""),
    )
    zoo.variant(model, pairs)
    return pairs
