"""Copies: the same picture twice, exactly or nearly, in one split or across two, found among tens of thousands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resvision.data.images import UInt8Array, square
from resvision.data.pictures import Indices, Split, content_hashes
from resvision.errors import PictureError
from resvision.preprocess import Preprocess

FloatArray = npt.NDArray[np.float32]

READ_SIDE = 32  # px to which a picture is read
SIDE = 16  # px of the thumbnails whose pixels decide whether two pictures are alike
GRID = 8  # rows and columns of the hash
MARGIN = 2.0  # grey levels; a smaller step from cell to cell is flat, or noise would decide a bit of an even area
MOST_BITS = 28  # of 2 x 2 x 8 x 7 that may differ before the pixels are looked at
# A difference is the root mean square of that of the pixels, as a part of the pictures' contrast. Two pictures look
# alike if theirs is below this part of what a picture and its nearest neighbour usually differ by in this set, within
# limits: photographs differ by more than garments on black do, and their copies may differ by more, too.
ALIKE_PART = 0.3
ALIKE_LIMITS = (0.06, 0.18)
NEIGHBOURS = 200  # pictures whose nearest neighbours are looked for to know what is usual
LEAST_CONTRAST = 4.0  # grey levels; evener pictures are compared by their content alone
BLOCK = 512  # pictures that are compared with others at once


@dataclass(frozen=True)
class Copies:
    """Which pictures are copies of which.

    Args:
        group: (N,) a number for each picture; copies, and copies of copies, have the same.
        pairs: (P, 2) pictures that are copies of each other, the first one before the second. Of many exact copies each
            is paired with the first of them.
        exact: (P,) whether their content is the same, byte for byte.
    """

    group: Indices
    pairs: Indices
    exact: npt.NDArray[np.bool_]

    def across(self, one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> dict[int, int]:
        """For each picture of `one` that has a copy in `other` one such copy; both are masks (N,)."""
        members: dict[int, list[int]] = {}
        for index in np.flatnonzero(other).tolist():
            members.setdefault(int(self.group[index]), []).append(index)
        return {
            index: members[int(self.group[index])][0]
            for index in np.flatnonzero(one).tolist()
            if int(self.group[index]) in members
        }


def thumbnails(squares: UInt8Array) -> FloatArray:
    """Squares (N, S, S, C) as grey thumbnails (N, SIDE, SIDE) of values in 0..255, each the mean of its area."""
    grey = squares.astype(np.float32).mean(axis=3)
    means = _means(squares.shape[1], SIDE)
    thumbs: FloatArray = means @ grey @ means.T
    return thumbs


def _means(size: int, cells: int) -> FloatArray:
    """A matrix (cells, size) that averages `size` values to `cells`, each over its own length (a box filter)."""
    edges = np.linspace(0, size, cells + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    means: FloatArray = (covered.clip(0) * cells / size).astype(np.float32)
    return means


def difference_hash(thumbs: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether the picture gets brighter, and whether darker, from each of 8 x 8 cells to the next, right and down.

    The difference hash (Krawetz 2013, "Kind of like that") in both directions, with a third state for even areas.

    Args:
        thumbs: (N, SIDE, SIDE).

    Returns:
        (N, 4 x GRID x (GRID - 1)).
    """
    means = _means(SIDE, GRID)
    cells = means @ thumbs @ means.T
    steps = [np.diff(cells, axis=axis).reshape(len(cells), -1) for axis in (1, 2)]
    return np.concatenate([part for step in steps for part in (step > MARGIN, step < -MARGIN)], axis=1)


def find(hashes: npt.NDArray[np.uint64], squares: UInt8Array) -> Copies:
    """The copies among N pictures: equal contents, and pictures that look alike.

    Two pictures look alike if few bits of their difference hashes differ and their thumbnails differ by little of their
    contrast. No pair is left out: in the order of their first principal component only pictures that are near to each
    other there can look alike, and those are compared by matrix products.

    Args:
        hashes: (N,) of the contents.
        squares: (N, S, S, C).
    """
    thumbs = thumbnails(squares)
    _, first, of = np.unique(hashes, return_index=True, return_inverse=True)
    own = first[of]  # the first picture with the same content
    later = np.flatnonzero(own != np.arange(len(own)))
    exact = np.stack([own[later], later], axis=1)
    near = _near(thumbs, np.sort(first))
    pairs = np.concatenate([exact, near]).astype(np.int64)
    return Copies(_groups(len(hashes), pairs), pairs, np.arange(len(pairs)) < len(exact))


def _near(thumbs: FloatArray, which: Indices) -> Indices:
    """Pairs (P, 2) among the pictures `which` that look alike."""
    flat = thumbs.reshape(len(thumbs), -1)
    which = which[flat[which].std(axis=1) >= LEAST_CONTRAST]
    found = [np.empty((0, 2), dtype=np.int64)]
    if len(which) < 2:
        return found[0]
    flat = flat[which] - flat[which].mean(axis=0)
    contrast = thumbs[which].reshape(len(which), -1).std(axis=1)
    limit = _limit(flat, contrast) * contrast  # root mean square, in grey levels
    place = flat @ np.linalg.eigh(flat.T @ flat)[1][:, -1]
    order = np.argsort(place, kind="stable")
    place, flat, limit, which = place[order], flat[order], limit[order], which[order]
    reach = place + limit * SIDE  # a projection is never longer than what is projected
    signs = np.where(difference_hash(thumbs[which]), np.float32(1), np.float32(-1))
    # The product of rows of +1 and -1 is the number of equal bits less that of different ones.
    least = signs.shape[1] - 2 * MOST_BITS
    for start in range(0, len(which), BLOCK):
        end = int(np.searchsorted(place, reach[start : start + BLOCK].max(), side="right"))
        rows, columns = np.nonzero(signs[start : start + BLOCK] @ signs[start:end].T >= least)
        later = columns > rows
        one, other = rows[later] + start, columns[later] + start
        for part in range(0, len(one), BLOCK * BLOCK):  # many pairs may share a hash
            a, b = one[part : part + BLOCK * BLOCK], other[part : part + BLOCK * BLOCK]
            apart = np.sqrt(((flat[a] - flat[b]) ** 2).mean(axis=1))
            alike = apart <= np.minimum(limit[a], limit[b])
            found.append(np.sort(np.stack([which[a[alike]], which[b[alike]]], axis=1), axis=1))
    return np.concatenate(found)


def _limit(flat: FloatArray, contrast: FloatArray) -> float:
    """By what part of their contrast two pictures of this set may differ that still look alike."""
    some = np.unique(np.linspace(0, len(flat) - 1, min(NEIGHBOURS, len(flat))).astype(np.int64))
    squares = (flat**2).sum(axis=1)
    distances = squares[some, None] + squares - 2 * flat[some] @ flat.T
    distances[np.arange(len(some)), some] = np.inf
    nearest = np.sqrt(distances.min(axis=1).clip(0)) / (SIDE * contrast[some])
    return float(np.clip(ALIKE_PART * np.median(nearest), *ALIKE_LIMITS))


def _groups(count: int, pairs: Indices) -> Indices:
    """A number for each picture, the least index that pairs lead to from it."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in pairs.tolist():
        a, b = sorted((root(one), root(other)))
        parent[b] = a
    return np.array([root(index) for index in range(count)], dtype=np.int64)


def look(split: Split) -> tuple[npt.NDArray[np.uint64], UInt8Array]:
    """The hash of each picture's content (N,), and it read to a small grey square; one that cannot be read is black."""
    preprocess = Preprocess.plain(READ_SIDE, 1)

    def read(index: int) -> UInt8Array:
        try:
            return square(split.pictures.open(index, preprocess, READ_SIDE), preprocess)
        except PictureError:
            return np.zeros((READ_SIDE, READ_SIDE, 1), dtype=np.uint8)

    with ThreadPoolExecutor() as pool:  # decoding lets other threads work
        squares = np.stack(list(pool.map(read, range(len(split)))))
    return content_hashes(split.pictures), squares
