"""The graph of contract B resizes as Pillow does."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from resvision.data import images
from resvision.exporting.graphs import square
from resvision.preprocess import Interpolation, Preprocess


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize(("height", "width"), [(40, 67), (33, 40), (31, 90), (9, 13), (32, 32), (1, 1), (200, 301)])
def test_squares_are_those_of_pillow(interpolation: Interpolation, crop: float, height: int, width: int) -> None:
    preprocess = Preprocess(size=32, crop=crop, interpolation=interpolation)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = images.square(Image.fromarray(pixels), preprocess).astype(int)
    found = square(torch.from_numpy(pixels[None]), preprocess)[0].numpy().astype(int)
    difference = found - expected
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) <= 0.05  # at a scale of 5/4 many values lie midway between two levels


def test_tall_pictures_differ_by_a_level() -> None:
    """Pillow 13 begins with the rows of these."""
    preprocess = Preprocess(size=32)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 40, 3), dtype=np.uint8)
    expected = images.square(Image.fromarray(pixels), preprocess).astype(int)
    found = square(torch.from_numpy(pixels[None]), preprocess)[0].numpy().astype(int)
    assert np.abs(found - expected).max() <= 1
