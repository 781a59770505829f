"""The graphs that are exported: from uint8 pictures to logits and probabilities, preprocessing inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from resvision.classifier import Classifier
from resvision.data.images import to_input
from resvision.errors import InputError
from resvision.preprocess import Interpolation, Preprocess
from resvision.target import Contract

# How far the filters of Pillow's resize reach, in pixels of the smaller picture.
REACH = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
FIXED_POINT = 1 << 22  # Pillow's weights are multiples of 1 / this


class Squares(nn.Module):
    """Contract A: uint8 squares (N, S, S, C) to logits and probabilities, (N, K) each."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier.network
        self.preprocess = classifier.preprocess
        self.temperature = classifier.temperature

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(to_input(pictures, self.preprocess))
        return logits, (logits / self.temperature).softmax(dim=1)


class Segment(nn.Module):
    """The part of a network with early exits up to one of them, by contract A.

    Uint8 squares (N, S, S, C), or behind the first exit features (N, C', H', W') of the segment before, to features
    (N, C', H', W') for the next segment, and logits and probabilities, (N, K) each; the last has no features. What an
    exit says is its own: where exits answer together, whoever runs the segments takes the mean of the logits.

    Args:
        classifier: with early exits.
        index: of the exit, shallow to deep, the network's end being the last.
    """

    def __init__(self, classifier: Classifier, index: int) -> None:
        super().__init__()
        assert classifier.exits is not None
        self.network = classifier.network
        self.preprocess = classifier.preprocess
        self.index = index
        self.last = index + 1 == len(classifier.exits.temperatures)
        self.temperature = classifier.exits.temperatures[index]

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = state if self.index else to_input(state, self.preprocess)
        features, logits = self.network.segment(self.index, x)
        answers = (logits, (logits / self.temperature).softmax(dim=1))
        return answers if self.last else (features, *answers)


class Whole(Squares):
    """Contract B: a uint8 picture (1, H, W, C) of any size to logits and probabilities, (1, K) each."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(square(pictures, self.preprocess))


def trace(classifier: Classifier, contract: Contract) -> torch.export.ExportedProgram:
    """The graph of a contract, from which every format is made, of a classifier on the processor.

    Raises:
        InputError: contract A of a network with experts, which gives every picture a kernel of its own.
    """
    experts = classifier.network.spec.experts
    if contract == "A" and experts > 1:
        raise InputError(f"experts={experts}: such a network exports for one picture at a time: give contract B")
    size, channels = classifier.preprocess.size, classifier.preprocess.channels
    free = torch.export.Dim.DYNAMIC
    if contract == "A":
        model, shape, sizes = Squares(classifier), (2, size, size, channels), {0: free}
    else:  # two sides that are equal to nothing, or they would be taken for the same number
        model, shape, sizes = Whole(classifier), (1, size + 5, size + 8, channels), {1: free, 2: free}
    return _traced(model, torch.zeros(shape, dtype=torch.uint8), sizes)


def trace_segment(classifier: Classifier, index: int, state: torch.Tensor) -> torch.export.ExportedProgram:
    """The graph of one segment of a network with early exits; `state` is what it takes, (1, ...) of any content.

    Raises:
        InputError: the network has experts.
    """
    if (experts := classifier.network.spec.experts) > 1:
        raise InputError(
            f"experts={experts}: such a network exports for one picture at a time, and not with early exits"
        )
    # Of one picture the tracer would take the batch for a constant.
    return _traced(Segment(classifier, index), torch.cat([state, state]), {0: torch.export.Dim.DYNAMIC})


def _traced(model: nn.Module, example: torch.Tensor, sizes: dict[int, Any]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=(sizes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which names folders of this machine, and would be written into files
    return program


def square(pictures: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """uint8 (N, H, W, C) to uint8 (N, S, S, C): what `data.images.square` computes by Pillow, out of plain operations.

    A filter of Pillow's is a matrix for the columns and one for the rows. Runtimes' own resize operations differ from
    each other, know other filters, and cut between pixels in no common way.
    """
    _, height, width, _ = pictures.shape
    sides = [torch.scalar_tensor(side, dtype=torch.float64) for side in (height, width)]
    side = torch.minimum(*sides) * preprocess.crop
    across, down = (
        resampling(length, (whole - side) / 2, side, preprocess.size, preprocess.interpolation)
        for length, whole in zip((width, height), reversed(sides), strict=True)
    )
    planes = pictures.permute(0, 3, 1, 2).float()  # (N, C, H, W)
    planes = _levels(planes @ across.T)  # (N, C, H, S); Pillow keeps 8 bits between its two passes
    planes = _levels(down @ planes)  # (N, C, S, S)
    return planes.permute(0, 2, 3, 1).to(torch.uint8)


def resampling(
    length: int, start: torch.Tensor, side: torch.Tensor, size: int, interpolation: Interpolation
) -> torch.Tensor:
    """The matrix (size, length) by which Pillow resizes the part from `start` to `start + side` of a row of pixels.

    Args:
        length: pixels of the row.
        start: where the part begins, in pixels, also between two; float64 without dimensions.
        side: its length.
        size: pixels that it becomes.
        interpolation: the filter.
    """
    scale = side / size
    centres = (start + (torch.arange(size) + 0.5) * scale)[:, None]  # (size, 1)
    pixels = torch.arange(length)[None]  # (1, length)
    if interpolation == "nearest":
        return (pixels == torch.floor(centres)).float()
    stretch = scale.clamp(min=1)  # the filter widens where the picture shrinks: this is the antialiasing
    reach = REACH[interpolation] * stretch
    weights = _filter(((pixels + 0.5 - centres) / stretch).abs(), interpolation)
    inside = (pixels >= torch.floor(centres - reach + 0.5)) & (pixels < torch.floor(centres + reach + 0.5))
    weights = torch.where(inside, weights, 0.0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (torch.round(weights * FIXED_POINT) / FIXED_POINT).float()  # decides midway values as Pillow does


def _filter(x: torch.Tensor, interpolation: Interpolation) -> torch.Tensor:
    """Pillow's filters at a distance of x >= 0 pixels of the smaller picture."""
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    if interpolation == "bicubic":  # Keys 1981, a = -0.5
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return torch.where(x < 3, _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: torch.Tensor) -> torch.Tensor:
    angle = torch.where(x == 0, 1.0, x * torch.pi)
    return torch.where(x == 0, 1.0, torch.sin(angle) / angle)


def _levels(values: torch.Tensor) -> torch.Tensor:
    """Rounded half up to whole levels in 0..255, as Pillow's fixed-point arithmetic does."""
    return torch.floor(values + 0.5).clamp(0, 255)
