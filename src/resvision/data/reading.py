"""One batch of uint8 squares, read from a split: augmented for training, or as every evaluation sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from resvision.data.augment import Views, augment, view_keys
from resvision.data.cache import PictureCache, shrunk
from resvision.data.images import UInt8Array, square
from resvision.data.pictures import FilePictures, Split
from resvision.errors import PictureError
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """Squares (N, S, S, C) uint8, labels (N,) int64, and the (name, reason) of pictures that could not be read."""

    squares: torch.Tensor
    labels: torch.Tensor
    bad: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Key:
    """What is to be read: which views, of which epoch, and how large where that is not `preprocess.size`."""

    chosen: Views
    epoch: int = 0
    size: int | None = None


class Reader:
    """Reads a batch, augmented by a recipe, or without one as evaluation sees it."""

    def __init__(
        self, split: Split, preprocess: Preprocess, recipe: Recipe | None = None, cache: PictureCache | None = None
    ) -> None:
        self.split = split
        self.preprocess = preprocess
        self.recipe = recipe
        self.cache = cache

    def read(self, key: Key) -> Batch:
        """The squares that a key asks for; pictures that cannot be read are left out of them, and named."""
        preprocess = self.preprocess if key.size is None else replace(self.preprocess, size=key.size)
        pictures, readable, bad = [], [], []
        for place, index in enumerate(key.chosen.samples.tolist()):
            try:
                pictures.append(self._square(index) if self.recipe is None else self._pixels(index, self.recipe))
                readable.append(place)
            except PictureError as error:
                bad.append((error.name, error.reason))
        places = np.array(readable, dtype=np.int64)
        samples = key.chosen.samples[places]
        if not pictures:
            squares = np.empty((0, preprocess.size, preprocess.size, preprocess.channels), dtype=np.uint8)
        elif self.recipe is None:
            squares = np.stack(pictures)
        else:
            squares = augment(pictures, view_keys(key.chosen)[places], key.epoch, self.recipe, preprocess)
        return Batch(torch.from_numpy(squares), torch.from_numpy(self.split.labels[samples]), tuple(bad))

    def _square(self, index: int) -> UInt8Array:
        return square(self.split.pictures.open(index, self.preprocess), self.preprocess)

    def _pixels(self, index: int, recipe: Recipe) -> UInt8Array:
        """A training picture (H, W, C), from the cache where it is there; shrunk alike where it is not."""
        if self.cache is not None and (kept := self.cache.read(index)) is not None:
            return kept
        side = smallest_side(self.preprocess, recipe)
        pixels = self.split.pictures.pixels(index, self.preprocess, side)
        if is_cached(self.split, recipe):
            pixels = shrunk(pixels, side)
        if self.cache is not None:
            self.cache.write(index, pixels)
        return pixels


def smallest_side(preprocess: Preprocess, recipe: Recipe) -> int:
    """How far a training picture may be shrunk: the shorter side, in pixels, whose least crop still holds `size`."""
    return math.ceil(preprocess.size / min(preprocess.crop, math.sqrt(recipe.crop_scale)))


def is_cached(split: Split, recipe: Recipe) -> bool:
    """Whether pictures are shrunk and kept: by the recipe alone, so that a full disk does not change a run."""
    return recipe.cache and isinstance(split.pictures, FilePictures)
