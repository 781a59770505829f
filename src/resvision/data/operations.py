"""TrivialAugment: one random change of a picture's colours or geometry (Mueller & Hutter 2021)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from resvision.data.images import UInt8Array
from resvision.preprocess import Preprocess

Fill = int | tuple[int, ...]
Change = Callable[[Image.Image, float, Fill], Image.Image]

# The "wide" ranges of table 7: the strength m in 0..1 becomes 0.01 to 2 for enhancements, up to 135 degrees, a shear of
# 0.99, a shift of 32 pixels of 224, 2 to 8 bits, and a threshold of 0 to 256.
ENHANCED, DEGREES, SHEAR, SHIFT, FEWEST_BITS = 0.99, 135.0, 0.99, 1 / 7, 2


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Change:
    return lambda picture, m, fill: kind(picture).enhance(1 + ENHANCED * m)


def _sheared(across: float, down: float) -> Change:
    def change(picture: Image.Image, m: float, fill: Fill) -> Image.Image:
        return _moved(picture, (1, SHEAR * m * across, 0, SHEAR * m * down, 1, 0), fill)

    return change


def _shifted(across: float, down: float) -> Change:
    def change(picture: Image.Image, m: float, fill: Fill) -> Image.Image:
        pixels = SHIFT * m * picture.width
        return _moved(picture, (1, 0, pixels * across, 0, 1, pixels * down), fill)

    return change


def _moved(picture: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


def _rotated(picture: Image.Image, m: float, fill: Fill) -> Image.Image:
    return picture.rotate(DEGREES * m, Image.Resampling.NEAREST, fillcolor=fill)


# Those of the paper's table 7. m lies in -1..1; where a sign has no meaning its size counts.
OPERATIONS: dict[str, Change] = {
    "identity": lambda picture, m, fill: picture,
    "auto_contrast": lambda picture, m, fill: ImageOps.autocontrast(picture),
    "equalize": lambda picture, m, fill: ImageOps.equalize(picture),
    "rotate": _rotated,
    "solarize": lambda picture, m, fill: ImageOps.solarize(picture, round(256 * (1 - abs(m)))),
    "color": _enhanced(ImageEnhance.Color),
    "posterize": lambda picture, m, fill: ImageOps.posterize(picture, 8 - round((8 - FEWEST_BITS) * abs(m))),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _sheared(1, 0),
    "shear_y": _sheared(0, 1),
    "translate_x": _shifted(1, 0),
    "translate_y": _shifted(0, 1),
}


def trivial_augment(square: UInt8Array, numbers: tuple[float, float, float], preprocess: Preprocess) -> UInt8Array:
    """A square (S, S, C) changed by one operation, all of them equally probable, at any strength.

    Args:
        square: uint8 values.
        numbers: three uniform ones in [0, 1), which decide the operation, its strength and its direction.
        preprocess: its mean fills what comes in from outside.
    """
    operation, strength, sign = numbers
    change = list(OPERATIONS.values())[int(operation * len(OPERATIONS))]
    levels = tuple(round(255 * mean) for mean in preprocess.mean)
    fill = levels if len(levels) > 1 else levels[0]
    picture = Image.fromarray(square if square.shape[2] == 3 else square[..., 0])
    changed = np.asarray(change(picture, strength if sign < 0.5 else -strength, fill))
    return changed.reshape(square.shape)
