"""Order and augmentation as pure functions of (seed, epoch, sample): the same whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from resvision.data.images import UInt8Array, cropped, from_array, square
from resvision.data.operations import trivial_augment
from resvision.data.pictures import Indices
from resvision.data.transfer import sent
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

UInt64Array = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]

# What a draw decides. Each has numbers of its own, so that a new kind never changes the old ones.
ORDER, SHIFT_Y, SHIFT_X, FLIP, AREA, RATIO, TOP, LEFT, OPERATION, STRENGTH, SIGN = range(11)

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random resized crop, as in Szegedy et al. 2014 and every trainer since


def draws(seed: int, epoch: int, samples: Indices, kind: int) -> FloatArray:
    """One uniform number in [0, 1) for each sample, by hashing (seed, epoch, kind, sample).

    The mixer is the finaliser of SplitMix64 (Steele et al. 2014), applied once for each part of the key.
    """
    key = _mix(np.array([seed], dtype=np.uint64))
    for part in (epoch, kind):
        key = _mix(key ^ np.array([part], dtype=np.uint64))
    bits = _mix(key ^ samples.astype(np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(x: UInt64Array) -> UInt64Array:
    x = x + np.uint64(0x9E3779B97F4A7C15)  # wraps around, as it should
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Views:
    """Which samples an epoch presents, in order, and the how-manieth view of its sample each is: both (N,) int64."""

    samples: Indices
    views: Indices

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, start: int, end: int) -> Views:
        """Those from `start` to before `end`."""
        return Views(self.samples[start:end], self.views[start:end])


def order(seed: int, epoch: int, count: int) -> Indices:
    """A permutation of `count` samples for one epoch."""
    return np.argsort(draws(seed, epoch, np.arange(count), ORDER), kind="stable").astype(np.int64)


def presented(recipe: Recipe, epoch: int, labels: Indices) -> Views:
    """What an epoch presents: each sample once, or as the recipe's `repeats` and `balance` say.

    With r repeats an epoch holds every r-th sample r times, one view behind the other, and r epochs hold all (Hoffer et
    al. 2020). With balanced sampling it holds as many samples, and equally many of each class.

    Args:
        recipe: its seed, repeats and balance.
        epoch: counted from 0.
        labels: of all samples (N,).
    """
    count = len(labels)
    if recipe.balance == "sampling":
        return _balanced(recipe.seed, epoch, labels)
    if recipe.repeats == 1:
        return Views(order(recipe.seed, epoch, count), np.zeros(count, dtype=np.int64))
    turn, part = divmod(epoch, recipe.repeats)
    chosen = order(recipe.seed, turn, count)[part :: recipe.repeats]
    views = np.tile(np.arange(recipe.repeats), len(chosen))
    return Views(np.repeat(chosen, recipe.repeats), views)


def _balanced(seed: int, epoch: int, labels: Indices) -> Views:
    """As many samples as there are, equally many of each class: of a large one a part, a small one several times."""
    present = np.unique(labels)
    sequence = order(seed, epoch, len(labels))
    samples, views = [], []
    for number, label in enumerate(present):
        members = sequence[labels[sequence] == label]
        wanted = len(labels) // len(present) + (number < len(labels) % len(present))
        places = np.arange(wanted)
        samples.append(members[places % len(members)])
        views.append(places // len(members))
    shuffled = order(seed, epoch, len(labels))
    return Views(np.concatenate(samples)[shuffled], np.concatenate(views)[shuffled])


def shift_and_flip(
    squares: torch.Tensor, keys: Indices, epoch: int, recipe: Recipe, preprocess: Preprocess
) -> torch.Tensor:
    """Moves each uint8 square (N, S, S, C) by up to `recipe.shift` pixels, and mirrors it in every second epoch.

    All at once, on the device where they are. What moves in from outside has the data's mean colour, which is zero once
    normalised. Half of the samples begin mirrored, so that every two epochs show each of them both ways (Jordan 2024,
    section 3.6).
    """
    moved = _shifted(squares, keys, epoch, recipe, preprocess) if recipe.shift else squares.clone()
    if recipe.flip:
        _mirror(moved, keys, epoch, recipe)
    return moved


def _shifted(squares: torch.Tensor, keys: Indices, epoch: int, recipe: Recipe, preprocess: Preprocess) -> torch.Tensor:
    (count, size, _, channels), shift = squares.shape, recipe.shift
    fill = torch.from_numpy(np.rint(np.array(preprocess.mean) * 255).astype(np.uint8))
    side = size + 2 * shift
    padded = sent(fill, squares.device).expand(count, side, side, channels).contiguous()
    padded[:, shift : shift + size, shift : shift + size] = squares
    windows = padded.unfold(1, size, 1).unfold(2, size, 1)  # (N, y, x, C, S, S)
    top, left = (
        (draws(recipe.seed, epoch, keys, kind) * (2 * shift + 1)).astype(np.int64) for kind in (SHIFT_Y, SHIFT_X)
    )
    places = sent(torch.from_numpy(np.stack([np.arange(count), top, left])), squares.device)
    return windows[tuple(places)].permute(0, 2, 3, 1).contiguous()


def _mirror(squares: torch.Tensor, keys: Indices, epoch: int, recipe: Recipe) -> None:
    """Mirrors those squares (N, S, S, C) whose turn it is, in their place."""
    places = np.flatnonzero((draws(recipe.seed, 0, keys, FLIP) < 0.5) ^ bool(epoch % 2))
    if not len(places):
        return
    if squares.is_cuda:  # launches cost more than the pixels
        turns = np.zeros((len(squares), 1, 1, 1), dtype=np.bool_)
        turns[places] = True
        squares.copy_(torch.where(sent(torch.from_numpy(turns), squares.device), squares.flip(2), squares))
        return
    chosen = squares.index_select(0, sent(torch.from_numpy(places), squares.device))
    mirrored = chosen.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)  # which has a fast kernel in this order alone
    each = squares.unbind()  # to put them in their places by index takes five times as long
    torch._foreach_copy_([each[place] for place in places.tolist()], mirrored.unbind())


def augment(
    pictures: Sequence[UInt8Array], keys: Indices, epoch: int, recipe: Recipe, preprocess: Preprocess
) -> UInt8Array:
    """Training squares (N, S, S, C) of decoded pictures: cropped at random or shifted, changed, mirrored.

    Args:
        pictures: pixels (H, W, C), each of any size.
        keys: (N,) one number a view of a sample, from which all that is random follows; see `view_keys`.
        epoch: counted from 0.
        recipe: what is done.
        preprocess: the size of the squares and how they are resized.
    """
    if recipe.crop_scale < 1:
        numbers = np.stack([draws(recipe.seed, epoch, keys, kind) for kind in (AREA, RATIO, TOP, LEFT)], axis=1)
        boxes = [
            whole_pixels(crop_box(picture.shape[1], picture.shape[0], recipe.crop_scale, *row))
            for picture, row in zip(pictures, numbers.tolist(), strict=True)
        ]
        squares = [cropped(picture, box, preprocess) for picture, box in zip(pictures, boxes, strict=True)]
    else:
        squares = [square(from_array(picture, "a training picture"), preprocess) for picture in pictures]
    if recipe.trivial_augment:
        numbers = np.stack([draws(recipe.seed, epoch, keys, kind) for kind in (OPERATION, STRENGTH, SIGN)], axis=1)
        squares = [trivial_augment(s, tuple(row), preprocess) for s, row in zip(squares, numbers.tolist(), strict=True)]
    together = torch.from_numpy(np.stack(squares))
    if recipe.shift:
        together = _shifted(together, keys, epoch, recipe, preprocess)
    if recipe.flip:
        _mirror(together, keys, epoch, recipe)
    return together.numpy()


def view_keys(chosen: Views) -> Indices:
    """One number a view: the sample's own for its first view, so that a run without repeats draws as ever."""
    return chosen.samples + (chosen.views << 40)


def crop_box(
    width: int, height: int, scale: float, area: float, ratio: float, top: float, left: float
) -> tuple[float, float, float, float]:
    """The part of a picture that a random resized crop keeps: (left, top, right, bottom) in pixels.

    Args:
        width: of the picture.
        height: of the picture.
        scale: least part of the area.
        area: uniform in [0, 1), decides the area.
        ratio: uniform in [0, 1), decides width : height, uniform in its logarithm.
        top: uniform in [0, 1), decides the place.
        left: uniform in [0, 1), decides the place.
    """
    pixels = width * height * (scale + (1 - scale) * area)
    low, high = map(math.log, ASPECT_RATIOS)
    aspect = math.exp(low + (high - low) * ratio)
    crop_width = min(width, math.sqrt(pixels * aspect))  # cut to the picture where trainers often draw again
    crop_height = min(height, math.sqrt(pixels / aspect))
    x, y = left * (width - crop_width), top * (height - crop_height)
    return x, y, min(width, x + crop_width), min(height, y + crop_height)


def whole_pixels(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """The nearest box whose edges lie between pixels, at least one pixel wide and high."""
    left, top, right, bottom = box
    x, y = min(round(left), math.ceil(right) - 1), min(round(top), math.ceil(bottom) - 1)
    return x, y, max(x + 1, round(right)), max(y + 1, round(bottom))
