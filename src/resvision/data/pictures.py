"""Pictures and splits: what every data source turns into, whether its pictures are files or an array in memory."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from resvision.data import images
from resvision.errors import DataError, PictureError
from resvision.preprocess import Preprocess

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


class Pictures(Protocol):
    """A sequence of pictures that may not have been read yet."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages and records call a picture."""
        ...

    def header(self, index: int) -> images.PictureHeader:
        """Size and kind, without decoding. Raises PictureError."""
        ...

    def content(self, index: int) -> bytes:
        """The bytes that a content hash is made of. Raises PictureError."""
        ...

    def open(self, index: int, preprocess: Preprocess, min_side: int | None = None) -> Image.Image:
        """The decoded picture, as `images.decode` gives it. Raises PictureError."""
        ...

    def pixels(self, index: int, preprocess: Preprocess, min_side: int | None = None) -> images.UInt8Array:
        """The same as an array (H, W, C). Raises PictureError."""
        ...

    def take(self, indices: Indices) -> Pictures:
        """Those pictures alone."""
        ...


HEAD = 64  # bytes of a file that tell its format
HEADER = 1 << 16  # bytes in which the header of nearly every file is
FINGERPRINTED = 1000  # pictures of an array by which it is known again


@dataclass(frozen=True, slots=True)
class File:
    """One picture file: on disk (`path`), or read from an archive (`data`)."""

    name: str
    path: Path | None = None
    data: bytes | None = None

    def head(self, size: int = HEAD) -> bytes:
        """The first bytes, by which formats are told apart. Raises PictureError."""
        if self.data is not None:
            return self.data[:size]
        assert self.path is not None
        try:
            with self.path.open("rb") as file:
                return file.read(size)
        except (OSError, ValueError) as error:
            raise PictureError(self.name, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error

    def read(self) -> bytes:
        """The encoded bytes. Raises PictureError."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        return images.read_file(self.path, self.name)


@dataclass(frozen=True)
class FilePictures:
    """Encoded files."""

    files: tuple[File, ...]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].name

    def header(self, index: int) -> images.PictureHeader:
        file = self.files[index]
        try:
            return images.read_header(file.head(HEADER), file.name)
        except PictureError:  # what stands before the size may be longer, or at the end of the file
            return images.read_header(file.read(), file.name)

    def content(self, index: int) -> bytes:
        return self.files[index].read()

    def open(self, index: int, preprocess: Preprocess, min_side: int | None = None) -> Image.Image:
        return images.decode(self.content(index), self.name(index), preprocess, min_side)

    def pixels(self, index: int, preprocess: Preprocess, min_side: int | None = None) -> images.UInt8Array:
        return images.decode_pixels(self.content(index), self.name(index), preprocess, min_side)

    def take(self, indices: Indices) -> FilePictures:
        return FilePictures(tuple(self.files[i] for i in indices))


@dataclass(frozen=True)
class ArrayPictures:
    """A uint8 array (N, H, W) or (N, H, W, C).

    Args:
        array: of the pictures.
        source: what they are called.
        places: (N,) of each in the array that it was taken from, by which it is named; None where all are here.
    """

    array: images.UInt8Array
    source: str
    places: Indices | None = None

    def __post_init__(self) -> None:
        shape = self.array.shape
        if self.array.dtype != np.uint8:
            raise DataError(f"{self.source}: pictures of type {self.array.dtype}: give uint8 values in 0..255")
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)) or 0 in shape[1:]:
            raise DataError(f"{self.source}: pictures of shape {shape}: give (N, H, W) or (N, H, W, C), C in 1, 3, 4")

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"{self.source}[{index if self.places is None else self.places[index]}]"

    def header(self, index: int) -> images.PictureHeader:
        height, width = self.array.shape[1:3]
        return images.PictureHeader(width, height, grey=self.array.ndim == 3 or self.array.shape[3] == 1)

    def content(self, index: int) -> bytes:
        content: bytes = self.array[index].tobytes()
        return content

    def open(self, index: int, preprocess: Preprocess, min_side: int | None = None) -> Image.Image:
        name = self.name(index)
        return images.flatten(images.from_array(self.array[index], name), name, preprocess)

    def pixels(self, index: int, preprocess: Preprocess, min_side: int | None = None) -> images.UInt8Array:
        picture = np.array(self.open(index, preprocess))
        return picture.reshape(*picture.shape[:2], preprocess.channels)

    def take(self, indices: Indices) -> ArrayPictures:
        return replace(self, array=self.array[indices], places=indices if self.places is None else self.places[indices])


@dataclass(frozen=True)
class Split:
    """Pictures and their labels; `labels[i]` indexes the data set's classes."""

    pictures: Pictures
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> Split:
        """Those pictures alone."""
        return Split(self.pictures.take(indices), self.labels[indices])


@dataclass(frozen=True)
class DataSet:
    """Splits under the names "train", "val" and "test", as far as there are, over one tuple of class names.

    Args:
        name: what the person called the data.
        classes: the class names, in the order of the labels.
        splits: at least one; a set that was never split has only "all".
        method: where the splits come from, for the record of the run.
        flip: whether a mirrored picture still belongs to its class (a digit does not).
        unused: folders and pictures that lie beside the classes; `method` tells of them.
        divided_at: by class, the greatest hash of content, as 16 hexadecimal digits, with which a picture of a set that
            came undivided validates. A run records it, so that what trained it still trains when the set has grown.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    method: str
    flip: bool = True
    unused: tuple[str, ...] = ()
    divided_at: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.classes:
            raise DataError(f"{self.name}: no class was found")
        if twice := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise DataError(f"{self.name}: two classes are called {listed(twice)}")
        for split_name, split in self.splits.items():
            if len(split.pictures) != len(split.labels):
                raise DataError(
                    f"{self.name}: the {split_name} split has {len(split.pictures)} pictures, "
                    f"but {len(split.labels)} labels"
                )
            if len(split) and not 0 <= split.labels.min() <= split.labels.max() < len(self.classes):
                raise DataError(
                    f"{self.name}: the {split_name} split has the label {split.labels.max()}, "
                    f"but there are {len(self.classes)} classes"
                )
            counts = np.bincount(split.labels, minlength=len(self.classes))
            if missing := [c for c, count in zip(self.classes, counts, strict=True) if not count]:
                where = "there is" if split_name == "all" else f"the {split_name} split has"
                raise DataError(
                    f"{self.name}: {where} no picture of {listed(missing)}; every split must hold the same classes"
                )


def balanced(split: Split, most: int) -> Split:
    """At most `most` pictures, in turn one of each class."""
    if len(split) <= most:
        return split
    turn = np.zeros(len(split), dtype=np.int64)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        turn[members] = np.arange(len(members))
    return split.take(np.sort(np.argsort(turn, kind="stable")[:most]))


def listed(names: list[str], most: int = 5) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def fingerprint(classes: Sequence[str], splits: Iterable[Split]) -> str:
    """A hash of class names, and of the names and labels of pictures.

    Of arrays, whose names are places, some of the pictures themselves are hashed, too.
    """
    digest = hashlib.blake2b("\0".join(classes).encode(errors="surrogateescape"), digest_size=16)
    for split in splits:
        digest.update(split.labels.tobytes())
        digest.update("\0".join(names(split)).encode(errors="surrogateescape"))
        if isinstance(split.pictures, ArrayPictures):
            some = np.linspace(0, len(split) - 1, min(len(split), FINGERPRINTED)).astype(np.int64)
            digest.update(split.pictures.array[some].tobytes())
    return digest.hexdigest()


def names(split: Split) -> list[str]:
    """What its pictures are called."""
    return [split.pictures.name(index) for index in range(len(split))]


def content_hashes(pictures: Pictures) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each picture's content; an unreadable one hashes its name."""

    def digest(index: int) -> int:
        try:
            content = pictures.content(index)
        except PictureError:
            content = pictures.name(index).encode()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

    return np.array([digest(i) for i in range(len(pictures))], dtype=np.uint64)


def recorded_division(provenance: Mapping[str, Any]) -> dict[str, str]:
    """`DataSet.divided_at` as a classifier records it; nothing where it does not, or in other words than ours."""
    recorded = provenance.get("divided_at")
    if not isinstance(recorded, dict):
        return {}
    return {name: last for name, last in recorded.items() if re.fullmatch("[0-9a-f]{16}", str(last))}


def divide(split: Split, fraction: float, name: str) -> tuple[Split, Split]:
    """Divides a split into (rest, held back) by a stable hash of each picture's content, class by class.

    Copies of one picture hash alike and stay on one side, also where they are in different classes, so that none leaks
    across. A class keeps at least one picture on each side.

    Raises:
        DataError: a class has too few different pictures to be divided.
    """
    rest, held, _ = divide_at({}, split, fraction, name)
    return rest, held


def divide_at(
    known: Mapping[int, int], split: Split, fraction: float, name: str
) -> tuple[Split, Split, dict[int, int]]:
    """As `divide`, but classes whose greatest hash that is held back is known are divided there; and all of these."""
    hashes = content_hashes(split.pictures)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    owners = split.labels[first][group]  # a picture that is in several classes is divided with the first of them
    held = np.zeros(len(split), dtype=bool)
    greatest: dict[int, int] = {}
    for label in np.unique(split.labels).tolist():
        members = np.flatnonzero(owners == label)
        distinct, counts = np.unique(hashes[members], return_counts=True)
        if len(distinct) < 2:
            one = split.pictures.name(int(np.flatnonzero(split.labels == label)[0]))
            raise DataError(
                f"{name}: the class of {one} has fewer than two pictures of its own and cannot be "
                "divided: add pictures, or give the splits"
            )
        wanted = max(1, round(fraction * len(members)))
        cut = int(np.searchsorted(np.cumsum(counts), wanted)) + 1
        last = int(distinct[min(cut, len(distinct) - 1) - 1])
        if int(distinct[0]) <= known.get(label, -1) < int(distinct[-1]):
            last = known[label]
        held[members] = hashes[members] <= np.uint64(last)
        greatest[label] = last
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held)), greatest
