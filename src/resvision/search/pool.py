"""The pool: pictures in memory that trials train on and are judged by, which of them, and how they are divided."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from resvision.data.images import UInt8Array, square
from resvision.data.pictures import ArrayPictures, Indices, Split
from resvision.data.readable import BadPictures
from resvision.data.statistics import normalised
from resvision.errors import PictureError
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

FOLDS = 3  # parts of the pool; a trial trains on two of them and is judged on the third
ENLARGED = 1.5  # pictures that are cropped at random are kept this much larger than the network's input


def read(split: Split, side: int, channels: int, max_bad: float) -> tuple[Split, Indices]:
    """The pictures of a split in memory, as squares, and which of them could be read.

    Args:
        split: read in full.
        side: height and width of the squares, in pixels.
        channels: 1 or 3.
        max_bad: part that may be unreadable.

    Raises:
        DataError: more is unreadable.
    """
    bad = BadPictures(limit=math.floor(max_bad * len(split) + 1e-9))
    preprocess = Preprocess.plain(side, 1 if channels == 1 else 3)

    def read_one(index: int) -> UInt8Array | PictureError:
        try:
            return square(split.pictures.open(index, preprocess, side), preprocess)
        except PictureError as error:
            return error

    squares, readable = [], []
    with ThreadPoolExecutor() as pool:  # decoding lets other threads work
        for index, found in enumerate(pool.map(read_one, range(len(split)))):
            if isinstance(found, PictureError):
                bad.add([(found.name, found.reason)])
            else:
                squares.append(found)
                readable.append(index)
    array: UInt8Array = np.stack(squares) if squares else np.empty((0, side, side, channels), dtype=np.uint8)
    which = np.array(readable, dtype=np.int64)
    return Split(ArrayPictures(array, "pictures"), split.labels[which]), which


def evenly(labels: Indices, most: int, least: int = 2 * FOLDS) -> Indices:
    """Indices of about `most` pictures, the same part of each class, but `least` of it where it has so many."""
    if len(labels) <= most:
        return np.arange(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = min(len(members), max(least, round(most * len(members) / len(labels))))
        chosen.append(members[np.linspace(0, len(members) - 1, wanted).round().astype(np.int64)])
    return np.sort(np.concatenate(chosen))


def folds(labels: Indices, groups: Indices, count: int = FOLDS, turn: int = 0) -> Indices:
    """Which of `count` parts each picture belongs to, alike in classes; copies of a picture stay in one part.

    Args:
        labels: (N,).
        groups: (N,) equal for copies.
        count: of parts.
        turn: the pictures are divided otherwise in each.
    """
    _, of = np.unique(groups, return_inverse=True)
    first = np.full(of.max() + 1, len(labels), dtype=np.int64)
    np.minimum.at(first, of, np.arange(len(labels)))
    fold = np.zeros(len(first), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[first] == label)
        members = members[np.argsort(_shuffled(first[members], turn), kind="stable")]
        fold[members] = (np.arange(len(members)) + label) % count
    return fold[of]


def _shuffled(indices: Indices, turn: int) -> npt.NDArray[np.uint64]:
    """A number for each index that looks random and is always the same (Knuth's multiplicative hash)."""
    with np.errstate(over="ignore"):
        factor = np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * turn + 1)
        return (indices.astype(np.uint64) + np.uint64(1)) * factor >> np.uint64(11)


def kept_side(recipe: Recipe) -> int:
    """Height and width at which pictures are kept for a trial, in pixels."""
    cropped = recipe.crop_scale < 1 or recipe.crop < 1
    return round(recipe.size * ENLARGED) if cropped else recipe.size


def preprocess_of(split: Split, recipe: Recipe) -> Preprocess:
    """Normalised by the values of a split."""
    assert recipe.channels is not None
    return normalised(split, Preprocess.plain(recipe.size, recipe.channels, recipe.crop))
