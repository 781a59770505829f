"""Preprocess: how a picture becomes the network's input, one object used by training, evaluation and prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from resvision.errors import InputError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

MAX_SIZE = 4096  # px; one picture of this size is 200 MB as the network's input


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The function from a decoded picture to the network's input; `data.images` applies it.

    The picture is turned upright and laid on the background. The square in its middle whose side is `crop` times the
    shorter side is resized, with antialiasing, to `size` x `size`, divided by 255 and normalised.

    Args:
        size: height and width of the network's input, in pixels.
        crop: the part of the shorter side that the cut keeps, in (0, 1]; 0.875 is usual for photographs.
        channels: 1 for grey, 3 for RGB.
        mean: mean of each channel, of values in 0..1.
        std: standard deviation of each channel, of values in 0..1.
        interpolation: of the resize.
        exif: whether the EXIF orientation is applied.
        background: RGB colour, 0..255, that shows through transparent parts.

    Raises:
        InputError: an argument is out of its range.
    """

    size: int
    crop: float = 1.0
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: Interpolation = "bilinear"
    exif: bool = True
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE:
            raise InputError(f"size={self.size} must lie in 1..{MAX_SIZE} pixels")
        if not 0 < self.crop <= 1:
            raise InputError(f"crop={self.crop} must lie in (0, 1]")
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels} must be 1 (grey) or 3 (RGB)")
        if len(self.mean) != self.channels or not all(map(math.isfinite, self.mean)):
            raise InputError(f"mean={self.mean} must hold a finite number for each of {self.channels} channels")
        if (largest := max(self.mean)) > 1:
            raise InputError(f"mean={largest:g} must be one of values in 0..1: divide mean and std by 255")
        if len(self.std) != self.channels or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise InputError(f"std={self.std} must hold a positive number for each of {self.channels} channels")
        if self.interpolation not in get_args(Interpolation):
            raise InputError(f"interpolation={self.interpolation!r} is not one of {', '.join(get_args(Interpolation))}")
        if len(self.background) != 3 or not all(0 <= c <= 255 for c in self.background):
            raise InputError(f"background={self.background} must be three numbers in 0..255")

    @classmethod
    def plain(cls, size: int, channels: Literal[1, 3] = 3, crop: float = 1.0) -> Preprocess:
        """Values from -1 to 1, as long as those of the pictures are not known or do not matter."""
        middle = (0.5,) * channels
        return cls(size=size, crop=crop, channels=channels, mean=middle, std=middle)
