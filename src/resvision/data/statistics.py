"""What a recipe wants to know of a data set before it is trained on."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np

from resvision.data.images import square
from resvision.data.pictures import DataSet, Indices, Split
from resvision.data.sources import VALIDATION_FRACTION
from resvision.errors import DataError, PictureError
from resvision.preprocess import Preprocess
from resvision.recipes import DataFacts

HEADERS = 64  # pictures looked at to tell the usual size
KINDS = 2000  # pictures looked at before all are taken for grey
PIXELS = 2000  # pictures whose values are averaged


def facts(dataset: DataSet) -> DataFacts:
    """Number, usual size and kind of the training pictures, from the headers of an evenly spaced part of them.

    Raises:
        DataError: none of these can be read.
    """
    split = dataset.splits.get("train") or next(iter(dataset.splits.values()))
    trains = 1.0 if len(dataset.splits) > 1 else 1 - VALIDATION_FRACTION  # of a set that is still to be divided
    headers, reasons = [], []
    for index in _spread(split, HEADERS).tolist():
        try:
            headers.append(split.pictures.header(index))
        except PictureError as error:
            reasons.append(str(error))
    if not headers:
        raise DataError(
            f"{dataset.name}: no picture can be read, for example {reasons[0] if reasons else 'none is there'}"
        )
    is_grey = all(header.grey for header in headers) and all(_grey(split, index) for index in _spread(split, KINDS))
    counts = np.rint(trains * np.bincount(split.labels, minlength=len(dataset.classes)))
    return DataFacts(
        pictures=int(counts.sum()),
        side=round(statistics.median(min(h.width, h.height) for h in headers)),
        channels=1 if is_grey else 3,
        flip=dataset.flip,
        smallest_class=int(counts.min()),
        largest_class=int(counts.max()),
        usual_class=round(float(np.median(counts))),
    )


def _grey(split: Split, index: int) -> bool:
    try:
        return split.pictures.header(index).grey
    except PictureError:
        return True  # counted where the picture is used


def normalised(split: Split, preprocess: Preprocess) -> Preprocess:
    """With the mean and standard deviation of each channel, of values in 0..1, over an even part of a split."""
    total, squares, count = np.zeros(preprocess.channels), np.zeros(preprocess.channels), 0
    for index in _spread(split, PIXELS).tolist():
        try:
            pixels = square(split.pictures.open(index, preprocess, preprocess.size), preprocess) / 255
        except PictureError:
            continue  # counted where the picture is used
        total += pixels.sum(axis=(0, 1))
        squares += (pixels**2).sum(axis=(0, 1))
        count += preprocess.size**2
    mean = total / max(count, 1)
    std = np.maximum(np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0)), 0.01)  # or a set of one colour has none
    return replace(preprocess, mean=tuple(mean.round(4).tolist()), std=tuple(std.round(4).tolist()))


def _spread(split: Split, most: int) -> Indices:
    return np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(np.int64))
