"""The picture cache: training pictures decoded and shrunk, kept on disk, so that later epochs and runs decode nothing.

A cache is one file. It begins with an int64 for each picture: where its record lies, or 0. Behind these stand the
records, in the order in which they came: a picture's number, height, width, a mark, and the pixels (H, W, C). A worker
appends a whole record, which the operating system keeps apart from those of other writers, and only then enters its
place. So any number of workers and runs may write at once, and one that is killed leaves at worst a piece to which
nothing points.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
import torch

from resvision.data.builtin import platform_folder
from resvision.data.images import UInt8Array, scaled
from resvision.data.pictures import File, FilePictures
from resvision.errors import PictureError
from resvision.preprocess import Preprocess

FORMAT = 2  # to be raised when the layout or the pixels change, so that older files are not read
MAX_BYTES = 64 << 30  # of all caches together, and never more than half of what the disk has free without them
SHRINK_FROM = 1.25  # times the stored side; below, shrinking would save little
SUFFIX = ".pictures"

_HEAD = struct.Struct("=4i")  # number, height, width, mark
_MARK = 0x52565031
_SAMPLE = 64  # pictures whose headers tell about how large a cache will be


def cache_folder() -> Path:
    """Where caches are kept: RESVISION_CACHE, or `pictures` in the platform's cache folder."""
    folder = os.environ.get("RESVISION_CACHE")
    return Path(folder).expanduser() if folder else platform_folder() / "pictures"


def shrunk(pixels: UInt8Array, side: int) -> UInt8Array:
    """Pixels (H, W, C) with a shorter side of `side` where it is much longer; else as they are."""
    height, width = _shrunk_size(pixels.shape[0], pixels.shape[1], side)
    return pixels if (height, width) == pixels.shape[:2] else scaled(pixels, height, width)


def _shrunk_size(height: int, width: int, side: int) -> tuple[int, int]:
    shorter = min(height, width)
    if shorter <= SHRINK_FROM * side:
        return height, width
    return round(height * side / shorter), round(width * side / shorter)


@dataclass
class PictureCache:
    """A cache in use. What it cannot read or write it leaves out; that picture is then decoded again.

    Args:
        path: of the file, which each process opens for itself when it first needs it.
        count: how many pictures there are.
        channels: of each.
        limit: how many bytes the file may have.
    """

    path: Path
    count: int
    channels: int
    limit: int
    _file: int | None = field(default=None, init=False)
    _full: bool = field(default=False, init=False)

    def read(self, index: int) -> UInt8Array | None:
        """The pixels (H, W, C) of a picture, not to be written to; None where they are not there."""
        if not self._is_open():
            return None
        start = int(self._places[index])
        if start == 0:
            return None
        if start + _HEAD.size > len(self._map):
            self._look()  # it was written since the last look
            if not 0 < start <= len(self._map) - _HEAD.size:
                return None
        number, height, width, mark = _HEAD.unpack_from(self._map, start)
        size = height * width * self.channels
        # Where the power failed, a place may have reached the disk and its record not.
        if (number, mark) != (index, _MARK) or start + _HEAD.size + size > len(self._map):
            return None
        return np.frombuffer(self._map, np.uint8, size, start + _HEAD.size).reshape(height, width, self.channels)

    def write(self, index: int, pixels: UInt8Array) -> None:
        """Keeps the pixels (H, W, C) of a picture, as long as there is room."""
        if not self._is_open() or self._full:
            return
        assert self._file is not None
        head = _HEAD.pack(index, *pixels.shape[:2], _MARK)
        try:
            written = os.writev(self._file, [head, np.ascontiguousarray(pixels).data])
        except OSError:
            written = 0
        end = os.lseek(self._file, 0, os.SEEK_CUR)  # this process's own position: behind what it appended
        whole = written == len(head) + pixels.nbytes
        self._full = not whole or end > self.limit
        if whole:
            self._places[index] = end - written

    def _is_open(self) -> bool:
        """Opens the file at the first use. It is gone where another run has made room for its own."""
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)
                self._look()
                self._full = len(self._map) > self.limit
            except (OSError, ValueError):
                self._file = -1
        return self._file >= 0

    def _look(self) -> None:
        """Maps the file as long as it is now."""
        assert self._file is not None
        self._map = mmap.mmap(self._file, 0)
        self._places: npt.NDArray[np.int64] = np.frombuffer(self._map, np.int64, self.count)

    def __del__(self) -> None:
        if self._file is not None and self._file >= 0:
            os.close(self._file)


def open_cache(pictures: FilePictures, preprocess: Preprocess, side: int) -> tuple[PictureCache | None, str]:
    """The cache of these pictures, made or found, and a line that says so; or None, and a line that says why.

    Args:
        pictures: those of a training split, in its order.
        preprocess: how they are decoded.
        side: to which their shorter side is shrunk.
    """
    if not hasattr(os, "writev"):
        return None, "decoded pictures are not kept on this platform"
    folder, count = cache_folder(), len(pictures)
    path = folder / (_key(pictures, preprocess, side) + SUFFIX)
    needed = _needed_bytes(pictures, preprocess.channels, side)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        limit = _make_room(path, needed)
        if limit < needed and not path.exists():
            return None, (
                f"pictures are decoded in every epoch: kept decoded they would take {needed / 1e6:,.0f} MB, "
                f"and {folder} may take {limit / 1e6:,.0f} MB (RESVISION_CACHE moves it)"
            )
        with path.open("ab") as file:  # two runs may both do this: zeros behind the places are never looked at
            if file.tell() < 8 * count:
                file.write(bytes(8 * count))
        os.utime(path)  # it was used now
        kept = np.count_nonzero(np.fromfile(path, np.int64, count))
    except OSError as error:
        return None, f"pictures are decoded in every epoch: {folder} cannot be used ({error.strerror or error})"
    text = f"decoded pictures are kept in {folder}: {kept:,} of {count:,} are there, {needed / 1e6:,.0f} MB in all"
    return PictureCache(path, count, preprocess.channels, limit), text


def _make_room(path: Path, needed: int) -> int:
    """How many bytes a cache may have; where it must, it removes others, those first that were not used for longest."""
    sizes = {other: other.stat().st_size for other in path.parent.glob(f"*{SUFFIX}")}
    budget = min(MAX_BYTES, (shutil.disk_usage(path.parent).free + sum(sizes.values())) // 2)
    own = sizes.pop(path, 0)
    for other in sorted(sizes, key=lambda p: p.stat().st_mtime):
        if needed > budget or sum(sizes.values()) + max(own, needed) <= budget:
            break
        other.unlink(missing_ok=True)
        del sizes[other]
    return budget - sum(sizes.values())


def _needed_bytes(pictures: FilePictures, channels: int, side: int) -> int:
    """About how many bytes a cache of these pictures has, by the headers of some."""
    found = []
    for index in np.unique(np.linspace(0, len(pictures) - 1, min(_SAMPLE, len(pictures))).astype(int)).tolist():
        try:
            header = pictures.header(index)
        except PictureError:
            continue
        height, width = _shrunk_size(header.height, header.width, side)
        found.append(height * width * channels + _HEAD.size + 8)
    return len(pictures) * sum(found) // max(1, len(found))


def _key(pictures: FilePictures, preprocess: Preprocess, side: int) -> str:
    """A name for these pictures, decoded and shrunk in this way by this software."""
    digest = hashlib.blake2b(digest_size=16)
    software = (FORMAT, PIL.__version__, simplejpeg.__version__, torch.__version__)
    processor = torch.backends.cpu.get_cpu_capability()
    digest.update(
        repr((software, processor, preprocess.channels, preprocess.background, preprocess.exif, side)).encode()
    )
    for file in pictures.files:
        digest.update(repr(_identity(file)).encode())
    return digest.hexdigest()


def _identity(file: File) -> tuple[str | int | bytes, ...]:
    """What changes where a file does."""
    if file.data is not None:
        return file.name, hashlib.blake2b(file.data, digest_size=16).digest()
    assert file.path is not None
    try:
        status = file.path.stat()
    except OSError:
        return (file.name,)
    return str(file.path.absolute()), status.st_size, status.st_mtime_ns
