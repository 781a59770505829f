"""Networks that compute less for easy pictures: where early exits stand, and the rule by which a picture leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

from resvision.cost import segment_macs
from resvision.errors import ClassifierError, SpecError
from resvision.recipe import Recipe
from resvision.spec import ResNetSpec

AUTO_SHARES = (1 / 8, 1 / 2)  # of the network's multiply-adds: where "auto" sets exits
# What an exit is made of, (exit_width, exit_depth), the best first, and the part of the network that it may cost.
SHAPES, MOST_SHARE = ((1.0, 2), (1.0, 1), (0.5, 2), (0.5, 1), (0.25, 1)), 0.15


@dataclass(frozen=True, kw_only=True)
class ExitRule:
    """When a picture leaves: at the first exit whose calibrated confidence reaches that exit's threshold.

    Args:
        temperatures: by which the logits of each exit, the network's end included, are divided (Guo et al. 2017).
        thresholds: least confidence, the largest softmax probability, at which a picture leaves each exit but the end;
            above 1 nothing leaves there.
        seconds: of one picture in each segment, as measured when the thresholds were chosen.
        together: whether each exit answers with the mean of its logits and those of the exits before it at which
            pictures can leave (Qendro et al. 2021; Wolczyk et al. 2021, section 3), and not with its own alone; the
            temperatures are of these means.

    Raises:
        ClassifierError: the numbers do not fit together.
    """

    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    seconds: tuple[float, ...]
    together: bool = False

    def __post_init__(self) -> None:
        if len(self.temperatures) != len(self.thresholds) + 1 or len(self.seconds) != len(self.temperatures):
            raise ClassifierError(
                f"{len(self.temperatures)} temperatures, {len(self.thresholds)} thresholds and {len(self.seconds)} "
                "times do not belong to the same exits"
            )
        if not all(math.isfinite(t) and t > 0 for t in (*self.temperatures, *self.seconds)):
            raise ClassifierError("temperatures and times of exits must be numbers above 0")
        if not all(math.isfinite(t) and t >= 0 for t in self.thresholds):
            raise ClassifierError(f"thresholds={self.thresholds} must be numbers of at least 0")

    @property
    def used(self) -> tuple[bool, ...]:
        """Whether pictures can leave at each exit, as they can at the network's end."""
        return (*(threshold <= 1 for threshold in self.thresholds), True)

    @property
    def audible(self) -> tuple[bool, ...]:
        """Whether what each exit says counts for the answers of those behind it."""
        return self.used if self.together else (False,) * len(self.used)


def with_exits_and_gates(spec: ResNetSpec, recipe: Recipe) -> ResNetSpec:
    """The network with the early exits and gates that a recipe asks for.

    Raises:
        SpecError: the network cannot have them.
    """
    if spec.gates and recipe.gate_rate is None and not recipe.freeze_trunk:
        raise SpecError("gates=true: without --gate-rate all gates would learn to be open; give it, such as 0.6")
    gated = spec if recipe.gate_rate is None else replace(spec, gates=True)
    if gated.gates and not any(block.gated for block in gated.plan()):
        raise SpecError(f"gate_rate={recipe.gate_rate}: no block of {recipe.model} keeps the shape, as one must")
    return with_exits(gated, recipe.exits, recipe.size)


def with_exits(spec: ResNetSpec, exits: str | None, size: int) -> ResNetSpec:
    """The network with early exits, which are as large as is worth their cost.

    Args:
        spec: of the network; its own exits stay where `exits` is None.
        exits: numbers of blocks with commas between them, or "auto".
        size: height and width of the pictures, in pixels, at which "auto" counts multiply-adds.

    Raises:
        SpecError: the network cannot have such exits.
    """
    if exits is None:
        return spec
    if exits == "auto":
        places = _early(spec, size)
    else:
        try:
            places = tuple(int(part) for part in exits.split(","))
        except ValueError:
            raise SpecError(f"exits={exits!r}: give auto, or numbers of blocks such as 3,7,13") from None
    for width, depth in SHAPES:
        found = replace(spec, exits=places, exit_width=width, exit_depth=depth)
        *early, end = segment_macs(found, size)
        network = sum(trunk for trunk, _ in early) + sum(end)
        if max(own for _, own in early) <= MOST_SHARE * network:
            break
    return found


def _early(spec: ResNetSpec, size: int) -> tuple[int, ...]:
    """The blocks behind which the shares of the multiply-adds that "auto" wants are done."""
    blocks = sum(spec.depths)
    if blocks < 2:
        raise SpecError("exits=auto: a network of one block has no place for an exit")
    *early, end = segment_macs(replace(spec, exits=tuple(range(1, blocks))), size)
    done = list(accumulate(trunk for trunk, _ in early))
    whole = done[-1] + sum(end)
    nearest = [min((abs(macs - share * whole), block) for block, macs in enumerate(done, 1)) for share in AUTO_SHARES]
    return tuple(sorted({block for _, block in nearest}))
