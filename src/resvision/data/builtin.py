"""The data sets that go by a name: digits, which ships with the package, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from resvision.data.archives import members as archive_members
from resvision.data.download import Progress, fetch
from resvision.data.images import UInt8Array
from resvision.data.pictures import ArrayPictures, DataSet, Split
from resvision.errors import DataError

# The publishers' addresses and the MD5 sums that they state.
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION_FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
# The binary versions: the "python" ones are pickles, which run code when they are read.
_CIFAR_FILES = {
    "cifar10": ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar100": ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
}
_DEBIAN_FOLDER = Path("/usr/share/datasets")  # where the package dataset-fashion-mnist puts its files

_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def load(name: str, progress: Progress | None = None) -> DataSet:
    """The built-in data set of that name.

    Raises:
        DataError: its files are damaged.
        DownloadError: its files are not at hand and cannot be fetched.
    """
    return _LOADERS[name](progress)


def data_folder() -> Path:
    """Where built-in sets are looked for and stored: RESVISION_DATA, or the platform's cache folder."""
    folder = os.environ.get("RESVISION_DATA")
    return Path(folder).expanduser() if folder else platform_folder()


def platform_folder() -> Path:
    """Where this platform wants programs to keep what can be fetched or made again."""
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "resvision"


def _find(name: str, file: str, url: str, md5: str, progress: Progress | None) -> Path:
    """A file of a data set: from a folder at hand, or else downloaded into the data folder."""
    for folder in (data_folder() / name, data_folder(), _DEBIAN_FOLDER / name):
        if (folder / file).is_file():
            return folder / file
    path = data_folder() / name / file
    fetch(url + file, path, md5, progress)
    return path


def _digits(progress: Progress | None) -> DataSet:
    """The UCI optical handwritten digits: 1,797 grey pictures of 8 x 8 (see digits.LICENSE.txt beside the file)."""
    with resources.as_file(resources.files("resvision.data") / "digits.npz") as path, np.load(path) as arrays:
        split = Split(ArrayPictures(arrays["pictures"], "digits"), arrays["labels"].astype(np.int64))
    return DataSet(name="digits", classes=tuple("0123456789"), splits={"all": split}, method="none", flip=False)


def _fashion_mnist(progress: Progress | None) -> DataSet:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey pictures of 28 x 28."""
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_file, labels_file = f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"
        paths = [
            _find("fashion-mnist", f, _FASHION_URL, _FASHION_FILES[f], progress) for f in (images_file, labels_file)
        ]
        pictures, labels = _read_idx(paths[0], 3), _read_idx(paths[1], 1)
        splits[split] = Split(ArrayPictures(pictures, f"fashion-mnist/{split}"), labels.astype(np.int64))
    return DataSet(name="fashion-mnist", classes=_FASHION_CLASSES, splits=splits, method="given by the publisher")


def _read_idx(path: Path, dimensions: int) -> UInt8Array:
    """An array in the IDX format of MNIST: two zero bytes, type 8 (uint8), the number of dimensions, their sizes."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it to fetch it again") from error
    if len(data) < 4 + 4 * dimensions:
        raise DataError(f"{path}: ends within its header; delete it to fetch it again")
    shape = np.frombuffer(data[4 : 4 + 4 * dimensions], dtype=">u4").astype(int)
    values = np.frombuffer(data[4 + 4 * dimensions :], dtype=np.uint8)
    if data[:4] != bytes((0, 0, 8, dimensions)) or values.size != shape.prod():
        raise DataError(f"{path}: not an IDX file of {dimensions} dimensions; delete it to fetch it again")
    return values.reshape(shape)


def _cifar10(progress: Progress | None) -> DataSet:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour pictures of 32 x 32."""
    train = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
    return _cifar(
        "cifar10", {"train": train, "test": ("test_batch.bin",)}, "batches.meta.txt", label_bytes=1, progress=progress
    )


def _cifar100(progress: Progress | None) -> DataSet:
    """CIFAR-100 with its 100 fine labels."""
    files = {"train": ("train.bin",), "test": ("test.bin",)}
    return _cifar("cifar100", files, "fine_label_names.txt", label_bytes=2, progress=progress)


def _cifar(
    name: str, files: Mapping[str, tuple[str, ...]], names_file: str, label_bytes: int, progress: Progress | None
) -> DataSet:
    """Reads the binary version: a record is the label bytes, the finest last, then 3 x 32 x 32 values."""
    file, md5 = _CIFAR_FILES[name]
    path = _find(name, file, _CIFAR_URL, md5, progress)
    try:
        members = {member.rsplit("/", 1)[-1]: content or b"" for member, content in archive_members(path)}
        splits = {}
        for split, parts in files.items():
            records = np.frombuffer(b"".join(members[part] for part in parts), dtype=np.uint8)
            records = records.reshape(-1, label_bytes + 3 * 32 * 32)
            pictures = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = records[:, label_bytes - 1].astype(np.int64)
            splits[split] = Split(ArrayPictures(np.ascontiguousarray(pictures), f"{name}/{split}"), labels)
        classes = tuple(members[names_file].decode().split())
        return DataSet(name=name, classes=classes, splits=splits, method="given by the publisher")
    except (DataError, KeyError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: not the binary version of {name} ({reason}); delete it to fetch it again") from error


_LOADERS: dict[str, Callable[[Progress | None], DataSet]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
}
NAMES = tuple(_LOADERS)
