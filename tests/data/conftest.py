"""Small folders of pictures."""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WritePictures = Callable[[Path, Iterable[str]], Path]


@pytest.fixture
def write_pictures() -> WritePictures:
    """Writes a picture of 12 x 10 pixels at each path below a folder; its pixels depend on the path alone."""

    def write(root: Path, paths: Iterable[str]) -> Path:
        for relative in paths:
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(zlib.crc32(relative.encode())).integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        return root

    return write
