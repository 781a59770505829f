"""Order and augmentation as pure functions of (seed, epoch, sample): the same whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from resvision.data.images import UInt8Array, resized, square
from resvision.data.pictures import Indices
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

UInt64Array = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]

# What a draw decides. Each has numbers of its own, so that a new kind never changes the old ones.
ORDER, SHIFT_Y, SHIFT_X, FLIP, AREA, RATIO, TOP, LEFT = range(8)

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


def order(seed: int, epoch: int, count: int) -> Indices:
    """A permutation of `count` samples for one epoch."""
    return np.argsort(draws(seed, epoch, np.arange(count), ORDER), kind="stable").astype(np.int64)


def shift_and_flip(
    squares: UInt8Array, samples: Indices, epoch: int, recipe: Recipe, preprocess: Preprocess
) -> UInt8Array:
    """Moves each square (N, S, S, C) by up to `recipe.shift` pixels and mirrors half of them.

    What moves in from outside has the data's mean colour, which is zero once normalised.
    """
    count, size, _, channels = squares.shape
    if recipe.shift:
        fill = np.rint(np.array(preprocess.mean) * 255).astype(np.uint8)
        side = size + 2 * recipe.shift
        padded = np.broadcast_to(fill, (count, side, side, channels)).copy()
        padded[:, recipe.shift : recipe.shift + size, recipe.shift : recipe.shift + size] = squares
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))  # (N, y, x, C, S, S)
        places = 2 * recipe.shift + 1
        top = (draws(recipe.seed, epoch, samples, SHIFT_Y) * places).astype(np.int64)
        left = (draws(recipe.seed, epoch, samples, SHIFT_X) * places).astype(np.int64)
        squares = np.moveaxis(windows[np.arange(count), top, left], 1, 3)
    if recipe.flip:
        mirrored = draws(recipe.seed, epoch, samples, FLIP) < 0.5
        squares = np.where(mirrored[:, None, None, None], squares[:, :, ::-1], squares)
    return np.ascontiguousarray(squares)


def augment(
    pictures: Sequence[Image.Image], samples: Indices, epoch: int, recipe: Recipe, preprocess: Preprocess
) -> UInt8Array:
    """Training squares (N, S, S, C) of decoded pictures: cropped at random or shifted, and half of them mirrored."""
    if recipe.crop_scale < 1:
        numbers = np.stack([draws(recipe.seed, epoch, samples, kind) for kind in (AREA, RATIO, TOP, LEFT)], axis=1)
        boxes = [
            crop_box(*picture.size, recipe.crop_scale, *row)
            for picture, row in zip(pictures, numbers.tolist(), strict=True)
        ]
        squares = [resized(picture, box, preprocess) for picture, box in zip(pictures, boxes, strict=True)]
    else:
        squares = [square(picture, preprocess) for picture in pictures]
    return shift_and_flip(np.stack(squares), samples, epoch, recipe, preprocess)


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
