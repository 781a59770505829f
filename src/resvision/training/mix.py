"""What is done to whole batches on the device: rectangles erased, pictures and their labels mixed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from resvision.data.transfer import sent
from resvision.recipe import Recipe
from resvision.training.losses import probabilities

ERASED = (0.02, 1 / 3)  # part of the picture, and
ERASED_RATIOS = (0.3, 3.3)  # height : width of what is erased

FloatArray = npt.NDArray[np.float64]


def disturb(
    inputs: torch.Tensor, targets: torch.Tensor, classes: int, recipe: Recipe, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Erases and mixes as the recipe says; all that is random follows from the recipe's seed and the step.

    Args:
        inputs: normalised pictures (N, C, S, S).
        targets: classes (N,).
        classes: K.
        recipe: erase, mixup, cutmix; repeats, since a picture is mixed with another and not with a view of itself.
        step: of the run.

    Returns:
        Inputs of the same shape; targets (N,) where nothing was mixed, else probabilities (N, K).
    """
    if not (recipe.erase or recipe.mixup or recipe.cutmix):
        return inputs, targets
    random = np.random.default_rng([recipe.seed, step])
    if recipe.erase:
        inputs = _erased(inputs, recipe.erase, random)
    if not (recipe.mixup or recipe.cutmix):
        return inputs, targets
    cut = bool(recipe.cutmix) and (not recipe.mixup or random.random() < 0.5)
    alpha = recipe.cutmix if cut else recipe.mixup
    shares = random.beta(alpha, alpha, len(inputs))  # of each picture itself; the rest is its neighbour's
    if cut:
        inputs, shares = _cut(inputs, _neighbours(inputs, recipe), shares, random)
    own = sent(torch.from_numpy(shares).float(), inputs.device)
    if not cut:
        weights = own[:, None, None, None]
        inputs = inputs * weights + _neighbours(inputs, recipe) * (1 - weights)
    wanted = probabilities(targets, classes)
    return inputs, wanted * own[:, None] + _neighbours(wanted, recipe) * (1 - own[:, None])


def _neighbours(rows: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """What each row is mixed with. The views of a picture stand behind each other, and are not mixed."""
    last = len(rows) - recipe.repeats % len(rows)
    return torch.cat([rows[last:], rows[:last]])  # which, other than roll, keeps the memory order on a GPU


def _erased(inputs: torch.Tensor, probability: float, random: np.random.Generator) -> torch.Tensor:
    """Pictures with a rectangle of the mean colour, which is zero.

    After Zhong et al. 2017, section 3.2, whose rectangles lie inside of the picture; these are cut at its border, as
    CutMix's are.
    """
    count = len(inputs)
    areas = random.uniform(*ERASED, count) * (random.random(count) < probability)
    flattest, steepest = map(math.log, ERASED_RATIOS)
    ratios = np.exp(random.uniform(flattest, steepest, count))
    inside = _rectangles(inputs, np.sqrt(areas * ratios), np.sqrt(areas / ratios), random)[0]
    return torch.where(inside, 0.0, inputs)  # which, other than masked_fill, keeps the memory order


def _cut(
    inputs: torch.Tensor, neighbours: torch.Tensor, shares: FloatArray, random: np.random.Generator
) -> tuple[torch.Tensor, FloatArray]:
    """Pictures with a rectangle of their neighbours (Yun et al. 2019, section 3.2), and the share that is their own."""
    sides = np.sqrt(1 - shares)
    inside, covered = _rectangles(inputs, sides, sides, random)
    return torch.where(inside, neighbours, inputs), 1 - covered


def _rectangles(
    inputs: torch.Tensor, heights: FloatArray, widths: FloatArray, random: np.random.Generator
) -> tuple[torch.Tensor, FloatArray]:
    """Masks (N, 1, S, S) of rectangles around random centres, cut at the border, and the parts that they cover.

    Args:
        inputs: (N, C, S, S).
        heights: of the rectangles (N,), as parts of S.
        widths: likewise.
        random: where the centres come from.
    """
    size = inputs.shape[-1]
    spans = []
    for sides in (heights, widths):
        pixels = np.rint(np.minimum(sides, 1) * size)
        start = np.floor(random.random(len(sides)) * size) - np.floor(pixels / 2)
        spans.append((np.maximum(start, 0), np.minimum(start + pixels, size)))
    covered = np.prod([np.maximum(end - start, 0) for start, end in spans], axis=0) / size**2
    places = torch.arange(size, device=inputs.device)
    rows, columns = (
        (places >= _column(start, inputs)) & (places < _column(end, inputs)) for start, end in spans
    )  # (N, S)
    return rows[:, None, :, None] & columns[:, None, None, :], covered


def _column(values: FloatArray, like: torch.Tensor) -> torch.Tensor:
    return sent(torch.from_numpy(values.astype(np.int64)), like.device)[:, None]
