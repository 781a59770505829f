"""Built-in data sets: the digits that ship with the package, and the readers of what publishers offer."""

import functools
import gzip
import hashlib
import io
import socket
import struct
import tarfile
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from resvision.data import builtin
from resvision.data.builtin import NAMES, data_folder, load
from resvision.data.pictures import ArrayPictures, DataSet
from resvision.data.sources import load as load_any
from resvision.data.sources import prepare
from resvision.errors import DataError, DownloadError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and no other place where a set could be found."""
    monkeypatch.setenv("RESVISION_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(builtin, "_DEBIAN_FOLDER", tmp_path / "none")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def array(dataset: DataSet, split: str) -> np.ndarray:
    pictures = dataset.splits[split].pictures
    assert isinstance(pictures, ArrayPictures)
    return pictures.array


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- digits ----


def test_digits() -> None:
    dataset = load("digits")
    pictures, labels = array(dataset, "all"), dataset.splits["all"].labels
    assert dataset.name == "digits"
    assert dataset.classes == tuple("0123456789")
    assert dataset.flip is False
    assert list(dataset.splits) == ["all"]
    assert pictures.shape == (1797, 8, 8)
    assert pictures.dtype == np.uint8
    assert (pictures.min(), pictures.max()) == (0, 255)
    assert len(np.unique(pictures)) == 17  # the publisher counts the set pixels of 4 x 4 blocks: 0 to 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    first_row = np.array([0, 0, 5, 13, 9, 1, 0, 0])  # of the first picture in the publisher's file
    assert np.abs(pictures[0, 0] - first_row * 255 / 16).max() <= 0.5


def test_digits_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESVISION_DATA", str(tmp_path / "missing"))
    assert len(load_any("digits").splits["all"]) == 1797
    assert not (tmp_path / "missing").exists()


def test_digits_are_divided_class_by_class() -> None:
    dataset = prepare(load("digits"))
    val = np.bincount(dataset.splits["val"].labels)
    assert val.tolist() == [round(0.2 * count) for count in (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)]
    assert len(dataset.splits["train"]) == 1797 - val.sum()


def test_the_names() -> None:
    assert NAMES == ("digits", "fashion-mnist", "cifar10", "cifar100")


# ---- Fashion-MNIST ----


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.tobytes())


def write_fashion(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Two training pictures and one test picture of each class, 6 pixels high and 5 wide."""
    arrays = {
        "train-images-idx3-ubyte.gz": noise(20, 6, 5, seed=seed),
        "train-labels-idx1-ubyte.gz": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte.gz": noise(10, 6, 5, seed=seed + 1),
        "t10k-labels-idx1-ubyte.gz": np.arange(9, -1, -1, dtype=np.uint8),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        (folder / name).write_bytes(idx(values))
    return arrays


def test_fashion_mnist(folder: Path) -> None:
    arrays = write_fashion(folder / "fashion-mnist")
    dataset = load("fashion-mnist")
    assert sorted(dataset.splits) == ["test", "train"]
    np.testing.assert_array_equal(array(dataset, "train"), arrays["train-images-idx3-ubyte.gz"])
    np.testing.assert_array_equal(array(dataset, "test"), arrays["t10k-images-idx3-ubyte.gz"])
    assert dataset.splits["train"].labels.tolist() == [*range(10), *range(10)]
    assert dataset.splits["test"].labels.tolist() == [*range(9, -1, -1)]
    assert dataset.splits["test"].labels.dtype == np.int64
    assert len(dataset.classes) == 10
    assert (dataset.classes[0], dataset.classes[9]) == ("T-shirt/top", "Ankle boot")
    assert dataset.method == "given by the publisher"
    assert dataset.splits["train"].pictures.header(0) == (5, 6, True)
    assert dataset.splits["test"].pictures.name(3) == "fashion-mnist/test[3]"


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def overwritten(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff" * 50 + data[len(data) // 2 + 50 :]


def broken_deflate(data: bytes) -> bytes:
    return data[:10] + b"\xff" + data[11:]  # the first block says a type that does not exist


def not_gzip(data: bytes) -> bytes:
    return b"<html>not found</html>"


def other_magic(data: bytes) -> bytes:
    return gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(data)[4:])


def fewer_pictures(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data)[:-1])


def header_only(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data)[:3])


@pytest.mark.parametrize(
    "damage", [cut_off, overwritten, broken_deflate, not_gzip, other_magic, fewer_pictures, header_only]
)
def test_a_damaged_idx_file_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    write_fashion(folder / "fashion-mnist")
    path = folder / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"fashion-mnist/train-images-idx3-ubyte\.gz: .*; delete it to fetch it again$"):
        load("fashion-mnist")


def test_labels_in_the_place_of_pictures(folder: Path) -> None:
    write_fashion(folder / "fashion-mnist")
    (folder / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(idx(np.zeros(10, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: not an IDX file of 3 dimensions"):
        load("fashion-mnist")


@pytest.mark.parametrize("labels", [np.arange(30) % 10, np.arange(20) % 11], ids=["too many", "no such class"])
def test_labels_that_do_not_fit_the_pictures(folder: Path, labels: np.ndarray) -> None:
    write_fashion(folder / "fashion-mnist")
    (folder / "fashion-mnist" / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels.astype(np.uint8)))
    with pytest.raises(DataError, match=r"fashion-mnist"):
        load("fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESVISION_DATA", str(tmp_path))
    dataset = load("fashion-mnist")
    assert array(dataset, "train").shape == (60_000, 28, 28)
    assert array(dataset, "test").shape == (10_000, 28, 28)
    assert np.bincount(dataset.splits["train"].labels).tolist() == [6000] * 10
    assert np.bincount(dataset.splits["test"].labels).tolist() == [1000] * 10
    assert dataset.splits["train"].labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert array(dataset, "train").mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # as is often quoted
    assert list(tmp_path.iterdir()) == []


# ---- where files are looked for ----


def test_the_search_order(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "_DEBIAN_FOLDER", tmp_path / "debian")
    places = [folder / "fashion-mnist", folder, tmp_path / "debian" / "fashion-mnist"]
    for seed, place in enumerate(places):
        write_fashion(place, seed)
    for seed, place in enumerate(places):
        np.testing.assert_array_equal(array(load("fashion-mnist"), "train"), noise(20, 6, 5, seed=seed))
        for file in place.glob("*.gz"):
            file.unlink()


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RESVISION_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == tmp_path / ".cache" / "resvision"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "resvision"
    monkeypatch.setenv("RESVISION_DATA", "~/sets")
    assert data_folder() == tmp_path / "sets"


def test_what_is_missing_is_fetched_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_fashion(tmp_path / "site")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    sums = {name: hashlib.md5((tmp_path / "site" / name).read_bytes()).hexdigest() for name in arrays}
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(builtin, "_FASHION_FILES", sums)
    told: list[str] = []
    handler = functools.partial(Handler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(builtin, "_FASHION_URL", f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        dataset = load("fashion-mnist", lambda name, done, total: told.append(name))
        server.shutdown()
        thread.join()
    assert told == [path.removeprefix("/") for path in asked]
    assert sorted(told) == sorted(arrays)
    assert sorted(path.name for path in (folder / "fashion-mnist").iterdir()) == sorted(arrays)
    np.testing.assert_array_equal(array(dataset, "train"), arrays["train-images-idx3-ubyte.gz"])
    again = load("fashion-mnist")  # the server is gone
    np.testing.assert_array_equal(array(again, "test"), arrays["t10k-images-idx3-ubyte.gz"])


def test_offline_the_message_says_where_to_put_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setattr(builtin, "_CIFAR_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        with pytest.raises(DownloadError) as caught:
            load("cifar10")
    assert str(caught.value).endswith(f"put the file at {folder / 'cifar10' / 'cifar-10-binary.tar.gz'}")


# ---- CIFAR ----


def records(labels: np.ndarray, seed: int) -> tuple[bytes, np.ndarray]:
    """Records of the binary version, and the pictures (N, 32, 32, 3) that are in them."""
    pictures = noise(len(labels), 32, 32, 3, seed=seed)
    content = b""
    for label, picture in zip(labels, pictures, strict=True):
        red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
        content += bytes(label) + red.tobytes() + green.tobytes() + blue.tobytes()
    return content, pictures


def pack(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


LETTERS = "abcdefghij"


def cifar10_members() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Five training files of two pictures each, one of each class, and a test file of ten."""
    members = {"batches.meta.txt": ("\n".join(LETTERS) + "\n\n").encode(), "readme.html": b"<html></html>"}
    parts = []
    for i in range(1, 6):
        content, pictures = records(np.array([[2 * i - 2], [2 * i - 1]], dtype=np.uint8), seed=i)
        members[f"data_batch_{i}.bin"] = content
        parts.append(pictures)
    members["test_batch.bin"], test = records(np.arange(10, dtype=np.uint8)[::-1, None], seed=9)
    return members, np.concatenate(parts), test


def test_cifar10(folder: Path) -> None:
    members, train, test = cifar10_members()
    pack(folder / "cifar10" / "cifar-10-binary.tar.gz", members)
    dataset = load("cifar10")
    assert dataset.name == "cifar10"
    assert dataset.classes == tuple(LETTERS)
    assert dataset.flip
    assert sorted(dataset.splits) == ["test", "train"]
    np.testing.assert_array_equal(array(dataset, "train"), train)
    np.testing.assert_array_equal(array(dataset, "test"), test)
    assert dataset.splits["train"].labels.tolist() == list(range(10))
    assert dataset.splits["test"].labels.tolist() == list(range(9, -1, -1))


def test_the_order_of_files_in_the_archive_does_not_matter(folder: Path) -> None:
    members, train, _ = cifar10_members()
    pack(folder / "cifar-10-binary.tar.gz", dict(reversed(members.items())))
    np.testing.assert_array_equal(array(load("cifar10"), "train"), train)


def test_cifar100_has_fine_labels(folder: Path) -> None:
    names = [f"class_{i}" for i in range(100)]
    fine = np.arange(100, dtype=np.uint8)
    content, pictures = records(np.stack([fine // 5, fine], axis=1), seed=0)
    test_content, test_pictures = records(np.stack([fine[::-1] // 5, fine[::-1]], axis=1), seed=1)
    members = {
        "coarse_label_names.txt": "\n".join(f"coarse_{i}" for i in range(20)).encode(),
        "fine_label_names.txt": "\n".join(names).encode(),
        "train.bin": content,
        "test.bin": test_content,
    }
    pack(folder / "cifar100" / "cifar-100-binary.tar.gz", members)
    dataset = load("cifar100")
    assert dataset.classes == tuple(names)
    assert dataset.splits["train"].labels.tolist() == list(range(100))
    assert dataset.splits["test"].labels.tolist() == list(range(99, -1, -1))
    np.testing.assert_array_equal(array(dataset, "train"), pictures)
    np.testing.assert_array_equal(array(dataset, "test"), test_pictures)


@pytest.mark.parametrize("missing", ["data_batch_3.bin", "test_batch.bin", "batches.meta.txt"])
def test_an_archive_that_lacks_a_file(folder: Path, missing: str) -> None:
    members, _, _ = cifar10_members()
    del members[missing]
    pack(folder / "cifar-10-binary.tar.gz", members)
    message = rf"cifar-10-binary\.tar\.gz: not the binary version of cifar10 \('{missing}'\); delete it to fetch it"
    with pytest.raises(DataError, match=message):
        load("cifar10")


def test_records_that_are_cut_off(folder: Path) -> None:
    members, _, _ = cifar10_members()
    members["test_batch.bin"] = members["test_batch.bin"][:-1]
    pack(folder / "cifar-10-binary.tar.gz", members)
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: not the binary version of cifar10"):
        load("cifar10")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_damaged_cifar_archive_is_named(folder: Path, bits: int, damage: str, where: float) -> None:
    members, _, _ = cifar10_members()
    # Values of 8 random bits are stored as they are, values of 4 are compressed: they break in different ways.
    few = bytes(value % 2**bits for value in range(256))
    path = folder / "cifar-10-binary.tar.gz"
    pack(path, {name: content.translate(few) if ".bin" in name else content for name, content in members.items()})
    assert len(load("cifar10").splits["train"]) == 10
    data = path.read_bytes()
    place = int(where * len(data))
    path.write_bytes(data[:place] if damage == "cut off" else data[:place] + b"\xff" * 50 + data[place + 50 :])
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: not the binary version .*; delete it to fetch it"):
        load("cifar10")


def test_a_page_in_the_place_of_the_archive(folder: Path) -> None:
    path = folder / "cifar-10-binary.tar.gz"
    path.write_text("<html>not found</html>")
    with pytest.raises(DataError) as caught:
        load("cifar10")
    assert str(caught.value).startswith(f"{path}: not the binary version of cifar10 (")
    assert "\n" not in str(caught.value)


def test_labels_that_the_archive_does_not_name(folder: Path) -> None:
    members, _, _ = cifar10_members()
    members["batches.meta.txt"] = "\n".join(LETTERS[:9]).encode()
    pack(folder / "cifar-10-binary.tar.gz", members)
    with pytest.raises(DataError, match="cifar10"):
        load("cifar10")
